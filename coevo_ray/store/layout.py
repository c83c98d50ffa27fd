"""The folders of a run and of its artifacts: commands write them, runs write them, reports and `train` read them.

    RUN/pool  RUN/encode/targets  RUN/sae/{model,codes,table,scores}  RUN/gate  RUN/train/{evidence,POLICY}

What a command leaves in its `--out` a run leaves in the same form below its own folder: `sae` in `sae/`, `gate` in
`gate/`, and the trainings' evidence beside the trainings.
"""

from __future__ import annotations

from dataclasses import dataclass

from coevo_ray.store.artifact import is_begun
from coevo_ray.store.location import Location

METRICS = "metrics.jsonl"  # a line for each finished epoch of a training
EVIDENCE = "evidence"  # in the folder of a training, or of the trainings of a run


@dataclass(frozen=True)
class FactorLayout:
    """Folders of a sparse autoencoder and of the rows that it scored.

    Attributes:
        model: the model.
        folder: holds `codes/`, `table/` (the factors) and `scores/`.
    """

    model: Location
    folder: Location

    @classmethod
    def of(cls, folder: Location) -> FactorLayout:
        """The layout of a folder that the command `sae` made; `sae score` leaves the model where it is."""
        return cls(folder.child("model"), folder)

    @property
    def codes(self) -> Location:
        """Active factors of every row, and their values."""
        return self.folder.child("codes")

    @property
    def table(self) -> Location:
        """The factor table."""
        return self.folder.child("table")

    @property
    def scores(self) -> Location:
        """Scores of every row."""
        return self.folder.child("scores")


@dataclass(frozen=True)
class RunLayout:
    """Folders of a run.

    Attributes:
        out: the run's folder.
        factors: the sparse autoencoder and the rows that it scored.
        evidence: doubted labels and near-duplicates.
    """

    out: Location
    factors: FactorLayout
    evidence: Location

    @classmethod
    def of(cls, out: Location) -> RunLayout:
        """The layout of a run that is there, or else of a new one.

        Version 0.1.0 laid the model into `sae/`, what it scored into `factors/`, and evidence into `evidence/`: such a
        run is known by these folders and keeps them.
        """
        model, scored, evidence = out.child("sae"), out.child("factors"), out.child(EVIDENCE)
        if is_begun(model) or scored.is_folder() or evidence.is_folder():
            return cls(out, FactorLayout(model, scored), evidence)
        return cls(out, FactorLayout.of(model), out.child("train", EVIDENCE))

    @property
    def pool(self) -> Location:
        """The pool."""
        return self.out.child("pool")

    @property
    def encode(self) -> Location:
        """Contributions and targets, as the command `encode` makes them."""
        return self.out.child("encode")

    @property
    def targets(self) -> Location:
        """The targets."""
        return self.encode.child("targets")

    def contributions(self, priors: int) -> list[Location]:
        """The contribution of each of so many priors."""
        return [self.encode.child("contributions", f"{index:02d}") for index in range(priors)]

    @property
    def gate(self) -> Location:
        """The gate and its labels."""
        return self.out.child("gate")

    @property
    def graph(self) -> Location:
        """The gate's neighbour graph."""
        return self.gate.child("graph")

    def training(self, policy: str) -> Location:
        """The training under one policy."""
        return self.out.child("train", policy)
