"""Pictures as data: what a claim test hands over to be drawn, checked where it is made and not where it is drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from reports.plain import require_plain

FIGURE_KINDS = ("intervals", "points", "scatter", "bars", "heatmap", "map")
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MOST_PANELS = 12  # of a map: more are too small to read
MOST_GROUPS = 7  # of a map: as many colours as colour-blind readers tell apart


class Series(TypedDict):
    """Values `y` at places `x`, with intervals from `low` to `high` or None; `panel` is its part of a map."""

    label: str
    x: list[str | int | float]
    y: list[float | None]
    low: list[float] | None
    high: list[float] | None
    panel: str | None


class Reference(TypedDict):
    """A value to compare with, drawn as a line."""

    label: str
    value: float


class Figure(TypedDict):
    """A picture as data: `x` says where (category or number), `y` what was found there, in the unit of `y_label`."""

    name: str
    kind: str
    title: str
    x_label: str
    y_label: str
    series_label: str
    series: list[Series]
    reference: Reference | None


def make_figure(
    name: str,
    kind: str,
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Mapping[str, Any]],
    reference: Mapping[str, Any] | None = None,
    series_label: str = "",
) -> Figure:
    """A figure for a record; a series is {"label", "x", "y"} with "low" and "high" where there are intervals.

    Args:
        name: Lower-case words joined by hyphens; part of the file name.
        kind: "intervals" (one line per category), "points" (a course over x), "scatter" (single marks), "bars",
            "heatmap" (a series is a row: columns `x`, values `y`, None where undefined) or
            "map" (points in two dimensions: a series is a group within its "panel", such as a genre within a layer).
        title: Shown above the picture, and its alternative text.
        x_label: What `x` is, with its unit.
        y_label: What `y` is, with its unit; in a heatmap this stands beside the colours.
        series: One or several; drawn in this order.
        reference: {"label", "value"}: a line at this value of `y`; not for heatmaps and maps.
        series_label: What the series are, such as "family": title of the legend, name of the rows in a heatmap.

    Raises:
        ValueError: Unknown kind, a name that is no slug, lists of unequal length, or series that the kind cannot draw.
        TypeError: Something is not plain JSON.
    """
    if kind not in FIGURE_KINDS:
        raise ValueError(f"figure {name!r}: kind must be one of {', '.join(FIGURE_KINDS)}, got {kind!r}")
    if not SLUG.fullmatch(name):
        raise ValueError(f"figure name must be lower-case words joined by hyphens, got {name!r}")
    figure = Figure(
        name=name,
        kind=kind,
        title=title,
        x_label=x_label,
        y_label=y_label,
        series_label=series_label,
        series=[_series(name, entry) for entry in series],
        reference=None if reference is None else Reference(label=reference["label"], value=reference["value"]),
    )
    require_plain(dict(figure), f"figure {name!r}")
    problem = _problem(figure)
    if problem:
        raise ValueError(f"figure {name!r}: {problem}")
    return figure


def _series(figure: str, entry: Mapping[str, Any]) -> Series:
    low, high = entry.get("low"), entry.get("high")
    series = Series(
        label=entry["label"],
        x=list(entry["x"]),
        y=list(entry["y"]),
        low=None if low is None else list(low),
        high=None if high is None else list(high),
        panel=entry.get("panel"),
    )
    lengths = {key: len(value) for key, value in series.items() if isinstance(value, list)}
    if len(set(lengths.values())) != 1 or (low is None) != (high is None):
        raise ValueError(f"figure {figure!r}: x, y, low and high of a series must be equally long, got {lengths}")
    return series


def _problem(figure: Figure) -> str:
    """Why the kind cannot draw these series; empty when it can."""
    kind, series = figure["kind"], figure["series"]
    if kind in ("heatmap", "map"):
        if figure["reference"] is not None or any(entry["low"] is not None for entry in series):
            return f"a {kind} has no place for a reference or intervals"
        if not any(entry["x"] for entry in series):
            return f"a {kind} needs at least one value"
    if kind != "heatmap" and any(y is None for entry in series for y in entry["y"]):
        return f"only a heatmap shows undefined values; leave them out of {kind}"
    if kind == "heatmap" and any(entry["x"] != series[0]["x"] for entry in series):
        return "the rows of a heatmap must have the same columns `x`"
    return _problem_of_panels(kind, series)


def _problem_of_panels(kind: str, series: Sequence[Series]) -> str:
    panels = {entry["panel"] for entry in series}
    if kind != "map":
        return "" if panels <= {None} else f"only a map has panels, not {kind}"
    if None in panels or len(panels) > MOST_PANELS:
        return f"every series of a map needs a panel, at most {MOST_PANELS} in all, got {len(panels)}"
    groups = {entry["label"] for entry in series}
    if len(groups) > MOST_GROUPS:
        return f"a map tells at most {MOST_GROUPS} groups (labels) apart, got {len(groups)}"
    if any(isinstance(x, str) for entry in series for x in entry["x"]):
        return "places of a map must be numbers"
    return ""
