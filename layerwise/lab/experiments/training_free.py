"""What compact models keep without any training: every rule and share of kept layers, with and without bridges."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from layerwise.compression.bridge import bridged_model
from layerwise.compression.compact import compact_model
from layerwise.data.arrays import FloatArray
from layerwise.evaluation.quality import target_metrics
from layerwise.evaluation.ranking import mean_by_user
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.compact import CODE, RULES, kept_layers
from layerwise.lab.experiments.models import ScratchModel
from layerwise.lab.experiments.scores import LayerScores
from layerwise.lab.store import read_arrays, write_arrays


@dataclass(frozen=True)
class Cut:
    """One way to cut a model: the share of layers kept, the rule that chose them, and whether gaps are bridged."""

    share: float
    by: str
    bridged: bool

    @property
    def name(self) -> str:
        """Key in the stored arrays."""
        return f"{self.share:g}/{self.by}/{'bridged' if self.bridged else 'bare'}"


@dataclass(frozen=True)
class CutQuality:
    """NDCG@10 of one cut.

    Attributes:
        ndcg: *users*.
        kept: Kept layers, counted through all stacks.
        explained: Held-out R squared of each gap's bridge; empty for a bare cut.
    """

    ndcg: FloatArray
    kept: tuple[int, ...]
    explained: tuple[float, ...]


@dataclass(frozen=True)
class TrainingFree(Experiment[dict[str, CutQuality]]):
    """Test NDCG@10 per user of a full model after every cut, without training. Kept sets that agree are run once."""

    of: ScratchModel
    methods: tuple[str, ...]
    shares: tuple[float, ...] = (0.75, 0.5, 0.25)
    kind: ClassVar[str] = "training-free"
    code: ClassVar[tuple[str, ...]] = (*CODE, "layerwise.lab.experiments.training_free")

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.of, *(LayerScores(self.of, method) for method in self.methods if method not in RULES))

    def effort(self) -> float:
        return 3.0 * len(self.cuts())

    def describe(self) -> str:
        return f"cutting {self.of.describe()} without training"

    def cuts(self) -> list[Cut]:
        """Every cut, the mildest first."""
        return [Cut(share, by, bridged) for share in self.shares for by in self.methods for bridged in (False, True)]

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        full, split = lab.get(self.of), lab.split(self.subject)
        batches = full.labelled_batches(split.train_sequences())
        found: dict[tuple[tuple[int, ...], bool], tuple[FloatArray, list[float]]] = {}
        ndcg, notes = {}, {}
        for number, cut in enumerate(self.cuts()):
            report(number / len(self.cuts()), cut.name)
            kept = kept_layers(lab, self.of, cut.by, cut.share)
            if (kept, cut.bridged) not in found:
                explained: list[float] = []
                if cut.bridged:
                    bridged = bridged_model(full, kept, batches)
                    model, explained = bridged.model, [gap.explained for gap in bridged.gaps]
                else:
                    model = compact_model(full, kept)
                values = target_metrics(model, split, split.test, ks=(10,))["ndcg@10"]
                found[kept, cut.bridged] = mean_by_user(values, split.test.users), explained
            ndcg[cut.name], explained = found[kept, cut.bridged]
            notes[cut.name] = {"kept": kept, "explained": explained}
        write_arrays(folder / "ndcg.safetensors", ndcg)
        (folder / "cuts.json").write_text(json.dumps(notes))

    def load(self, folder: Path) -> dict[str, CutQuality]:
        ndcg, notes = read_arrays(folder / "ndcg.safetensors"), json.loads((folder / "cuts.json").read_text())
        return {
            name: CutQuality(ndcg[name], tuple(note["kept"]), tuple(note["explained"])) for name, note in notes.items()
        }
