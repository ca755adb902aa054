"""Experiments that give a recommender, and the one that trains it from scratch."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from layerwise.evaluation.quality import validation_ndcg
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.tiers import Subject
from layerwise.models.recommender import Recommender, build_recommender
from layerwise.models.training import Progress, Trained, train


class Model(Experiment[Recommender]):
    """An experiment whose result is a recommender, kept as a plain checkpoint with the course of its training."""

    def load(self, folder: Path) -> Recommender:
        """The recommender, in evaluation mode."""
        return Recommender.load(folder).eval()

    def course(self, folder: Path) -> dict[str, Any]:
        """What was noted while it was made, such as validation by epoch or the kept layers."""
        course: dict[str, Any] = json.loads((folder / "course.json").read_text())
        return course


def save_model(recommender: Recommender, folder: Path, **course: Any) -> None:
    """Writes the checkpoint and, beside it, what was noted while it was made."""
    recommender.save(folder)
    (folder / "course.json").write_text(json.dumps(course, indent=1))


def training_course(trained: Trained) -> dict[str, Any]:
    """What is noted of a training."""
    return {"best_epoch": trained.best_epoch, "validation_ndcg@10": trained.validation}


def training_report(report: Report) -> Callable[[Progress], None]:
    """Hands the progress of a training on as a report."""

    def told(progress: Progress) -> None:
        words = f"epoch {progress.epoch} of {progress.epochs}, validation NDCG@10 {progress.latest:.4f}"
        report(progress.epoch / progress.epochs, words)

    return told


@dataclass(frozen=True)
class ScratchModel(Model):
    """A recommender trained from scratch: full, or with fewer layers than its subject a shallow rival."""

    of: Subject
    seed: int
    num_layers: int
    kind: ClassVar[str] = "model"
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.models",)

    def effort(self) -> float:
        return float((self.num_layers + 1) * self.of.training.epochs)

    def describe(self) -> str:
        return f"{self.of.family} with {self.num_layers} layers, seed {self.seed}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        of, split = self.of, lab.split(self.of)
        shape = replace(of.shape, num_layers=self.num_layers)
        fresh = build_recommender(
            of.family, split.table.num_items, of.max_length, shape, self.seed, of.attention_dropout
        ).to(lab.device)
        validate, sequences = validation_ndcg(split), split.train_sequences()
        told = training_report(report)
        trained = train(fresh, sequences, validate, of.training, self.seed, on_progress=told)
        save_model(trained.recommender, folder, **training_course(trained))
