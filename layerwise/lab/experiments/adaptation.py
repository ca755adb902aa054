"""Whether the top layers or the bottom ones adapt better to a new task."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import nn

from layerwise.data.arrays import FloatArray
from layerwise.data.categories import item_categories
from layerwise.evaluation.ranking import mean_by_user
from layerwise.evaluation.tasks import labelled, next_event_tasks, training_targets
from layerwise.importance.adaptation import Tuning, tune_layers
from layerwise.importance.bands import outer_bands
from layerwise.importance.heads import answers, log_likelihood
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.models import ScratchModel
from layerwise.lab.experiments.tasks import fitted_head
from layerwise.lab.store import read_arrays, write_arrays
from layerwise.models.layers import stacks_of
from layerwise.models.recommender import Recommender

TUNING = Tuning()
TUNED_ON = 5  # last training events of each user


@dataclass(frozen=True)
class BandAdaptation(Experiment[dict[str, FloatArray]]):
    """Log-likelihood of the next genre after tuning one band of layers and a head: arm -> *users*, in nats.

    The arms are `bottom` and `top`, the outer bands of every stack, and `head`, the linear head that both start
    from, on the backbone as it is. Empty where the data have no categories.
    """

    of: ScratchModel
    band_share: float = 0.3
    tuning: Tuning = TUNING
    task: str = "genre"
    kind: ClassVar[str] = "adaptation"
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.adaptation",)

    def effort(self) -> float:
        return 12.0

    def describe(self) -> str:
        return f"tuning bands of {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        model, split = lab.get(self.of), lab.split(self.subject)
        tasks = next_event_tasks(split, item_categories(self.subject.dataset, split.table.item_ids))
        if self.task not in tasks:
            write_arrays(folder / "likelihood.safetensors", {"missing": np.empty(0)})
            return
        task = tasks[self.task]
        train, test = labelled(task, training_targets(split, TUNED_ON)), labelled(task, split.test)
        head = fitted_head(model, split, task)

        def likelihood(tuned: Recommender, its_head: nn.Linear) -> FloatArray:
            logits = answers(tuned, its_head, task.histories(split, test))
            return mean_by_user(log_likelihood(logits, task.labels[test.positions]), test.users)

        found = {"head": likelihood(model, head)}
        bottom, top = outer_bands([len(layers) for layers in stacks_of(model).values()], self.band_share)
        for number, (name, band) in enumerate({"bottom": bottom, "top": top}.items()):
            report(0.1 + 0.45 * number, f"the {name} band")
            histories, labels = task.histories(split, train), task.labels[train.positions]
            tuned = tune_layers(model, band, head, histories, labels, self.tuning, self.of.seed)
            found[name] = likelihood(*tuned)
        write_arrays(folder / "likelihood.safetensors", found)

    def load(self, folder: Path) -> dict[str, FloatArray]:
        arrays = read_arrays(folder / "likelihood.safetensors")
        return {name: values for name, values in arrays.items() if name != "missing"}
