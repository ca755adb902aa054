"""What the path takes at scale: from the numbers of `validation/benchmarks/test_scale.py` to tables and a picture.

python -m reports.scale reports/published/scale
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from reports.looks import LOOKS, blank, colour, marker, png

NUMBERS, PICTURE = "scale.json", "scale"
DRAWN = ("read", "split", "audit", "train", "rank")  # stages whose work grows with the users
THOUSAND, GIGABYTE = 1e3, 1e9


def fitted_exponent(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """The slope of log cost over log size by least squares, and its standard error, which needs three sizes or more."""
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    middle, level = sum(x) / len(x), sum(y) / len(y)
    spread = sum((one - middle) ** 2 for one in x)
    slope = sum((one - middle) * (other - level) for one, other in zip(x, y, strict=True)) / spread
    rest = [other - level - slope * (one - middle) for one, other in zip(x, y, strict=True)]
    return slope, math.sqrt(sum(one**2 for one in rest) / (len(x) - 2) / spread)


def tables(numbers: Mapping[str, Any]) -> str:
    """Stages by size, the two large data sets, and the losses, as Markdown."""
    return "\n\n".join([_by_size(numbers["whole"]), _data(numbers["data"]), _losses(numbers["losses"])]) + "\n"


def _by_size(runs: Sequence[Mapping[str, Any]]) -> str:
    users = [run["users"] for run in runs]
    rows = []
    for stage, cost in runs[-1]["stages"].items():
        seconds = [run["stages"][stage]["cpu"] for run in runs]
        slope, error = fitted_exponent(users, seconds)
        grows = f"{slope:.2f} ± {error:.2f}" if stage in DRAWN else "-"
        rows.append([stage, *map(_seconds, seconds), grows, _seconds(cost["wall"]), f"{cost['peak'] / GIGABYTE:.2f}"])
    head = ["stage", *(f"{one:,} users" for one in users), "exponent", "wall at the largest", "peak there, GB"]
    return _markdown(head, rows)


def _data(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [run["source"], f"{run['users']:,}", f"{run['items']:,}", f"{run['events']:,}"]
        + [_seconds(cost["cpu"]) for cost in run["stages"].values()]
        + [f"{max(cost['peak'] for cost in run['stages'].values()) / GIGABYTE:.2f}"]
        for run in runs
    ]
    return _markdown(["data", "users", "items", "events", *runs[0]["stages"], "peak, GB"], rows)


def _losses(by_items: Mapping[str, Any]) -> str:
    rows = [
        [way, f"{int(items):,}", _seconds(cost["cpu"]), f"{cost['peak'] / GIGABYTE:.2f}"]
        for items, ways in by_items.items()
        for way, cost in ways.items()
    ]
    return _markdown(["loss", "items", "seconds a step", "peak, GB"], rows)


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def figure(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """Processor seconds over users, both on logarithmic scales, with the fitted lines."""
    drawing = blank(3.4, "Processor time by number of users")
    axes = drawing.subplots()
    users = [run["users"] for run in runs]
    for index, stage in enumerate(DRAWN):
        seconds = [run["stages"][stage]["cpu"] for run in runs]
        slope, error = fitted_exponent(users, seconds)
        label = f"{stage}: exponent {slope:.2f} ± {error:.2f}"
        axes.plot(users, seconds, marker(index), color=colour(index), label=label)
        level = sum(math.log(one) for one in seconds) / len(seconds)
        middle = sum(math.log(one) for one in users) / len(users)
        line = [math.exp(level + slope * (math.log(one) - middle)) for one in users]
        axes.plot(users, line, color=colour(index), linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="users", ylabel="seconds")
    axes.set_xticks(users, [f"{one / THOUSAND:.3g}k" for one in users])
    axes.xaxis.set_minor_formatter(NullFormatter())
    drawing.legend(loc="outside lower center", ncols=1, fontsize=9)
    return drawing


def publish(numbers: Mapping[str, Any], folder: Path) -> None:
    """Writes the numbers, and the picture for a light and for a dark page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NUMBERS).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    draw(folder)


def draw(folder: Path) -> None:
    """Draws the picture from the numbers in a folder anew."""
    runs = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))["whole"]
    for look in LOOKS:
        (folder / f"{PICTURE}{look.suffix}.png").write_bytes(png(lambda: figure(runs), look))


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
    print(tables(json.loads((Path(sys.argv[1]) / NUMBERS).read_text(encoding="utf-8"))))
