"""The clock, the warm-up and the blocks of alternating turns in which models are timed."""

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from layerwise.evaluation.audited import AuditedModel, Timer

FloatArray = NDArray[np.float64]

MIN_ARM_SECONDS = 0.05  # per model and block, far above the clock's resolution and a scheduler's slice
MAX_CALLS = 1000  # per turn
STABLE = 0.05  # two warm-up rounds agree when their medians differ by less than this share
WALL, PROCESSOR = "wall clock", "processor time of the thread"


@dataclass(frozen=True)
class Turns:
    """What timing some models in turn gave.

    Attributes:
        block_ms: Median time of a call in ms, *blocks x models*.
        calls: Calls per turn; a block has two turns of each model.
        rounds: Warm-up rounds that were run.
        stable: Whether the last two of them agreed.
    """

    block_ms: FloatArray
    calls: int
    rounds: int
    stable: bool


def time_in_turn(
    arms: Sequence[AuditedModel], num_inputs: int, blocks: int, warmup: int, calls: int | None, seconds: float
) -> Turns:
    """Times of every model, in alternating blocks after a warm-up; the arguments are those of `compare_latency`."""
    rounds, stable, typical = warm_up(arms, num_inputs, warmup)
    turn = turn_length(calls, typical, blocks, seconds, num_inputs)
    figures = np.array([time_block(arms, turn, number, num_inputs) for number in range(blocks)])
    return Turns(figures, turn, rounds, stable)


def warm_up(arms: Sequence[AuditedModel], num_inputs: int, most: int) -> tuple[int, bool, FloatArray]:
    """Rounds run, whether the last two agreed, and each model's median seconds per call in the last, [arms].

    A round is every input once through every model. Rounds end when all medians are within 5 % of the round
    before, or after `most` of them.
    """
    before = np.full(len(arms), np.inf)
    for number in range(1, most + 1):
        now = np.array([np.median([arm.call(index) for index in range(num_inputs)]) for arm in arms])
        if stable := bool((np.abs(now - before) <= STABLE * before).all() and number > 1):
            break
        before = now
    return number, stable, now / 1000


def turn_length(calls: int | None, typical: FloatArray, blocks: int, seconds: float, num_inputs: int) -> int:
    """Calls per turn: those given, else as many as give each model 50 ms per block and keep all within `seconds`.

    Never fewer than two, nor such that a turn ends on the input it began with: the next turn would repeat it.

    Args:
        calls: Number to use, or None.
        typical: Seconds per call, [arms].
        blocks: Number of blocks.
        seconds: Bound for the timed calls of all blocks.
        num_inputs: Number of inputs that the calls go through in turn.
    """
    if calls is None:
        typical = typical.clip(min=MIN_ARM_SECONDS / (2 * MAX_CALLS))
        wanted = math.ceil(MIN_ARM_SECONDS / (2 * typical.min()))
        affordable = int(seconds / (2 * blocks * typical.sum()))
        calls = max(2, min(wanted, affordable))
    return calls + 1 if (calls - 1) % num_inputs == 0 else calls


def time_block(arms: Sequence[AuditedModel], turn: int, number: int, num_inputs: int) -> list[float]:
    """Median ms of a call of each model, over block `number`: two turns of equal length of each.

    The turns go through the models and back (full, compact, compact, full); on the way back they see other inputs.
    Every other block begins at the other end: what happens between blocks falls on the calls that come next, and a
    model that always begins looked 2 % slower than its own copy. Garbage collection is off.
    """
    order = list(arms) if number % 2 == 0 else list(reversed(arms))
    steps = np.arange(2 * turn * number, 2 * turn * (number + 1)) % num_inputs
    there, back = steps[:turn].tolist(), steps[turn:].tolist()
    with _without_collection():
        first = [[arm.call(index) for index in there] for arm in order]
        second = [[arm.call(index) for index in back] for arm in reversed(order)]
    times = [float(np.median(one + other)) for one, other in zip(first, reversed(second), strict=True)]
    return times if number % 2 == 0 else times[::-1]


@contextmanager
def _without_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def default_timer(device: torch.device) -> Timer:
    """The thread's processor time where one CPU thread does all the work, else the wall clock."""
    return time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def name_of(timer: Timer) -> str:
    """What a timer measures, in words."""
    return WALL if timer is time.perf_counter else PROCESSOR if timer is time.thread_time else "given"


def synchronised(timer: Timer, device: torch.device) -> Timer:
    """The timer, read only after the device has finished its work."""
    if device.type == "cpu":
        return timer

    def read() -> float:
        torch.accelerator.synchronize(device)
        return timer()

    return read
