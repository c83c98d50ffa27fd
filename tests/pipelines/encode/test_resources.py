from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.config import Compute
from coevo_ray.core.rows.hashing import choose_rows
from coevo_ray.pipelines.encode.contribution import Plan
from coevo_ray.pipelines.encode.parts import Part, from_block, to_block
from coevo_ray.pipelines.encode.resources import fit_waves
from coevo_ray.store.location import Location

POOL, SHARED = Location("/pool"), Location("/shared")


@given(
    rows=st.integers(1, 200),
    shard_rows=st.integers(1, 64),
    weights=st.lists(st.floats(0.1, 5), min_size=1, max_size=5),
    shared=st.integers(0, 200),
    outside=st.booleans(),
    seed=st.integers(0, 2**40),
)
def test_every_row_belongs_to_one_participant_whatever_the_shards(
    rows: int, shard_rows: int, weights: list[float], shared: int, outside: bool, seed: int
) -> None:
    ids = np.arange(rows)
    inside = choose_rows(ids, 0 if outside else min(shared, rows), seed)
    plan = Plan(
        POOL, rows, tuple(weights), shard_rows, seed, inside, SHARED if outside else None, shared if outside else 0
    )
    own: dict[int, list[int]] = {k: [] for k in range(len(weights))}
    common: dict[int, list[int]] = {k: [] for k in own}
    names = [plan.name(shard) for shard in range(plan.shards)]
    assert len(set(names)) == len(names)
    for shard in range(plan.shards):
        part = plan.row_ids(shard)
        for k in own:
            own[k] += part.ids[part.own(k)].tolist()
            common[k] += part.ids.tolist() if part.shared else []
            assert (part.wanted(k) == (part.own(k) | part.shared)).all()
    assert sorted(row for rows_of in own.values() for row in rows_of) == ids.tolist()
    for k in own:
        assert common[k] == (list(range(shared)) if outside else inside.tolist())
    # The assignment is that of a single shard: it does not turn on where shards are cut.
    whole = Plan(POOL, rows, tuple(weights), rows, seed).row_ids(0)
    assert {k: whole.ids[whole.own(k)].tolist() for k in own} == {k: sorted(rows_of) for k, rows_of in own.items()}


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["u1", "f2", "i4"])), min_size=1, max_size=4))
def test_parts_come_back_from_a_block_as_they_were(shapes: list[tuple[int, str]]) -> None:
    generator = np.random.default_rng(len(shapes))
    parts = [
        Part(
            shard=i,
            participant=i % 3,
            row_ids=np.arange(n) * 2**40,
            own=generator.random(n) < 0.5,
            samples=generator.integers(0, 2**64, n, dtype=np.uint64),
            keys=[f"ä{j}" for j in range(n)],
            reasons=[""] * n,
            data=generator.integers(0, 100, (n, 2, 3)).astype(kind),
            times={"read": 0.5, "write": float(i)},
            bytes_read=i,
            bytes_moved=7,
            ready=1.5,
        )
        for i, (n, kind) in enumerate(shapes)
    ]
    block = to_block(parts)
    if len(parts) > 1:  # blocks are joined and filtered on their way
        block = pa.concat_tables([block.slice(1), block.slice(0, 1)])
        parts = [*parts[1:], parts[0]]
    for part, back in zip(parts, from_block(block), strict=True):
        for name in ("row_ids", "own", "samples", "data"):
            one, two = getattr(part, name), getattr(back, name)
            assert (one.dtype, one.shape) == (two.dtype, two.shape)
            assert np.array_equal(one, two)
        assert (part.keys, part.reasons, part.times) == (back.keys, back.reasons, back.times)
        assert back.bytes_moved == 7 + part.data.nbytes
        assert (part.shard, part.participant, part.bytes_read, part.ready) == (
            back.shard,
            back.participant,
            back.bytes_read,
            back.ready,
        )


def test_participants_run_side_by_side_as_far_as_there_is_room() -> None:
    small, large = Compute(cpus=0.5), Compute(cpus=1.5, actors=2)
    gpu = Compute(cpus=0.5, gpus=1)
    have = {"CPU": 4.0, "GPU": 2.0}
    assert fit_waves([small] * 3, have) == [[0, 1, 2]]
    assert fit_waves([small] * 8, have) == [[0, 1, 2, 3, 4, 5, 6], [7]]  # half a CPU is left for reading
    assert fit_waves([large, large], have) == [[0], [1]]
    assert fit_waves([gpu, gpu, gpu, small], have) == [[0, 1], [2, 3]]
    assert fit_waves([], have) == []
