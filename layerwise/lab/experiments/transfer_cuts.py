"""What bare cuts keep where the layers were chosen on other data, at home, or by a rule that looks at nothing."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from layerwise.compression.compact import compact_model
from layerwise.data.arrays import FloatArray
from layerwise.evaluation.quality import target_metrics
from layerwise.evaluation.ranking import mean_by_user
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.compact import CODE, kept_layers
from layerwise.lab.experiments.models import ScratchModel
from layerwise.lab.experiments.scores import LayerScores
from layerwise.lab.store import read_arrays, write_arrays

AGAIN = "home, another seed"


@dataclass(frozen=True)
class TransferCut:
    """A full model cut by somebody's choice, without training.

    Attributes:
        ndcg: Test NDCG@10, *users*.
        kept: Kept layers.
    """

    ndcg: FloatArray
    kept: tuple[int, ...]


@dataclass(frozen=True)
class TransferCuts(Experiment[dict[tuple[float, str], TransferCut]]):
    """Bare cuts of one full model by who chose the layers: (share kept, dataset, `AGAIN` or rule) -> cut.

    The model's own dataset is one of those that choose, and so is another training on it (`AGAIN`): no dataset can be
    expected to choose more alike than that. Kept sets that agree are ranked once. The data of the others
    do not decide this result's place in the store: `layerwise.lab.transfer_checks.choice_check` looks whether the
    stored choices are still theirs.

    Attributes:
        of: The model that is cut.
        sources: Models of the same architecture and seed on other datasets, whose scores choose, too.
        again: Model on the same dataset with another seed.
        by: Importance that scores the layers.
        rules: Rules that choose, too; see `RULES`.
        shares: Shares of the layers to keep.
    """

    of: ScratchModel
    sources: tuple[ScratchModel, ...]
    again: ScratchModel
    by: str
    rules: tuple[str, ...]
    shares: tuple[float, ...]
    kind: ClassVar[str] = "transfer-cuts"
    code: ClassVar[tuple[str, ...]] = (*CODE, "layerwise.lab.experiments.transfer_cuts")

    def needs(self) -> tuple[Experiment[Any], ...]:
        models = (self.of, *self.sources, self.again)
        return (*models, *(LayerScores(model, self.by) for model in models))

    def effort(self) -> float:
        return 1.5 * len(self.shares) * len(self.choosers())

    def describe(self) -> str:
        return f"cuts of {self.of.describe()} by {len(self.sources)} other datasets"

    def choosers(self) -> dict[str, tuple[ScratchModel, str]]:
        """Dataset, `AGAIN` or rule -> the model and the importance or rule by which it chooses; home comes first."""
        models = {model.of.dataset: (model, self.by) for model in (self.of, *self.sources)}
        return models | {AGAIN: (self.again, self.by)} | {rule: (self.of, rule) for rule in self.rules}

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        model, split = lab.get(self.of), lab.split(self.subject)
        ranked: dict[tuple[int, ...], FloatArray] = {}
        ndcg, kept = {}, {}
        cuts = [(share, chooser) for share in self.shares for chooser in self.choosers().items()]
        for number, (share, (name, (chooser, by))) in enumerate(cuts):
            report(number / len(cuts), f"{share:.0%} of the layers, chosen by {name}")
            layers = kept_layers(lab, chooser, by, share)
            if layers not in ranked:
                values = target_metrics(compact_model(model, layers), split, split.test, ks=(10,))["ndcg@10"]
                ranked[layers] = mean_by_user(values, split.test.users)
            ndcg[f"{share:g}/{name}"], kept[f"{share:g}/{name}"] = ranked[layers], layers
        write_arrays(folder / "ndcg.safetensors", ndcg)
        (folder / "kept.json").write_text(json.dumps(kept))

    def load(self, folder: Path) -> dict[tuple[float, str], TransferCut]:
        ndcg, kept = read_arrays(folder / "ndcg.safetensors"), json.loads((folder / "kept.json").read_text())
        return {
            (share, name): TransferCut(ndcg[f"{share:g}/{name}"], tuple(kept[f"{share:g}/{name}"]))
            for share in self.shares
            for name in self.choosers()
        }
