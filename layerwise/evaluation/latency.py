"""Latency of a full and a compact model, timed in turn, with proof that what was timed did the work.

Machines drift: frequencies change, neighbours come and go. Timing one model after the other turns drift into
a difference (88 % false alarms on identical code), so the two alternate in blocks: full, compact, compact,
full, then compact, full, full, compact, where a linear drift cancels and each begins as often. The block is the unit
of replication, its figure the median of its calls.

A busy machine does worse: a call longer than the scheduler's slice is interrupted, a shorter one is not, and the
median then favours the compact model (seen: 10 times for a true 3.1). So on a CPU with one thread the clock is
the processor time of that thread, the latency on a processor of one's own but for what an interruption leaves to be
done again: some 0.6 ms each, in full and compact calls alike (docs/speed.md). With more threads, and on an
accelerator, it is the wall clock; there a check compares how much of the processor each model got.

A call may be compiled, or captured as a CUDA graph, so that little or no time of Python is in it. A graph's layers are
counted while it is captured; the hooks that count are compiled with the layers.

A fast number proves nothing by itself. Forward hooks count the layers that run in every timed call, and every
timed output is compared with one that was computed untimed, and must be nearer to it than half the way to that of any
other input. A hook costs 1.2 microseconds per layer and call
(measured on one CPU thread), the same for each layer of either model.

References:
    MLPerf Inference audit tests TEST01 (outputs of the timed run) and TEST04 (repeated inputs).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from layerwise.evaluation.audited import (
    AuditedModel,
    Inputs,
    Mode,
    Timer,
    batch_size_of,
    digests_of,
    place_of,
)
from layerwise.evaluation.timing import (
    WALL,
    default_timer,
    name_of,
    synchronised,
    time_in_turn,
)
from layerwise.models.layers import layers_of as family_layers_of
from layerwise.models.modes import evaluating

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SHARE = 1.05  # largest ratio of the models' shares of the processor at which wall-clock times are comparable
HEADROOM = 1.03  # a compact model cannot beat the ratio of layers; above this multiple the timing is wrong
_WORDS = {"eager": "eager", "compiled": "compiled by torch.compile", "captured": "captured as a CUDA graph"}
ROUNDING = 8  # units of rounding by which a timed output may differ from its reference


@dataclass(frozen=True)
class LatencyComparison:
    """Timings of a full and a compact model on the same inputs, and the evidence that they are honest.

    Attributes:
        full_ms: Median time of a call of the full model in ms, [blocks].
        compact_ms: The same for the compact model.
        full_executed: How often each layer ran in each clocked call, warm-up included, [calls, layers].
        compact_executed: The same for the compact model.
        batch_size: Rows of an input.
        calls_per_block: Timed calls per model and block.
        input_digests: sha256 of each input.
        max_difference: Largest absolute difference of a timed output from its untimed reference.
        allowed_difference: What rounding can explain, and at most half of what lies between two inputs' outputs.
        warmup_rounds: Warm-up rounds that were run.
        stable: Whether the last two of them agreed within 5 %.
        clock: What the times are: wall clock, processor time of the thread, or a clock that was given.
        full_share: Processor seconds per second of wall clock in the full model's calls.
        compact_share: The same for the compact model.
        device: Name of the device.
        dtype: Floating-point kinds of the weights, joined by "+".
        threads: Threads of a CPU operation.
        torch_version: Version of torch.
        mode: How the models were called; of a captured one, the layers are those that each replay launches.
    """

    full_ms: FloatArray
    compact_ms: FloatArray
    full_executed: IntArray
    compact_executed: IntArray
    batch_size: int
    calls_per_block: int
    input_digests: tuple[str, ...]
    max_difference: float
    allowed_difference: float
    warmup_rounds: int
    stable: bool
    clock: str
    full_share: float
    compact_share: float
    device: str
    dtype: str
    threads: int
    torch_version: str
    mode: Mode = "eager"

    @property
    def full_layers(self) -> int:
        """Layers of the full model."""
        return int(self.full_executed.shape[1])

    @property
    def compact_layers(self) -> int:
        """Layers of the compact model."""
        return int(self.compact_executed.shape[1])

    @property
    def speedup(self) -> float:
        """Full over compact time: the geometric mean of the blocks' ratios."""
        return float(np.exp(np.log(self.full_ms / self.compact_ms).mean()))

    @property
    def bound(self) -> float:
        """Ratio of layers, which the speedup cannot exceed at equal batch, since the rest is not cut."""
        return self.full_layers / self.compact_layers

    def checks(self) -> list[tuple[bool, str]]:
        """What must hold before the speedup counts: whether it does, and a sentence with the numbers."""
        different = len(set(self.input_digests))
        unevenness = max(self.full_share / self.compact_share, self.compact_share / self.full_share)
        return [
            (
                self.max_difference <= self.allowed_difference,
                f"timed outputs equal untimed ones: they differ by at most {self.max_difference:.3g}, "
                f"allowed {self.allowed_difference:.3g}",
            ),
            _layers_check("full", self.full_executed),
            _layers_check("compact", self.compact_executed),
            (
                self.speedup <= HEADROOM * self.bound,
                f"speedup {self.speedup:.3f} is possible: at most {HEADROOM} times the ratio of layers, "
                f"{self.bound:.3f}",
            ),
            (
                different == len(self.input_digests),
                f"inputs are all different: {different} of {len(self.input_digests)}",
            ),
            (
                self.clock != WALL or self.device != "cpu" or unevenness <= SHARE,
                f"other programs did not favour a model: share of the processor {self.full_share:.2f} (full) and "
                f"{self.compact_share:.2f} (compact), time is {self.clock}",
            ),
        ]

    def setting(self) -> dict[str, str]:
        """Where and how it was measured, in words."""
        return {
            "clock": self.clock,
            "mode": _WORDS[self.mode],
            "device": self.device,
            "dtype": self.dtype,
            "threads": str(self.threads),
            "torch": self.torch_version,
            "batch size": str(self.batch_size),
            "blocks": f"{len(self.full_ms)}, each of {self.calls_per_block} calls per model",
            "warm-up": f"{self.warmup_rounds} rounds, {'stable' if self.stable else 'not yet stable'}",
        }


