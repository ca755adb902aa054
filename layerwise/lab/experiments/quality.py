"""Test metrics of models and of training-free recommenders."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from layerwise.data.arrays import FloatArray
from layerwise.data.splits import Split
from layerwise.evaluation import classic
from layerwise.evaluation.quality import Scorer, target_metrics
from layerwise.evaluation.ranking import mean_by_user
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.compact import CompactModel, HealedModel
from layerwise.lab.experiments.models import ScratchModel
from layerwise.lab.store import read_arrays, write_arrays
from layerwise.lab.tiers import Subject

CODE = ("layerwise.lab.experiments.quality",)


@dataclass(frozen=True)
class Quality(Experiment[dict[str, FloatArray]]):
    """Test metrics of a model, one value per user.

    Names are as in `ranking_metrics` for the mean over a user's last events, and with the prefix `last/` for the
    last event alone.
    """

    of: ScratchModel | CompactModel | HealedModel
    kind: ClassVar[str] = "quality"
    code: ClassVar[tuple[str, ...]] = CODE

    def describe(self) -> str:
        return f"ranking with {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        write_arrays(folder / "quality.safetensors", _quality(lab.get(self.of), lab.split(self.subject)))

    def load(self, folder: Path) -> dict[str, FloatArray]:
        return read_arrays(folder / "quality.safetensors")


@dataclass(frozen=True)
class FloorQuality(Experiment[dict[str, FloatArray]]):
    """Test metrics of a training-free recommender, named as in `Quality`."""

    of: Subject
    name: str
    kind: ClassVar[str] = "floor"
    code: ClassVar[tuple[str, ...]] = CODE

    def describe(self) -> str:
        return f"ranking with {self.name}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        split = lab.split(self.of)
        scorer = FLOOR[self.name]().fit(split.train_sequences(), split.table.num_items)
        write_arrays(folder / "quality.safetensors", _quality(scorer, split))

    def load(self, folder: Path) -> dict[str, FloatArray]:
        return read_arrays(folder / "quality.safetensors")


FLOOR: dict[str, Callable[[], classic.Classic]] = {
    "Popularity": classic.Popularity,
    "Markov": classic.Markov,
    "ItemKNN": classic.ItemKNN,
    "EASE": classic.Ease,
}


def _quality(scorer: Scorer, split: Split) -> dict[str, FloatArray]:
    users = split.test.users
    last = np.append(np.diff(users) > 0, True)  # targets are in order of users and time
    values = target_metrics(scorer, split, split.test)
    by_user = {name: mean_by_user(value, users) for name, value in values.items()}
    return by_user | {f"last/{name}": value[last] for name, value in values.items()}
