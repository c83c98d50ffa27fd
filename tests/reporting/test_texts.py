"""Texts on pages: trimmed where a reader would, whole where one asks, and harmless whatever they hold."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from coevo_ray.pool.plain_texts import ELLIPSIS
from coevo_ray.pool.pool import Pool
from coevo_ray.reporting.data import DoubtedRow, EvidencePlots
from coevo_ray.reporting.factor_sheet import sae_show
from coevo_ray.reporting.style import page_css
from coevo_ray.reporting.tiles import Tile, showing_of, tiles_of, trimmed_text
from coevo_ray.reporting.write import render_report
from tests.annotators.pools import make_pool
from tests.pool.test_stages import make_pool as make_small_pool
from tests.reporting._example import Page, example
from tests.reporting.test_factor_sheet import ROWS, factors, save

LONG = "one two three " * 400
HUGE = "word " * 210_000  # a megabyte
HEBREW = "שלום עולם, חבילה " * 40


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    harmful = ["a\0b\x1b[31m\u202ec", "</div><script>x</script>"]
    texts = ["short", LONG, HUGE, HEBREW, *harmful, " \n", "\u200b"]
    return make_pool(tmp_path_factory.mktemp("pool"), ROWS, texts=[*texts, *(f"text {i}" for i in range(8, ROWS))])


def tile(pool: Pool, row: int) -> Tile:
    return dict(tiles_of(pool, np.array([row])))[row]


def test_long_texts_begin_at_most_320_characters_long_and_unfold(pool: Pool) -> None:
    long, huge = tile(pool, 1), tile(pool, 2)
    for made in (long, huge):
        assert made.text is not None
        assert made.text.endswith((" one" + ELLIPSIS, " two" + ELLIPSIS, " three" + ELLIPSIS, "word" + ELLIPSIS))
        assert 280 < len(made.text) <= 321
    for made, text in ((long, LONG), (huge, HUGE)):
        assert 3_990 < len(made.whole) <= 4_001
        assert made.left_out == len(text) - len(made.whole.removesuffix(ELLIPSIS))
    middle = trimmed_text("k", LONG[:1_000])
    assert (middle.whole, middle.left_out) == (LONG[:1_000], 0)
    assert tile(pool, 0) == Tile("pictures/000.png", text="short")


def test_what_is_not_seen_is_said(pool: Pool) -> None:
    assert (tile(pool, 6).text, tile(pool, 6).said) == ("empty text", True)
    assert (tile(pool, 7).text, tile(pool, 7).said) == ("no visible characters", True)
    assert tile(pool, 4).text == "a␀b␛[31m\ufffdc"


def test_a_sheet_of_hostile_texts_is_small_and_well_formed(pool: Pool, tmp_path: Path) -> None:
    page = tmp_path / "factors.html"
    sae_show(save(tmp_path, factors()), pool, page, choose="0,1,3", rows=ROWS)
    html = page.read_text()
    parsed = Page(html)
    assert "script" not in parsed.tags and "</div><script>x</script>" in parsed.text
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e]", html)
    assert len(html) < 100_000  # the megabyte is not in it
    assert parsed.text.count("more characters") == 2
    assert "<em>empty text</em>" in html and "<em>no visible characters</em>" in html
    # Every text has a direction of its own, that of its first letter.
    own = re.findall(r'dir="auto">(?:<span class="begin">)?(.*?)<', html, re.DOTALL)
    assert {"short", tile(pool, 3).text, tile(pool, 3).whole} <= set(map(unescape, own))
    assert "Long texts unfold" in parsed.text and "picture" not in parsed.text


def test_texts_wrap_and_keep_their_direction_to_themselves() -> None:
    css = page_css()
    assert "overflow-wrap: anywhere" in css and "unicode-bidi: isolate" in css


def test_doubted_texts_are_a_list_and_pictures_a_grid(pool: Pool) -> None:
    rows = [DoubtedRow(tile(pool, 1), "<b>old</b>", "new"), DoubtedRow(tile(pool, 6), "old", "new")]
    html = render_report(example(evidence=EvidencePlots(rows, showing_of("text").as_grid)))
    assert 'class="texts labelled doubted"' in html and 'class="tiles doubted"' not in html
    assert html.count("<details class=") == 1 and "<em>empty text</em>" in html
    assert "<b>old" not in html
    assert 'class="tiles doubted"' in render_report(example())


def test_vectors_are_shown_by_keys_which_may_be_long(tmp_path: Path) -> None:
    made = trimmed_text("k" * 5_000, "k" * 5_000)
    assert made.text == "k" * 320 + ELLIPSIS and made.left_out == 1_000
    assert "Rows of vectors are shown by their keys." in showing_of("vector").hint
    page = tmp_path / "factors.html"
    sae_show(save(tmp_path, factors()), make_small_pool(tmp_path / "pool", "vector"), page, choose="0", rows=3)
    text = Page(page.read_text()).text
    assert "Rows of vectors are shown by their keys." in text and "pointer" not in text


def test_long_keys_are_cut_where_the_pointer_shows_them(tmp_path: Path) -> None:
    keys = ["k" * 2_000, *(f"k\x07{i}" for i in range(1, ROWS))]
    page = tmp_path / "factors.html"
    sae_show(save(tmp_path, factors()), make_pool(tmp_path / "pool", keys, texts=keys), page, choose="0", rows=2)
    titles = [value for name, value in Page(page.read_text()).attributes if name == "title"]
    assert [len(titles[0]), titles[1]] == [500, "k␇1"]
