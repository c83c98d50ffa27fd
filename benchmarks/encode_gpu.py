"""Encode on a GPU: rows per second of the encoder against the forward pass alone.

    python -m benchmarks.encode_gpu --json [--quick] [--rows N] [--batch-rows N]

Inputs are decoded images in memory. The encoder brings them to the device and the features back; the forward pass alone
finds its inputs on the device and leaves its features there. It runs without Ray, and without a GPU on the CPU.
"""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.common import facts, finish, middle, note, parser, positive, rows_of, spread
from coevo_ray.priors.encoder import Encoder
from coevo_ray.priors.registry import load_prior

_PRIOR = "open_clip:ViT-B-32/random"
_WITHOUT_OPEN_CLIP = "timm:vit_base_patch32_224/random"
_TINY = "timm:test_vit/random"
Images = npt.NDArray[np.uint8]


def main() -> None:
    """Runs the benchmark."""
    arguments = _arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prior = load_prior(arguments.prior)
    encoder = Encoder(
        prior,
        device,
        batch_rows=arguments.batch_rows,
        precision=arguments.precision,
        compile_module=arguments.compile,
    )
    rows, size = rows_of(arguments), prior.info.input_size
    images = np.random.default_rng(0).integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
    sides = _sides(encoder, images, arguments.shard_rows)
    difference = float(np.abs(sides["encode"]()[: arguments.batch_rows] - sides["forward_and_scaling"]()).max())
    for side in sides.values():  # warms up
        side()
    times: dict[str, list[float]] = {name: [] for name in sides}
    waiting: list[float] = []
    for index in range(arguments.repeats or (2 if arguments.quick else 7)):
        for name, side in sides.items():
            busy, seconds = encoder.busy_seconds, _seconds(side, device)
            times[name].append(seconds)
            if name == "encode":
                waiting.append(max(0.0, 1 - (encoder.busy_seconds - busy) / seconds))
        note(f"turn {index}: " + ", ".join(f"{name} {rows / t[-1]:,.0f} rows/s" for name, t in times.items()))
    result = {
        "prior": arguments.prior,
        "device": str(device),
        "precision": encoder.precision,
        "compiled": arguments.compile,
        "rows": rows,
        "batch_rows": encoder.batch_rows,
        "shard_rows": arguments.shard_rows,
        "repeats": len(waiting),
        **_figures(times, rows),
        "waiting_share": middle(waiting),
        "max_feature_difference": difference,
    }
    _print_table(result)
    if os.environ.get("OUT"):
        text = json.dumps({"benchmark": "encode_gpu", **result, **facts()}, indent=2)
        (Path(os.environ["OUT"]) / "encode_gpu.json").write_text(text, encoding="utf-8")
    finish("encode_gpu", result, arguments.json)


def _arguments() -> Namespace:
    made = parser(__doc__.split("\n")[0], 16_384, 48)
    made.add_argument("--prior", help=f"otherwise {_PRIOR}, with --quick {_TINY}")
    made.add_argument("--batch-rows", type=positive, help="rows of a forward pass; otherwise 256, with --quick 16")
    made.add_argument("--shard-rows", type=positive, default=1024, help="rows of a call, for encode_in_shards")
    made.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    made.add_argument("--compile", action="store_true", help="torch.compile the module")
    made.add_argument("--repeats", type=positive, help="turns of each side; otherwise 7, with --quick 2")
    arguments = made.parse_args()
    if arguments.prior is None:
        whole = _PRIOR if find_spec("open_clip") else _WITHOUT_OPEN_CLIP
        arguments.prior = _TINY if arguments.quick else whole
    if arguments.batch_rows is None:
        arguments.batch_rows = 16 if arguments.quick else 256
    arguments.batch_rows = min(arguments.batch_rows, rows_of(arguments))
    return arguments


def _sides(encoder: Encoder, images: Images, shard_rows: int) -> dict[str, Callable[[], Any]]:
    """What is timed: each side works on as many rows as there are images."""
    batches = range(0, len(images), encoder.batch_rows)
    resident = torch.from_numpy(images[: encoder.batch_rows]).to(encoder.device)
    mean, std = (
        torch.tensor(v, device=encoder.device).view(1, 3, 1, 1) for v in (encoder.prior.mean, encoder.prior.std)
    )
    scaled = (resident.permute(0, 3, 1, 2).float() - mean) / std
    half = torch.float16 if encoder.precision == "float16" else torch.bfloat16
    module = encoder.module

    def forward(is_scaled: bool) -> npt.NDArray[np.float32]:
        enabled = encoder.precision != "float32"
        with torch.inference_mode(), torch.autocast(encoder.device.type, dtype=half, enabled=enabled):
            for start in batches:
                rows = min(encoder.batch_rows, len(images) - start)
                inputs = scaled[:rows] if is_scaled else (resident[:rows].permute(0, 3, 1, 2).float() - mean) / std
                features = module(inputs)
                if start == 0:
                    first = features
        copied: npt.NDArray[np.float32] = first.float().cpu().numpy()
        return copied

    def in_shards() -> None:
        for start in range(0, len(images), shard_rows):
            encoder.encode(images[start : start + shard_rows])

    return {
        "encode": lambda: encoder.encode(images),
        "encode_in_shards": in_shards,
        "forward": lambda: forward(True),
        "forward_and_scaling": lambda: forward(False),
    }


def _seconds(side: Callable[[], Any], device: torch.device) -> float:
    started = time.perf_counter()
    side()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _figures(times: dict[str, list[float]], rows: int) -> dict[str, Any]:
    def ratios(side: str, peer: str) -> list[float]:
        return [p / s for s, p in zip(times[side], times[peer], strict=True)]

    return {
        "ratio_to_forward": middle(ratios("encode", "forward")),
        "ratio_to_forward_spread": spread(ratios("encode", "forward")),
        "ratio_to_forward_and_scaling": middle(ratios("encode", "forward_and_scaling")),
        "ratio_in_shards": middle(ratios("encode_in_shards", "forward")),
        "rows_per_s": {name: round(rows / middle(seconds), 1) for name, seconds in times.items()},
    }


def _print_table(result: dict[str, Any]) -> None:
    print(f"{result['prior']} on {result['device']}, {result['precision']}, batches of {result['batch_rows']}")
    for name, rate in result["rows_per_s"].items():
        print(f"  {name:20} {rate:12,.1f} rows/s {rate / result['rows_per_s']['forward']:7.3f} of forward")
    print(f"  waiting share        {result['waiting_share']:12.3f}")


if __name__ == "__main__":
    main()
