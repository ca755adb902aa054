"""Which layers to keep, when kept sets can be tried: greedy removal, and a small search under an evaluation budget.

The value that chose a set flatters it: judge what is found here on data that `evaluate` did not see.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from layerwise.compression.selection import select_random

KeptLayers = tuple[int, ...]
Evaluate = Callable[[KeptLayers], float]
"""From kept layers to a metric; larger is better, and the same set gives the same value."""


@dataclass(frozen=True)
class GreedyRemoval:
    """What greedy removal found.

    Attributes:
        kept_layers: Strictly increasing indices.
        trace: Each removed layer with the value after its removal, in order of removal.
        evaluations: Number of kept sets that were evaluated.
    """

    kept_layers: KeptLayers
    trace: tuple[tuple[int, float], ...]
    evaluations: int


def greedy_removal(evaluate: Evaluate, num_layers: int | Sequence[int], keep: int | Sequence[int]) -> GreedyRemoval:
    """Removes, step by step, the layer that is missed least now that the earlier ones are gone.

    Args:
        evaluate: Metric of kept layers, asked once for every layer that could go at each step.
        num_layers: Depth of the full model, or of each stack of an encoder-decoder.
        keep: Number of layers to keep, or of each stack; each in [1, depth].

    Returns:
        The kept layers, counted through all stacks. Of equally dispensable layers the last goes.

    Raises:
        ValueError: If `keep` is out of range or a value is not finite.

    References:
        Song et al. 2024 (SLEB), algorithm 1. There the value is the negative loss on a calibration set.
    """
    space, values = _Space.of(num_layers, keep), _Values(evaluate)
    kept = tuple(range(sum(space.depths)))
    trace = []
    for _ in range(sum(space.depths) - sum(space.keeps)):
        value, removed = max((values[_without(kept, layer)], layer) for layer in space.removable(kept))
        kept = _without(kept, removed)
        trace.append((removed, value))
    return GreedyRemoval(kept, tuple(trace), len(values))


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        kept_layers: The best set that was evaluated; of equals the first.
        value: Its value.
        course: Value of each evaluated set, in the order of evaluation.
    """

    kept_layers: KeptLayers
    value: float
    course: Mapping[KeptLayers, float]


def search(
    evaluate: Evaluate,
    num_layers: int | Sequence[int],
    keep: int | Sequence[int],
    budget: int,
    rng: np.random.Generator,
    start: Sequence[int],
) -> Search:
    """The best kept set found by local search: swaps of one layer, and a fresh random set where no swap helps.

    Swaps are tried in random order and the first that improves is taken; a set that was evaluated before costs nothing.

    Args:
        evaluate: Metric of kept layers.
        num_layers: Depth of the full model, or of each stack of an encoder-decoder; swaps stay within a stack.
        keep: Number of layers to keep, or of each stack; each in [1, depth].
        budget: Largest number of different sets to evaluate, at least 1; what it cost to find `start` is not counted.
        rng: Decides the order of swaps and the restarts.
        start: Kept layers to begin with, such as those of a score or of `greedy_removal`.

    Returns:
        The best set, never worse than `start`; the whole budget is spent unless there are fewer sets.

    Raises:
        ValueError: If `keep`, `budget` or `start` is out of range or a value is not finite.

    References:
        White et al. 2021 (Exploring the Loss Landscape in Neural Architecture Search), algorithm 1: local search as a
        baseline that is hard to beat. It looks at all neighbours first; here the first better one is taken, since
        a budget is small.
    """
    space, values = _Space.of(num_layers, keep), _Values(evaluate)
    if budget < 1:
        raise ValueError(f"the budget must be at least one evaluation, got {budget}")
    budget = min(budget, space.size)
    kept = space.checked(start)
    best = values[kept]  # of the current climb
    while len(values) < budget:
        for neighbour in space.neighbours(kept, rng):
            if values[neighbour] > best:
                kept, best = neighbour, values[neighbour]
                break
            if len(values) == budget:
                break
        else:
            while kept in values:
                kept = space.random(rng)
            best = values[kept]
    found = max(values, key=values.__getitem__)
    return Search(found, values[found], values)


class _Values(dict[KeptLayers, float]):
    """Values by kept layers, each asked for once, in the order of evaluation."""

    def __init__(self, evaluate: Evaluate) -> None:
        super().__init__()
        self.evaluate = evaluate

    def __missing__(self, kept: KeptLayers) -> float:
        value = float(self.evaluate(kept))
        if not math.isfinite(value):
            raise ValueError(f"evaluate must give a finite number, got {value} for kept layers {kept}")
        self[kept] = value
        return value


@dataclass(frozen=True)
class _Space:
    """All sets that keep so many layers of each stack."""

    depths: tuple[int, ...]
    keeps: tuple[int, ...]

    @classmethod
    def of(cls, num_layers: int | Sequence[int], keep: int | Sequence[int]) -> "_Space":
        depths, keeps = (tuple(int(n) for n in np.atleast_1d(numbers)) for numbers in (num_layers, keep))
        if len(depths) != len(keeps) or not all(1 <= k <= depth for k, depth in zip(keeps, depths, strict=True)):
            raise ValueError(f"the number of layers to keep must lie in [1, depth] of each stack {depths}, got {keeps}")
        return cls(depths, keeps)

    @property
    def size(self) -> int:
        """Number of sets."""
        return math.prod(map(math.comb, self.depths, self.keeps))

    @property
    def stacks(self) -> list[range]:
        """The layers of each stack."""
        return [range(start, stop) for start, stop in pairwise(accumulate(self.depths, initial=0))]

    def removable(self, kept: KeptLayers) -> Iterator[int]:
        """Kept layers of the stacks that still have one to spare."""
        for stack, keep in zip(self.stacks, self.keeps, strict=True):
            inside = [layer for layer in kept if layer in stack]
            yield from inside if len(inside) > keep else ()

    def neighbours(self, kept: KeptLayers, rng: np.random.Generator) -> Iterator[KeptLayers]:
        """Every set with one kept layer swapped for a removed one of the same stack, in random order."""
        swaps = [
            (out, into) for stack in self.stacks for out in kept if out in stack for into in stack if into not in kept
        ]
        for index in rng.permutation(len(swaps)):
            out, into = swaps[index]
            yield tuple(sorted((*_without(kept, out), into)))

    def random(self, rng: np.random.Generator) -> KeptLayers:
        """One of the sets, each equally likely."""
        return tuple(
            stack[index]
            for stack, keep in zip(self.stacks, self.keeps, strict=True)
            for index in select_random(len(stack), keep, rng)
        )

    def checked(self, start: Sequence[int]) -> KeptLayers:
        """`start` as one of the sets."""
        kept = tuple(int(layer) for layer in start)
        counts = tuple(sum(layer in stack for layer in kept) for stack in self.stacks)
        if counts != self.keeps or len(kept) != sum(counts) or any(a >= b for a, b in pairwise(kept)):
            raise ValueError(f"start must increase and keep {self.keeps} of the stacks {self.depths}, got {kept}")
        return kept


def _without(kept: KeptLayers, layer: int) -> KeptLayers:
    return tuple(other for other in kept if other != layer)
