"""Importance of the layers of a full model."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from layerwise.data.arrays import FloatArray
from layerwise.importance.scores import layer_scores
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.models import ScratchModel
from layerwise.lab.store import read_arrays, write_arrays


@dataclass(frozen=True)
class LayerScores(Experiment[FloatArray]):
    """One importance per layer of a full model, *num_layers*, from its training sequences."""

    of: ScratchModel
    method: str
    kind: ClassVar[str] = "layer-scores"
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.scores",)

    def effort(self) -> float:
        return 2.0 * self.of.num_layers

    def describe(self) -> str:
        return f"{self.method} of {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        model = lab.get(self.of)
        batches = model.labelled_batches(lab.split(self.subject).train_sequences())
        write_arrays(folder / "scores.safetensors", {"scores": layer_scores(model, batches, self.method)})

    def load(self, folder: Path) -> FloatArray:
        return read_arrays(folder / "scores.safetensors")["scores"]
