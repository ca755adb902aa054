"""Models trained from scratch with a learning rate of their own, found on the first seed's validation."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.models import Model, ScratchModel, save_model
from layerwise.lab.tiers import Subject

RATES = (0.5, 1.0, 2.0)  # grid of learning rates, in units of the subject's own


@dataclass(frozen=True)
class TunedModel(Model):
    """The model from scratch whose learning rate has the best validation NDCG@10 on the tuning seed.

    Among equals the lowest rate is taken. The training at the chosen rate is a `ScratchModel` of its own, so that one
    that is stored already is not repeated.

    Attributes:
        of: Everything but the rate.
        seed: Of the training.
        num_layers: Of the model.
        tuned_on: Seed on which all rates of the grid are tried.
    """

    of: Subject
    seed: int
    num_layers: int
    tuned_on: int
    kind: ClassVar[str] = "tuned-model"
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.models", "layerwise.lab.experiments.tuned")

    def needs(self) -> tuple[Experiment[Any], ...]:
        return tuple(self.grid().values())

    def at(self, rate: float, seed: int | None = None) -> ScratchModel:
        """The training at a rate, in units of the subject's own."""
        recipe = replace(self.of.training, learning_rate=self.of.training.learning_rate * rate)
        seed = self.seed if seed is None else seed
        return ScratchModel(replace(self.of, training=recipe), seed, self.num_layers)

    def grid(self) -> dict[float, ScratchModel]:
        """The trainings of the tuning seed, by their rate in units of the subject's own, which increases."""
        return {rate: self.at(rate, self.tuned_on) for rate in RATES}

    def effort(self) -> float:
        return 1.0 if self.seed == self.tuned_on else self.at(1.0).effort()

    def describe(self) -> str:
        return f"tuned {self.at(1.0).describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        found = {rate: max(lab.course(model)["validation_ndcg@10"].values()) for rate, model in self.grid().items()}
        rate = max(found, key=found.__getitem__)
        own = self.at(rate)
        recommender = lab.get(own)
        save_model(recommender, folder, **lab.course(own), rate=rate, validation_by_rate=found)
