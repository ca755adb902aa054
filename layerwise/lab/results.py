"""What a tier's experiments found: made where it is missing, read, and laid out over the seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from layerwise.data.arrays import FloatArray
from layerwise.lab.experiments import Experiment
from layerwise.lab.lab import Lab
from layerwise.lab.tiers import Tier

Result = TypeVar("Result")
Prepare = Callable[[Sequence[Experiment[Any]]], None]


@dataclass(frozen=True)
class Results:
    """A way to read results.

    Args:
        tier: Sizes, recipes and seeds.
        lab: Where results come from.
        prepare: Makes missing results, side by side where it can; called before results are read.
    """

    tier: Tier
    lab: Lab
    prepare: Prepare

    def found(self, wanted: Sequence[Experiment[Result]]) -> list[Result]:
        """The results, in the order of the experiments."""
        self.prepare(wanted)
        return [self.lab.get(one) for one in wanted]

    def stacked(self, wanted: Sequence[Experiment[dict[str, FloatArray]]]) -> dict[str, FloatArray]:
        """Arrays by name of one experiment per seed, as name -> *seeds x ...*."""
        by_seed = self.found(wanted)
        return {name: np.stack([values[name] for values in by_seed]) for name in by_seed[0]}
