"""Sparse autoencoder: the fit against dictionary-learning's AutoEncoderTopK, the score against the encoder's product.

    python -m benchmarks.sae --json [--quick] [--rows N] [--features URI] [--steps N]

Needs the extra `bench`, and dictionary-learning itself without what it depends on:

    pip install --constraint constraints.txt '.[bench]'
    pip install --constraint constraints.txt --no-deps dictionary-learning

Its dependencies are some thirty-five packages for language models (nnsight, transformers, diffusers, wandb), of which
its TopK trainer uses einops alone. Both sides start from one dictionary and take the same batches in turns of a few
steps, in one process with as many threads as there are cores; neither uses Ray.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.common import busiest, cores, finish, in_child, middle, note, parser, positive, rows_of, spread, timed

if TYPE_CHECKING:
    import torch

    from benchmarks.sae.sides import Side, Sizes

_TURN_STEPS = 5
_LOOKS = 10
_HELD_OUT_ROWS = 2048
_GRADIENT_ROWS = 64
_DEAD = 100
SEED = 0


def main() -> None:
    """Runs the benchmark."""
    arguments = _arguments()
    fit = in_child(measure_fit, arguments.features, rows_of(arguments), arguments.quick, arguments.steps)
    note(f"fit: {fit.result['fit_ratio_to_dictionary_learning']} times the peer's samples/s")
    score = in_child(measure_score, arguments.quick, 5 if arguments.quick else 25)
    result = {**fit.result, **score.result, "busy_before": busiest([fit, score])}
    finish("sae", result, arguments.json)


def _arguments() -> Namespace:
    made = parser(__doc__.split("\n")[0], 32_768, 2048)
    made.add_argument("--features", help="folder of a table with a `target` column, as `encode` makes it")
    made.add_argument("--steps", type=positive, help="steps of each side; otherwise 200, with --quick 10")
    return made.parse_args()


def measure_fit(features: str | None, rows: int, quick: bool, steps: int | None) -> dict[str, Any]:
    """Fits both sides in turns in this process, and compares gradients with a dense model's.

    Returns:
        the figures of the fit, with `explained_variance` (side -> [[steps, share of held-out rows' variance], ...]).
    """
    import torch

    from benchmarks.sae.sides import gradient_difference, make_ours, make_peer

    torch.set_num_threads(cores())
    torch.manual_seed(SEED)
    x = _features(features, rows, quick)
    kept = max(1, min(_HELD_OUT_ROWS, len(x) // 8))
    train, held_out = x[kept:], x[:kept]
    sizes = _sizes(quick, steps, x.shape[1])
    start = torch.nn.functional.normalize(torch.randn(sizes.latents, sizes.dim), dim=1)
    (ours, sae), peer = make_ours(sizes, start), make_peer(sizes, start)
    seconds, curves = _turns({"ours": ours, "peer": peer}, train, held_out, sizes)
    rates = {name: sizes.batch_rows / statistics.median(times) for name, times in seconds.items()}
    ratios = [p / o for o, p in zip(seconds["ours"], seconds["peer"], strict=True)]
    difference = gradient_difference(sae, held_out[:_GRADIENT_ROWS], _DEAD)
    return {
        **{name: getattr(sizes, name) for name in ("dim", "latents", "k", "batch_rows", "steps", "learning_rate")},
        "rows": len(train),
        "repeats": len(ratios),
        "fit_ratio_to_dictionary_learning": middle(ratios),
        "fit_ratio": spread(ratios),
        "samples_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "explained_variance_ours": curves["ours"][-1][1],
        "explained_variance_peer": curves["peer"][-1][1],
        "explained_variance": curves,
        "max_gradient_difference": difference,
    }


def measure_score(quick: bool, repeats: int) -> dict[str, Any]:
    """Times encoding to codes against the encoder's matrix product alone, in turns, in this process."""
    import torch

    from benchmarks.sae.sides import make_ours

    torch.set_num_threads(cores())
    torch.manual_seed(SEED)
    sizes = _sizes(quick, None, None)
    start = torch.nn.functional.normalize(torch.randn(sizes.latents, sizes.dim), dim=1)
    x, sae = torch.randn(sizes.batch_rows, sizes.dim), make_ours(sizes, start)[1]
    weight = sae.encoder.detach().T
    with torch.inference_mode():
        sides: tuple[Callable[[], Any], Callable[[], Any]] = (lambda: sae.encode(x), lambda: torch.mm(x, weight))
        # The first turn warms up.
        pairs = [(timed(sides[0])[1], timed(sides[1])[1]) for _ in range(repeats + 1)][1:]
    ratios = [product / encode for encode, product in pairs]
    return {
        "score_ratio_to_gemm": middle(ratios),
        "score_ratio": spread(ratios),
        "score_seconds": {"encode": middle([e for e, _ in pairs]), "gemm": middle([g for _, g in pairs])},
        "score_repeats": repeats,
    }


def _sizes(quick: bool, steps: int | None, dim: int | None) -> Sizes:
    from benchmarks.sae.sides import Sizes

    if quick:
        return Sizes(dim or 128, 1024, 16, 256, steps or 10, 1e-3)
    return Sizes(dim or 1280, 8192, 32, 1024, steps or 200, 1e-3)


def _features(folder: str | None, rows: int, quick: bool) -> torch.Tensor:
    """Standardised features float32[rows, d], in random order."""
    import torch

    from benchmarks.sae.sides import planted, standardised
    from coevo_ray.store.location import Location
    from coevo_ray.store.row_table import RowTable, vectors

    if folder is None:
        return planted(rows, _sizes(quick, None, None).dim, SEED)
    table = RowTable(Location.parse(folder))
    parts = (part for index in range(len(table.files)) for part in table.iter_file(index, ["target"]))
    x = torch.cat([torch.from_numpy(vectors(part.column("target"))) for part in parts])
    return standardised(x[torch.randperm(len(x))[:rows]])


def _turns(
    sides: dict[str, Side], train: torch.Tensor, held_out: torch.Tensor, sizes: Sizes
) -> tuple[dict[str, list[float]], dict[str, list[list[float]]]]:
    """Seconds of a step in each side's turns, and its explained variance after some of them."""
    import torch

    from benchmarks.sae.sides import explained_variance

    seconds: dict[str, list[float]] = {name: [] for name in sides}
    curves: dict[str, list[list[float]]] = {name: [] for name in sides}
    looks = {round(sizes.steps * part / _LOOKS) for part in range(_LOOKS + 1)}
    for first in range(0, sizes.steps, _TURN_STEPS):
        steps = range(first, min(first + _TURN_STEPS, sizes.steps))
        batches = [train[torch.randint(len(train), (sizes.batch_rows,))] for _ in steps]
        for name, side in sides.items():
            seconds[name].append(timed(partial(_take, side, first, batches))[1] / len(steps))
        if looks.intersection(range(first + 1, steps.stop + 1)):
            for name, side in sides.items():
                curves[name].append([steps.stop, round(explained_variance(side, held_out), 5)])
            note(f"step {steps.stop}: " + ", ".join(f"{n} {c[-1][1]:.4f}" for n, c in curves.items()))
    return seconds, curves


def _take(side: Side, first: int, batches: list[torch.Tensor]) -> None:
    for index, batch in enumerate(batches):
        side.step(first + index, batch)
