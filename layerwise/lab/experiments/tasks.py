"""Five questions to one backbone: for each, the Fisher information of the layers and what removing them costs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.data.categories import UNKNOWN, item_categories
from layerwise.data.splits import Split, Targets
from layerwise.evaluation.ranking import mean_by_user
from layerwise.evaluation.tasks import Task, labelled, newest_targets, next_event_tasks, training_targets
from layerwise.importance.fisher import fisher_information
from layerwise.importance.heads import answers, asked_state, log_likelihood
from layerwise.importance.probes import logistic_head
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.models import ScratchModel
from layerwise.lab.store import read_arrays, write_arrays
from layerwise.models.layers import resumed, traced
from layerwise.models.modes import evaluating
from layerwise.models.recommender import Recommender

TRAINED_ON = 5  # last training events of each user that a head learns from
JUDGED_BY = 2  # last test events of each user: a likelihood says more about a layer than a rank does
ROWS = 128


@dataclass(frozen=True)
class TaskImportance:
    """One task on one backbone.

    Attributes:
        fisher: Empirical Fisher information of each layer from the task's loss, *num_layers*.
        damage: Log-likelihood of the label lost without each layer, in nats, *num_layers x users*.
        knowledge: Log-likelihood above that of the class frequencies, in nats, *users*.
    """

    fisher: FloatArray
    damage: FloatArray
    knowledge: FloatArray


@dataclass(frozen=True)
class TaskImportances(Experiment[dict[str, TaskImportance]]):
    """Importance of the layers by task, the tasks that the data allow.

    The backbone stays as it is; a task other than the next item gets a linear head, fitted to the final states of
    training events. Users without a label among their test events are left out of a task.
    """

    of: ScratchModel
    kind: ClassVar[str] = "tasks"
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.tasks",)

    def effort(self) -> float:
        return 15.0

    def describe(self) -> str:
        return f"five tasks on {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        model, split = lab.get(self.of), lab.split(self.subject)
        tasks = next_event_tasks(split, item_categories(self.subject.dataset, split.table.item_ids))
        judged = newest_targets(split.test, JUDGED_BY)
        found: dict[str, FloatArray] = {}
        for shows_item in (False, True):  # tasks that read the same histories share the passes over them
            group = {name: task for name, task in tasks.items() if task.shows_item == shows_item}
            if not group:
                continue
            report(0.5 * shows_item, "heads")
            heads = {name: _head(model, split, task) for name, task in group.items()}
            report(0.5 * shows_item + 0.1, "removing layers")
            likelihoods = _likelihoods(model, heads, split, group, judged)
            for name, task in group.items():
                known = task.labels[judged.positions] != UNKNOWN
                full, without = likelihoods[name][0, known], likelihoods[name][1:, known]
                users, labels = judged.users[known], task.labels[judged.positions][known]
                prior = class_log_frequencies(split, task)[labels]
                examples = labelled(task, training_targets(split, 1))
                batches, predict = _batches(model, split, task, examples), _predict(model, heads[name])
                found[f"{name}/fisher"] = fisher_information(model, batches, "data", predict=predict)
                found[f"{name}/damage"] = np.stack([mean_by_user(full - values, users) for values in without])
                found[f"{name}/knowledge"] = mean_by_user(full - prior, users)
        write_arrays(folder / "tasks.safetensors", found)

    def load(self, folder: Path) -> dict[str, TaskImportance]:
        arrays = read_arrays(folder / "tasks.safetensors")
        names = dict.fromkeys(name.partition("/")[0] for name in arrays)
        fields = ("fisher", "damage", "knowledge")
        return {name: TaskImportance(**{field: arrays[f"{name}/{field}"] for field in fields}) for name in names}


def fitted_head(model: Recommender, split: Split, task: Task) -> nn.Linear:
    """A linear head for a task, fitted to the final states of training events; the item head for the next item."""
    targets = labelled(task, training_targets(split, TRAINED_ON))
    states = answers(model, nn.Identity(), task.histories(split, targets))
    fitted = logistic_head(states, task.labels[targets.positions], len(task.classes))
    head = nn.Linear(states.shape[1], len(task.classes))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(fitted.weight))
        head.bias.copy_(torch.from_numpy(fitted.bias))
    return head.to(model.model.device)


def class_log_frequencies(split: Split, task: Task) -> FloatArray:
    """Logarithm of each class's share of the training events, *classes*; one event is added to each."""
    targets = labelled(task, training_targets(split, TRAINED_ON))
    counts = np.bincount(task.labels[targets.positions], minlength=len(task.classes)) + 1.0
    return np.asarray(np.log(counts / counts.sum()))


def _head(model: Recommender, split: Split, task: Task) -> nn.Module:
    return _ItemHead(model) if task.name == "next-item" else fitted_head(model, split, task)


class _ItemHead(nn.Module):
    """The recommender's own head."""

    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.scores = model.item_scores

    def forward(self, states: Tensor) -> Tensor:
        return self.scores(states)


def _likelihoods(
    model: Recommender, heads: Mapping[str, nn.Module], split: Split, tasks: Mapping[str, Task], targets: Targets
) -> dict[str, FloatArray]:
    """Log-likelihood of each task's labels with all layers and without each, *1 + num_layers x targets*.

    The tasks read the same histories; a target without a label gets `nan`.
    """
    histories = next(iter(tasks.values())).histories(split, targets)
    found = {name: np.full((1 + len(model.layers), len(targets)), np.nan) for name in tasks}
    order = np.argsort([min(len(history), model.max_length) for history in histories], kind="stable")

    def judge(place: int, rows: IntArray) -> None:
        states = asked_state(model, [histories[row] for row in rows])
        for name, task in tasks.items():
            labels = task.labels[targets.positions[rows]]
            known = labels != UNKNOWN
            logits = heads[name](states[torch.from_numpy(known)]).float().cpu().numpy()
            found[name][place, rows[known]] = log_likelihood(logits, labels[known])

    with evaluating(model), torch.inference_mode():
        for start in range(0, len(order), ROWS):
            rows = order[start : start + ROWS]
            with traced(model) as trace:
                judge(0, rows)
            for index in range(len(model.layers)):
                with resumed(model, index, trace):
                    judge(1 + index, rows)
    return found


def _batches(model: Recommender, split: Split, task: Task, targets: Targets) -> Iterator[dict[str, Tensor]]:
    histories, labels = task.histories(split, targets), task.labels[targets.positions]
    for start in range(0, len(targets), ROWS):
        batch = model.batch(histories[start : start + ROWS])
        yield batch | {"labels": torch.from_numpy(labels[start : start + ROWS]).to(model.model.device)}


def _predict(model: Recommender, head: nn.Module) -> Any:
    def predict(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        inputs = {name: value for name, value in batch.items() if name not in ("last", "labels")}
        states = model.states(inputs)[torch.arange(len(batch["last"])), batch["last"]]
        return head(states), batch["labels"]

    return predict
