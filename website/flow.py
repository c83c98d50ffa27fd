"""The picture of the flow in the README: `python -m website.flow` writes docs/flow.svg.

Boxes have fills of their own, lines and captions a grey that stands out from white and from black: the picture reads on
light and on dark pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

PICTURE = Path(__file__).parents[1] / "docs" / "flow.svg"
_WIDTH, _HEIGHT = 950, 330
_BOX = (168, 58)  # px
_LINE = "#6e7681"
_DATA, _ACTOR, _PERSON = ("#dbeafe", "#1d4ed8"), ("#fef3c7", "#b45309"), ("#e5e7eb", "#4b5563")


@dataclass(frozen=True)
class Box:
    """One box: its place by column and row, a title, and what it is for."""

    column: int
    row: int
    title: str
    about: str
    colours: tuple[str, str]

    @property
    def left(self) -> int:
        """Its left edge, px."""
        return 10 + 254 * self.column

    @property
    def top(self) -> int:
        """Its upper edge, px."""
        return 10 + 126 * self.row


BOXES = (
    Box(0, 0, "your data", "images, texts, vectors", _PERSON),
    Box(1, 0, "pool", "samples with row_ids", _DATA),
    Box(2, 0, "targets", "what the priors know", _DATA),
    Box(3, 0, "factors", "what is common, rare", _DATA),
    Box(1, 1, "annotator", "people, files, a server", _PERSON),
    Box(2, 1, "gate", "which rows need a label", _ACTOR),
    Box(3, 1, "selection actor", "which rows this epoch", _ACTOR),
    Box(2, 2, "training", "Ray Train, then a report", _DATA),
    Box(3, 2, "feed", "decodes only these rows", _DATA),
)

# Caption, its place, and the path of the arrow, px.
ARROWS = (
    ("ingest", (221, 32), "M178 39H258"),
    ("encode", (475, 32), "M432 39H512"),
    ("sae", (729, 32), "M686 39H766"),
    ("graph", (630, 106), "M602 68V130"),
    ("scores", (888, 106), "M856 68V130"),
    ("requests", (475, 151), "M518 158H438"),
    ("labels", (475, 187), "M432 172H512"),
    ("subset", (888, 232), "M856 194V256"),
    ("labels", (630, 232), "M602 194V256"),
    ("batches", (729, 307), "M772 291H692"),
    ("usage, losses", (752, 232), "M686 273H708V178H766"),
)


def draw() -> str:
    """Draws the flow as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'font-family="Helvetica, Arial, sans-serif" text-anchor="middle">',
        "<title>Flow: data, pool, targets, factors; gate and annotator; selection, feed, training</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0L8 4L0 8Z" fill="{_LINE}"/></marker></defs>',
    ]
    parts += [f'<path d="{path}" fill="none" stroke="{_LINE}" marker-end="url(#tip)"/>' for _, _, path in ARROWS]
    parts += [
        f'<text x="{x}" y="{y}" font-size="12" fill="{_LINE}">{escape(text)}</text>' for text, (x, y), _ in ARROWS
    ]
    for box in BOXES:
        fill, stroke = box.colours
        rect = f'x="{box.left}" y="{box.top}" width="{_BOX[0]}" height="{_BOX[1]}" rx="8"'
        middle = box.left + _BOX[0] // 2
        bold = f'x="{middle}" y="{box.top + 26}" font-size="16" font-weight="bold" fill="#111827"'
        plain = f'x="{middle}" y="{box.top + 45}" font-size="12" fill="#374151"'
        parts += [
            f'<rect {rect} fill="{fill}" stroke="{stroke}"/>',
            f"<text {bold}>{escape(box.title)}</text>",
            f"<text {plain}>{escape(box.about)}</text>",
        ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
