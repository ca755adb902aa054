"""What removing layers of a full model really costs."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from layerwise.data.arrays import FloatArray
from layerwise.evaluation.ranking import mean_by_user, ranking_metrics
from layerwise.importance.bands import outer_bands
from layerwise.importance.removal import metric_without_each_layer, metric_without_layers
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.models import ScratchModel
from layerwise.lab.store import read_arrays, write_arrays
from layerwise.models.layers import stacks_of


@dataclass(frozen=True)
class Damage:
    """NDCG@10 per user of a full model, of the model without each layer and without the outer bands.

    Attributes:
        full: *users*.
        without: *num_layers x users*, one layer bypassed.
        without_bottom, without_top: *users*, the outer bands bypassed, see `outer_bands`.
        band: Number of layers in a band.
    """

    full: FloatArray
    without: FloatArray
    without_bottom: FloatArray
    without_top: FloatArray
    band: int

    @property
    def by_layer(self) -> FloatArray:
        """What removing each layer costs, *num_layers x users*; positive is damage."""
        return self.full - self.without


@dataclass(frozen=True)
class RemovalDamage(Experiment[Damage]):
    """What removing layers of a full model does to the test NDCG@10 of each user."""

    of: ScratchModel
    band_share: float = 0.3
    kind: ClassVar[str] = "damage"
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.damage",)

    def effort(self) -> float:
        return 1.5 * self.of.num_layers**2 / 2

    def describe(self) -> str:
        return f"removing layers of {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        model, split = lab.get(self.of), lab.split(self.subject)
        targets = split.test
        histories = split.histories(targets)
        bottom, top = outer_bands([len(layers) for layers in stacks_of(model).values()], self.band_share)

        def judge(scores: FloatArray, rows: slice) -> FloatArray:
            report(rows.stop / len(targets), "one layer at a time")
            return ranking_metrics(scores, targets.items[rows], histories[rows], ks=(10,))["ndcg@10"]

        full, without = metric_without_each_layer(model, histories, judge)
        without_bottom = metric_without_layers(model, bottom, histories, judge)
        without_top = metric_without_layers(model, top, histories, judge)
        by_user = {
            "full": mean_by_user(full, targets.users),
            "without": np.stack([mean_by_user(values, targets.users) for values in without]),
            "without_bottom": mean_by_user(without_bottom, targets.users),
            "without_top": mean_by_user(without_top, targets.users),
            "band": np.array(len(bottom)),
        }
        write_arrays(folder / "damage.safetensors", by_user)

    def load(self, folder: Path) -> Damage:
        arrays = read_arrays(folder / "damage.safetensors")
        band = int(arrays.pop("band"))
        return Damage(**arrays, band=band)
