"""Networks under policies: they learn from the images, start where they are told, and each start has its verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.battery import backbones, networks
from benchmarks.battery.copies import make_copies
from benchmarks.battery.join import join
from benchmarks.battery.labels import setting_of, standard_features
from benchmarks.battery.network_training import Network, learn_targets, train_network
from benchmarks.battery.networks import pictures_of
from benchmarks.battery.options import Options
from benchmarks.battery.policies import evidence, rows_and_factors
from benchmarks.battery.pools import Limits, Place, Pool
from benchmarks.battery.table import lines
from benchmarks.policies import data as policies_data
from benchmarks.policies.data import Setting
from benchmarks.policies.heads import Head
from coevo_ray.core.graph.threads import torch_threads
from coevo_ray.core.selection.policies import KeptShares
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.images import decode_resized

SIZE = 8
NETWORK = Network("small_cnn")
LIMITS = Limits(300, 359)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    cache = tmp_path_factory.mktemp("cache")
    return Options(
        cache, LIMITS, ("clean", "copies"), seeds=2, quick=True, kept=(0.5,), network=NETWORK, image_size=SIZE
    )


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Place("digits", "image").load(LIMITS)


@pytest.fixture
def few_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LATENTS", 32), ("ACTIVE", 4)):
        monkeypatch.setattr(policies_data, name, value)


@pytest.fixture
def setting(pool: Pool, options: Options, few_factors: None) -> Setting:
    features, _ = standard_features(pool, options)
    with torch_threads(1):
        return evidence(pool, features, rows_and_factors(features, 5), "clean", 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clean", "copies"])
def test_pictures_are_the_settings_images(pool: Pool, options: Options, name: str) -> None:
    features, _ = standard_features(pool, options)
    rows = setting_of(pool, features, name, 1).rows
    pictures = pictures_of(pool, rows, SIZE, name == "copies")
    samples = [*pool.train.samples, *make_copies(pool).samples]
    assert pictures.train.shape == (len(rows), 3, SIZE, SIZE) and pictures.train.dtype == np.uint8
    for i in (0, 1, len(rows) - 1, *np.flatnonzero(rows >= len(pool.train))[:2]):
        assert (pictures.train[i] == decode_resized(samples[rows[i]], SIZE).transpose(2, 0, 1)).all()
    assert len(pictures.test) == len(pool.test)


@pytest.mark.slow
def test_a_network_learns_from_the_images(pool: Pool, setting: Setting) -> None:
    pictures = pictures_of(pool, setting.rows, SIZE, with_copies=False)
    head, keep = Head(epochs=40, learning_rate=0.05), KeptShares(0.5)
    held_out = np.arange(len(setting.rows)) % 5 == 0
    with torch_threads(1):
        trained = train_network(setting, pictures, ("rotation", {}), keep, head, 0, NETWORK)
        held = train_network(setting, pictures, ("rotation", {}), keep, head, 0, NETWORK, held_out=held_out)
        # Held-out rows with other labels change nothing that is learned, and are all wrong then.
        others = replace(setting, labels=np.where(held_out, (setting.labels + 1) % 10, setting.labels))
        wrong = train_network(others, pictures, ("rotation", {}), keep, head, 0, NETWORK, held_out=held_out)
    assert trained["visits"] == 20 * len(setting.rows) and held["visits"] == 20 * (~held_out).sum()
    assert trained["accuracy"] > 0.4 and held["accuracy"] > 0.4 > 2 * wrong["accuracy"]


@pytest.mark.slow
def test_targets_are_learned_of_their_own_images(pool: Pool, setting: Setting) -> None:
    pictures = pictures_of(pool, setting.rows, SIZE, with_copies=False)
    with torch_threads(1):
        before, after = (learn_targets(pictures, setting.features, NETWORK, epochs, seed=0) for epochs in (0, 20))
        x = torch.from_numpy(pictures.train).float() / 60 - 2
        targets = torch.from_numpy(setting.features - setting.features.mean(axis=0))
        with torch.inference_mode():
            cosines = [nn.functional.cosine_similarity(each.eval()(x), targets).mean() for each in (before, after)]
    assert cosines[1] > cosines[0] + 0.3


def test_a_network_begins_at_its_start(pool: Pool, setting: Setting) -> None:
    pictures = pictures_of(pool, setting.rows, SIZE, with_copies=False)
    with torch_threads(1):
        start = learn_targets(pictures, setting.features, NETWORK, 1, seed=0).backbone
        before = {name: value.clone() for name, value in start.state_dict().items()}
        for rate, same in ((1e-9, True), (0.1, False)):
            head = Head(epochs=1, learning_rate=rate)
            trained = train_network(setting, pictures, ("random", {}), KeptShares(1.0), head, 0, NETWORK, start)
            weights = dict(trained["network"][0].named_parameters())
            assert all(torch.allclose(value, before[name], atol=1e-5) for name, value in weights.items()) == same
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items()), "it stays as it is"


@pytest.mark.slow
def test_the_part_gives_a_verdict_for_each_start(
    tmp_path: Path, options: Options, few_factors: None, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [Place("digits", "image"), Place("words", "text", tmp_path)]  # a text pool is passed over
    with torch_threads(1):
        result = networks.measure(places, options)
    assert json.loads(json.dumps(result)) == result and list(result["table"]) == ["digits"]
    cells = result["table"]["digits"]["clean"]["0.5"]
    rows = ["factors", "full_budget", "rotation"]
    assert list(cells) == [*rows, *(f"{row}_from_targets" for row in rows)]
    assert all(len(cell["values"]) == 2 and cell["rate"] in options.rates for cell in cells.values())
    assert all(cell["visits"] == 300 for cell in cells.values()), "two epochs of half the rows"
    said = result["verdicts"]["digits"]["copies"]["0.5"]
    assert list(said) == ["factors", "factors_from_targets"]
    assert said["factors"]["against"] in rows and said["factors_from_targets"]["against"] in list(cells)[3:]
    page = "\n".join(lines({**result, "part": "networks", "repeats": 2}))
    assert "| clean, 50 % kept |" in page and "- factors_from_targets: " in page
    notes = capsys.readouterr().err
    assert notes.count("learning targets of") == 4, "each seed's copies are other rows"


def test_lost_cells_have_the_same_start() -> None:
    def values(*each: float) -> dict[str, Any]:
        return {"values": list(each)}

    low, high = values(0.5, 0.52), values(0.6, 0.62)
    cells = {
        "factors": low,
        "full_budget": low,
        "factors_from_targets": high,
        "rotation_from_targets": values(0.7, 0.7),
    }
    lost = networks.find_lost({"pool": {"clean": {"0.3": cells}}})["lost"]
    assert [(each["share"], each["method"], each["points"]) for each in lost] == [
        ("0.3", "rotation_from_targets", -9.0)
    ]


@pytest.mark.slow
def test_backbones_are_one_table(options: Options, few_factors: None) -> None:
    models = ("small_cnn", "benchmarks.networks:small_resnet")
    chosen = replace(options, settings=("clean",), models=models)
    places = [Place("digits", "image")]
    with torch_threads(1):
        result = backbones.measure(places, chosen)
        alone = networks.measure(places, replace(chosen, network=Network(models[1])))
    assert json.loads(json.dumps(result)) == result
    assert list(result["table"]) == list(models) == list(result["verdicts"]) == list(result["from_targets"])
    ours, cells = (each["table"] for each in (result, alone))
    row, start = ours[models[1]]["digits"]["clean"]["0.5"], cells["digits"]["clean"]["0.5"]
    # From random weights it is the same training; targets are those of all priors in place of one.
    assert row["factors"]["values"] == start["factors"]["values"]
    assert row["factors_from_targets"]["values"] != start["factors_from_targets"]["values"]
    gains = [row[f"{name}_from_targets"]["mean"] - row[name]["mean"] for name in networks.POLICIES]
    assert result["from_targets"][models[1]] == pytest.approx(100 * sum(gains) / 3, abs=0.01)
    assert sum(line.startswith(("| small_cnn |", f"| {models[1]} |")) for line in result["page"]) == 2
    pieces = [
        {
            **result,
            "part": "backbones",
            **{name: {model: result[name][model]} for name in ("table", "verdicts", "from_targets")},
            "lost": [cell for cell in result["lost"] if cell["model"] == model],
            "page": [],
        }
        for model in models
    ]
    joined = join(pieces)
    assert all(joined[name] == result[name] for name in ("table", "verdicts", "from_targets", "lost", "page", "pools"))
    with pytest.raises(InputError, match="two results with small_cnn digits clean"):
        join([pieces[0], pieces[0]])
    with pytest.raises(UsageError, match="copies"):
        backbones.measure(places, replace(chosen, settings=("copies",)))
