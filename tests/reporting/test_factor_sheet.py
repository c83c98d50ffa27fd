"""The sheet of factors: the right rows in the right order, small, self-contained, and honest about what is missing."""

from __future__ import annotations

import base64
import io
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from coevo_ray.core.factors.table import FactorTable
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.reporting.factor_page import frequency_histogram
from coevo_ray.reporting.factor_sheet import choose_factors, sae_show
from coevo_ray.reporting.tiles import small_picture
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.factor_files import load_factors, save_factors
from coevo_ray.store.location import Location
from tests.pool.pictures import encoded, picture, png
from tests.reporting._example import Page

ROWS = 12
HOSTILE = '<script>alert("1")</script>&\'"--> {{ 7 * 7 }}'
SIZES = {3: 300, 4: 60}


def make_pool(folder: Path, texts: bool = False, rows: int = ROWS) -> Pool:
    """Row 3 is a large image, row 5 is damaged, row 6 has a hostile key; texts are long or hostile."""
    place = Location.parse(str(folder / ("texts" if texts else "pool")))
    keys = [HOSTILE if i == 6 else f"key{i}" for i in range(rows)]
    images = [b"damaged" if i == 5 else encoded(picture(i, SIZES[i])) if i in SIZES else png(i) for i in range(rows)]
    sample = {"text": [f"text {i} {HOSTILE} " * (1 + i) for i in range(rows)]} if texts else {"image": images}
    table = pa.table({"row_id": np.arange(rows), "key": keys, **sample})
    summary = {"classes": 0, "modality": "text" if texts else "image"}
    finish(place, "pool", {}, {}, [write_table(place, "a.parquet", table, group_rows=5)], summary)
    return Pool(place)


def factors(first: int = 0) -> FactorTable:
    """Factor 0 in all rows, 1 in rows 3 to 6, 2 in none, 3 in row 7 alone; values fall with the row_id."""
    indices = np.array([[0, 1 if 3 <= i <= 6 else 3 if i == 7 else 4] for i in range(ROWS)], dtype=np.int32)
    values = np.array([[9 - i / 4, 5.0 - i / 2 if 3 <= i <= 7 else 0.0] for i in range(ROWS)], dtype=np.float32)
    return FactorTable.measure(np.arange(first, first + ROWS), indices, values, latents=5, top=6)


def save(folder: Path, table: FactorTable, pools: list[dict[str, Any]] | None = None) -> str:
    place = Location.parse(str(folder / "scored" / "table"))
    finish(place, "factors", {"top_rows": 6}, {}, [save_factors(place, table)], {"rows": table.rows, "pools": pools})
    return str(folder / "scored")


def images_of(html: str) -> list[str]:
    return re.findall(r'<img src="data:image/(?:png|jpeg);base64,[A-Za-z0-9+/=]+" alt="([^"]*)"', html)


def cards(html: str) -> dict[str, str]:
    return dict(re.findall(r'<article id="factor-(\d+)">(.*?)</article>', html, re.DOTALL))


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    table = factors()
    for where in (save(tmp_path, table), f"{tmp_path}/scored/table"):
        back = load_factors(where)
        assert back.rows == ROWS
        for name in ("counts", "sums", "top_values", "top_rows", "frequencies", "mean_values"):
            assert np.array_equal(getattr(back, name), getattr(table, name)), name
            assert getattr(back, name).dtype == getattr(table, name).dtype
    with pytest.raises(InputError, match="no finished factors"):
        load_factors(str(tmp_path))


def test_each_factor_has_its_strongest_rows_with_their_values(tmp_path: Path) -> None:
    pool, page = make_pool(tmp_path), tmp_path / "factors.html"
    result = sae_show(save(tmp_path, factors()), pool, str(page), choose="all", rows=3)
    assert result["factors"] == [0, 1, 3]  # 2 and 4 are dead
    assert (result["alive"], result["dead"], result["rows"]) == (3, 2, 7)
    html = page.read_text()
    assert result["bytes"] == len(html.encode())
    shown = cards(html)
    assert images_of(shown["0"]) == ["key0", "key1", "key2"]
    assert re.findall(r">(\d\.\d\d)</li>", shown["0"]) == ["9.00", "8.75", "8.50"]
    assert images_of(shown["1"]) == ["key3", "key4"]
    assert "not readable: not an image" in shown["1"]  # row 5 has its place all the same
    assert images_of(shown["3"]) == ["key7"]
    text = Page(html).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "in 33.3 % of the rows (4 rows), mean value 2.75" in text
    assert "in 8.3 % of the rows (1 row), mean value 1.50" in text
    assert "2 dead factors (active in no row) not drawn" in text
    sae_show(str(tmp_path / "scored"), str(pool.location), str(page), choose="all", rows=3)
    assert page.read_text() == html


