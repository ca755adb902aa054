"""Full models cut down, and healed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from layerwise.compression.compact import compact_model
from layerwise.compression.distill import heal
from layerwise.compression.selection import (
    number_to_keep,
    select_first,
    select_layers,
    select_random,
    select_uniform,
    select_within,
)
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.models import Model, ScratchModel, save_model, training_course, training_report
from layerwise.lab.experiments.scores import LayerScores
from layerwise.models.layers import stacks_of

CODE = ("layerwise.lab.experiments.compact",)
RULES = ("first", "uniform", "random")


@dataclass(frozen=True)
class CompactModel(Model):
    """A full model cut down to a share of its layers, without any training."""

    of: ScratchModel
    by: str
    share: float
    kind: ClassVar[str] = "compact"
    code: ClassVar[tuple[str, ...]] = CODE

    @property
    def seed(self) -> int:
        """Seed of the full model."""
        return self.of.seed

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.of,) if self.by in RULES else (self.of, LayerScores(self.of, self.by))

    @property
    def keep(self) -> int:
        """Rough number of kept layers."""
        return number_to_keep(self.of.num_layers, self.share)

    def describe(self) -> str:
        return (
            f"{self.subject.family} with {self.share:.0%} of {self.of.num_layers} layers by {self.by}, seed {self.seed}"
        )

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        kept = kept_layers(lab, self.of, self.by, self.share)
        save_model(compact_model(lab.get(self.of), kept), folder, kept_layers=kept)


def kept_layers(lab: Bench, full: ScratchModel, by: str, share: float) -> tuple[int, ...]:
    """The layers of a full model that a rule or an importance keeps, counted through all stacks."""
    depths = [len(layers) for layers in stacks_of(lab.get(full)).values()]
    rng = np.random.default_rng(full.seed)

    def select(place: slice, keep: int) -> tuple[int, ...]:
        depth = place.stop - place.start
        match by:
            case "first":
                return select_first(depth, keep)
            case "uniform":
                return select_uniform(depth, keep)
            case "random":
                return select_random(depth, keep, rng)
            case method:
                return select_layers(lab.get(LayerScores(full, method))[place], keep)

    return select_within(depths, share, select)


@dataclass(frozen=True)
class HealedModel(Model):
    """A compact model after fine-tuning with distillation from its full model."""

    of: CompactModel
    kind: ClassVar[str] = "healed"
    code: ClassVar[tuple[str, ...]] = CODE

    @property
    def seed(self) -> int:
        """Seed of the full model, and of the healing."""
        return self.of.seed

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.of, self.of.of)

    def effort(self) -> float:
        return (self.of.keep + 1 + self.of.of.num_layers / 3) * self.subject.healing.epochs

    def describe(self) -> str:
        return f"healing {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        of = self.subject
        healed = heal(
            lab.get(self.of),
            lab.get(self.of.of),
            lab.split(of),
            of.healing,
            self.seed,
            of.distillation,
            training_report(report),
        )
        save_model(healed.recommender, folder, **training_course(healed))
