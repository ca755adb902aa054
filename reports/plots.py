"""Pictures of numbers that were computed elsewhere; every function returns a matplotlib figure and keeps no state.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and every verdict has a mark of its own. The
background is white, so that a picture reads on a dark page too.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports import records, text
from reports.ledger import Decision
from reports.records import Series

WIDTH = 7.0  # inches
DPI = 130
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
VERDICTS = {  # colour and marker
    "supported": ("#009E73", "o"),
    "inconclusive": ("#0072B2", "D"),
    "refuted": ("#D55E00", "X"),
    "invalid": ("#000000", "s"),
}
REGION = "#DCEFE7"
STYLE: Mapping[str, object] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "legend.frameon": False,
}


def png(draw: Callable[[], Figure]) -> bytes:
    """The picture that `draw` makes, in the house style; the same numbers give the same bytes."""
    with matplotlib.rc_context(), style.context(["default", dict(STYLE)]):
        figure = draw()
        FigureCanvasAgg(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def overview(decisions: Sequence[Decision]) -> Figure:
    """Every verdict as estimate and 95 % interval against its claimed region; a panel per claim, for units differ."""
    panels = _panels(decisions)
    heights = [0.95 + 0.34 * len(panel) for panel in panels]
    figure = _blank(sum(heights) + 0.45)
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for axes, panel in zip(grid[:, 0], panels, strict=True):
        _panel(axes, panel, text.scale_of(_record(panel[0]).unit))
        axes.set_xlabel(_literal(textwrap.shorten(_axis(panel), 70)))
        axes.set_title(_literal(panel[0].claim))
    found = {decision.verdict for panel in panels for decision in panel}
    handles: list[Artist] = [_mark(verdict) for verdict in VERDICTS if verdict in found]
    figure.legend(handles=[*handles, Patch(color=REGION, label="claimed region")], loc="outside lower center", ncols=5)
    return figure


def _panels(decisions: Sequence[Decision]) -> list[list[Decision]]:
    """The decisions with an estimate by claim and scale; shares of different metrics stand on one scale."""
    panels: dict[tuple[str, str], list[Decision]] = {}
    for decision in decisions:
        if decision.record and decision.record.estimate is not None:
            unit = decision.record.unit
            panels.setdefault((decision.claim, text.scale_of(unit).suffix or unit), []).append(decision)
    return list(panels.values())


def _axis(panel: Sequence[Decision]) -> str:
    names = dict.fromkeys(text.scale_of(_record(decision).unit).axis for decision in panel)
    first, *others = names
    return ", ".join([first, *(name.removeprefix("% of ") for name in others)])


def _record(decision: Decision) -> records.Record:
    assert decision.record is not None
    return decision.record


def _mark(verdict: str) -> Line2D:
    colour, marker = VERDICTS[verdict]
    return Line2D(
        [], [], color=colour, marker=marker, linewidth=2.2, markeredgecolor="white", markersize=9, label=verdict
    )


def _panel(axes: Axes, panel: Sequence[Decision], scale: text.Scale) -> None:
    left, right = _limits(panel, scale)
    for place, decision in enumerate(panel):
        record = _record(decision)
        ends = [left if record.low is None else scale.factor * record.low]
        ends += [right if record.high is None else scale.factor * record.high]
        colour, marker = VERDICTS[decision.verdict]
        axes.plot(ends, [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
        centre = scale.factor * (record.estimate or 0.0)
        axes.plot([centre], [place], color=colour, marker=marker, markersize=9, markeredgecolor="white", zorder=4)
        _region(axes, decision, place, (left, right), scale)
    axes.set_xlim(left, right)
    axes.set_ylim(len(panel) - 0.5, -0.5)
    axes.set_yticks(range(len(panel)), [_label(decision.case) for decision in panel])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _region(axes: Axes, decision: Decision, place: int, limits: tuple[float, float], scale: text.Scale) -> None:
    """Shade what the claim allows behind its row, with an edge where it ends."""
    declaration = decision.declaration
    assert declaration is not None
    low = limits[0] if declaration.low is None else scale.factor * declaration.low
    high = limits[1] if declaration.high is None else scale.factor * declaration.high
    axes.fill_between([low, high], place - 0.42, place + 0.42, color=REGION, linewidth=0, zorder=0.5)
    for bound in (declaration.low, declaration.high):
        if bound is not None:
            axes.plot([scale.factor * bound] * 2, [place - 0.42, place + 0.42], color="#444444", linewidth=1.2)


def _limits(panel: Sequence[Decision], scale: text.Scale) -> tuple[float, float]:
    values = []
    for decision in panel:
        record, declaration = _record(decision), decision.declaration
        assert declaration is not None
        ends = (record.estimate, record.low, record.high, declaration.low, declaration.high)
        values += [scale.factor * end for end in ends if end is not None]
    room = 0.08 * (max(values) - min(values)) or 0.1 * abs(max(values)) or 1.0
    return min(values) - room, max(values) + room


def _blank(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def draw(figure: records.Figure) -> Figure:
    """The picture of a record."""
    many = figure["kind"] == "intervals"
    rows = sum(1 + _label(str(x)).count("\n") for series in figure["series"] for x in series["x"])
    picture = _blank(max(2.2, 1.4 + 0.32 * rows) if many else 4.0)
    axes = picture.subplots()
    DRAWERS[figure["kind"]](axes, figure["series"])
    _name_axes(axes, figure)
    reference = figure["reference"]
    if reference is not None:
        line = axes.axvline if many else axes.axhline
        line(reference["value"], color="#444444", linestyle="--", linewidth=1.2, label=_literal(reference["label"]))
    if len(figure["series"]) > 1 or reference is not None:
        handles, _ = axes.get_legend_handles_labels()
        lines = [handle for handle in handles if isinstance(handle, Line2D)]  # matplotlib lists plain lines first
        ordered = [handle for handle in handles if handle not in lines] + lines
        picture.legend(handles=ordered, loc="outside lower center", ncols=2)
    title = _literal(textwrap.fill(figure["title"], 66))
    picture.suptitle(title, x=0.01, horizontalalignment="left", fontsize=11, fontweight="bold")
    return picture


def _name_axes(axes: Axes, figure: records.Figure) -> None:
    labels = [_literal(textwrap.fill(figure[name], 36)) for name in ("x_label", "y_label")]
    across, up = reversed(labels) if figure["kind"] == "intervals" else labels
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(visible=False, axis="y" if figure["kind"] == "intervals" else "x")


def _intervals(axes: Axes, series: Sequence[Series]) -> None:
    """One line per category from top to bottom; several series lie close together in it."""
    places = _places(series)
    for index, entry in enumerate(series):
        shift = 0.5 * ((index + 0.5) / len(series) - 0.5)
        y = [places[x] + shift for x in entry["x"]]
        axes.errorbar(
            entry["y"],
            y,
            xerr=_errors(entry),
            fmt="o",
            color=_colour(index),
            label=_literal(entry["label"]),
            elinewidth=2.2,
        )
    axes.set_yticks(range(len(places)), [_label(str(x)) for x in places])
    axes.set_ylim(len(places) - 0.5, -0.5)


def _points(axes: Axes, series: Sequence[Series], joined: bool = True) -> None:
    """A course over numbers, joined by a line; categories are not joined."""
    numeric = all(not isinstance(x, str) for entry in series for x in entry["x"])
    places = _places(series)
    for index, entry in enumerate(series):
        x = entry["x"] if numeric else [places[value] for value in entry["x"]]
        fmt = ("-" if numeric and joined else "") + "osD^vPX"[index % 7]
        axes.errorbar(
            [float(value) for value in x], entry["y"], yerr=_errors(entry), fmt=fmt, color=_colour(index),
            label=_literal(entry["label"]), linewidth=1.4, capsize=2.5,
        )  # fmt: skip
    if not numeric:
        axes.set_xticks(range(len(places)), [_label(str(x)) for x in places])
    elif all(float(x).is_integer() for x in places) and len(places) <= 16:
        axes.set_xticks(sorted(float(x) for x in places), [f"{x:g}" for x in sorted(float(x) for x in places)])


def _scatter(axes: Axes, series: Sequence[Series]) -> None:
    """Single marks."""
    _points(axes, series, joined=False)


def _bars(axes: Axes, series: Sequence[Series]) -> None:
    """Categories side by side; several series share the place of a category."""
    places, width = _places(series), 0.8 / max(len(series), 1)
    for index, entry in enumerate(series):
        x = [places[value] - 0.4 + (index + 0.5) * width for value in entry["x"]]
        label = _literal(entry["label"])
        axes.bar(x, entry["y"], width * 0.92, yerr=_errors(entry), capsize=2.5, color=_colour(index), label=label)
    tilt = 30 if sum(len(str(x)) for x in places) > 60 else 0
    labels = [_label(str(x)) for x in places]
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


def _errors(entry: Series) -> list[list[float]] | None:
    low, high = entry["low"], entry["high"]
    if low is None or high is None:
        return None
    below = [math.fabs(y - end) for y, end in zip(entry["y"], low, strict=True)]
    return [below, [math.fabs(end - y) for y, end in zip(entry["y"], high, strict=True)]]


def _colour(index: int) -> str:
    return CYCLE[index % len(CYCLE)]


def _label(name: str) -> str:
    return _literal(textwrap.fill(name, 30))


def _literal(words: str) -> str:
    return words.replace("$", r"\$")  # matplotlib would set what stands between dollar signs as mathematics
