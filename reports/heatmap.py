"""Rows by columns of values as colours; what is undefined is hatched, and few values stand in their cells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from reports import looks, text
from reports.figures import Figure

ROOM = 3.1  # inches across that labels and colour bar leave for the cells
LOWEST, TALLEST = 1.0, 3.6  # inches that the rows take at least and at most
MOST_CELLS = 12  # a side, for values to be written in
LETTER = 0.085  # inches that a letter is wide

Values = NDArray[np.float64]


def heatmap(figure: Figure) -> Picture:
    """The picture of a heatmap: perceptually even colours, diverging around 0 where values lie on both sides of it."""
    rows, columns = figure["series"], [str(x) for x in figure["series"][0]["x"]]
    values = np.array([[math.nan if y is None else y for y in row["y"]] for row in rows], dtype=np.float64)
    longest = max(map(len, columns))
    slanted = longest > 3 and longest * len(columns) * LETTER > ROOM
    whole = bool(np.isfinite(values).all())
    under = 0.6 + (0.055 * longest if slanted else 0.2) + (0.0 if whole else 0.3)
    picture = looks.blank(under + min(max(0.3 * len(rows), LOWEST), TALLEST), figure["title"])
    axes = picture.subplots()
    shades = axes.imshow(np.ma.masked_invalid(values), aspect="auto", **_shades(values))
    _write(axes, values, shades)
    step = _step(len(columns), 0.2 if slanted else LETTER * (longest + 1), ROOM)
    turn: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(0, len(columns), step), [looks.literal(name) for name in columns[::step]], **turn)
    step = _step(len(rows), 0.17, TALLEST)
    axes.set_yticks(range(0, len(rows), step), [looks.label(row["label"], 18) for row in rows[::step]])
    axes.set_xlabel(looks.label(figure["x_label"], 36))
    axes.set_ylabel(looks.label(figure["series_label"], 30))
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = picture.colorbar(shades, ax=axes, label=looks.label(figure["y_label"], 30), pad=0.02, fraction=0.06)
    bar.locator = MaxNLocator(5)
    bar.ax.grid(visible=False)
    bar.outline.set_visible(False)
    if not whole:
        _hatch(axes, picture)
    return picture


def _shades(values: Values) -> dict[str, Any]:
    """Colours and limits."""
    found = values[np.isfinite(values)]
    low, high = (found.min(), found.max()) if found.size else (0.0, 1.0)
    if low < 0 < high:
        reach = max(-low, high)
        return {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
    return {"cmap": "cividis", "vmin": low, "vmax": high}


def _write(axes: Axes, values: Values, shades: AxesImage) -> None:
    """The values in their cells, where they fit."""
    found = [float(value) for value in values.flat if math.isfinite(value)]
    scale = text.Scale(1.0, "", "")
    decimals = text.decimals_for(scale, found) if found else 0
    widest = max((len(scale.number(value, decimals)) for value in found), default=0)
    if max(values.shape) > MOST_CELLS or widest * LETTER > ROOM / values.shape[1]:
        return
    inks = np.where(shades.to_rgba(values)[..., :3] @ (0.3, 0.59, 0.11) > 0.5, "black", "white")
    for (row, column), value in np.ndenumerate(values):
        if math.isfinite(value):
            rounded = round(float(value), decimals) + 0.0  # no minus sign before a zero
            words, ink = scale.number(rounded, decimals), str(inks[row, column])
            axes.text(column, row, words, color=ink, fontsize=9, ha="center", va="center")


def _hatch(axes: Axes, picture: Picture) -> None:
    """Hatch the ground of the cells, which shows where there is no value, and say what that means."""
    axes.patch.set(hatch="////", edgecolor="#8B949E", linewidth=0)
    picture.legend(
        handles=[Patch(facecolor="none", edgecolor="#8B949E", hatch="////", label="undefined")],
        loc="outside lower right",
    )


def _step(count: int, size: float, room: float) -> int:
    """Every how many-th of `count` labels to show when each needs `size` of `room` inches."""
    return max(1, math.ceil(count * size / room))
