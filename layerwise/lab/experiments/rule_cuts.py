"""What bare cuts by different rules keep, side by side with random ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from layerwise.compression.compact import removed_layers
from layerwise.data.arrays import FloatArray
from layerwise.evaluation.ranking import mean_by_user, ranking_metrics
from layerwise.importance.removal import metric_without_sets
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.compact import RULES, kept_layers
from layerwise.lab.experiments.models import ScratchModel
from layerwise.lab.experiments.scores import LayerScores
from layerwise.lab.store import read_arrays, write_arrays


@dataclass(frozen=True)
class RuleCuts(Experiment[dict[tuple[float, str], FloatArray]]):
    """Test NDCG@10 of a full model with the layers bypassed that a rule would cut: (share kept, rule) -> *users*."""

    of: ScratchModel
    methods: tuple[str, ...]
    shares: tuple[float, ...]
    kind: ClassVar[str] = "rule-cuts"
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.compact", "layerwise.lab.experiments.rule_cuts")

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.of, *(LayerScores(self.of, method) for method in self.methods if method not in RULES))

    def effort(self) -> float:
        return 0.6 * len(self.methods) * len(self.shares)

    def describe(self) -> str:
        return f"cuts of {self.of.describe()} by {len(self.methods)} rules"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        model, split = lab.get(self.of), lab.split(self.subject)
        targets, histories = split.test, split.histories(split.test)

        def judge(scores: FloatArray, rows: slice) -> FloatArray:
            report(rows.stop / len(targets), f"{len(self.methods)} rules, {len(self.shares)} sizes")
            return ranking_metrics(scores, targets.items[rows], histories[rows], ks=(10,))["ndcg@10"]

        cuts = {
            f"{share:g}/{by}": removed_layers(kept_layers(lab, self.of, by, share), len(model.layers))
            for share in self.shares
            for by in self.methods
        }
        _, without = metric_without_sets(model, list(cuts.values()), histories, judge)
        by_user = {name: mean_by_user(values, targets.users) for name, values in zip(cuts, without, strict=True)}
        write_arrays(folder / "ndcg.safetensors", by_user)

    def load(self, folder: Path) -> dict[tuple[float, str], FloatArray]:
        arrays = read_arrays(folder / "ndcg.safetensors")
        return {(share, by): arrays[f"{share:g}/{by}"] for share in self.shares for by in self.methods}
