"""Latency of several models that need not read the same tensors: each is timed on its own form of the same requests.

The turns of a block go through all models and back, so that a linear drift cancels; see `latency`, which compares two
cuts of one model, whose inputs are the same.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from layerwise.evaluation.audited import AuditedModel, Inputs, Timer, batch_size_of, digests_of, place_of
from layerwise.evaluation.latency import ROUNDING
from layerwise.evaluation.timing import default_timer, synchronised, time_in_turn
from layerwise.models.layers import layers_of as family_layers_of
from layerwise.models.modes import evaluating

FloatArray = NDArray[np.float64]


def time_side_by_side(
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Inputs],
    blocks: int = 10,
    *,
    warmup: int = 10,
    calls: int | None = None,
    seconds: float = 60.0,
    layers_of: Callable[[nn.Module], Sequence[nn.Module]] = family_layers_of,
    timer: Timer | None = None,
) -> dict[str, FloatArray]:
    """Times of a call in ms, *blocks*, by name of the model; the other arguments are those of `compare_latency`.

    Args:
        models: By name, at least two, on one device and of the same floating-point dtypes.
        inputs: By the same names: as many batches of as many rows for each, all different, the same requests.
        blocks: Number of blocks, at least two.
        warmup: Largest number of warm-up rounds, at least two.
        calls: Calls per turn; by default as many as give the fastest model 50 ms per block, if `seconds` allows.
        seconds: Bound for the timed calls of all blocks together.
        layers_of: Lists the layers of a model.
        timer: Clock in seconds.

    Raises:
        ValueError: If names, numbers of inputs, batch sizes, devices or dtypes differ, two inputs of a model are equal,
            a layer did not run once in every call, or a timed output is not the untimed one.
    """
    clock, rounding = _clock_and_rounding(models, inputs, timer)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(evaluating(*models.values()))
        arms = [AuditedModel(name, model, inputs[name], clock) for name, model in models.items()]
        for arm in arms:
            stack.enter_context(arm.counting(layers_of(arm.model)))
        num_inputs = len(next(iter(inputs.values())))
        figures = time_in_turn(arms, num_inputs, blocks, warmup, calls, seconds).block_ms
    for arm in arms:
        _require_honest(arm, rounding)
    return {arm.name: figures[:, at] for at, arm in enumerate(arms)}


def _clock_and_rounding(
    models: Mapping[str, nn.Module], inputs: Mapping[str, Inputs], timer: Timer | None
) -> tuple[Timer, float]:
    if len(models) < 2 or models.keys() != inputs.keys():
        raise ValueError(f"need inputs for each of two or more models, got {list(models)} and {list(inputs)}")
    sizes = {name: (len(digests_of(batches)), batch_size_of(batches)) for name, batches in inputs.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"all models must get as many batches of as many rows, got {sizes}")
    first = next(iter(models.values()))
    for name, model in models.items():
        device, dtypes = place_of(first, model, inputs[name])
    return synchronised(timer or default_timer(device), device), ROUNDING * max(torch.finfo(d).eps for d in dtypes)


def _require_honest(arm: AuditedModel, rounding: float) -> None:
    if not (np.array(arm.executed) == 1).all():
        raise ValueError(f"in some call of {arm.name} a layer did not run exactly once")
    if arm.difference > rounding * arm.scale:
        raise ValueError(f"timed outputs of {arm.name} differ from untimed ones by {arm.difference:.3g}")
