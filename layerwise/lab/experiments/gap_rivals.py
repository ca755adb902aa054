"""Ways to close the gaps of one cut, side by side: none, square map, refit, readout refit, trained adapters."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from layerwise.compression.adapter import adapted_model
from layerwise.compression.bridge import bridged_model
from layerwise.compression.compact import compact_model
from layerwise.compression.distill import heal
from layerwise.compression.readout import refit_readout
from layerwise.data.arrays import FloatArray
from layerwise.evaluation.quality import target_metrics
from layerwise.evaluation.ranking import mean_by_user
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.compact import RULES, kept_layers
from layerwise.lab.experiments.models import ScratchModel, training_report
from layerwise.lab.experiments.scores import LayerScores
from layerwise.lab.store import read_arrays, write_arrays
from layerwise.models.recommender import Recommender


@dataclass(frozen=True)
class GapRivals(Experiment[dict[str, FloatArray]]):
    """Test NDCG@10 per user of one cut, *users*, by the way its gaps are closed; adapters get the healing budget."""

    of: ScratchModel
    by: str
    share: float
    kind: ClassVar[str] = "gap-rivals"
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.compact", "layerwise.lab.experiments.gap_rivals")

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.of,) if self.by in RULES else (self.of, LayerScores(self.of, self.by))

    def effort(self) -> float:
        return 30.0 + (1 + self.of.num_layers / 2) * self.subject.healing.epochs

    def describe(self) -> str:
        return f"closing the gaps of {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        full, split, of = lab.get(self.of), lab.split(self.subject), self.subject
        kept = kept_layers(lab, self.of, self.by, self.share)
        batches = full.labelled_batches(split.train_sequences())

        def trained_adapters() -> Recommender:
            fresh, told = adapted_model(full, kept, seed=self.of.seed), training_report(report)
            return heal(fresh, full, split, of.healing, self.of.seed, of.distillation, told).recommender

        ways: dict[str, Callable[[], Recommender]] = {
            "bare cut": lambda: compact_model(full, kept),
            "bridge, square map (ReplaceMe)": lambda: bridged_model(full, kept, batches, "branch").model,
            "bridge": lambda: bridged_model(full, kept, batches).model,
            "readout refit": lambda: refit_readout(compact_model(full, kept), full, batches).model,
            "bridge and readout refit": lambda: (
                refit_readout(bridged_model(full, kept, batches).model, full, batches).model
            ),
            "trained gap adapters": trained_adapters,
        }
        ndcg = {}
        for number, (way, make) in enumerate(ways.items()):
            report(number / len(ways), way)
            values = target_metrics(make(), split, split.test, ks=(10,))["ndcg@10"]
            ndcg[way] = mean_by_user(values, split.test.users)
        write_arrays(folder / "ndcg.safetensors", ndcg)

    def load(self, folder: Path) -> dict[str, FloatArray]:
        return read_arrays(folder / "ndcg.safetensors")
