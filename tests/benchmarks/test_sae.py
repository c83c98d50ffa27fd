"""The parts of the SAE benchmark: its data has factors, its oracle sees wrong gradients, its peer is the peer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.sae.measure import _take, _turns, measure_score
from benchmarks.sae.sides import (
    Side,
    Sizes,
    explained_variance,
    gradient_difference,
    make_ours,
    make_peer,
    peer_module,
    planted,
    standardised,
)
from coevo_ray.core.factors.sae import SAEConfig, SAELoss, TopKSAE

_ROOT = Path(__file__).parents[2]
SIZES = Sizes(dim=24, latents=96, k=8, batch_rows=64, steps=12, learning_rate=3e-3)


def start() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(SIZES.latents, SIZES.dim, generator=generator), dim=1)


def test_planted_features_are_standardised_seeded_and_have_frequent_directions() -> None:
    x = planted(2000, 24, 0)
    assert torch.allclose(x.mean(dim=0), torch.zeros(24), atol=1e-5)
    assert x.square().mean().item() == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(x, planted(2000, 24, 0)) and not torch.equal(x, planted(2000, 24, 1))
    spectrum = torch.linalg.eigvalsh(x.T @ x / len(x))
    noise = standardised(torch.randn(2000, 24, generator=torch.Generator().manual_seed(0)))
    assert spectrum.max() > 1.3 * torch.linalg.eigvalsh(noise.T @ noise / len(noise)).max()


def test_explained_variance_is_one_for_the_rows_themselves_and_zero_for_their_mean() -> None:
    x = planted(300, 24, 0) + 5
    for reconstruct, wanted in ((lambda rows: rows, 1.0), (lambda rows: x.mean(dim=0).expand_as(rows), 0.0)):
        assert explained_variance(Side(lambda _, rows: None, reconstruct), x) == pytest.approx(wanted, abs=1e-5)


def test_the_gradient_difference_is_rounding_and_sees_a_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    x = planted(50, 24, 0)
    sae = TopKSAE(SAEConfig(24, 96, 8, k_aux=4))
    assert gradient_difference(sae, x, 20) < 1e-12
    right = TopKSAE.loss

    def wrong(self: TopKSAE, rows: torch.Tensor) -> SAELoss:
        loss = right(self, rows)
        return loss._replace(total=loss.total + 1e-3 * self.encoder.square().sum())

    monkeypatch.setattr(TopKSAE, "loss", wrong)
    assert gradient_difference(sae, x, 20) > 1e-6


def test_our_side_learns_in_turns_and_its_curve_is_kept() -> None:
    torch.manual_seed(0)
    x = planted(600, 24, 0)
    side, sae = make_ours(SIZES, start())
    assert torch.equal(sae.decoder.detach(), start())
    seconds, curves = _turns({"ours": side}, x[100:], x[:100], SIZES)
    assert len(seconds["ours"]) == 3  # turns of five, five and two steps
    assert min(seconds["ours"]) > 0
    steps = [step for step, _ in curves["ours"]]
    assert steps == sorted(set(steps)) and steps[-1] == 12
    assert curves["ours"][-1][1] > curves["ours"][0][1]
    assert curves["ours"][-1][1] == pytest.approx(explained_variance(side, x[:100]), abs=1e-4)


def test_the_score_is_timed_beside_the_product() -> None:
    before = torch.get_num_threads()
    try:
        found = measure_score(True, 3)
    finally:
        torch.set_num_threads(before)
    assert found["score_repeats"] == 3
    assert 0 < found["score_ratio"]["min"] <= found["score_ratio_to_gemm"] <= found["score_ratio"]["max"]
    assert found["score_seconds"].keys() == {"encode", "gemm"}


@pytest.mark.slow  # it takes seconds, but needs the extra bench
def test_the_peer_is_dictionary_learnings_own_trainer() -> None:
    module = peer_module()
    assert module.__name__ == "dictionary_learning.trainers.top_k"
    x = planted(600, 24, 0)
    side = make_peer(SIZES, start())
    assert isinstance(side.reconstruct, module.AutoEncoderTopK)
    before = explained_variance(side, x[:100])
    _take(side, 0, list(torch.split(x[100:], SIZES.batch_rows)))
    assert explained_variance(side, x[:100]) > before
    codes = side.reconstruct.encode(x[:50])
    assert ((codes > 0).sum(dim=1) <= SIZES.k).all()


@pytest.mark.slow  # as above
def test_a_quick_run_gives_its_keys() -> None:
    command = [sys.executable, "-m", "benchmarks.sae", "--json", "--quick", "--steps", "6"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["fit_ratio_to_dictionary_learning"] > 0
    assert result["score_ratio_to_gemm"] > 0
    assert 0 <= result["max_gradient_difference"] < 1e-12
    assert result["explained_variance"].keys() == result["samples_per_s"].keys() == {"ours", "peer"}
    assert (result["steps"], result["repeats"]) == (6, 2)
    assert result["hardware"]["cores"] >= 1
