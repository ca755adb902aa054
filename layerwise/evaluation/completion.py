"""Whether a timed call is a whole one: all of the batch, and finished when the clock is read.

Two models can be timed on the same inputs and still not do the same: one may answer for a part of the batch only. And a
device that works on its own hands out a result before it exists: a clock that does not wait for it times the order, not
the work.
"""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from layerwise.evaluation.audited import Inputs, Timer, place_of
from layerwise.evaluation.timing import default_timer, synchronised
from layerwise.models.modes import evaluating

Check = tuple[bool, str]
LATE = 0.1  # share of a call that may remain to be done when its clock is read
ROUNDING = 1e-4  # of the largest output: other batches are summed in another order


def completion_checks(full: nn.Module, compact: nn.Module, inputs: Inputs, timer: Timer | None = None) -> list[Check]:
    """What must hold before times of both models on these inputs can be compared, to be handed to `claim.require`.

    Args:
        full: Module called as `full(**inputs[i])`, which returns one tensor, a row per row of the input.
        compact: Module called the same way.
        inputs: Dictionaries of tensors, as for `compare_latency`.
        timer: Clock in seconds; by default those of `compare_latency`, and the wall clock for what is late.
    """
    device, _ = place_of(full, compact, inputs)
    clock = synchronised(timer or default_timer(device), device)
    found = []
    with torch.inference_mode(), evaluating(full, compact):
        for name, model in (("full", full), ("compact", compact)):
            found.append(_whole_batch(name, model, inputs[0]))
            found.append(_finished(name, model, inputs, clock, timer or time.perf_counter))
    return found


def _whole_batch(name: str, model: nn.Module, batch: Mapping[str, Tensor]) -> Check:
    """Whether each row is answered for, as it is when it is asked alone."""
    rows = len(next(iter(batch.values())))
    outputs = model(**batch)
    asked = sorted({0, rows // 2, rows - 1})
    apart = float("inf")
    if len(outputs) == rows:
        alone = torch.cat([model(**{key: part[row : row + 1] for key, part in batch.items()}) for row in asked])
        apart = float((outputs[asked] - alone).abs().max() / outputs.abs().max())
    return (
        apart <= ROUNDING,
        f"the {name} model must answer for every row of a batch as for the row alone: {len(outputs)} outputs for "
        f"{rows} rows, relative difference at most {apart:.2g}",
    )


def _finished(
    name: str, model: nn.Module, inputs: Inputs, clock: Callable[[], float], reading: Callable[[], float]
) -> Check:
    """Whether reading a result right after the clock has stopped takes no longer than reading it again."""
    clocked, late = [], []
    for batch in inputs:
        start = clock()
        output = model(**batch)
        clocked.append(clock() - start)
        late.append(_seconds(reading, output) - _seconds(reading, output))
    share = max(min(late), 0.0) / min(clocked) if min(clocked) > 0 else float("inf")
    return (
        share <= LATE,
        f"the {name} model's work must be done when the clock stops: waiting for the result afterwards takes "
        f"{100 * share:.0f} % of the clocked time, allowed {100 * LATE:.0f} %",
    )


def _seconds(clock: Callable[[], float], output: Tensor) -> float:
    """Time until the output is on this side and looked at."""
    start = clock()
    float(output.cpu().sum())
    return clock() - start
