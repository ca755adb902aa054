"""Pictures of numbers that were computed elsewhere; every function returns a matplotlib figure and keeps no state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.lines import Line2D

from reports import looks
from reports.figures import Figure, Series
from reports.heatmap import heatmap
from reports.maps import small_multiples


def draw(figure: Figure) -> Picture:
    """The picture of a record."""
    if figure["kind"] == "heatmap":
        return heatmap(figure)
    if figure["kind"] == "map":
        return small_multiples(figure)
    return _chart(figure)


def _chart(figure: Figure) -> Picture:
    """Marks, lines or bars on one pair of axes."""
    upright = figure["kind"] != "intervals"
    rows = sum(1 + looks.label(x).count("\n") for series in figure["series"] for x in series["x"])
    named = [*figure["series"], *filter(None, [figure["reference"]])]
    legend, columns = looks.legend_grid([entry["label"] for entry in named]) if len(named) > 1 else (0, 0)
    under = 0.2 * (legend + bool(legend and figure["series_label"]))
    picture = looks.blank(under + (2.8 if upright else max(1.3, 0.65 + 0.25 * rows)), figure["title"])
    axes = picture.subplots()
    DRAWERS[figure["kind"]](axes, figure["series"])
    _name_axes(axes, figure)
    reference = figure["reference"]
    if reference is not None:
        line = axes.axhline if upright else axes.axvline
        name = looks.literal(reference["label"])
        line(reference["value"], color=looks.ink(), linestyle="--", linewidth=1.2, label=name)
    if legend:
        _legend(picture, axes, columns, figure["series_label"])
    return picture


def _name_axes(axes: Axes, figure: Figure) -> None:
    labels = figure["x_label"], figure["y_label"]
    across, up = reversed(labels) if figure["kind"] == "intervals" else labels
    axes.set_xlabel(looks.label(across, 40))
    axes.set_ylabel(looks.label(up, 26))
    axes.grid(visible=False, axis="y" if figure["kind"] == "intervals" else "x")


def _legend(picture: Picture, axes: Axes, columns: int, title: str) -> None:
    handles, _ = axes.get_legend_handles_labels()
    lines = [handle for handle in handles if isinstance(handle, Line2D)]  # matplotlib lists plain lines first
    ordered = [handle for handle in handles if handle not in lines] + lines
    picture.legend(handles=ordered, loc="outside lower center", ncols=columns, title=looks.literal(title) or None)


def _intervals(axes: Axes, series: Sequence[Series]) -> None:
    """One line per category from top to bottom; several series lie close together in it."""
    places = _places(series)
    for index, entry in enumerate(series):
        shift = 0.5 * ((index + 0.5) / len(series) - 0.5)
        y = [places[x] + shift for x in entry["x"]]
        axes.errorbar(
            _numbers(entry["y"]), y, xerr=_errors(entry), fmt=looks.marker(index), elinewidth=2.2,
            **_name_and_colour(index, entry),
        )  # fmt: skip
    axes.set_yticks(range(len(places)), [looks.label(x) for x in places])
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=6)


def _points(axes: Axes, series: Sequence[Series], joined: bool = True) -> None:
    """A course over numbers, joined by a line; categories are not joined. Intervals stand side by side."""
    numeric = all(not isinstance(x, str) for entry in series for x in entry["x"])
    places = _places(series)
    at = {x: float(x) if numeric else float(place) for x, place in places.items()}
    for index, entry in enumerate(series):
        shift = _gap(at.values()) * 0.08 * (index - (len(series) - 1) / 2) if entry["low"] is not None else 0.0
        axes.errorbar(
            [at[x] + shift for x in entry["x"]], _numbers(entry["y"]), yerr=_errors(entry),
            fmt=("-" if numeric and joined else "") + looks.marker(index), markersize=5, linewidth=1.6, elinewidth=1.1,
            **_name_and_colour(index, entry),
        )  # fmt: skip
    if not numeric:
        axes.set_xticks(range(len(places)), [looks.label(x, 14) for x in places])
    elif all(place.is_integer() for place in at.values()) and len(at) <= 16:
        axes.set_xticks(sorted(at.values()), [f"{place:g}" for place in sorted(at.values())])
    else:
        axes.locator_params(axis="x", nbins=6)


def _scatter(axes: Axes, series: Sequence[Series]) -> None:
    """Single marks."""
    _points(axes, series, joined=False)


def _bars(axes: Axes, series: Sequence[Series]) -> None:
    """Categories side by side; several series share the place of a category."""
    places, width = _places(series), 0.8 / max(len(series), 1)
    for index, entry in enumerate(series):
        x = [places[value] - 0.4 + (index + 0.5) * width for value in entry["x"]]
        bar = _name_and_colour(index, entry)
        axes.bar(x, _numbers(entry["y"]), width * 0.92, yerr=_errors(entry), capsize=2.5, ecolor=looks.ink(), **bar)
    tilt = 30 if sum(len(str(x)) + 2 for x in places) > 44 else 0
    labels = [looks.label(x) for x in places]
    axes.set_xticks(range(len(places)), labels, rotation=tilt, ha="right" if tilt else "center")


DRAWERS: Mapping[str, Callable[[Axes, Sequence[Series]], None]] = {
    "intervals": _intervals,
    "points": _points,
    "scatter": _scatter,
    "bars": _bars,
}


def _places(series: Sequence[Series]) -> dict[str | int | float, int]:
    """Category -> place, in the order of first appearance."""
    return {x: place for place, x in enumerate(dict.fromkeys(x for entry in series for x in entry["x"]))}


def _gap(places: Iterable[float]) -> float:
    """Smallest distance between neighbours; 0 where there are none."""
    ordered = sorted(places)
    return min((right - left for left, right in pairwise(ordered)), default=0.0)


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _errors(entry: Series) -> list[list[float]] | None:
    low, high, y = entry["low"], entry["high"], _numbers(entry["y"])
    if low is None or high is None:
        return None
    return [[abs(a - b) for a, b in zip(y, ends, strict=True)] for ends in (low, high)]


def _name_and_colour(index: int, entry: Series) -> dict[str, Any]:
    return {"label": looks.literal(entry["label"]), "color": looks.colour(index)}
