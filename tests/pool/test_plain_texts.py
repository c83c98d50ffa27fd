"""Texts for people: nothing that does harm on a screen, and cut where a reader would cut."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.pool.plain_texts import ELLIPSIS, excerpt, harmless, is_blank, utf_16_length


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\0b\x07\x1b[31m", "a␀b␇␛[31m"),
        ("del\x7f c1\x9b", "del␡ c1\ufffd"),
        ("a\r\nb\rc\u2028d\x85e\tf", "a\nb\nc\nd\ne\tf"),
        ("gpj.\u202eexe", "gpj.\ufffdexe"),
        ("\ud800 alone", "\ufffd alone"),
        ("שלג \u2067גשם\u2069 مرحبا", "שלג \u2067גשם\u2069 مرحبا"),
        ("क्षि 👩‍👩‍👧 é ß 包裹", "क्षि 👩‍👩‍👧 é ß 包裹"),
    ],
)
def test_what_does_harm_is_shown_and_scripts_stay(text: str, shown: str) -> None:
    assert harmless(text) == shown


@given(st.text())
def test_a_harmless_text_has_no_control_characters_and_stays_as_it_is(text: str) -> None:
    made = harmless(text)
    assert all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") or c in "\t\n" for c in made)
    assert harmless(made) == made


@pytest.mark.parametrize("text", ["", " \t\n", "\u200b\ufeff", "\u200e\u2069", "\u3000\u00a0"])
def test_blank_texts(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", "  .", "\N{VARIATION SELECTOR-16}1", "💳", "包", "␀"])
def test_texts_that_are_seen(text: str) -> None:
    assert not is_blank(text)


@pytest.mark.parametrize(
    ("text", "length", "shown"),
    [
        ("short", 5, "short"),
        ("one two three", 9, "one two" + ELLIPSIS),
        ("one two three", 7, "one two" + ELLIPSIS),
        ("one two   three", 9, "one two" + ELLIPSIS),
        ("x" * 60, 50, "x" * 50 + ELLIPSIS),
        ("go " + "x" * 60, 50, "go " + "x" * 47 + ELLIPSIS),
        ("包裹配送地址", 4, "包裹配送" + ELLIPSIS),
        ("cafe\u0301s", 4, "caf" + ELLIPSIS),
        ("a👩\u200d👧b", 2, "a" + ELLIPSIS),
        ("ok👍\U0001f3fd!", 3, "ok" + ELLIPSIS),
        (" " * 9 + "x", 5, ELLIPSIS),
    ],
)
def test_a_cut_is_behind_a_word_and_never_within_a_letter(text: str, length: int, shown: str) -> None:
    made = excerpt(text, length)
    assert (made.text, made.cut, made.length) == (shown, len(text) > length, len(text))


@given(st.text(), st.integers(1, 30))
def test_an_excerpt_is_the_beginning_and_bounded(text: str, length: int) -> None:
    made = excerpt(text, length)
    assert made.cut == (len(text) > length)
    assert len(made.text) <= length + made.cut
    assert text.startswith(made.text.removesuffix(ELLIPSIS) if made.cut else made.text)
    assert made.cut or made.text == text


def test_a_megabyte_without_spaces_is_quick() -> None:
    started = time.monotonic()
    assert excerpt(harmless("\0" * (1 << 20)), 320).length == 1 << 20
    assert excerpt(" " * (1 << 20), 320).cut
    assert time.monotonic() - started < 5


def test_characters_as_spreadsheets_count_them() -> None:
    assert [utf_16_length(text) for text in ("", "aé包", "a💳")] == [0, 3, 3]
