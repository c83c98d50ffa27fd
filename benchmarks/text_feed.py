"""Feed of texts: how fast it is beside a torch DataLoader with the same tokenizer, and what a part of a pool costs.

    python -m benchmarks.text_feed --json [--quick] [--rows N] [--source URI] [--workers N]

Both sides make batches of token arrays by one tokenizer of the transformers library, whose WordPiece vocabulary is
learned from the texts. The DataLoader has the texts in memory and tokenizes whole batches, which is its fastest way.
Without --source the texts are made up.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Child, busiest, cores, finish, in_child, middle, note, parser, rows_of, spread
from benchmarks.feed.measure import relative_times
from benchmarks.text_encode.sides import make_text_pool

BATCH_ROWS = 256
_SHARES = [0.1, 0.3, 0.5, 0.7, 1.0]
_TOKENS, _VOCABULARY, _LEARNED_ROWS = 128, 8_000, 5_000
_RATIO, _ALLOWED = 0.90, 0.05  # targets: of the DataLoader's speed; of an epoch's time above its kept share


def main() -> None:
    """Runs the benchmark."""
    arguments = _arguments()
    repeats = 1 if arguments.quick else 3
    with tempfile.TemporaryDirectory(prefix="coevo-text-feed-") as folder:
        children: list[Child] = []

        def child(function: Any, *values: Any) -> Any:
            children.append(in_child(function, *values))
            return children[-1].result

        rows = child(make_text_pool, folder, rows_of(arguments), arguments.source)
        vocabulary = child(learn_vocabulary, folder)
        seconds: dict[str, dict[str, list[float]]] = {"ours": {}, "loader": {}}
        for _ in range(repeats):
            for workers in range(arguments.workers + 1):
                ours = child(feed_epochs, folder, [1.0], 1, workers)["1.0"]
                loader = child(loader_epochs, folder, 1, workers)
                seconds["ours"].setdefault(str(workers), []).extend(ours)
                seconds["loader"].setdefault(str(workers), []).extend(loader)
                note(f"{workers} workers: an epoch of {rows:,} texts in {ours[0]:.2f} s, DataLoader {loader[0]:.2f} s")
        workers = int(min(seconds["ours"], key=lambda key: middle(seconds["ours"][key])))
        epochs = child(feed_epochs, folder, _SHARES, repeats, workers)
    best = {side: min(middle(taken) for taken in found.values()) for side, found in seconds.items()}
    ratio, relative = round(best["loader"] / best["ours"], 3), relative_times(epochs)
    result = {
        "rows": rows,
        "repeats": repeats,
        "ratio_to_dataloader": ratio,
        "relative_epoch_time": relative,
        "holds": {
            "ratio_to_dataloader": ratio >= _RATIO,
            "relative_epoch_time": {share: taken <= float(share) + _ALLOWED for share, taken in relative.items()},
        },
        "rows_per_s": {s: {w: spread([rows / t for t in v]) for w, v in found.items()} for s, found in seconds.items()},
        "workers": workers,
        "batch_rows": BATCH_ROWS,
        "most_tokens": _TOKENS,
        "vocabulary": vocabulary,
        "generated": arguments.source is None,
        "busy_before": busiest(children),
    }
    finish("text_feed", result, arguments.json)


def _arguments() -> argparse.Namespace:
    made = parser(__doc__.split("\n")[0], 50_000, 4_000)
    made.add_argument("--source", help="URI of a Parquet file with a column text")
    made.add_argument("--workers", type=int, default=cores(), help="most worker processes that either side tries")
    arguments = made.parse_args()
    if arguments.workers < 0:
        made.error("--workers must be 0 or more")
    return arguments


def learn_vocabulary(folder: str) -> int:
    """Learns `folder`/tokenizer from texts of `folder`/pool; returns its size."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    from coevo_ray.pool.pool import Pool

    texts = Pool(f"{folder}/pool").scan(["text"]).column("text").slice(0, _LEARNED_ROWS).to_pylist()
    learned = BertWordPieceTokenizer()
    learned.train_from_iterator(texts, vocab_size=_VOCABULARY, show_progress=False)
    made = PreTrainedTokenizerFast(
        tokenizer_object=learned._tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    made.save_pretrained(f"{folder}/tokenizer")
    return int(made.vocab_size)


class Tokenize:
    """Texts -> `input_ids` and `attention_mask` int64[b, l]; each process reads the tokenizer by itself."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._tokenizer: Any = None

    def __call__(self, texts: list[str]) -> Any:
        """Makes one batch."""
        if self._tokenizer is None:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core that was meant
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(f"{self.folder}/tokenizer")
        names = ["input_ids", "attention_mask"]
        made = self._tokenizer(texts, padding=True, truncation=True, max_length=_TOKENS, return_tensors="pt")
        return {name: made[name] for name in names}


def feed_epochs(folder: str, shares: list[float], repeats: int, workers: int) -> dict[str, list[float]]:
    """Seconds of epochs by kept share, in random subsets of their own."""
    from coevo_ray.core.feed.epoch_plan import Subset
    from coevo_ray.core.rows.hashing import choose_rows
    from coevo_ray.pool.pool import Pool
    from coevo_ray.training.feed.feed import Feed

    pool = Pool(f"{folder}/pool")
    feed = Feed.of_texts(pool, Tokenize(folder), global_batch=BATCH_ROWS, workers=workers)
    rows = np.arange(len(pool))
    for _ in feed.epoch(Subset(0, rows[: 2 * BATCH_ROWS * (workers + 1)])):
        pass  # processes are started, libraries loaded
    found: dict[str, list[float]] = {str(share): [] for share in shares}
    for repeat in range(repeats):
        for share in shares if repeat % 2 == 0 else shares[::-1]:
            before, subset = feed.rows_made, Subset(repeat, choose_rows(rows, round(share * len(rows)), seed=repeat))
            found[str(share)].append(_drain(feed.epoch(subset)))
            if feed.rows_made - before != len(subset.row_ids):
                raise RuntimeError("rows outside the subset were tokenized, or rows were left out")
    feed.close()
    return found


class _Texts(torch.utils.data.Dataset[Any]):
    """Texts in memory; an index is a whole batch's."""

    def __init__(self, texts: list[str], labels: list[int], tokenize: Tokenize) -> None:
        self.texts, self.labels, self.tokenize = texts, labels, tokenize

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: list[int]) -> dict[str, torch.Tensor]:
        made = self.tokenize([self.texts[row] for row in rows])
        return {**made, "label": torch.tensor([self.labels[row] for row in rows])}


def loader_epochs(folder: str, repeats: int, workers: int) -> list[float]:
    """Seconds of whole epochs by a torch DataLoader."""
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    from coevo_ray.pool.pool import Pool

    rows = Pool(f"{folder}/pool").scan(["text", "label"])
    labels = rows.column("label").fill_null(-1).to_pylist()
    dataset = _Texts(rows.column("text").to_pylist(), labels, Tokenize(str(Path(folder))))
    sampler = BatchSampler(RandomSampler(dataset), BATCH_ROWS, drop_last=False)
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=None, sampler=sampler, num_workers=workers, persistent_workers=workers > 0
    )
    return [_drain(iter(loader)) for _ in range(repeats + 1)][1:]  # the first one has started the processes


def _drain(batches: Any) -> float:
    started = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
