"""Texts as people have them go through ingest, encode, the factor sheet and the duplicates' page, or are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import coevo_ray
from coevo_ray.core.graph.unit_rows import refuse_rows
from coevo_ray.errors import InputError
from coevo_ray.reporting.duplicates import PAGE
from tests.pipelines.ingest.helpers import reasons
from tests.reporting._example import Page

pytestmark = pytest.mark.usefixtures("ray_local")

ENCODE = {"priors": ["tfidf:chars"], "dim": 8, "shared": 60}
WORDS = ("parcel", "refund", "login", "courier", "invoice", "password")
HUGE = "refund invoice \N{CREDIT CARD} " * 65_000  # a megabyte
HOSTILE = [
    *(
        HUGE,
        "a\0b\x07 login \x1b[31m",
        "שלום עולם parcel",
        "مرحبا refund 包裹 login",
        "x" * 5_000,
        "\u202eparcel refund",
    ),
    *("</li><script>alert(1)</script>", "line\r\nline\u2028line", "\ufeff\u200b."),
]
BLANK = [b"", b" \n\t", None, b"\xff\xfe parcel", "wort ä".encode("latin-1")]


def write(file: Path, texts: list[str | bytes | None]) -> dict[str, str]:
    cells = [text.encode() if isinstance(text, str) else text for text in texts]
    pq.write_table(pa.table({"text": pa.array(cells, pa.binary())}), file)
    return {"uri": str(file), "text_column": "text"}


@pytest.mark.slow
def test_texts_of_all_kinds_reach_the_pages_and_unusable_ones_are_told(tmp_path: Path) -> None:
    plain = [f"{WORDS[i % 6]} {WORDS[i * 5 % 6]} number {i}" for i in range(90)]
    source = write(tmp_path / "a.parquet", [*HOSTILE, *HOSTILE, *plain, *BLANK])
    config = {"sources": [source], "max_reject_fraction": 0.5}
    pool = coevo_ray.ingest(config, tmp_path / "pool")
    assert pool.column("text").to_pylist() == [*HOSTILE, *HOSTILE, *plain]
    first = 2 * len(HOSTILE) + len(plain)
    assert [reason for _, reason in reasons(pool)] == [
        *["empty text in column text"] * 3,
        *["text that is not UTF-8 in column text"] * 2,
    ]
    assert [key for key, _ in reasons(pool)] == [f"a.parquet:{first + i}" for i in range(len(BLANK))]
    targets = coevo_ray.encode({**ENCODE, "priors": ["wordllama:64"]}, pool, tmp_path / "encode")
    assert len(targets) == len(pool)
    found = coevo_ray.dedup(pool, targets, tmp_path / "dedup")
    assert found.summary["groups"] >= len(HOSTILE) - 1
    html = (tmp_path / "dedup" / PAGE).read_text()
    page = Page(html)
    assert "script" not in page.tags and "\0" not in html and "\u202e" not in html
    assert "a␀b␇ login ␛[31m" in page.text and "more characters" in page.text
    assert len(html) < 200_000


@pytest.mark.slow
def test_a_pool_of_equal_texts_is_told_so_by_every_stage(tmp_path: Path) -> None:
    texts: list[str | bytes | None] = ["all the same"] * 120
    pool = coevo_ray.ingest({"sources": [write(tmp_path / "a.parquet", texts)]}, tmp_path / "pool")
    with pytest.raises(InputError, match="the features are constant on 60 shared rows") as refused:
        coevo_ray.encode(ENCODE, pool, tmp_path / "encode")
    assert refused.value.remedy.startswith("are these samples all the same?")
    same = coevo_ray.encode({**ENCODE, "projection": "random"}, pool, tmp_path / "random")
    with pytest.raises(InputError, match="the mean square of target is 0") as refused:
        coevo_ray.sae({"latents": 16, "k": 2, "epochs": 1}, pool, same, tmp_path / "sae")
    assert "are all samples the same?" in refused.value.remedy
    with pytest.raises(InputError, match="120 of 120 feature rows are zero") as refused:
        coevo_ray.dedup(pool, same, tmp_path / "dedup")
    assert refused.value.remedy.startswith("are all samples the same?")
    with pytest.raises(InputError, match="feature rows are zero") as refused:
        coevo_ray.gate_next(coevo_ray.gate_open({"classes": ("a", "b")}, pool, same, tmp_path / "gate"))
    assert refused.value.remedy.startswith("are all samples the same?")


def test_some_rows_without_a_direction_are_to_be_rejected() -> None:
    with pytest.raises(InputError, match=r"1 of 3 feature rows are zero .*\[2\]") as refused:
        refuse_rows(np.array([False, False, True]))
    assert refused.value.remedy == "reject those rows before building the graph"
