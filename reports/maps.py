"""Points in two dimensions as small multiples: one panel per layer, coloured and marked by group."""

from __future__ import annotations

import math

from matplotlib.figure import Figure as Picture
from matplotlib.lines import Line2D

from reports import looks
from reports.figures import Figure

ACROSS = 3  # panels beside one another


def small_multiples(figure: Figure) -> Picture:
    """The picture of a map; every panel has a scale of its own, the same along both of its axes."""
    panels = list(dict.fromkeys(entry["panel"] for entry in figure["series"]))
    groups = {name: index for index, name in enumerate(dict.fromkeys(entry["label"] for entry in figure["series"]))}
    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    rows, columns = looks.legend_grid(list(groups))
    picture = looks.blank(0.65 + 0.2 * rows + down * (looks.WIDTH / across + 0.1), figure["title"])
    grid = picture.subplots(down, across, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        for entry in (entry for entry in figure["series"] if entry["panel"] == panel):
            index = groups[entry["label"]]
            axes.plot(
                [float(x) for x in entry["x"]], entry["y"], looks.marker(index),
                color=looks.colour(index), markersize=3.2, markeredgewidth=0, alpha=0.75,
            )  # fmt: skip
        axes.set_title(looks.literal(str(panel)), fontsize=10, fontweight="normal")
        axes.set(xticks=[], yticks=[], box_aspect=1)
        axes.set_aspect("equal", adjustable="datalim")
        axes.spines[:].set_visible(True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    grid[-1, 0].set(xlabel=looks.label(figure["x_label"]), ylabel=looks.label(figure["y_label"]))  # speaks for all
    picture.legend(
        handles=[
            Line2D([], [], color=looks.colour(i), marker=looks.marker(i), linewidth=0, label=looks.literal(name))
            for name, i in groups.items()
        ],
        loc="outside lower center",
        ncols=columns,
        title=looks.literal(figure["series_label"]) or None,
    )
    return picture
