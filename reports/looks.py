"""How pictures look: one width, one type size, and the colours for a light and for a dark page.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and whatever a colour says, a mark says too.
Drawings name colours by their place in the cycle ("C0" ...) and take the rest from matplotlib's settings, so that the
same drawing comes out in either look.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from cycler import cycler
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

WIDTH = 5.0  # inches; on a phone 380 pixels wide, 10 points are 10 pixels high
DPI = 160
MARKERS = "osD^vPX"


@dataclass(frozen=True)
class Look:
    """Colours of a page; `suffix` tells its files from the others'."""

    suffix: str
    background: str
    ink: str
    grid: str
    cycle: tuple[str, ...]


LIGHT = Look(
    suffix="",
    background="#FFFFFF",
    ink="#1F2328",
    grid="#E4E7EA",
    cycle=("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
)
DARK = Look(  # blue and black would drown, so sky blue and white take their places, and yellow can be seen
    suffix="-dark",
    background="#0D1117",
    ink="#E6EDF3",
    grid="#2A313A",
    cycle=("#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#F0E442", "#FFFFFF"),
)
LOOKS = (LIGHT, DARK)


def png(draw: Callable[[], Figure], look: Look = LIGHT) -> bytes:
    """The picture that `draw` makes, in the house style; the same numbers give the same bytes.

    It has 256 colours, which are enough for these drawings and a quarter of the size; plain areas keep theirs exactly.
    """
    with matplotlib.rc_context(), style.context(["default", dict(_settings(look))]):
        figure = draw()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        image = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba())
    buffer = io.BytesIO()
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(buffer, format="png")
    return buffer.getvalue()


def _settings(look: Look) -> Mapping[str, object]:
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "hatch.color")
    return {
        "figure.dpi": DPI,
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=look.cycle),
        "axes.facecolor": look.background,
        "figure.facecolor": look.background,
        "grid.color": look.grid,
        "legend.frameon": False,
        **dict.fromkeys(inked, look.ink),
    }


def background() -> str:
    """Colour of the page in the look that is being drawn."""
    return str(matplotlib.rcParams["figure.facecolor"])


def ink() -> str:
    """Colour of text and axes in the look that is being drawn."""
    return str(matplotlib.rcParams["text.color"])


def colour(index: int) -> str:
    """Colour of the series with this number, as its place in the cycle."""
    return f"C{index % len(LIGHT.cycle)}"


def marker(index: int) -> str:
    """Mark of the series with this number."""
    return MARKERS[index % len(MARKERS)]


def blank(height: float, title: str = "") -> Figure:
    """An empty picture of the house's width, `height` inches high without its title."""
    lines = textwrap.wrap(title, 50)
    figure = Figure(figsize=(WIDTH, height + 0.18 * len(lines)), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))
    if lines:
        words = literal("\n".join(lines))
        figure.suptitle(words, x=0.01, horizontalalignment="left", fontsize=11, fontweight="bold")
    return figure


def label(name: object, width: int = 22) -> str:
    """A name broken into lines of at most `width` letters."""
    return literal(textwrap.fill(str(name), width))


def literal(words: str) -> str:
    """Words as they are; matplotlib would set what stands between dollar signs as mathematics."""
    return words.replace("$", r"\$")


def legend_grid(labels: Sequence[str]) -> tuple[int, int]:
    """Rows and columns of a legend with these labels that fits the width."""
    longest = max(map(len, labels), default=0)
    rows = math.ceil(len(labels) / max(1, min(4, 64 // (longest + 6))))
    return rows, math.ceil(len(labels) / max(rows, 1))
