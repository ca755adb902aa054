"""The importance of a model's layers by several methods, as a table in which larger numbers are darker."""

import numpy as np
from rich.table import Table
from rich.text import Text

from layerwise.commands.order import Job
from layerwise.data.arrays import FloatArray
from layerwise.importance.scores import METHODS
from layerwise.lab import engine
from layerwise.lab.experiments import LayerScores
from layerwise.lab.lab import Lab

DEFAULT = ("fisher", "empirical-fisher", "block-influence", "magnitude")


def inspected(
    job: Job, lab: Lab, methods: tuple[str, ...] = DEFAULT, workers: int | None = None
) -> dict[str, FloatArray]:
    """Score of each layer of a job's first full model by method, each *num_layers*.

    Raises:
        ValueError: If a method is unknown.
    """
    if unknown := [method for method in methods if method not in METHODS]:
        raise ValueError(f"unknown methods {', '.join(unknown)}; known are {', '.join(METHODS)}")
    wanted = {method: LayerScores(job.full[0], method) for method in methods}
    engine.run(lab, list(wanted.values()), workers)
    return {method: lab.get(scores) for method, scores in wanted.items()}


def heat_map(scores: dict[str, FloatArray], title: str) -> Table:
    """A row per layer, a column per method; shades go from the smallest to the largest score of a column."""
    table = Table(title=title, caption="larger is more important; shades by column")
    table.add_column("layer", justify="right")
    for method in scores:
        table.add_column(method, justify="right")
    shades = {method: _shades(values) for method, values in scores.items()}
    for layer in range(len(next(iter(scores.values())))):
        cells = [_cell(float(values[layer]), shades[method][layer]) for method, values in scores.items()]
        table.add_row(str(layer), *cells)
    return table


def _cell(score: float, shade: float) -> Text:
    """The number on a blue that deepens with the shade, in [0, 1]; four marks say the same without colour."""
    red, green = (round(235 - 205 * shade), round(242 - 150 * shade))
    ink = "white" if shade > 0.5 else "black"
    return Text(f"{score:.3g} {'▁▃▅▇'[min(3, int(4 * shade))]}", style=f"{ink} on rgb({red},{green},250)")


def _shades(values: FloatArray) -> FloatArray:
    """Scores between 0, the smallest, and 1; ranks where they span more than a thousandfold, so that all are seen."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 1000 * low:
        values = np.argsort(np.argsort(values)).astype(np.float64)
        low, high = 0.0, float(len(values) - 1)
    return np.asarray((values - low) / (high - low) if high > low else np.zeros(len(values)))
