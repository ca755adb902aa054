"""Test NDCG@10 of every single target, and of users whose histories are noisy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.data.noise import with_noisy_events
from layerwise.data.splits import Targets
from layerwise.evaluation.quality import ROWS_AT_ONCE, Scorer
from layerwise.evaluation.ranking import mean_by_user, ranking_metrics
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.models import Model
from layerwise.lab.store import read_arrays, write_arrays

CODE = ("layerwise.lab.experiments.robustness",)


@dataclass(frozen=True)
class TargetQuality(Experiment[FloatArray]):
    """Test NDCG@10 of a model, one value per target, in the order of the split's targets."""

    of: Model
    kind: ClassVar[str] = "target-quality"
    code: ClassVar[tuple[str, ...]] = CODE

    def describe(self) -> str:
        return f"ranking target by target with {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        split = lab.split(self.subject)
        histories = split.histories(split.test)
        values = _ndcg(lab.get(self.of), split.test, histories, histories)
        write_arrays(folder / "ndcg.safetensors", {"ndcg": values})

    def load(self, folder: Path) -> FloatArray:
        return read_arrays(folder / "ndcg.safetensors")["ndcg"]


@dataclass(frozen=True)
class NoisyQuality(Experiment[FloatArray]):
    """Test NDCG@10 of a model that reads noisy histories, the mean over each user's last events, *users*.

    What is masked are the true histories: candidates are those of the clean ranking, so that a loss is the model's.

    Attributes:
        share: Chance of each event of a history to be replaced; see `with_noisy_events`.
        draw: Seed of the noise; models with the same one read the same histories.
    """

    of: Model
    share: float
    draw: int
    kind: ClassVar[str] = "noisy-quality"
    code: ClassVar[tuple[str, ...]] = CODE

    def describe(self) -> str:
        return f"ranking from {self.share:.0%} noise with {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        split = lab.split(self.subject)
        read = with_noisy_events(split, self.share, self.draw).histories(split.test)
        values = _ndcg(lab.get(self.of), split.test, read, split.histories(split.test))
        write_arrays(folder / "ndcg.safetensors", {"ndcg": mean_by_user(values, split.test.users)})

    def load(self, folder: Path) -> FloatArray:
        return read_arrays(folder / "ndcg.safetensors")["ndcg"]


def _ndcg(scorer: Scorer, targets: Targets, read: Sequence[IntArray], seen: Sequence[IntArray]) -> FloatArray:
    """NDCG@10 of every target, from the histories that are read, with what was really seen masked."""
    parts = []
    for start in range(0, len(targets), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        scores = scorer.scores(read[rows])
        parts.append(ranking_metrics(scores, targets.items[rows], seen[rows], ks=(10,))["ndcg@10"])
    return np.concatenate(parts)
