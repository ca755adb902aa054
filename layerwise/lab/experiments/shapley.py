"""Shapley values of the layers, on a sample of the validation targets."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from layerwise.data.arrays import FloatArray
from layerwise.evaluation.ranking import ranking_metrics
from layerwise.importance.shapley import layer_shapley
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.models import ScratchModel
from layerwise.lab.store import read_arrays, write_arrays


@dataclass(frozen=True)
class LayerShapley(Experiment[FloatArray]):
    """Share of the full model's NDCG@10 that each layer is due, *num_layers*; the values sum to full minus empty."""

    of: ScratchModel
    permutations: int = 8
    targets: int = 128
    kind: ClassVar[str] = "shapley"
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.shapley",)

    def effort(self) -> float:
        return 8.0

    def describe(self) -> str:
        return f"Shapley values of {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        model, split = lab.get(self.of), lab.split(self.subject)
        rng = np.random.default_rng(self.of.seed)
        size = min(self.targets, len(split.validation))
        chosen = np.sort(rng.choice(len(split.validation), size, replace=False))
        items, every = split.validation.items[chosen], split.histories(split.validation)
        histories = [every[row] for row in chosen]

        def judge(scores: FloatArray, rows: slice) -> FloatArray:
            report(rows.stop / size, f"{self.permutations} permutations")
            return ranking_metrics(scores, items[rows], histories[rows], ks=(10,))["ndcg@10"]

        values = layer_shapley(model, histories, judge, self.permutations, rng)
        write_arrays(folder / "shapley.safetensors", {"values": values.mean(axis=1)})

    def load(self, folder: Path) -> FloatArray:
        return read_arrays(folder / "shapley.safetensors")["values"]