def test_pictures_are_small_and_true(tmp_path: Path) -> None:
    original = picture(1)
    tiny = small_picture("k", encoded(original))
    data = base64.b64decode(tiny.picture.removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), np.asarray(original))
    wide = Image.new("RGB", (900, 300), (200, 30, 30))
    large = small_picture("k", encoded(wide))
    assert large.size == (144, 48)
    copy = Image.open(io.BytesIO(base64.b64decode(large.picture.removeprefix("data:image/jpeg;base64,"))))
    assert copy.size == (144, 48)
    assert np.abs(np.asarray(copy).astype(int) - [200, 30, 30]).max() < 12


def test_the_page_stands_alone_and_survives_hostile_text(tmp_path: Path) -> None:
    place = save(tmp_path, factors())
    for texts, tag in ((False, "img"), (True, "ol")):
        page = tmp_path / f"{texts}.html"
        sae_show(place, make_pool(tmp_path, texts), str(page), choose="0,1,2")
        html = page.read_text()
        parsed = Page(html)
        assert tag in parsed.tags
        assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
        assert all(value.startswith("data:image/") for key, value in parsed.attributes if key == "src")
        for word in ("http:", "https:", "@import", "xmlns", "javascript:"):
            assert word not in html
        assert HOSTILE in (parsed.text if texts else [value for key, value in parsed.attributes if key == "title"])
        assert len(parsed.ids) == len(set(parsed.ids))
        assert "dead: active in no row" in cards(html)["2"]
        if texts:
            lengths = [
                len(unescape(text)) for text in re.findall(r'<(?:div dir="auto"|span class="begin")>(.*?)</', html)
            ]
            assert len(lengths) > 6 and 300 < max(lengths) <= 321 and html.count("\N{HORIZONTAL ELLIPSIS}") == 1


def test_choices() -> None:
    table = factors()
    assert choose_factors(table, "frequent", 2) == [0, 1]
    assert choose_factors(table, "rare", 2) == [3, 1]
    assert choose_factors(table, "all", 9) == [0, 1, 3]
    assert choose_factors(table, " 3, 2,3", 1) == [3, 2]
    tied = FactorTable.measure(np.arange(2), np.array([[2], [1]], np.int32), np.ones((2, 1), np.float32), 4, 1)
    assert choose_factors(tied, "frequent", 9) == choose_factors(tied, "rare", 9) == [1, 2]
    for wrong in ("common", "5", "-1", "1,,2", ""):
        with pytest.raises(UsageError, match="no such factors"):
            choose_factors(table, wrong, 3)


def test_rows_are_found_in_the_pool_that_they_are_of(tmp_path: Path) -> None:
    """Merged targets count through several pools."""
    pool = make_pool(tmp_path)
    pools = [{"identity": "another", "first_row_id": 0}, {"identity": pool.manifest.identity, "first_row_id": 4}]
    place = save(tmp_path, factors(), pools)
    sae_show(place, pool, str(tmp_path / "a.html"), choose="1", rows=9)
    assert images_of((tmp_path / "a.html").read_text()) == ["key0", "key1", "key2"]
    other = make_pool(tmp_path / "other", rows=3)
    with pytest.raises(InputError, match="not made from the pool"):
        sae_show(place, other, str(tmp_path / "b.html"))


def test_factors_of_other_rows_are_refused(tmp_path: Path) -> None:
    place = save(tmp_path, factors(first=1))
    with pytest.raises(InputError, match=r"rows up to 8, .* has 3"):
        sae_show(place, make_pool(tmp_path, rows=3), str(tmp_path / "a.html"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit 0"),
        ({"rows": 0}, "rows 0"),
        ({"out": "sheet"}, "not an .html"),
        ({"choose": "9"}, "0 to 4"),
    ],
)
def test_wrong_wishes_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    place, pool = save(tmp_path, factors()), make_pool(tmp_path)
    with pytest.raises(UsageError, match=message):
        sae_show(place, pool, **{"out": str(tmp_path / "a.html"), **options})
    assert not (tmp_path / "a.html").exists()


def test_the_histogram_counts_living_factors() -> None:
    plot = frequency_histogram(np.array([0.0, 0.5, 0.001, 0.5, 0.02]))
    assert plot is not None
    assert "4 factors, from 0.100\N{NO-BREAK SPACE}% to 50.0\N{NO-BREAK SPACE}%" in plot.svg
    assert "1 dead factor " in plot.reading
    assert frequency_histogram(np.zeros(3)) is None
    assert frequency_histogram(np.full(3, 0.25)) is not None
