"""The battery as a whole: its command, what its parts give, and the page."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.battery import labels, policies
from benchmarks.battery.__main__ import PARTS, find_part, main
from benchmarks.battery.join import join
from benchmarks.battery.options import Options
from benchmarks.battery.pools import Limits, Place, find_places
from benchmarks.battery.table import lines, summary
from benchmarks.battery.targets import SHARES, page_of
from benchmarks.battery.verdicts import cell
from benchmarks.policies import data as policies_data
from benchmarks.policies.heads import Head, train_heads
from coevo_ray.config import GateSettings
from coevo_ray.core.graph.threads import torch_threads
from coevo_ray.core.selection.policies import KeptShares
from coevo_ray.errors import InputError, UsageError

_ROOT = Path(__file__).parents[2]
ROWS, TEST = 240, 80
_COLOURS = ("red", "green", "blue", "grey")
_WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath")


def _pool(folder: Path) -> Path:
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for split, rows in (("train", ROWS), ("test", TEST)):
        names = [_COLOURS[i] for i in random.integers(0, 4, rows)]
        shown = [name if random.random() < 0.8 else str(random.choice(_COLOURS)) for name in names]
        texts = [f"{name} {' '.join(random.choice(_WORDS, 4))}" for name in shown]
        ids = [f"{split}-{i}" for i in range(rows)]
        pq.write_table(pa.table({"id": ids, "text": texts, "label": names}), folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return find_places(own=[_pool(tmp_path_factory.mktemp("battery") / "colours")])[-1]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return Options(tmp_path_factory.mktemp("cache"), Limits(ROWS, TEST), seeds=2, quick=True)


def _check(result: dict[str, Any], methods: set[str], settings: tuple[str, ...]) -> None:
    assert json.loads(json.dumps(result)) == result
    assert result["pools"]["colours"] == {
        "modality": "text",
        "classes": 4,
        "rows": ROWS,
        "test_rows": TEST,
        "prior": "tfidf_words",
    }
    assert tuple(result["table"]["colours"]) == tuple(result["verdicts"]["colours"]) == settings
    for found in result["table"]["colours"].values():
        for methods_found in found.values() if list(found) == ["0.2", "0.5"] else [found]:
            assert set(methods_found) == methods
    assert {"cifar10", "digits"} <= set(result["chosen_on"])


@pytest.mark.slow
def test_labels_give_a_verdict_for_each_share(place: Place, options: Options) -> None:
    settings = ("noise", "long_tail")
    with torch_threads(1):
        result = labels.measure([place], replace(options, settings=settings))
    _check(result, {"gate", "random", "margin", "all_labels"}, settings)
    noise = result["table"]["colours"]["noise"]
    assert list(noise["gate"]) == ["first", "0.1", "0.2", "0.3", "0.5", "area"] and list(noise["all_labels"]) == ["1"]
    assert noise["gate"]["first"] == noise["random"]["first"] == noise["margin"]["first"], "the same random rows"
    assert noise["gate"]["0.3"]["values"] != noise["random"]["0.3"]["values"]
    assert noise["all_labels"]["1"]["mean"] > 0.6
    assert list(result["verdicts"]["colours"]["noise"]) == ["0.1", "0.2", "0.3", "0.5", "area"]
    assert result["verdicts"]["colours"]["noise"]["0.5"]["gate"]["against"] in ("random", "margin")
    page = "\n".join(lines({**result, "part": "labels", "repeats": 2}))
    assert "## colours" in page and "- gate at 50 %: " in page and "not on this pool" in page
    assert summary(result)["colours"].total() == sum(len(said) for said in result["verdicts"]["colours"].values())


def test_cells_below_others_are_listed() -> None:
    def values(*each: float) -> dict[str, Any]:
        return {"values": list(each)}

    gate = {"first": values(0.1, 0.1), "0.1": values(0.5, 0.52), "area": values(0.6, 0.6)}
    random = {"first": values(0.9, 0.9), "0.1": values(0.55, 0.56), "area": values(0.5, 0.7)}
    peer = {"first": values(0.9, 0.9), "0.1": values(0.5, 0.52), "area": values(0.7, 0.7)}
    table = {"pool": {"noise": {"gate": gate, "random": random, "uherding": peer}}}
    (lost,) = labels.below(table, ("random", "absent"))
    assert (lost["pool"], lost["setting"], lost["share"], lost["method"]) == ("pool", "noise", "0.1", "random")
    assert (lost["points"], lost["standard_error"]) == (-4.5, 0.5)
    assert [(each["share"], each["points"]) for each in labels.below(table, labels.PEERS)] == [("area", -10.0)]


def test_the_area_is_the_mean_over_the_logarithm(place: Place, options: Options) -> None:
    pool = place.load(options.limits)
    features, _ = labels.standard_features(pool, options)
    with torch_threads(1):
        rows = labels.label_pool(pool, features, labels.setting_of(pool, features, "clean", 0))
        found = labels.curve(rows, "random", 0)
    first = GateSettings().seed_rows(len(rows.labels), rows.classes)
    counts = [first, *(round(float(share) * len(rows.labels)) for share in list(found)[1:-1])]
    values = [found[share] for share in list(found)[:-1]]
    widths = [math.log(b / a) for a, b in pairwise(counts)]
    mean = sum(w * (a + b) / 2 for w, (a, b) in zip(widths, pairwise(values), strict=True)) / sum(widths)
    assert found["area"] == pytest.approx(mean)


@pytest.mark.slow
def test_policies_give_a_verdict_for_each_setting(
    place: Place, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LATENTS", 32), ("ACTIVE", 4)):
        monkeypatch.setattr(policies_data, name, value)
    monkeypatch.setattr(policies, "DECAYS", (1e-3, 1e-2))
    chosen = replace(options, settings=("noise", "copies"), kept=(0.2, 0.5), choose=True)
    with torch_threads(1):
        result = policies.measure([place], chosen)
    names = {*policies.POLICIES, *policies.VARIANTS, policies.SAME_SECONDS}
    _check(result, names, ("noise", "copies"))
    assert result["kept"] == [0.2, 0.5]
    assert result["constants"]["colours"]["constant"] == "factors", "the default, for there is no other pool"
    assert result["verdicts"]["colours"]["copies"]["0.2"]["factors"]["against"] in policies.SIMPLE
    epochs = result["head"]["epochs"]
    for keep, cells in result["table"]["colours"]["noise"].items():
        assert set(cells["factors"]["weight_decays"]) <= set(policies.DECAYS)
        visits = round(float(keep) * ROWS) * epochs
        for policy in policies.POLICIES:
            assert cells[policy]["visits"] == visits, (keep, policy)
        # Making factors takes longer here than all epochs of a head on all rows.
        assert cells[policies.SAME_SECONDS]["visits"] == ROWS * epochs
        spent = {policy: cell["preparation_seconds"] for policy, cell in cells.items()}
        assert spent["rotation"] == spent["seta"] == spent["order_dp"] == 0 < spent["rho_loss"] < spent["factors"]
    page = "\n".join(lines({**result, "part": "policies", "repeats": 2}))
    rotation = result["table"]["colours"]["noise"]["0.2"]["rotation"]
    assert f"| rotation | {100 * rotation['mean']:.1f} +- " in page and f" | {rotation['visits']:,} | " in page
    assert "| noise, 20 % kept | " in page and "- factors: " in page and "chosen on no other pool" in page
    assert f"by itself: {len(result['lost'])}" in page
    assert summary(result)["colours"].total() == 2 * 2 * 3, "settings, shares, and ours with its variants"


def test_full_budget_gets_the_seconds_of_factors() -> None:
    ours = {"seconds": 2.0, "preparation_seconds": 4.0}
    assert policies.same_seconds(ours, {"seconds": 3.0}, 0.3) == pytest.approx(0.6), "twice as long"
    assert policies.same_seconds(ours, {"seconds": 3.0}, 0.7) == 1.0, "no more than the full schedule"


def test_policies_that_factors_lost_to_are_listed() -> None:
    def values(*each: float) -> dict[str, Any]:
        return {"values": list(each)}

    cells = {"factors": values(0.5, 0.52), "random": values(0.5, 0.53), policies.SAME_SECONDS: values(0.56, 0.57)}
    table = {"pool": {"clean": {"0.1": cells, "0.3": {**cells, "seta": values(0.9, 0.9), "absent": values(1, 1)}}}}
    lost = policies.find_lost(table)["lost"]
    assert [(each["share"], each["method"]) for each in lost] == [
        ("0.1", policies.SAME_SECONDS),
        ("0.3", "seta"),
        ("0.3", policies.SAME_SECONDS),
    ]
    assert (lost[0]["points"], lost[0]["standard_error"]) == (-5.5, 0.5)


def test_held_out_rows_are_in_no_subset(place: Place, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LATENTS", 32), ("ACTIVE", 4)):
        monkeypatch.setattr(policies_data, name, value)
    pool = place.load(options.limits)
    features, _ = labels.standard_features(pool, options)
    with torch_threads(1):
        setting = policies.evidence(pool, features, policies.rows_and_factors(features, 5), "clean", 0)
        held_out = np.arange(ROWS) % 3 == 0
        head, keep = Head(hidden=8, epochs=2), KeptShares(0.5)
        found = train_heads(setting, "full_budget", {}, keep, head, [0], held_out)
        assert found["visits"] == (~held_out).sum()  # two epochs' visits at half the rows are one whole epoch
        # With all labels of the held-out rows changed, the same head is learnt and judged as wrong.
        wrong = replace(setting, labels=np.where(held_out, (setting.labels + 1) % 4, setting.labels))
        long = Head(hidden=8, epochs=40)
        right = train_heads(setting, "random", {}, keep, long, [0], held_out)["accuracy"][0]
        assert right > 0.5 > 2 * train_heads(wrong, "random", {}, keep, long, [0], held_out)["accuracy"][0]


def test_a_share_that_a_seed_lacks_is_left_out() -> None:
    both = {"first": 0.5, "0.3": 0.7}
    found = {name: [{**both, "0.1": 0.6}, both] for name in (*labels.METHODS, "all_labels")}
    table, said = labels.summed_up(found)
    assert list(table["gate"]) == ["first", "0.3"] and list(said) == ["0.3"]


def test_a_part_that_is_not_built_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PARTS == (
        "targets",
        "labels",
        "policies",
        "networks",
        "backbones",
        "stop",
        "doubt",
        "doubt_rows",
        "duplicates",
    )
    assert find_part("labels") is labels.measure
    with pytest.raises(UsageError, match=r"no benchmarks\.battery\.absent"):
        find_part("absent")


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [
        (["--seeds", "1"], 2, "verdicts need 2 or more"),
        (["--settings", "absent"], 2, "absent not among clean"),
        (["--data", "no"], 3, "no folder no"),
        (["--pools", "absent"], 2, "no pool absent"),
        (["--kept", "0.3,1.5"], 2, "1.5 is no share"),
        (["--kept", "a"], 2, "argument --kept"),
    ],
)
def test_wrong_options_are_refused(
    wrong: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["battery", "labels", "--quick", *wrong])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == code and said in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_takes_a_pool_of_the_users_own(place: Place, options: Options) -> None:
    assert place.folder is not None
    command = [sys.executable, "-m", "benchmarks.battery", "labels", "--quick", "--threads", "1", "--json"]
    command += ["--data", str(place.folder.parent), "--pools", "colours", "--cache", str(options.cache)]
    command += ["--settings", "clean", "--rows", "120"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["benchmark"], result["part"], result["repeats"], result["quick"]) == ("battery", "labels", 2, True)
    assert result["table"].keys() == {"colours"} and "cores" in result["hardware"]


def _result(pool: str, gate: float, top: float, setting: str = "clean") -> dict[str, Any]:
    cells = {name: {"0.1": cell([v, v])} for name, v in (("gate", gate), ("gate_top", top), ("random", 0.45))}
    about = {"benchmark": "battery", "part": "labels", "quick": False, "repeats": 2, "chosen_on": [], "versions": {}}
    said = {setting: {"0.1": {"gate": {"verdict": "even"}}}}
    parts = {"pools": {pool: {"rows": 9}}, "table": {pool: {setting: cells}}, "verdicts": {pool: said}}
    return {**about, **parts, "left_out": {"text": {}}, "below_random": [], "below_peer": [], "constants": {}}


def test_results_are_joined() -> None:
    both = join([_result("a", 0.5, 0.4), _result("b", 0.3, 0.9)])
    assert list(both["pools"]) == list(both["table"]) == list(both["verdicts"]) == ["a", "b"]
    assert [(entry["pool"], entry["points"]) for entry in both["below_random"]] == [("b", -15.0)], "found anew"
    assert {pool: choice["constant"] for pool, choice in both["constants"].items()} == {"a": "gate_top", "b": "gate"}
    noise = _result("a", 0.5, 0.4, "noise")
    settings = join([_result("a", 0.5, 0.4), noise])
    assert list(settings["table"]["a"]) == list(settings["verdicts"]["a"]) == ["clean", "noise"]
    assert list(noise["table"]["a"]) == ["noise"], "what is joined stays as it is"
    other = {**noise, "pools": {"a": {"rows": 8}}}
    for wrong, said in (
        ([_result("a", 0.5, 0.4)] * 2, "two results with a clean gate 0.1"),
        ([_result("a", 0.5, 0.4), {**noise, "repeats": 3}], "differ in \\['repeats'\\]"),
        ([_result("a", 0.5, 0.4), other], "differ in pools"),
        ([{**noise, "part": "stop"}], "differ in"),
    ):
        with pytest.raises(InputError, match=said):
            join(wrong)


def test_results_on_targets_are_joined_pool_by_pool() -> None:
    def result(pool: str, points: float) -> dict[str, Any]:
        row = {"linear": points, "knn": points, "spread": {"linear": 0.01, "knn": 0.0}, "passes": 1}
        about = {
            "benchmark": "battery",
            "part": "targets",
            "quick": False,
            "repeats": 2,
            "hardware": {"cpu": pool},
        }
        curve = {str(share): {"mean": points} for share in SHARES}
        tables = {"table": {"mixed": row}, "verdicts": {}, "labels": {"mixed": curve}, "share_of_labels": {}}
        facts = {"rows": 9, "classes": 2, "dim": 8, "shared": 4}
        whole = {**about, "left_out": {}, "pools": {pool: facts}, **{name: {pool: t} for name, t in tables.items()}}
        return {**whole, "page": list(page_of(whole))}

    first, second = result("a", 0.5), {**result("b", 0.25), "sweep": {"b": []}}
    both = join([first, second])
    assert list(both["pools"]) == list(both["table"]) == list(both["labels"]) == ["a", "b"]
    assert both["sweep"] == {"b": []} and both["hardware"] == [{"cpu": "a"}, {"cpu": "b"}]
    page = "\n".join(lines(both))
    assert page.index("## a") < page.index("50.0 +- 1.0") < page.index("## b") < page.index("25.0 +- 1.0")
    with pytest.raises(InputError, match="two results with a"):
        join([first, first])


def test_shares_of_a_pool_are_joined() -> None:
    def result(keep: str, ours: float) -> dict[str, Any]:
        cells = {"factors": cell([ours, ours]), "random": cell([0.5, 0.5])}
        whole = {**_result("a", 0.5, 0.5), "part": "policies", "kept": [float(keep)], "lost": []}
        return {**whole, "table": {"a": {"clean": {keep: cells}}}, "verdicts": {"a": {"clean": {keep: {}}}}}

    first, second = result("0.3", 0.6), result("0.1", 0.4)
    del first["constants"]
    joined = join([first, second])
    assert joined["kept"] == [0.1, 0.3] and list(joined["table"]["a"]["clean"]) == ["0.3", "0.1"]
    assert [(each["share"], each["method"]) for each in joined["lost"]] == [("0.1", "random")]
