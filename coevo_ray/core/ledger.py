"""The selection ledger: usage counts and the epochs' subsets, as a plain class (DESIGN sections 5.3 and 5.6)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from coevo_ray.core.epoch_plan import Float32Array, Subset
from coevo_ray.core.policies import KeptShares, Policy, SelectionContext, check_schedule
from coevo_ray.core.rows import Int64Array
from coevo_ray.core.turns import IntArray
from coevo_ray.errors import InputError

_MOST_USES = np.iinfo(np.uint16).max
_SETTINGS = ("policy", "keep", "epochs", "seed")

BoolArray = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint8]


class SelectionLedger:
    """Usage counts of N rows, and which rows each epoch takes.

    The open epoch's subset and the last committed one's are kept as bits, so that whoever asks again gets the same
    rows, whatever was set in between. Older subsets are dropped: computing them again would need the counts of that
    time, and no worker is more than one epoch behind, as a commit follows the epoch's end on all of them.

    Bytes per row: 2 of usage and 3 bits; with scores 4 more, with factors and labels the narrowest integers that hold
    them (2 each up to 32 767): at most 10.4 then.

    Args:
        rows: N.
        candidates: bool[N], rows that may be selected.
        policy: the rule.
        keep: kept share in (0, 1], or one for each epoch.
        epochs: epochs of the full schedule.
        seed: seed of the run.

    Raises:
        InputError: no candidates, or shapes that do not fit.
        UsageError: the kept share or the epochs are out of bounds.
    """

    def __init__(
        self, *, rows: int, candidates: BoolArray, policy: Policy, keep: float | KeptShares, epochs: int, seed: int
    ) -> None:
        self.keep = keep if isinstance(keep, KeptShares) else KeptShares(keep)
        check_schedule(self.keep.first, epochs)
        if candidates.shape != (rows,) or not candidates.any():
            raise InputError(
                f"{int(candidates.sum())} candidates in an array of {candidates.shape} for {rows} rows",
                "give one flag for each row, and at least one candidate",
            )
        self.policy, self.epochs, self.seed = policy, epochs, seed
        self.committed = 0
        self._candidates = np.packbits(candidates)
        self._usage: npt.NDArray[np.uint16] = np.zeros(rows, dtype=np.uint16)
        self._last: Bits | None = None
        self._open: Bits | None = None
        self._last_weights: Float32Array | None = None
        self._open_weights: Float32Array | None = None
        self._representativeness: npt.NDArray[np.float16] | None = None
        self._diversity: npt.NDArray[np.float16] | None = None
        self._factor: IntArray | None = None
        self._label: IntArray | None = None
        self._doubt: npt.NDArray[np.float16] | None = None
        self._copies: IntArray | None = None
        self._copy: IntArray | None = None
        self._losses = _Losses.unknown(rows) if policy.needs_losses else None
        # Of the open epoch: they count from its commit on, so that its subset stays what it was.
        self._reported = _Losses.unknown(rows) if policy.needs_losses else None

    def set_scores(
        self,
        representativeness: npt.NDArray[np.floating[Any]],
        diversity: npt.NDArray[np.floating[Any]],
        factor: IntArray,
    ) -> None:
        """Takes every row's scores, float[N] each, and strongest factor, int[N]; an open epoch keeps its rows.

        Raises:
            InputError: lengths differ from N, or a score is not finite.
        """
        for name, array in (("representativeness", representativeness), ("diversity", diversity), ("factor", factor)):
            self._check_length(name, array)
            if not np.isfinite(array).all():
                raise InputError(f"{name} of {int((~np.isfinite(array)).sum())} rows is not finite", "score them anew")
        self._representativeness = representativeness.astype(np.float16)
        self._diversity = diversity.astype(np.float16)
        self._factor = _narrow(factor)

    def set_labels(self, labels: IntArray) -> None:
        """Takes every row's label, int[N], -1 without one; only class quotas look at them.

        Raises:
            InputError: the length differs from N.
        """
        self._check_length("labels", labels)
        self._label = _narrow(labels)

    def set_doubt(self, doubt: npt.NDArray[np.floating[Any]]) -> None:
        """Takes the chance of every row's label to be wrong, float[N] in [0, 1].

        Raises:
            InputError: the length differs from N, or a value is outside.
        """
        self._check_length("doubts", doubt)
        wrong = ~((doubt >= 0) & (doubt <= 1))
        if wrong.any():
            raise InputError(f"doubts of {int(wrong.sum())} rows are not in [0, 1]", "compute them anew")
        self._doubt = doubt.astype(np.float16)

    def set_copies(self, copies: IntArray, copy: IntArray) -> None:
        """Takes how many near-duplicates every row has and which of them it is, int[N] each; see `SelectionContext`.

        Raises:
            InputError: lengths differ from N, or a row is not one of its group's copies.
        """
        for name, array in (("copies", copies), ("copy", copy)):
            self._check_length(name, array)
        wrong = (copy < 0) | (copy >= copies)
        if wrong.any():
            raise InputError(f"{int(wrong.sum())} rows are not among their group's copies", "need 0 <= copy < copies")
        self._copies, self._copy = _narrow(copies), _narrow(copy)

    def report_losses(
        self,
        epoch: int,
        row_ids: Int64Array,
        losses: npt.NDArray[np.floating[Any]],
        entropies: npt.NDArray[np.floating[Any]],
    ) -> bool:
        """Takes losses and entropies of predictions, float[b] each in nats, of some rows of the open epoch.

        They are seen by the policy from the epoch's commit on. Reporting a row again overwrites it.

        Returns:
            False where the epoch is committed already, or the policy looks at no losses: nothing is taken.

        Raises:
            InputError: the epoch is not open, a row is outside the pool, or lengths differ.
        """
        if self._reported is None or 0 <= epoch < self.committed:
            return False
        if epoch != self.committed:
            raise InputError(f"losses of epoch {epoch}, {self.committed} is open", "report an epoch before its commit")
        self._reported.put(row_ids, losses, entropies)
        return True

    def select(self, epoch: int) -> Subset:
        """The subset of an epoch; the same however often it is asked for, also just after its commit.

        Raises:
            InputError: an earlier epoch is not committed yet, the epoch is long past, or the policy broke its contract.
        """
        if epoch == self.committed - 1 and self._last is not None:
            return Subset(epoch, self._rows(self._last), self._last_weights)
        if epoch != self.committed:
            raise InputError(
                f"epoch {epoch} was asked for, {self.committed} is next",
                "commit the epochs before it"
                if epoch > self.committed
                else "only the last epoch can be asked for again",
            )
        if self._open is None:
            context = self._context(epoch)
            rows = self.policy.select(context)
            bits = self._pack(rows)
            self._open_weights = self._weights(context, rows)
            self._open = bits
        return Subset(epoch, self._rows(self._open), self._open_weights)

    def commit(self, epoch: int) -> bool:
        """Counts the usage of an epoch's rows once.

        Returns:
            True the first time, False when it was counted before.

        Raises:
            InputError: the epoch was not selected, an earlier one is not committed yet, or a count would overflow.
        """
        if 0 <= epoch < self.committed:
            return False
        if epoch != self.committed or self._open is None:
            raise InputError(
                f"epoch {epoch} cannot be committed: {self.committed} is next and is "
                f"{'not selected' if self._open is None else 'selected'}",
                "select an epoch, then commit it, in order",
            )
        used = self._flags(self._open)
        if self._usage[used].max(initial=0) == _MOST_USES:
            raise InputError(f"a row was used {_MOST_USES} times", "start a new run: usage is counted in 16 bits")
        self._usage[used] += 1
        self._last, self._open = self._open, None
        self._last_weights, self._open_weights = self._open_weights, None
        if self._losses is not None and self._reported is not None:
            self._losses.update(self._reported)
            self._reported.clear()
        self.committed += 1
        return True

    def usage(self) -> npt.NDArray[np.uint16]:
        """uint16[N]: committed epochs that used each row; a copy."""
        return self._usage.copy()

    def usage_histogram(self) -> dict[int, int]:
        """Usage count -> candidates with it."""
        counts, rows = np.unique(self._usage[self._flags(self._candidates)], return_counts=True)
        return {int(c): int(r) for c, r in zip(counts, rows, strict=True)}

    def never_used_share(self) -> float:
        """Share of the candidates that no committed epoch used."""
        return float((self._usage[self._flags(self._candidates)] == 0).mean())

    def state(self, *, scores: bool = False) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """What a restart cannot compute again: small fields for JSON, and arrays (copies).

        Args:
            scores: also scores and labels. A run has them in tables and leaves them out, for small snapshots.
        """
        fields: dict[str, Any] = {name: getattr(self, name) for name in ("committed", "epochs", "seed")}
        fields |= {"keep": asdict(self.keep), "policy": self.policy.name, "rows": len(self._usage)}
        none = np.zeros(0, dtype=np.uint8)
        bits = {"candidates": self._candidates, "last": self._last, "open": self._open}
        arrays: dict[str, npt.NDArray[Any]] = {"usage": self._usage.copy()}
        arrays |= {name: none if packed is None else packed.copy() for name, packed in bits.items()}
        weights = {"last_weights": self._last_weights, "open_weights": self._open_weights}
        arrays |= {name: array.copy() for name, array in weights.items() if array is not None}
        for prefix, losses in (("", self._losses), ("reported_", self._reported)):
            if losses is not None:
                arrays |= {f"{prefix}loss": losses.loss.copy(), f"{prefix}entropy": losses.entropy.copy()}
        if scores and self._representativeness is not None and self._diversity is not None and self._factor is not None:
            columns = (self._representativeness, self._diversity, self._factor)
            arrays |= {k: v.copy() for k, v in zip(("representativeness", "diversity", "factor"), columns, strict=True)}
        if scores and self._label is not None:
            arrays["label"] = self._label.copy()
        return fields, arrays

    @classmethod
    def from_state(cls, fields: dict[str, Any], arrays: dict[str, npt.NDArray[Any]], policy: Policy) -> SelectionLedger:
        """A ledger that goes on exactly where `state` was taken; without scores in it, set them before selecting.

        Raises:
            InputError: the state is damaged, or belongs to another policy.
        """
        _check_state(fields, arrays)
        ledger = cls(
            rows=fields["rows"],
            candidates=np.unpackbits(arrays["candidates"], count=fields["rows"]).astype(bool),
            policy=policy,
            keep=KeptShares(**fields["keep"]),
            epochs=fields["epochs"],
            seed=fields["seed"],
        )
        if "representativeness" in arrays:
            ledger.set_scores(arrays["representativeness"], arrays["diversity"], arrays["factor"])
        if "label" in arrays:
            ledger.set_labels(arrays["label"])
        ledger.restore(fields, arrays)
        return ledger

    def restore(self, fields: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Takes over a state's counts and subsets; scores and labels stay as they are here.

        Raises:
            InputError: it is damaged, or belongs to another policy, schedule, seed or set of candidates.
        """
        _check_state(fields, arrays)
        mine, my_arrays = self.state()
        for name in _SETTINGS:
            if fields[name] != mine[name]:
                raise InputError(
                    f"the journal's {name} is {fields[name]!r}, this run's is {mine[name]!r}",
                    "use the former setting, or another output folder",
                )
        if not np.array_equal(arrays["candidates"], my_arrays["candidates"]):
            raise InputError("the journal has other candidates than this run", "use another output folder")
        self._check_length("usage counts", arrays["usage"])
        self.committed = int(fields["committed"])
        self._usage = arrays["usage"].astype(np.uint16)
        self._last = arrays["last"].astype(np.uint8) if len(arrays["last"]) else None
        self._open = arrays["open"].astype(np.uint8) if len(arrays["open"]) else None
        self._last_weights, self._open_weights = arrays.get("last_weights"), arrays.get("open_weights")
        if self._losses is not None:
            self._losses = _Losses(arrays["loss"].copy(), arrays["entropy"].copy())
            self._reported = _Losses(arrays["reported_loss"].copy(), arrays["reported_entropy"].copy())

    def _context(self, epoch: int) -> SelectionContext:
        usage = self._usage.view()
        usage.flags.writeable = False
        return SelectionContext(
            epoch=epoch,
            epochs=self.epochs,
            keep=self.keep.at(epoch, self.epochs),
            seed=self.seed,
            candidates=self._rows(self._candidates),
            usage=usage,
            representativeness=self._representativeness,
            diversity=self._diversity,
            factor=self._factor,
            label=self._label,
            loss=None if self._losses is None else self._losses.loss,
            entropy=None if self._losses is None else self._losses.entropy,
            doubt=self._doubt,
            copies=self._copies,
            copy=self._copy,
        )

    def _weights(self, context: SelectionContext, rows: Int64Array) -> Float32Array | None:
        weights = self.policy.weights(context, rows)
        if weights is None:
            return None
        if weights.shape != rows.shape or not np.isfinite(weights).all() or not (weights > 0).all():
            raise InputError(
                f"policy {self.policy.name} gave weights of shape {weights.shape} for {len(rows)} rows, "
                f"{int((~(weights > 0)).sum())} of them not above 0",
                "let its weights return one finite positive number for each selected row",
            )
        return weights.astype(np.float32)

    def _pack(self, rows: Int64Array) -> Bits:
        """Bits of selected rows; distinct candidates, at least one."""
        flags = np.zeros(len(self._usage), dtype=bool)
        inside = len(rows) > 0 and rows.min() >= 0 and rows.max() < len(flags)
        if inside:
            flags[rows] = True
        bits = np.packbits(flags)
        if not inside or np.count_nonzero(flags) != len(rows) or (bits & ~self._candidates).any():
            raise InputError(
                f"policy {self.policy.name} selected {len(rows)} rows that are not distinct candidates",
                "let its select return rows of context.candidates, at least one and each once",
            )
        return bits

    def _flags(self, bits: Bits) -> BoolArray:
        return np.unpackbits(bits, count=len(self._usage)).view(np.bool_)

    def _rows(self, bits: Bits) -> Int64Array:
        return np.flatnonzero(self._flags(bits)).astype(np.int64, copy=False)

    def _check_length(self, name: str, array: npt.NDArray[Any]) -> None:
        if len(array) != len(self._usage):
            raise InputError(f"{len(array)} {name} for {len(self._usage)} rows", "give one for each row")


