"""The look of plots, and the conversion of a matplotlib figure to SVG inside an HTML page.

Colours are CSS variables, so that one drawing serves the light and the dark scheme. Text is drawn as outlines of
matplotlib's own font, so that it is the same everywhere. Figures are drawn about as wide as a phone and scaled up.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from contextlib import AbstractContextManager
from functools import lru_cache
from importlib.resources import files
from typing import Any

import matplotlib.style
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font

from coevo_ray.reporting.wording import decimal, shorten

WIDTH_IN = 4.6
# Light and dark: Okabe and Ito's hues, with the lightness moved until each has contrast on its background.
SERIES = (
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#f58a4b"),
    ("#00805e", "#2fc29a"),
    ("#b0568a", "#e39bc4"),
    ("#a87400", "#e9b23c"),
    ("#5b6470", "#aab3be"),
    ("#0098b8", "#7fdcf2"),
    ("#7a4a1e", "#cfa27a"),
)
INK = ("#1c232b", "#e6e9ed")
MUTED = ("#5f6873", "#a3acb7")
GRID = ("#d9dee4", "#3a424c")
_VARIABLES = {
    **{f"series-{i}": pair for i, pair in enumerate(SERIES)},
    "ink": INK,
    "muted": MUTED,
    "grid": GRID,
}
_RC: dict[str, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "coevo-ray",
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": INK[0],
    "axes.labelcolor": INK[0],
    "axes.edgecolor": MUTED[0],
    "xtick.color": MUTED[0],
    "ytick.color": MUTED[0],
    "xtick.labelcolor": INK[0],
    "ytick.labelcolor": INK[0],
    "grid.color": GRID[0],
    "grid.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.unicode_minus": True,
    "text.parse_math": False,
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "figure.constrained_layout.use": True,
}
_MARKERS = ("o", "s", "^", "D")
_SHAPES = (
    '<circle cx="14" cy="6" r="3.6"/>',
    '<rect x="10.6" y="2.6" width="6.8" height="6.8"/>',
    '<path d="M14 1.6 18.2 9.6 9.8 9.6z"/>',
    '<path d="M14 1.4 18.6 6 14 10.6 9.4 6z"/>',
)
_SVG = "{http://www.w3.org/2000/svg}"


def css_variables(dark: bool) -> Markup:
    """The colours of one scheme as CSS custom properties."""
    return Markup(" ".join(f"--{name}: {pair[int(dark)]};" for name, pair in _VARIABLES.items()))


def page_css() -> Markup:
    """The style of all our pages: the colours of both schemes, and `page.css`."""
    light, dark = css_variables(dark=False), css_variables(dark=True)
    colours = (
        f":root {{ color-scheme: light dark; {light} --page: #ffffff; --card: #f4f6f8; }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} --page: #14181d; --card: #1e242b; }} }}\n"
    )
    return Markup(colours + files("coevo_ray.reporting").joinpath("page.css").read_text("utf-8").rstrip("\n"))


def line_style(slot: int, points: int) -> dict[str, Any]:
    """Colour, marker and dash of a series; slots differ without colour too, the first eight pairwise."""
    return {
        "color": SERIES[slot % len(SERIES)][0],
        "marker": _MARKERS[slot % len(_MARKERS)],
        "linestyle": "-" if slot // len(_MARKERS) % 2 == 0 else (0, (4, 2)),
        "markevery": max(1, points // 12),
    }


def line_swatch(slot: int) -> Markup:
    """The legend's picture of `line_style(slot)`."""
    dash = "" if slot // len(_MARKERS) % 2 == 0 else ' stroke-dasharray="6 3"'
    colour = f"var(--series-{slot % len(SERIES)})"
    return Markup(
        f'<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true" style="color: {colour}">'
        f'<path d="M0 6H28" stroke="currentColor" stroke-width="2"{dash}/>'
        f'<g fill="currentColor">{_SHAPES[slot % len(_SHAPES)]}</g></svg>'
    )


def plain_swatch(slot: int) -> Markup:
    """The legend's picture of a line without markers."""
    return Markup(
        f'<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">'
        f'<path d="M0 6H28" stroke="var(--series-{slot % len(SERIES)})" stroke-width="2"/></svg>'
    )


def dashed_swatch() -> Markup:
    """The legend's picture of a reference line."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">'
        '<path d="M0 6H28" stroke="var(--muted)" stroke-width="2" stroke-dasharray="3 3"/></svg>'
    )


def band_swatch() -> Markup:
    """The legend's picture of a dotted line in its band."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">'
        '<path d="M0 6H28" stroke="var(--series-0)" stroke-width="10" opacity="0.15"/>'
        '<path d="M0 6H28" stroke="var(--series-0)" stroke-width="2" stroke-dasharray="2 3"/></svg>'
    )


def ring_swatch() -> Markup:
    """The legend's picture of a marked point."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">'
        '<circle cx="14" cy="6" r="4.8" fill="none" stroke="var(--ink)" stroke-width="1.6"/></svg>'
    )


def styled() -> AbstractContextManager[None]:
    """Context in which figures are made and drawn: matplotlib's defaults and ours, nothing of the user's own."""
    return matplotlib.style.context(["default", _RC])


def new_figure(height_in: float) -> Figure:
    """An empty figure of the common width; call it inside `styled()`."""
    return Figure(figsize=(WIDTH_IN, height_in))


def new_axes(height_in: float = 3.0) -> tuple[Figure, Axes]:
    """A figure of the common width with one plot; call it inside `styled()`."""
    figure = new_figure(height_in)
    return figure, figure.subplots()


@lru_cache(maxsize=1)
def _font() -> FT2Font:
    return FT2Font(findfont(FontProperties(family="DejaVu Sans")))


def drawable(text: str, length: int) -> str:
    """The text as it can be drawn in a plot: shortened, and characters that the font lacks as white squares."""
    font, blank = _font(), "\N{WHITE SQUARE}"
    return "".join(c if c.isprintable() and font.get_char_index(ord(c)) else blank for c in shorten(text, length))


def inline_svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure as an `<svg>` element for an HTML page; call it inside `styled()`.

    Args:
        figure: what to draw.
        name: prefix of all ids inside, unique on the page: [a-z0-9-].
        label: what the plot shows, in words, for those who do not see it.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())  # our own drawing; drops doctype and comments
    for parent in list(root.iter()):
        for child in list(parent):
            # The metadata link to vocabularies; the style would apply to the whole page (ours is in the template).
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.tail = None
        element.text = None
        attributes = {key.rpartition("}")[2]: _localise(key, value, name) for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update(attributes)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-label": label})
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _localise(key: str, value: str, name: str) -> str:
    """An attribute with its ids made unique and its colours made variables."""
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href"):
        return value.replace("#", f"#{name}-", 1)
    if key == "d":
        return " ".join(value.split())
    value = value.replace("url(#", f"url(#{name}-")
    for variable, (light, _) in _VARIABLES.items():
        value = value.replace(light, f"var(--{variable})")
    return value


def value_text(value: float | None) -> str:
    """A value beside a bar: a dash where there is none."""
    return "\N{EN DASH}" if value is None else decimal(value)