def compare_latency(
    full: nn.Module,
    compact: nn.Module,
    inputs: Inputs,
    blocks: int = 10,
    *,
    warmup: int = 10,
    calls: int | None = None,
    seconds: float = 60.0,
    tolerance: float | None = None,
    mode: Mode = "eager",
    layers_of: Callable[[nn.Module], Sequence[nn.Module]] = family_layers_of,
    timer: Timer | None = None,
) -> LatencyComparison:
    """Times of both models, in alternating blocks over the same inputs; for an A/A run pass a deep copy.

    Both models stay resident, in evaluation mode and without gradients; their modes are put back. A turn is a
    run of successive calls of one model, each on another input; a block is four turns, full and compact on
    the same inputs, then compact and full on the next. The clock is read before and after every call, on an
    accelerator once that has finished its work. Outputs are compared between the calls, with the clock
    stopped; garbage collection is off during a block.

    Warm-up: rounds of every input through both models, until both medians are within 5 % of the round before.

    Args:
        full: Module called as `full(**inputs[i])`.
        compact: Module called the same way, on the same device and of the same floating-point dtypes.
        inputs: At least two dictionaries of tensors with one batch size, all different, on that device.
        blocks: Number of blocks, at least 2.
        warmup: Largest number of warm-up rounds, at least 2.
        calls: Calls per turn, at least 2 (one more where two turns would meet on one input). By default as
            many as give each model 50 ms per block, if `seconds` allows.
        seconds: Bound for the timed calls of all blocks together, as far as two calls per turn allow it.
        tolerance: Allowed absolute difference of outputs; by default 8 roundings of the largest output, and at most
            half of the smallest difference between the outputs of two inputs.
        mode: "eager"; "compiled" by torch.compile, for inputs of one shape; or "captured" as a CUDA graph, see
            `CapturedCall`. Outputs are compared with eager ones all the same.
        layers_of: Lists the layers of a model.
        timer: Clock in seconds; by default the thread's processor time or the wall clock, as said above.

    Raises:
        ValueError: Equal or too few inputs, several batch sizes or devices, different dtypes, a model without
            layers, outputs that are not finite, or a number below its least value.
        TypeError: An input that is not a dictionary of tensors, or an output without a tensor.
    """
    _at_least(2, blocks=blocks, warmup=warmup, calls=2 if calls is None else calls)
    digests, batch_size = digests_of(inputs), batch_size_of(inputs)
    device, dtypes = place_of(full, compact, inputs)
    timer = timer or default_timer(device)
    clock = synchronised(timer, device)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(evaluating(full, compact))
        arms = [AuditedModel(name, model, inputs, clock) for name, model in (("full", full), ("compact", compact))]
        for arm in arms:
            stack.enter_context(arm.counting(layers_of(arm.model)))
            arm.set_mode(mode)
        turns = time_in_turn(arms, len(inputs), blocks, warmup, calls, seconds)
    rounding = ROUNDING * max(torch.finfo(dtype).eps for dtype in dtypes)
    return LatencyComparison(
        full_ms=turns.block_ms[:, 0],
        compact_ms=turns.block_ms[:, 1],
        full_executed=np.array(arms[0].executed, dtype=np.int64),
        compact_executed=np.array(arms[1].executed, dtype=np.int64),
        batch_size=batch_size,
        calls_per_block=2 * turns.calls,
        input_digests=digests,
        max_difference=max(arm.difference for arm in arms),
        allowed_difference=_allowed(arms, rounding) if tolerance is None else tolerance,
        warmup_rounds=turns.rounds,
        stable=turns.stable,
        clock=name_of(timer),
        full_share=arms[0].busy_seconds / arms[0].wall_seconds,
        compact_share=arms[1].busy_seconds / arms[1].wall_seconds,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        dtype="+".join(str(dtype).removeprefix("torch.") for dtype in dtypes),
        threads=torch.get_num_threads(),
        torch_version=str(torch.__version__),
        mode=mode,
    )


def _allowed(arms: Sequence[AuditedModel], rounding: float) -> float:
    """What rounding explains, unless an output of another input would pass for it."""
    return min(min(rounding * arm.scale, arm.apart / 2) for arm in arms)


def _layers_check(name: str, executed: IntArray) -> tuple[bool, str]:
    right = int((executed == 1).all(axis=1).sum())
    calls, layers = executed.shape
    return (
        right == calls,
        f"every one of the {name} model's {layers} layers ran once in {right} of {calls} calls",
    )


def _at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
