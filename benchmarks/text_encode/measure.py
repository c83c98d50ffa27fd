"""Encode of texts: rows and tokens per second of the whole stage against a bare loop over the same pool.

    python -m benchmarks.text_encode --json [--quick] [--rows N] [--source URI] [--prior SCHEME:MODEL] [--dim N]

Both sides read the same Parquet files, tokenize with the same tokenizer and run the same module, with as many threads
as there are cores. They take turns (A B, A B, ...), each in a process of its own, and Ray runs only during its turn.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path

from benchmarks.common import Child, busiest, cores, finish, in_child, middle, note, parser, positive, rows_of, spread
from benchmarks.encode.measure import SEED, SHARED, difference
from benchmarks.text_encode.sides import bare_text_loop, encode_texts, make_text_pool

PRIOR = "wordllama:256"
Turns = dict[str, Child]


def main() -> None:
    """Runs the benchmark."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="coevo-text-encode-") as folder:
        rows = in_child(make_text_pool, folder, rows_of(arguments), arguments.source).result
        note(f"pool of {rows:,} texts")
        repeats = [_repeat(folder, arguments, i) for i in range(arguments.repeats or (1 if arguments.quick else 3))]
        largest = difference(Path(folder), "latent", arguments.dim)
    ours, loop = ([turns[side].result["steady_seconds"] for turns in repeats] for side in ("ours", "loop"))
    ratios = [theirs / mine for mine, theirs in zip(ours, loop, strict=True)]
    tokens = repeats[0]["ours"].result["tokens"]
    stages = [turns["ours"].result["stage_seconds"] for turns in repeats]
    result = {
        "rows": rows,
        "tokens": tokens,
        "source": arguments.source or "generated texts",
        "prior": arguments.prior,
        "dim": arguments.dim,
        "repeats": len(repeats),
        "ratio_to_bare_loop": middle(ratios),
        "ratio_to_bare_loop_spread": spread(ratios),
        "tokens_per_s": round(tokens / middle(ours), 1),
        "loop_tokens_per_s": round(tokens / middle(loop), 1),
        "rows_per_s": {"ours": round(rows / middle(ours), 1), "loop": round(rows / middle(loop), 1)},
        "stage_seconds": {name: middle([stage[name] for stage in stages]) for name in stages[0]},
        "waiting_share": middle([turns["ours"].result["waiting_share"] for turns in repeats]),
        "max_feature_difference": largest,
        "busy_before": busiest(child for turns in repeats for child in turns.values()),
        "loop": {"batch_rows": arguments.batch_rows, "threads": cores()},
    }
    finish("text_encode", result, arguments.json)


def _arguments() -> Namespace:
    made = parser(__doc__.split("\n")[0], 200_000, 2_000)
    made.add_argument("--source", help="URI of a Parquet file with a column text, instead of generated texts")
    made.add_argument("--prior", default=PRIOR, help="scheme:model that takes tokens")
    made.add_argument("--dim", type=positive, default=256, help="n of the targets")
    made.add_argument("--repeats", type=positive, help="turns of each side; otherwise 3, with --quick 1")
    made.add_argument("--actors", type=positive, default=cores(), help="actors of our stage")
    made.add_argument("--batch-rows", type=positive, default=64, help="rows of a batch, on both sides")
    return made.parse_args()


def _repeat(folder: str, arguments: Namespace, index: int) -> Turns:
    config = {
        "priors": [{"name": arguments.prior}],
        "dim": arguments.dim,
        "projection": "components",
        "shared": SHARED,
        "seed": SEED,
        "compute": {
            "actors": arguments.actors,
            "cpus": 0.5,
            "reader_cpus": 0.5,
            "batch_rows": arguments.batch_rows,
        },
    }
    turns: Turns = {"ours": in_child(encode_texts, folder, config, index)}
    turns["loop"] = in_child(bare_text_loop, folder, arguments.prior, arguments.batch_rows, cores())
    for name, child in turns.items():
        note(f"turn {index}, {name}: {child.result['steady_seconds']:.2f} s, {child.seconds:.2f} s with start-up")
    return turns
