"""What random cuts keep: the expectation that a rule for choosing layers must beat."""

from dataclasses import dataclass
from math import comb, prod
from pathlib import Path
from typing import ClassVar

import numpy as np

from layerwise.compression.compact import removed_layers
from layerwise.compression.selection import number_to_keep, select_random, select_within
from layerwise.data.arrays import FloatArray
from layerwise.evaluation.ranking import mean_by_user, ranking_metrics
from layerwise.importance.removal import metric_without_sets
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.models import ScratchModel
from layerwise.lab.store import read_arrays, write_arrays
from layerwise.models.layers import stacks_of


@dataclass(frozen=True)
class RandomCut:
    """Test NDCG@10 after random cuts to one share of the layers, without training.

    Attributes:
        by_user: Mean over the cuts, *users*.
        by_cut: Mean over the users, *cuts*.
    """

    by_user: FloatArray
    by_cut: FloatArray


@dataclass(frozen=True)
class RandomCuts(Experiment[dict[float, RandomCut]]):
    """Random cuts of a full model, different ones, by the share of layers kept; all there are where they are few."""

    of: ScratchModel
    shares: tuple[float, ...]
    draws: int = 20
    kind: ClassVar[str] = "random-cuts"
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.random_cuts",)

    def effort(self) -> float:
        return 0.6 * self.draws * len(self.shares)

    def describe(self) -> str:
        return f"{self.draws} random cuts of {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        model, split = lab.get(self.of), lab.split(self.subject)
        depths = [len(layers) for layers in stacks_of(model).values()]
        targets, histories = split.test, split.histories(split.test)

        def judge(scores: FloatArray, rows: slice) -> FloatArray:
            report(rows.stop / len(targets), f"{self.draws} cuts to each of {len(self.shares)} sizes")
            return ranking_metrics(scores, targets.items[rows], histories[rows], ks=(10,))["ndcg@10"]

        rng = np.random.default_rng(self.of.seed)
        sets = {share: _draw(depths, share, self.draws, rng) for share in self.shares}
        removed = [removed_layers(kept, sum(depths)) for kept_sets in sets.values() for kept in kept_sets]
        _, without = metric_without_sets(model, removed, histories, judge)
        found, start = {}, 0
        for share, kept_sets in sets.items():
            values = without[start : start + len(kept_sets)]
            found[f"{share:g}/by_user"] = mean_by_user(values.mean(axis=0), targets.users)
            found[f"{share:g}/by_cut"] = values.mean(axis=1)
            start += len(kept_sets)
        write_arrays(folder / "ndcg.safetensors", found)

    def load(self, folder: Path) -> dict[float, RandomCut]:
        arrays = read_arrays(folder / "ndcg.safetensors")
        return {share: RandomCut(arrays[f"{share:g}/by_user"], arrays[f"{share:g}/by_cut"]) for share in self.shares}


def _draw(depths: list[int], share: float, draws: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Different random sets of kept layers, as many as asked for or as there are."""
    possible = prod(comb(depth, number_to_keep(depth, share)) for depth in depths)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < min(draws, possible):
        kept = select_within(depths, share, lambda place, keep: select_random(place.stop - place.start, keep, rng))
        found.setdefault(kept)
    return list(found)
