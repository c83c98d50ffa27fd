"""Computations of a gate on all rows of its graph, a part at a time; they run in the process that holds the part.

Each function takes a part and arrays of all N rows, and returns arrays of the part's n rows. A row's values do not
depend on the part that it is in, bit for bit.
"""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import AnyArray, BoolArray, Float32Array, Float64Array, FloatArray, IntArray, UInt16Array
from coevo_ray.core.gate.class_blocks import ClassBlocks, Leaders, Sums, checked
from coevo_ray.core.gate.config import GateConfig
from coevo_ray.core.gate.rules import (
    Vote,
    chance_corrected,
    fuse,
    fused_distribution,
    margin_between,
    nearest_known,
    neighbours_distribution,
    published_gain,
    votes_of,
)
from coevo_ray.core.graph.types import GraphPart, Near
from coevo_ray.core.rows.chunks import each_part

_PASSING = 16  # numbers of a row in passing, at most


def look_alone(part: GraphPart, config: GateConfig, blocks: ClassBlocks) -> tuple[AnyArray, ...]:
    """The model's own class, and how sure it is.

    Args:
        part: n of N rows.
        config: the gate's.
        blocks: predictions of all rows.

    Returns:
        Which rows have distributions bool[n], the class uint16[n], its confidence float32[n].

    Raises:
        InputError: the predictions do not fit the rows and classes.
    """
    own, sums = Leaders(len(part), np.float32, second=False), Sums(len(part))
    for first, values in checked(blocks, part.total, config.classes):

        def look(places: slice, first: int = first, values: Float32Array = values) -> None:
            mine = part.own(values, places)
            sums.look(places, mine)
            own.look(places, first, mine)

        each_part(len(part), values.shape[1], look)
    return sums.sound, own.best, _confidence(own.first, config.classes)


def _confidence(p_max: FloatArray, classes: int) -> Float32Array:
    """Chance-corrected, of float[n]: float32[n]."""
    confidence = np.empty(len(p_max), dtype=np.float32)

    def work(places: slice) -> None:
        confidence[places] = chance_corrected(p_max[places], classes)

    each_part(len(p_max), _PASSING, work)
    return confidence


def _gain(first: FloatArray, second: FloatArray) -> Float32Array:
    """By the largest and the second largest probability float[n]: float32[n]."""
    gain = np.empty(len(first), dtype=np.float32)

    def work(places: slice) -> None:
        gain[places] = margin_between(first[places], second[places])

    each_part(len(first), _PASSING, work)
    return gain


def look_around(
    part: GraphPart, config: GateConfig, blocks: ClassBlocks, told: BoolArray, labels: UInt16Array
) -> tuple[AnyArray, ...]:
    """The model's own class, and that of model and neighbours together, by the margin rule.

    Neighbours are heard by what the model says of them, not by what the gate believes.

    Args:
        part: n of N rows.
        config: the gate's.
        blocks: predictions of all rows.
        told: bool[N], labelled rows that tell others of it.
        labels: uint16[N], their labels.

    Returns:
        Which rows have distributions bool[n]; the model's class uint16[n]; the class of both together uint16[n], its
        confidence float32[n]; and the gain float32[n], or of vote `classes` the confidence of the model's class.

    Raises:
        InputError: the predictions do not fit the rows and classes.
    """
    own = Leaders(len(part), np.float32, second=config.vote == "none")
    fused = Leaders(len(part), np.float64, second=config.vote == "distributions")
    sums = Sums(len(part))
    for first, values in checked(blocks, part.total, config.classes):

        def look(places: slice, first: int = first, values: Float32Array = values) -> None:
            mine = part.own(values, places)
            sums.look(places, mine)
            own.look(places, first, mine)
            near = part.near(places, config.neighbours)
            fused.look(places, first, _fused(mine, near, values, told, labels, config.vote_weight, first))

        each_part(len(part), values.shape[1] * config.neighbours, look)
    if config.vote == "classes":
        last = _confidence(own.first, config.classes)
    else:
        # The model's own margin with vote "none": a label helps the model also where its neighbours know the class. On
        # CIFAR-10 that was better than the margin of the fused distribution by 0.2 points of the area under the curve.
        leaders = own if config.vote == "none" else fused
        assert leaders.second is not None
        last = _gain(leaders.first, leaders.second)
    return sums.sound, own.best, fused.best, _confidence(fused.first, config.classes), last


