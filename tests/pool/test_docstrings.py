"""The sample of texts: prose of docstrings, from sources alone, the same at every call."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from coevo_ray.config import Source
from coevo_ray.errors import UsageError
from coevo_ray.pool.docstrings import LIBRARIES, docstrings_of, prose
from coevo_ray.pool.samples import check_sample, materialise_sample
from coevo_ray.pool.sources import list_source, read_shard
from coevo_ray.store.location import Location

SOURCE = Source(uri="sample:docstrings", text_column="text", key_column="id")
EIGHT = "one two three four five six seven eight"
CODE = f'''
class Seen:
    """{EIGHT}"""

    def __init__(self):
        """{EIGHT} of an initialiser"""

    def method(self):
        """{EIGHT} of a method"""

    def short(self):
        """one two three"""


class _Hidden:
    """{EIGHT} hidden"""

    def method(self):
        """{EIGHT} of the hidden"""


async def waits():
    """{EIGHT}\\d waits"""


raise RuntimeError("nothing is imported")
'''


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that cannot be imported, with files that are left out and one for another Python."""
    files: dict[str, str | bytes] = {
        "__init__.py": CODE,
        "sub/b.py": CODE,
        "sub/tests/c.py": CODE,
        "sub/conftest.py": CODE,
        "sub/other_python.py": "print 'x'",
        "sub/not_utf8.py": b"x = '\xff'",
    }
    for name, content in files.items():
        file = tmp_path / "library_of_a_test" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.syspath_prepend(tmp_path)
    return "library_of_a_test"


def test_public_names_are_read_and_nothing_is_imported(library: str) -> None:
    own = [f"{library}.Seen", f"{library}.Seen.method", f"{library}.waits"]
    below = [f"{library}.sub.b{key.removeprefix(library)}" for key in own]
    found = [*docstrings_of(library)]
    assert [each.key for each in found] == own + below
    assert [each.text for each in found[:3]] == [EIGHT, f"{EIGHT} of a method", f"{EIGHT}\\d waits"]
    assert [each.key for each in docstrings_of(f"{library}.sub")] == below
    assert library not in sys.modules


@pytest.mark.parametrize(
    "rest",
    [
        "Parameters\n----------\nx : int\n",
        "Args:\n    x: a number\n",
        ":param x: a number",
        ".. versionadded:: 1.0",
        ">>> f(1)\n2",
        "Returns:\n    a number",
        "Title\n=====\nmore",
    ],
)
def test_prose_ends_before_what_is_none(rest: str) -> None:
    assert prose(f"A sentence\n    on two lines.\n\n    Another one.\n\n    {rest}") == (
        "A sentence on two lines.\n\nAnother one."
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("A :class:`~ray.data.Dataset` of ``rows``.", "A Dataset of rows."),
        ("See :py:meth:`take <ray.data.Dataset.take>`, `numpy.sum`.", "See take, numpy.sum."),
        ("By `Daft <https://example.org/x>`_ and :func:`!f.g`.", "By Daft and f.g."),
        ("The list of `~.text.Text`, of an `.Artist`.", "The list of Text, of an Artist."),
        ("A ratio of 1:2, **bold**.", "A ratio of 1:2, **bold**."),
    ],
)
def test_markup_of_names_and_links_is_left_out(written: str, read: str) -> None:
    assert prose(written) == read


def test_words_that_only_look_like_headings_stay() -> None:
    text = "Returns the mean of x.\n\nNote that x: a number - is needed. Arguments are checked."
    assert prose(text) == text


@pytest.mark.slow
def test_the_sample_is_a_file_like_a_users(tmp_path: Path) -> None:
    place = materialise_sample(SOURCE, Location.parse(str(tmp_path)))
    table = pq.read_table(place.path)
    assert table.column_names == ["id", "text", "label"]
    columns = table.to_pydict()
    assert table.num_rows >= 2000
    assert set(columns["label"]) == {*LIBRARIES}
    assert 4 <= len(LIBRARIES) <= 60
    assert min(columns["label"].count(name) for name in LIBRARIES) >= 20
    assert len(set(columns["id"])) == len(set(columns["text"])) == table.num_rows
    assert all(len(text.split()) >= 8 for text in columns["text"])
    assert all(key.startswith(f"{label}.") for key, label in zip(columns["id"], columns["label"], strict=True))
    listed = list_source(SOURCE.model_copy(update={"uri": place.uri}), 1000)
    entry = next(read_shard(listed.shards[0]))
    assert (entry.key, entry.sample) == (columns["id"][0], columns["text"][0])
    changed = Path(place.path).stat().st_mtime_ns
    assert materialise_sample(SOURCE, Location.parse(str(tmp_path))) == place
    assert Path(place.path).stat().st_mtime_ns == changed


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_sample(SOURCE)
    monkeypatch.setitem(sys.modules, "sympy", None)  # Python's own way to make an import fail
    with pytest.raises(UsageError, match=r"sample:docstrings needs sympy\.combinatorics") as caught:
        check_sample(SOURCE)
    assert caught.value.remedy == "pip install 'coevo-ray[demo]'"
    assert [*docstrings_of("networkx.algorithms")]
    with pytest.raises(UsageError, match=r"needs networkx\.no_such_part"):
        next(docstrings_of("networkx.no_such_part"))
