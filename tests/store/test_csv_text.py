from __future__ import annotations

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.store.csv_text import csv_text

# Python 3.10's csv reads no NUL.
cells = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from("\r\n,\"'"), max_size=8
)


@given(st.lists(st.lists(cells, min_size=2, max_size=2), min_size=1, max_size=5))
def test_any_rows_are_read_back(rows: list[list[str]]) -> None:
    assert list(csv.reader(io.StringIO(csv_text(rows), newline=""))) == rows


def test_lines_end_with_a_line_feed() -> None:
    assert csv_text([["a", "b"], [1, None], ["x\r", "y,z"]]) == 'a,b\n1,\n"x\r","y,z"\n'


def test_a_nul_is_written_as_every_python_can_read_it() -> None:
    assert csv_text([["a\0b", "\0"]]) == "a\ufffdb,\ufffd\n"