def _fused(
    mine: Float32Array,
    near: Near,
    values: Float32Array,
    told: BoolArray,
    labels: UInt16Array,
    vote_weight: float,
    first_class: int,
) -> Float64Array:
    """Class distributions of the model and the neighbours together, float64[n, w]."""
    said, mass = neighbours_distribution(*near, values, told, labels, first_class=first_class)
    weight = np.where(mass > 0, vote_weight, 0.0)[:, None]
    fused: Float64Array = (1.0 - weight) * mine.astype(np.float64) + weight * said
    return fused


def look_at_votes(
    part: GraphPart, config: GateConfig, blocks: ClassBlocks, best: UInt16Array, confidence: Float32Array
) -> tuple[Float32Array]:
    """Gain by the model's distributions and the neighbours' surest classes together.

    Args:
        part: n of N rows.
        config: the gate's.
        blocks: predictions of all rows.
        best: uint16[N], class of each row.
        confidence: float32[N], chance-corrected; 0 for those that do not vote.

    Returns:
        float32[n].
    """
    fused, neighbours = Leaders(len(part), np.float64, second=True), config.neighbours
    for first, values in blocks:

        def look(places: slice, first: int = first, values: Float32Array = values) -> None:
            vote = vote_on(part.near(places, neighbours), config, best, confidence)
            said = vote._replace(distribution=vote.distribution[:, first : first + values.shape[1]])
            mine = part.own(values, places).astype(np.float64)
            fused.look(places, first, fused_distribution(mine, said, neighbours))

        each_part(len(part), max(config.classes, values.shape[1] * neighbours), look)
    assert fused.second is not None
    return (_gain(fused.first, fused.second),)


def vote_on(near: Near, config: GateConfig, best: IntArray, confidence: Float32Array) -> Vote:
    """The neighbours' vote about n rows.

    Args:
        near: their neighbours.
        config: the gate's.
        best: int[N], class of each row.
        confidence: float32[N], chance-corrected.
    """
    index, similarity = near
    least = config.min_similarity
    return votes_of(index, similarity, confidence[index], best[index], config.classes, min_similarity=least)


def gain_as_published(
    part: GraphPart, config: GateConfig, best: UInt16Array, confidence: Float32Array
) -> tuple[Float32Array]:
    """Gain by the published rule, float32[n]; arguments as for `look_at_votes`."""
    gain = np.empty(len(part), dtype=np.float32)

    def work(places: slice) -> None:
        vote = vote_on(part.near(places, config.neighbours), config, best, confidence)
        gain[places] = published_gain(part.own(confidence, places), part.own(best, places), vote)

    each_part(len(part), config.classes, work)
    return (gain,)


def fuse_as_published(
    part: GraphPart, config: GateConfig, best: UInt16Array, confidence: Float32Array
) -> tuple[AnyArray, ...]:
    """Confidence float64[n] and class int64[n] of model and neighbours together; arguments as for `look_at_votes`."""
    sure, said = np.empty(len(part), dtype=np.float64), np.empty(len(part), dtype=np.int64)

    def work(places: slice) -> None:
        vote = vote_on(part.near(places, config.neighbours), config, best, confidence)
        own = part.own(confidence, places).astype(np.float64), part.own(best, places).astype(np.int64)
        sure[places], said[places] = fuse(vote.share, vote.best, *own)

    each_part(len(part), config.classes, work)
    return sure, said


def distance_to_known(part: GraphPart, known: BoolArray) -> tuple[Float64Array]:
    """Distance to the nearest known row, see `rules.nearest_known`, float64[n].

    Args:
        part: n of N rows.
        known: bool[N].
    """
    distance = np.empty(len(part), dtype=np.float64)

    def work(places: slice) -> None:
        distance[places] = nearest_known(*part.near(places), known)

    each_part(len(part), max(1, part.indices.shape[1]), work)
    return (distance,)