@dataclass
class _Losses:
    """Losses and entropies, float16[N], NaN where none is known."""

    loss: npt.NDArray[np.float16]
    entropy: npt.NDArray[np.float16]

    @classmethod
    def unknown(cls, rows: int) -> _Losses:
        return cls(np.full(rows, np.nan, np.float16), np.full(rows, np.nan, np.float16))

    def put(
        self, rows: Int64Array, losses: npt.NDArray[np.floating[Any]], entropies: npt.NDArray[np.floating[Any]]
    ) -> None:
        if not len(rows) == len(losses) == len(entropies):
            raise InputError(f"{len(losses)} losses, {len(entropies)} entropies for {len(rows)} rows", "one each")
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self.loss):
            raise InputError(f"losses of rows {rows.min()} to {rows.max()} of {len(self.loss)}", "check the row_ids")
        most = float(np.finfo(np.float16).max)
        self.loss[rows] = np.minimum(losses, most)
        self.entropy[rows] = np.minimum(entropies, most)

    def update(self, newer: _Losses) -> None:
        known = ~np.isnan(newer.loss)
        self.loss[known], self.entropy[known] = newer.loss[known], newer.entropy[known]

    def clear(self) -> None:
        self.loss.fill(np.nan)
        self.entropy.fill(np.nan)


def _narrow(values: IntArray) -> IntArray:
    """A copy in the narrowest of int16, int32 and int64 that holds all values."""
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    for dtype in (np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values.astype(np.int64)


def _check_state(fields: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
    missing = {"committed", "rows", *_SETTINGS} - fields.keys() | {
        "usage",
        "candidates",
        "last",
        "open",
    } - arrays.keys()
    if missing:
        raise InputError(f"the ledger's state lacks {', '.join(sorted(missing))}", "use another output folder")
