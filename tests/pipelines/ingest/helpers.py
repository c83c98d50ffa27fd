"""What the tests of ingest share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coevo_ray.pool.pool import Pool
from coevo_ray.pool.rejects import read_rejects


def settings(*sources: Path | dict[str, Any], **more: Any) -> dict[str, Any]:
    written = [s if isinstance(s, dict) else {"uri": str(s)} for s in sources]
    return {"sources": written, "max_reject_fraction": 0.5, "shard_rows": 5, **more}


def rows(pool: Pool) -> dict[int, tuple[str, Any, int | None, int]]:
    """row_id -> key, image or text, label, split."""
    table = pool.scan(["row_id", "key", pool.modality, "label", "split"]).to_pylist()
    assert [r["row_id"] for r in table] == list(range(len(pool)))
    return {r["row_id"]: (r["key"], r[pool.modality], r["label"], r["split"]) for r in table}


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Name -> modification time and content of every file."""
    return {
        str(f.relative_to(folder)): (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.rglob("*") if f.is_file()
    }


def reasons(pool: Pool) -> list[tuple[str, str]]:
    return [(r.key, r.reason) for r in read_rejects(pool.location)]
