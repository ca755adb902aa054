"""Pictures of many verdicts at once: every interval against its claimed region, or one mark per case."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from reports import looks, records, text
from reports.ledger import Decision
from reports.sections import Section

VERDICTS = {  # colour and marker, best first
    "supported": ("C2", "o"),
    "inconclusive": ("C0", "D"),
    "refuted": ("C1", "X"),
    "invalid": ("C6", "s"),
}
REGION: Mapping[str, Any] = {"color": "C2", "alpha": 0.2, "linewidth": 0}
MARKS_IN_A_LINE = 18
SHORT = 5  # letters of a number, so that six of them stand beside one another


def overview(decisions: Sequence[Decision]) -> Figure:
    """Every verdict as estimate and 95 % interval against its claimed region; a panel per claim, for units differ."""
    panels = _panels(decisions)
    heights = [0.85 + _row_height(panel) * len(panel) for panel in panels]
    figure = looks.blank(sum(heights) + 0.5)
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for axes, panel in zip(grid[:, 0], panels, strict=True):
        _panel(axes, panel, text.scale_of(_record(panel[0]).unit))
        axes.set_xlabel(looks.literal(textwrap.shorten(_axis(panel), 44)))
        axes.set_title(looks.literal(textwrap.shorten(panel[0].claim, 36)))
    region: list[Artist] = [Patch(label="claimed region", **REGION)]
    _legend(figure, [decision for panel in panels for decision in panel], region)
    return figure


def verdicts(sections: Sequence[Section]) -> Figure:
    """One mark per case that has a verdict, a row per claim: where the suite stands, at a glance."""
    rows: list[tuple[str, list[Decision]]] = []
    for section in sections:
        claim = section.claim
        judged = [decision for verdict in VERDICTS for decision in section.decisions if decision.verdict == verdict]
        lines = [judged[start : start + MARKS_IN_A_LINE] for start in range(0, len(judged), MARKS_IN_A_LINE)] or [[]]
        rows += [(claim if line is lines[0] else "", line) for line in lines]
    figure = looks.blank(0.7 + 0.24 * len(rows), "Verdicts by claim, one mark per case")
    axes = figure.subplots()
    for place, (_, line) in enumerate(rows):
        for at, decision in enumerate(line):
            _point(axes, at, place, decision.verdict)
    axes.set_yticks(range(len(rows)), [looks.literal(textwrap.shorten(claim, 28)) for claim, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-0.7, MARKS_IN_A_LINE - 0.3)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    _legend(figure, [decision for _, line in rows for decision in line], [])
    return figure


def _legend(figure: Figure, shown: Sequence[Decision], more: list[Artist]) -> None:
    found = {decision.verdict for decision in shown}
    handles: list[Artist] = [_mark(verdict) for verdict in VERDICTS if verdict in found]
    _, columns = looks.legend_grid([str(handle.get_label()) for handle in handles + more])
    figure.legend(handles=handles + more, loc="outside lower center", ncols=columns)


def _mark(verdict: str) -> Line2D:
    colour, marker = VERDICTS[verdict]
    edge = looks.background()
    return Line2D([], [], color=colour, marker=marker, linewidth=2.2, markeredgecolor=edge, markersize=9, label=verdict)


def _point(axes: Axes, x: float, y: float, verdict: str) -> None:
    colour, marker = VERDICTS[verdict]
    axes.plot([x], [y], color=colour, marker=marker, markersize=9, markeredgecolor=looks.background(), zorder=4)


def _panels(decisions: Sequence[Decision]) -> list[list[Decision]]:
    """The decisions with an estimate by claim and scale; shares of different metrics stand on one scale."""
    panels: dict[tuple[str, str], list[Decision]] = {}
    for decision in decisions:
        if decision.record and decision.record.estimate is not None:
            unit = decision.record.unit
            panels.setdefault((decision.claim, text.scale_of(unit).suffix or unit), []).append(decision)
    return list(panels.values())


def _row_height(panel: Sequence[Decision]) -> float:
    return 0.13 + 0.15 * max(1 + looks.label(decision.case).count("\n") for decision in panel)


def _axis(panel: Sequence[Decision]) -> str:
    names = dict.fromkeys(text.scale_of(_record(decision).unit).axis for decision in panel)
    first, *others = names
    return ", ".join([first, *(name.removeprefix("% of ") for name in others)])


def _record(decision: Decision) -> records.Record:
    assert decision.record is not None
    return decision.record


def _panel(axes: Axes, panel: Sequence[Decision], scale: text.Scale) -> None:
    left, right = _limits(panel, scale)
    for place, decision in enumerate(panel):
        record = _record(decision)
        ends = [left if record.low is None else scale.factor * record.low]
        ends += [right if record.high is None else scale.factor * record.high]
        axes.plot(ends, [place, place], color=VERDICTS[decision.verdict][0], linewidth=2.2, solid_capstyle="butt")
        _point(axes, scale.factor * (record.estimate or 0.0), place, decision.verdict)
        _region(axes, decision, place, (left, right), scale)
    axes.set_xlim(left, right)
    axes.set_ylim(len(panel) - 0.5, -0.5)
    axes.set_yticks(range(len(panel)), [looks.label(decision.case) for decision in panel])
    for bins in (6, 4):
        axes.locator_params(axis="x", nbins=bins)
        if max(len(label.get_text()) for label in axes.get_xticklabels()) <= SHORT:
            break
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _region(axes: Axes, decision: Decision, place: int, limits: tuple[float, float], scale: text.Scale) -> None:
    """Shade what the claim allows behind its row, with an edge where it ends."""
    declaration = decision.declaration
    assert declaration is not None
    low = limits[0] if declaration.low is None else scale.factor * declaration.low
    high = limits[1] if declaration.high is None else scale.factor * declaration.high
    axes.fill_between([low, high], place - 0.42, place + 0.42, zorder=0.5, **REGION)
    for bound in (declaration.low, declaration.high):
        if bound is not None:
            axes.plot([scale.factor * bound] * 2, [place - 0.42, place + 0.42], color=looks.ink(), linewidth=1.2)


def _limits(panel: Sequence[Decision], scale: text.Scale) -> tuple[float, float]:
    values = []
    for decision in panel:
        record, declaration = _record(decision), decision.declaration
        assert declaration is not None
        ends = (record.estimate, record.low, record.high, declaration.low, declaration.high)
        values += [scale.factor * end for end in ends if end is not None]
    room = 0.08 * (max(values) - min(values)) or 0.1 * abs(max(values)) or 1.0
    return min(values) - room, max(values) + room
