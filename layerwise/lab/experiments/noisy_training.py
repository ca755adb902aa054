"""The same models from a log with noise in it: a share of the events that train, score and heal them is wrong.

Whoever has a noisy log knows no other: the noise is in the training sequences and in what validation reads, for the
full model, for the importance of its layers and for the student alike. Tests read the true events.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from layerwise.data.noise import with_noisy_training
from layerwise.data.splits import Split
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.models import ScratchModel
from layerwise.lab.experiments.scores import LayerScores
from layerwise.lab.experiments.students import Student
from layerwise.lab.tiers import Subject

CODE = ("layerwise.lab.experiments.noisy_training",)


@dataclass(frozen=True)
class NoisyModel(ScratchModel):
    """A recommender trained from scratch on noisy events; its seed draws the noise, too.

    Attributes:
        noise: Chance of each training event to be replaced; see `with_noisy_training`.
    """

    noise: float = 0.1
    kind: ClassVar[str] = "noisy-model"
    code: ClassVar[tuple[str, ...]] = (*CODE, *ScratchModel.code)

    def describe(self) -> str:
        return f"{super().describe()}, {self.noise:.0%} of its training noise"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        super().make(NoisyBench(lab, self), folder, report)


@dataclass(frozen=True)
class NoisyScores(LayerScores):
    """Importance of the layers of a model, from the noisy events that it was trained on."""

    of: NoisyModel
    kind: ClassVar[str] = "noisy-layer-scores"
    code: ClassVar[tuple[str, ...]] = (*CODE, *LayerScores.code)

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        super().make(NoisyBench(lab, self.of), folder, report)


@dataclass(frozen=True)
class NoisyStudent(Student):
    """A student of such a model, chosen and taught with the same noisy events."""

    of: NoisyModel
    kind: ClassVar[str] = "noisy-student"
    code: ClassVar[tuple[str, ...]] = (*CODE, *Student.code)

    def needs(self) -> tuple[Experiment[Any], ...]:
        return tuple(_noisy(needed) for needed in super().needs())

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        super().make(NoisyBench(lab, self.of), folder, report)


class NoisyBench:
    """A lab that knows only the noisy log of a model: its split, and importances from it."""

    def __init__(self, lab: Bench, of: NoisyModel) -> None:
        self._lab, self._of = lab, of
        self.device: torch.device = lab.device

    def split(self, subject: Subject) -> Split:
        """The subject's data with noise in what trains."""
        return with_noisy_training(self._lab.split(subject), self._of.noise, self._of.seed)

    def get(self, experiment: Experiment[Any]) -> Any:
        """The result of an experiment, on the noisy log."""
        return self._lab.get(_noisy(experiment))

    def course(self, model: Any) -> dict[str, Any]:
        """What was noted while a model was made."""
        return self._lab.course(model)


def _noisy(experiment: Experiment[Any]) -> Experiment[Any]:
    """Importances as they come from the noisy log; everything else as it is."""
    if isinstance(experiment, LayerScores) and isinstance(experiment.of, NoisyModel):
        return NoisyScores(experiment.of, experiment.method)
    return experiment
