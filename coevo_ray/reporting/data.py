"""Content of a report: the numbers behind each plot, gathered by the caller.

Shares, accuracies and explained variance are fractions (0.91, not 91). Any number may be None or NaN where it was not
measured: the report then says so, or leaves the point out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coevo_ray.reporting.tiles import Tile

Curve = Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class PriorPlot:
    """One prior model (CoOpt, arXiv 2505.14117).

    Attributes:
        name: as the user wrote it, for instance efficientnet_lite:0.
        uniformity: V_k, a log mean; lower is better.
        alignment_r2: held-out R^2 of the map to the reference; None or NaN for the reference itself.
        rows: rows that it encoded.
        rows_per_s: rows encoded per second.
        reference: whether the other priors were aligned to this one.
    """

    name: str
    uniformity: float | None
    alignment_r2: float | None
    rows: int | None
    rows_per_s: float | None
    reference: bool = False


@dataclass(frozen=True)
class EncodePlots:
    """The priors of a run, in the user's order."""

    priors: Sequence[PriorPlot]


@dataclass(frozen=True)
class SaePlots:
    """Sparse autoencoder (dynamic selection, arXiv 2603.04981).

    Attributes:
        factor_frequencies: float64[latents], p_j: the share of rows in which factor j is active; any order.
        explained_variance: (samples seen, explained variance) during the fit.
    """

    factor_frequencies: NDArray[np.float64]
    explained_variance: Curve = ()


@dataclass(frozen=True)
class GatePlots:
    """Annotation gate (Info-Coevolution, arXiv 2506.08070).

    Attributes:
        gate: (labels, accuracy) after each round of the gate.
        random: the same for random labels.
        first: (labels, accuracy on the labels for validation), or without such rows on the random first labels, each
            predicted by a fit without its fold.
        first_name: which of the two.
        forecast: (labels, 5 %, 50 % and 95 % quantiles of the accuracy), from now to all labels.
        full_accuracy: accuracy with all labels.
        mean_gain: (round, mean gain of the rows without a label).
        stopped_by: the gate's word for why it stopped.
        stopped_at: labels at the stop; None takes the last point of `gate`.
        ended: whether the gate has stopped; the stop of one that goes on is not marked.
    """

    gate: Curve
    random: Curve = ()
    full_accuracy: float | None = None
    mean_gain: Curve = ()
    stopped_by: str = ""
    stopped_at: float | None = None
    first: Curve = ()
    first_name: str = "gate, on its first labels"
    forecast: tuple[tuple[float, float, float, float], ...] = ()
    ended: bool = True


@dataclass(frozen=True)
class DoubtedRow:
    """A row whose label is doubted.

    Attributes:
        tile: its picture or text.
        label: the label that it has.
        likely: the one that is likeliest.
    """

    tile: Tile
    label: str
    likely: str


@dataclass(frozen=True)
class EvidencePlots:
    """Evidence on labels.

    Attributes:
        doubted: the most doubted rows, most first.
        as_grid: a grid of pictures, or a list of texts.
    """

    doubted: Sequence[DoubtedRow] = ()
    as_grid: bool = True


@dataclass(frozen=True)
class PolicyPlot:
    """One training under one policy.

    Attributes:
        name: of the policy.
        accuracy_by_samples: (samples seen, test accuracy) after each epoch.
        usage_histogram: usage count -> rows that were used so often, rows of count 0 included.
        accuracy: final test accuracy.
        seconds: wall-clock seconds of the training.
        samples: samples seen in all.
        kept_share: rows of an epoch over all training rows.
    """

    name: str
    accuracy_by_samples: Curve = ()
    usage_histogram: Mapping[int, int] = field(default_factory=dict)
    accuracy: float | None = None
    seconds: float | None = None
    samples: float | None = None
    kept_share: float | None = None


@dataclass(frozen=True)
class TrainPlots:
    """Trainings of a run, in the user's order.

    Attributes:
        policies: one for each training.
        own: the policy that the headline is about; the others are compared with it.
        full: the policy that uses all rows in every epoch.
    """

    policies: Sequence[PolicyPlot]
    own: str = "factors"
    full: str = "full"


@dataclass(frozen=True)
class ReportData:
    """Everything that the report of one run shows; a stage that was not run is None and missing in `summary`.

    Attributes:
        title: heading.
        created: ISO 8601 text.
        version: of this package.
        summary: the content of summary.json.
        config_yaml: the run's configuration, without secrets.
        encode, sae, gate, evidence, train: what the plots of each stage need.
        notes: sentences that the reader must see, such as warnings.
        versions: other packages and their versions.
    """

    title: str
    created: str
    version: str
    summary: Mapping[str, Any]
    config_yaml: str = ""
    encode: EncodePlots | None = None
    sae: SaePlots | None = None
    gate: GatePlots | None = None
    evidence: EvidencePlots | None = None
    train: TrainPlots | None = None
    notes: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
