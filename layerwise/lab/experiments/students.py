"""Students of full models, by named method; and the same with a learning rate that was tuned for the method."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from layerwise.compression.methods import Method, made_student, method_name
from layerwise.compression.search import search
from layerwise.compression.selection import number_to_keep, select_first
from layerwise.evaluation.quality import validation_ndcg
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.compact import RULES, kept_layers
from layerwise.lab.experiments.models import Model, ScratchModel, save_model, training_report
from layerwise.lab.experiments.quality import Quality
from layerwise.lab.experiments.scores import LayerScores
from layerwise.models.layers import bypassed, stacks_of

CODE = ("layerwise.lab.experiments.compact", "layerwise.lab.experiments.students")
WEIGHED_BY = "empirical-fisher"  # importance by which layers are weighted in distillation
RATES = (1.0, 2.0)  # grid of learning rates, in units of the healing recipe's


@dataclass(frozen=True)
class Student(Model):
    """A student of a full model.

    Attributes:
        share: Share of the layers, or of their parameters, that remains.
        epochs: Of the whole training, in place of the healing recipe's.
        rate: Learning rate in units of the healing recipe's.
    """

    of: ScratchModel
    method: Method
    share: float
    epochs: int
    rate: float = 1.0
    kind: ClassVar[str] = "student"
    code: ClassVar[tuple[str, ...]] = CODE

    @property
    def seed(self) -> int:
        """Seed of the full model, and of the training."""
        return self.of.seed

    def needs(self) -> tuple[Experiment[Any], ...]:
        scores = {self.method.by} - {*RULES, "search"} if self.method.cuts else set()
        scores |= {WEIGHED_BY} if self.method.needs_importance else set()
        return (self.of, *(LayerScores(self.of, method) for method in sorted(scores)))

    def effort(self) -> float:
        layers = self.of.num_layers * (self.share if self.method.cuts else 1)
        return (layers + 1 + self.of.num_layers / 3) * self.epochs * bool(self.method.stages) + 1

    def describe(self) -> str:
        rate = f" at {self.rate:g} x the learning rate" if self.rate != 1 else ""
        return f"{method_name(self.method)} student of {self.of.describe()}, {self.share:.0%}{rate}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        full, healing = lab.get(self.of), self.subject.healing
        shares = (*self.method.via, self.share)
        kept = [_kept_layers(lab, self.of, self.method, share) for share in shares]
        made = made_student(
            full,
            self.method,
            kept,
            self.share,
            lab.split(self.subject),
            replace(healing, epochs=self.epochs, learning_rate=healing.learning_rate * self.rate),
            self.seed,
            lab.get(LayerScores(self.of, WEIGHED_BY)) if self.method.needs_importance else None,
            training_report(report),
        )
        save_model(made.recommender, folder, kept_layers=kept[-1], validation_by_stage=made.courses)


@dataclass(frozen=True)
class TunedStudent(Model):
    """The student whose learning rate has the best validation NDCG@10 on the tuning seed's full model."""

    of: ScratchModel
    method: Method
    share: float
    epochs: int
    tuned_on: int
    kind: ClassVar[str] = "tuned-student"
    code: ClassVar[tuple[str, ...]] = CODE

    @property
    def seed(self) -> int:
        """Seed of the full model, and of the training."""
        return self.of.seed

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.of, *self._own(1.0).needs()[1:], *self._grid())

    def _own(self, rate: float) -> Student:
        return Student(self.of, self.method, self.share, self.epochs, rate)

    def _grid(self) -> list[Student]:
        tuned_on = replace(self.of, seed=self.tuned_on)
        return [Student(tuned_on, self.method, self.share, self.epochs, rate) for rate in RATES]

    def effort(self) -> float:
        return 1.0 if self.seed == self.tuned_on else self._own(1.0).effort()

    def describe(self) -> str:
        return f"tuned {self._own(1.0).describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        found = {student.rate: best_validation(lab.course(student)) for student in self._grid()}
        rate = max(found, key=found.__getitem__)
        own = self._own(rate)
        course = lab.course(own)
        save_model(lab.get(own), folder, rate=rate, validation_by_rate=found, kept_layers=course["kept_layers"])


def best_validation(course: dict[str, Any]) -> float:
    """The largest validation NDCG@10 of a student's last training."""
    return float(max(course["validation_by_stage"][-1].values()))


@dataclass(frozen=True)
class ModelQuality(Quality):
    """Test metrics of any model, as in `Quality`: the same result where both can be asked."""

    of: Model  # type: ignore[assignment]


def _kept_layers(lab: Bench, full: ScratchModel, method: Method, share: float) -> tuple[int, ...]:
    """Kept layers of a method: all where it makes no cut.

    By `"search"`: the set with the best validation NDCG@10 of a small search over bare cuts.
    """
    if not method.cuts:
        return tuple(range(full.num_layers))
    if method.by != "search":
        return kept_layers(lab, full, method.by, share)
    model, validate = lab.get(full), validation_ndcg(lab.split(full.subject))
    depths = [len(layers) for layers in stacks_of(model).values()]
    keeps = [number_to_keep(depth, share) for depth in depths]

    def evaluate(kept: tuple[int, ...]) -> float:
        with bypassed(model, [layer for layer in range(sum(depths)) if layer not in kept]):
            return validate(model)

    starts = np.cumsum([0, *depths[:-1]])
    start = [
        int(first) + layer
        for first, depth, keep in zip(starts, depths, keeps, strict=True)
        for layer in select_first(depth, keep)
    ]
    return search(evaluate, depths, keeps, SEARCH_BUDGET, np.random.default_rng(full.seed), start).kept_layers


SEARCH_BUDGET = 20  # kept sets that are evaluated, as many as random cuts are drawn
