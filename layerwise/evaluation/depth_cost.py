"""What a layer costs and what all the rest costs: a straight line through the times of models of several depths.

Time = fixed + per layer x depth. The fixed part (embedding, masks, positions, head, top k) stays when layers are cut,
so a model cannot become faster than (fixed + per layer x full depth) / (fixed + per layer x kept depth).
This ceiling is measured, holds for one machine and batch, and is not what "share of the bound" divides by; where it
lies well below the ratio of layers it says that the fixed part is to blame, and not the layers that were kept.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from layerwise.evaluation.audited import AuditedModel, Inputs, Timer, place_of
from layerwise.evaluation.timing import default_timer, synchronised, time_in_turn
from layerwise.models.layers import layers_of as family_layers_of
from layerwise.models.modes import evaluating

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class DepthCost:
    """A fitted line, with standard errors from the spread of the blocks.

    Attributes:
        fixed_ms: Time of everything but the layers, in ms.
        layer_ms: Time of one layer, in ms.
        covariance: Of the two, from block to block, divided by the number of blocks, *2 x 2*.
        misfit: Largest distance of a depth's mean time from the line, as a share of that time.
    """

    fixed_ms: float
    layer_ms: float
    covariance: FloatArray
    misfit: float

    @property
    def standard_errors(self) -> tuple[float, float]:
        """Of the fixed part and of a layer, in ms."""
        fixed, layer = np.sqrt(np.diag(self.covariance))
        return float(fixed), float(layer)

    def time(self, depth: float) -> float:
        """Time at a depth on the line, in ms."""
        return self.fixed_ms + self.layer_ms * depth

    def ceiling(self, full: int, kept: int) -> tuple[float, float]:
        """The speedup from `full` to `kept` layers on the line, and its standard error (delta method)."""
        ratio = self.time(full) / self.time(kept)
        slope = np.array([1 - ratio, full - ratio * kept]) / self.time(kept)
        return ratio, float(np.sqrt(slope @ self.covariance @ slope))


def fit_depth_cost(times_ms: Mapping[int, FloatArray]) -> DepthCost:
    """The least-squares line through the times of each block, averaged over blocks.

    What disturbs a whole block disturbs all its depths, so a block is one observation of the line, not several.

    Args:
        times_ms: Time of a call in the same blocks, *blocks*, by number of layers; at least two depths and blocks.

    Raises:
        ValueError: If there are fewer, or the depths differ in their number of blocks.
    """
    shapes = {depth: np.shape(times) for depth, times in times_ms.items()}
    if len(shapes) < 2 or len(set(shapes.values())) > 1 or min(shapes.values()) < (2,):
        raise ValueError(f"need the times of two or more depths in the same two or more blocks, got shapes {shapes}")
    times = np.stack(list(times_ms.values()), axis=1)  # blocks x depths
    design = np.stack([np.ones(len(times_ms)), np.array(list(times_ms))], axis=1)
    lines = np.linalg.lstsq(design, times.T, rcond=None)[0]  # 2 x blocks
    line, mean = lines.mean(axis=1), times.mean(axis=0)
    return DepthCost(
        fixed_ms=float(line[0]),
        layer_ms=float(line[1]),
        covariance=np.cov(lines) / len(times),
        misfit=float((np.abs(mean - design @ line) / mean).max()),
    )


def time_by_depth(
    models: Sequence[nn.Module],
    inputs: Inputs,
    blocks: int = 10,
    *,
    warmup: int = 10,
    calls: int | None = None,
    seconds: float = 60.0,
    layers_of: Callable[[nn.Module], Sequence[nn.Module]] = family_layers_of,
    timer: Timer | None = None,
) -> dict[int, FloatArray]:
    """Times of a call in ms, *blocks*, by number of layers; all models in turn within every block.

    The turns of a block go through the models and back, so that a linear drift cancels; see `compare_latency`, whose
    arguments these are.

    Args:
        models: The same workload with cuts of one model to different depths.
        inputs: Arguments of the calls, at least two.
        blocks: Number of blocks, at least two.
        warmup: Largest number of warm-up rounds, at least two.
        calls: Calls per turn; by default as many as give the fastest model 50 ms per block, if `seconds` allows.
        seconds: Bound for the timed calls of all blocks together.
        layers_of: Lists the layers of a model.
        timer: Clock in seconds.

    Raises:
        ValueError: If two models have one depth, or a layer did not run once in every call.
    """
    device, _ = place_of(models[0], models[-1], inputs)
    clock = synchronised(timer or default_timer(device), device)
    depths = [len(layers_of(model)) for model in models]
    if len(set(depths)) < len(depths):
        raise ValueError(f"models must differ in depth, got {depths}")
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(evaluating(*models))
        arms = [
            AuditedModel(f"{depth}-layer", model, inputs, clock) for depth, model in zip(depths, models, strict=True)
        ]
        for arm in arms:
            stack.enter_context(arm.counting(layers_of(arm.model)))
        figures = time_in_turn(arms, len(inputs), blocks, warmup, calls, seconds).block_ms
    for arm in arms:
        if not (np.array(arm.executed) == 1).all():
            raise ValueError(f"in some call of the {arm.name} model a layer did not run exactly once")
    return {depth: figures[:, at] for at, depth in enumerate(depths)}
