"""The selection ledger: usage counts and the epochs' subsets, as a plain class (DESIGN sections 5.3 and 5.6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from coevo_ray.core.epoch_plan import Subset
from coevo_ray.core.policies import Policy, SelectionContext
from coevo_ray.core.rows import Int64Array
from coevo_ray.errors import InputError

_MOST_USES = np.iinfo(np.uint16).max


class SelectionLedger:
    """Usage counts of N rows, and which rows each epoch takes.

    `select` is a function of the counts, so the open epoch's subset need not be kept; the last committed epoch's is
    (N / 8 bytes), so that a worker that asks for it again gets the same rows. Per row: 2 bytes of usage, 1 bit of
    candidates, 1 bit of the last subset; with scores 2 + 2 + 4 bytes more.

    Args:
        rows: N.
        candidates: bool[N], rows that may be selected.
        policy: the rule.
        keep: kept share in (0, 1].
        epochs: epochs of the full schedule.
        seed: seed of the run.

    Raises:
        InputError: no candidates, or shapes that do not fit.
    """

    def __init__(
        self, *, rows: int, candidates: npt.NDArray[np.bool_], policy: Policy, keep: float, epochs: int, seed: int
    ) -> None:
        if candidates.shape != (rows,) or not candidates.any():
            raise InputError(
                f"{int(candidates.sum())} candidates in an array of {candidates.shape} for {rows} rows",
                "give one flag for each row, and at least one candidate",
            )
        self.policy, self.keep, self.epochs, self.seed = policy, keep, epochs, seed
        self.committed = 0
        self._candidates = np.packbits(candidates)
        self._usage = np.zeros(rows, dtype=np.uint16)
        self._last: npt.NDArray[np.uint8] | None = None
        self._open: Subset | None = None
        self._representativeness: npt.NDArray[np.float16] | None = None
        self._diversity: npt.NDArray[np.float16] | None = None
        self._factor: npt.NDArray[np.int32] | None = None
        self._label: Int64Array | None = None

    def set_scores(
        self,
        representativeness: npt.NDArray[np.floating[Any]],
        diversity: npt.NDArray[np.floating[Any]],
        factor: npt.NDArray[np.integer[Any]],
    ) -> None:
        """Takes every row's scores, float[N] each, and strongest factor, int[N].

        Raises:
            InputError: lengths differ from N.
        """
        for name, array in (("representativeness", representativeness), ("diversity", diversity), ("factor", factor)):
            self._check_length(name, array)
        self._representativeness = representativeness.astype(np.float16)
        self._diversity = diversity.astype(np.float16)
        self._factor = factor.astype(np.int32)
        self._open = None

    def set_labels(self, labels: Int64Array) -> None:
        """Takes every row's label, int64[N], -1 without one; only class quotas look at them.

        Raises:
            InputError: the length differs from N.
        """
        self._check_length("labels", labels)
        self._label = labels
        self._open = None

    def select(self, epoch: int) -> Subset:
        """The subset of an epoch; the same however often it is asked for, also just after its commit.

        Raises:
            InputError: an earlier epoch is not committed yet, or the epoch is long past.
        """
        if epoch == self.committed - 1 and self._last is not None:
            return Subset(epoch, self._unpack(self._last))
        if epoch != self.committed:
            raise InputError(
                f"epoch {epoch} was asked for, {self.committed} is next",
                "commit the epochs before it"
                if epoch > self.committed
                else "only the last epoch can be asked for again",
            )
        if self._open is None:
            self._open = Subset(epoch, self.policy.select(self._context(epoch)))
        return self._open

    def commit(self, epoch: int) -> bool:
        """Counts the usage of an epoch's rows once.

        Returns:
            True the first time, False when it was counted before.

        Raises:
            InputError: an earlier epoch is not committed yet, or a count would overflow.
        """
        if epoch < self.committed:
            return False
        rows = self.select(epoch).row_ids
        if self._usage[rows].max(initial=0) == _MOST_USES:
            raise InputError(f"a row was used {_MOST_USES} times", "start a new run: usage is counted in 16 bits")
        self._usage[rows] += 1
        flags = np.zeros(len(self._usage), dtype=bool)
        flags[rows] = True
        self._last = np.packbits(flags)
        self._open = None
        self.committed += 1
        return True

    def usage(self) -> npt.NDArray[np.uint16]:
        """uint16[N]: committed epochs that used each row; a copy."""
        return self._usage.copy()

    def usage_histogram(self) -> dict[int, int]:
        """Usage count -> candidates with it."""
        counts, rows = np.unique(self._usage[self._unpack(self._candidates)], return_counts=True)
        return {int(c): int(r) for c, r in zip(counts, rows, strict=True)}

    def never_used_share(self) -> float:
        """Share of the candidates that no committed epoch used."""
        return float((self._usage[self._unpack(self._candidates)] == 0).mean())

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """What a restart cannot compute again: small fields and arrays. Scores and labels come from their tables."""
        fields = {"committed": self.committed, "policy": self.policy.name, "keep": self.keep, "seed": self.seed}
        last = np.zeros(0, dtype=np.uint8) if self._last is None else self._last
        return fields, {"usage": self._usage, "last": last, "candidates": self._candidates}

    def restore(self, fields: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Takes over a state.

        Raises:
            InputError: it belongs to another policy, share, seed or set of candidates.
        """
        mine, my_arrays = self.state()
        for name in ("policy", "keep", "seed"):
            if fields[name] != mine[name]:
                raise InputError(
                    f"the journal's {name} is {fields[name]!r}, this run's is {mine[name]!r}",
                    "use the former setting, or another output folder",
                )
        if not np.array_equal(arrays["candidates"], my_arrays["candidates"]):
            raise InputError("the journal has other candidates than this run", "use another output folder")
        self.committed = int(fields["committed"])
        self._usage = arrays["usage"].astype(np.uint16)
        self._last = arrays["last"].astype(np.uint8) if len(arrays["last"]) else None
        self._open = None

    def _context(self, epoch: int) -> SelectionContext:
        return SelectionContext(
            epoch=epoch,
            epochs=self.epochs,
            keep=self.keep,
            seed=self.seed,
            candidates=self._unpack(self._candidates),
            usage=self._usage,
            representativeness=self._representativeness,
            diversity=self._diversity,
            factor=self._factor,
            label=self._label,
        )

    def _unpack(self, bits: npt.NDArray[np.uint8]) -> Int64Array:
        return np.flatnonzero(np.unpackbits(bits, count=len(self._usage))).astype(np.int64)

    def _check_length(self, name: str, array: npt.NDArray[Any]) -> None:
        if len(array) != len(self._usage):
            raise InputError(f"{len(array)} {name} for {len(self._usage)} rows", "give one for each row")
