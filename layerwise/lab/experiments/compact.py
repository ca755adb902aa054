"""Full models cut down, and healed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from layerwise.compression.compact import compact_model
from layerwise.compression.distill import heal
from layerwise.compression.selection import select_first, select_layers, select_random, select_uniform
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.models import Model, ScratchModel, save_model, training_course, training_report
from layerwise.lab.experiments.scores import LayerScores

CODE = (
    "layerwise.data",
    "layerwise.models",
    "layerwise.evaluation.ranking",
    "layerwise.evaluation.quality",
    "layerwise.compression",
    "layerwise.lab.experiments.compact",
)
RULES = ("first", "uniform", "random")


@dataclass(frozen=True)
class CompactModel(Model):
    """A full model cut down to `keep` layers, without any training."""

    of: ScratchModel
    by: str
    keep: int
    kind: ClassVar[str] = "compact"
    code: ClassVar[tuple[str, ...]] = CODE

    @property
    def seed(self) -> int:
        """Seed of the full model."""
        return self.of.seed

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.of,) if self.by in RULES else (self.of, LayerScores(self.of, self.by))

    def describe(self) -> str:
        return f"{self.keep} of {self.of.num_layers} layers by {self.by}, seed {self.seed}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        kept = self._kept(lab)
        save_model(compact_model(lab.get(self.of), kept), folder, kept_layers=kept)

    def _kept(self, lab: Bench) -> tuple[int, ...]:
        depth = self.of.num_layers
        match self.by:
            case "first":
                return select_first(depth, self.keep)
            case "uniform":
                return select_uniform(depth, self.keep)
            case "random":
                return select_random(depth, self.keep, np.random.default_rng(self.seed))
            case method:
                return select_layers(lab.get(LayerScores(self.of, method)), self.keep)


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
