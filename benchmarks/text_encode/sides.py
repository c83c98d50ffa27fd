"""The sides of the benchmark: our stage, and a bare loop over the same pool of texts. Each runs in a child."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.encode.sides import encode_pool

TEXT_COLUMN = "text"
_SEED = 0
_WORDS, _LEAST, _MEAN, _MOST = 20_000, 5, 60, 2_000  # words known; words of a text
_ZIPF = 1.3


def make_text_pool(folder: str, rows: int, source: str | None) -> int:
    """Ingests a pool into `folder`/pool; runs in a child process.

    Args:
        folder: an empty folder.
        rows: texts to generate; a user's source is taken whole.
        source: URI of a Parquet file with a column `text`, or None to generate.

    Returns:
        Rows of the pool.
    """
    from coevo_ray.pipelines.ingest.ingest import ingest

    if source is None:
        source = str(Path(folder) / "texts.parquet")
        _write_texts(source, rows)
    config = {"sources": [{"uri": source, "text_column": TEXT_COLUMN}], "test_fraction": 0}
    return len(ingest(config, str(Path(folder) / "pool")))


def _write_texts(path: str, rows: int) -> None:
    """Writes made-up texts: words by Zipf's law, as many as a log-normal law says, each text different."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.Generator(np.random.PCG64(_SEED))
    letters = np.array(list("aeiounrtslcdmp"))
    words = np.array(["".join(random.choice(letters, size)) for size in random.integers(2, 9, _WORDS)])
    lengths = np.clip(random.lognormal(np.log(_MEAN), 0.8, rows), _LEAST, _MOST).astype(int)
    texts = (" ".join(words[np.minimum(random.zipf(_ZIPF, n) - 1, _WORDS - 1)]) for n in lengths)
    pq.write_table(pa.table({TEXT_COLUMN: pa.array([f"{text} {i}" for i, text in enumerate(texts)])}), path)


def encode_texts(folder: str, config: dict[str, Any], index: int) -> dict[str, Any]:
    """Our turn, from starting Ray to the finished targets.

    Args:
        folder: holds the pool; the run's output goes to `ours-{index}`, its features to `ours.npy`.
        config: settings of encode.
        index: number of the turn.

    Returns:
        `session_seconds`, `encode_seconds`, `steady_seconds`, `aside_seconds`, `stage_seconds`, `waiting_share`: as
        `benchmarks.encode.sides.encode_pool`; `tokens`: of the pool.
    """
    from coevo_ray.pipelines.encode.contribution import Contribution
    from coevo_ray.store.location import Location

    result = encode_pool(folder, config, index)
    contribution = Contribution(Location.parse(Path(folder) / f"ours-{index}" / "contributions" / "00"))
    return {**result, "tokens": contribution.summary["tokens"]}


def bare_text_loop(folder: str, prior: str, batch_rows: int, threads: int) -> dict[str, Any]:
    """The peer's turn: read, tokenize, forward batch by batch in the pool's order, keep the features in memory.

    Args:
        folder: holds the pool; the features go to `loop.npy`.
        prior: scheme:model.
        batch_rows: rows of a batch.
        threads: threads of PyTorch and of the tokenizer.

    Returns:
        `steady_seconds`: the loop alone; `encode_seconds`: with loading the model; `aside_seconds`: the benchmark's own
        work.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    import torch

    from coevo_ray.priors.inputs import Samples, TokenInput
    from coevo_ray.priors.registry import load_prior

    torch.set_num_threads(threads)
    began = time.time()
    loaded = load_prior(prior, None, Samples("text"))
    assert isinstance(loaded.input, TokenInput)
    loaded.input.tokenize(["read the vocabulary"])
    started, parts = time.time(), []
    with torch.inference_mode():
        for texts in _batches(Path(folder) / "pool", batch_rows):
            ids = loaded.input.tokenize(texts).ids[:, 0]
            parts.append(loaded.module(torch.from_numpy(ids).long()).numpy())
    features: npt.NDArray[np.float32] = np.concatenate(parts)
    ended = time.time()
    np.save(Path(folder) / "loop.npy", features)
    return {
        "steady_seconds": ended - started,
        "encode_seconds": ended - began,
        "aside_seconds": time.time() - ended,
    }


def _batches(pool: Path, batch_rows: int) -> Iterator[list[str]]:
    import pyarrow.parquet as pq

    for path in sorted(pool.glob("rows-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(batch_rows, columns=[TEXT_COLUMN]):
            yield batch.column(0).to_pylist()
