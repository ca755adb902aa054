"""Controls: cuts whose outcome is known beforehand, measured as every other cut is.

If one of them comes out wrong, the instruments of the run are broken, and none of its verdicts counts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from layerwise.compression.compact import compact_model
from layerwise.compression.selection import number_to_keep, select_layers
from layerwise.data.arrays import FloatArray
from layerwise.data.interactions import Interactions
from layerwise.data.splits import Split, Targets, leave_one_out
from layerwise.evaluation.quality import target_metrics
from layerwise.importance.scores import layer_scores
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.models import ScratchModel
from layerwise.lab.store import read_arrays, write_arrays
from layerwise.lab.tiers import Subject
from layerwise.models.planted import follow, pointer_chain, with_identity_layers
from layerwise.models.recommender import Recommender

NUM_ITEMS, NUM_USERS = 64, 256  # of the pointer chain


@dataclass(frozen=True)
class Control(Experiment[dict[str, FloatArray]]):
    """NDCG@10, *users*, of a full model made by construction ("full") and of its cut ("compact").

    Attributes:
        seed: Another one plants another model.
        kept: Share of the layers that the cut keeps.
    """

    of: Subject
    seed: int
    kept: float
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.controls",)
    selected_by: ClassVar[str]

    def planted(self, lab: Bench) -> tuple[Recommender, Split, Targets]:
        """The full model, its data, and the targets on which it is judged."""
        raise NotImplementedError

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        full, split, targets = self.planted(lab)
        scores = layer_scores(full, full.labelled_batches(split.train_sequences()), self.selected_by)
        compact = compact_model(full, select_layers(scores, number_to_keep(len(scores), self.kept)))
        arms = {"full": full, "compact": compact}
        values = {arm: target_metrics(model, split, targets)["ndcg@10"] for arm, model in arms.items()}
        write_arrays(folder / "control.safetensors", values)

    def load(self, folder: Path) -> dict[str, FloatArray]:
        return read_arrays(folder / "control.safetensors")


@dataclass(frozen=True)
class PointerChain(Control):
    """The positive control: every layer is needed by construction, so that a cut must destroy the ranking."""

    kind: ClassVar[str] = "pointer-chain"
    selected_by: ClassVar[str] = "empirical-fisher"

    def describe(self) -> str:
        return f"positive control, seed {self.seed}"

    def planted(self, lab: Bench) -> tuple[Recommender, Split, Targets]:
        rng = np.random.default_rng(self.seed)
        pointers = [rng.permutation(NUM_ITEMS) for _ in range(self.of.shape.num_layers)]
        split = _chains(pointers, rng)
        return pointer_chain(pointers), split, split.test


@dataclass(frozen=True)
class IdentityLayers(Control):
    """The negative control: the layers that are cut write nothing, so that the cut must be exactly free."""

    kind: ClassVar[str] = "identity-layers"
    selected_by: ClassVar[str] = "block-influence"  # which is zero for them, as Fisher information is not

    @property
    def shallow(self) -> ScratchModel:
        """The trained model whose layers do all the work."""
        return ScratchModel(self.of, self.seed, number_to_keep(self.of.shape.num_layers, self.kept))

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.shallow,)

    def describe(self) -> str:
        return f"negative control, seed {self.seed}"

    def planted(self, lab: Bench) -> tuple[Recommender, Split, Targets]:
        shallow, depth = lab.get(self.shallow), self.of.shape.num_layers
        rng = np.random.default_rng(self.seed)
        working = sorted(int(place) for place in rng.choice(depth, len(shallow.layers), replace=False))
        split = lab.split(self.of)
        return with_identity_layers(shallow, depth, working, self.seed), split, split.validation


def _chains(pointers: list[np.ndarray[Any, Any]], rng: np.random.Generator) -> Split:
    """Users whose last event is the end of the chain of pointers that starts at the event before it."""
    histories = rng.permuted(np.tile(np.arange(NUM_ITEMS), (NUM_USERS, 1)), axis=1)[:, :4]
    targets = follow(pointers, histories[:, -1])
    usable = ~(histories == targets[:, None]).any(axis=1)  # what was seen is masked and can be no target
    events = np.column_stack([histories, targets])[usable]
    users, steps = np.divmod(np.arange(events.size), events.shape[1])
    items = [f"{item:02}" for item in events.ravel()]
    return leave_one_out(Interactions.from_columns("pointer chains", users, items, steps))
