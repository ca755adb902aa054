"""What the layers of a full model hold and do: probes, rank, similarity, attention, dependency."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import numpy as np

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.data.categories import item_categories
from layerwise.data.splits import Split
from layerwise.evaluation.ranking import mean_by_user, ranking_metrics
from layerwise.evaluation.tasks import Task, labelled, next_event_tasks, training_targets
from layerwise.importance.attention import attention_profile
from layerwise.importance.dependency import layer_dependency
from layerwise.importance.information import information_about
from layerwise.importance.probes import logistic_probe, ridge_probe
from layerwise.importance.similarity import cka_matrix
from layerwise.importance.spectrum import effective_rank, principal_plane
from layerwise.importance.states import asked_states
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.models import ScratchModel
from layerwise.lab.store import read_arrays, write_arrays
from layerwise.models.recommender import Recommender

TRAINED_ON = 5  # last training events of each user that a probe learns from
SHOWN = 400  # states in a picture


@dataclass(frozen=True)
class Portrait:
    """One full model, layer by layer, at the position that the recommender is asked.

    Attributes:
        item_probe: NDCG@10 of a ridge probe for the next item's vector, *num_layers x users*.
        genre_probe: Accuracy of a logistic probe for the next item's genre, *num_layers x users*; empty without
            categories, like the three that follow.
        genre_information: Mutual information with the genre, lower bound in nats, *num_layers x users*.
        plane: States on their two principal axes, *num_layers x rows x 2*.
        plane_genres: Genre of each of these rows.
        rank: Effective rank of the states, *num_layers*.
        similarity: Linear CKA, *num_layers x num_layers*.
        dependency: Influence of the row's layer on the column's, *num_layers x num_layers*.
        entropy: Entropy of attention, 0 to 1, *num_layers x examples*; nan where a layer attends to one event.
        distance: How far back attention reaches, *num_layers x examples*.
        recent: Attention to the newest events, *num_layers x examples*.
    """

    item_probe: FloatArray
    genre_probe: FloatArray
    genre_information: FloatArray
    plane: FloatArray
    plane_genres: IntArray
    rank: FloatArray
    similarity: FloatArray
    dependency: FloatArray
    entropy: FloatArray
    distance: FloatArray
    recent: FloatArray


@dataclass(frozen=True)
class LayerPortrait(Experiment[Portrait]):
    """Probes learn from training events and are judged on test events."""

    of: ScratchModel
    kind: ClassVar[str] = "portrait"
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.portrait",)

    def effort(self) -> float:
        return 15.0

    def describe(self) -> str:
        return f"portrait of {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        model, split = lab.get(self.of), lab.split(self.subject)
        tasks = next_event_tasks(split, item_categories(self.subject.dataset, split.table.item_ids))
        train, test = training_targets(split, TRAINED_ON), split.test
        report(0.0, "states")
        seen, unseen = (asked_states(model, split.histories(targets)) for targets in (train, test))
        report(0.3, "probes")
        found = {"item_probe": _item_probe(model, split, seen, unseen)}
        found |= _genres(split, tasks.get("genre"), seen, unseen)  # type: ignore[arg-type]
        found["rank"] = np.array([effective_rank(states) for states in unseen])
        found["similarity"] = cka_matrix(unseen)
        report(0.7, "attention and dependency")
        batches = model.labelled_batches(split.train_sequences())
        profile = attention_profile(model, batches)
        found |= {"entropy": profile.entropy, "distance": profile.distance, "recent": profile.recent}
        found["dependency"] = layer_dependency(model, batches)
        write_arrays(folder / "portrait.safetensors", found)

    def load(self, folder: Path) -> Portrait:
        arrays = read_arrays(folder / "portrait.safetensors")
        return Portrait(**{field.name: arrays[field.name] for field in fields(Portrait)})


def _item_probe(model: Recommender, split: Split, seen: FloatArray, unseen: FloatArray) -> FloatArray:
    train, test = training_targets(split, TRAINED_ON), split.test
    vectors, histories = model.item_matrix.detach().cpu().numpy(), split.histories(test)
    found = []
    for states, asked in zip(seen, unseen, strict=True):
        scores = ridge_probe(states, vectors[train.items], asked) @ vectors.T
        values = ranking_metrics(scores, test.items, histories, ks=(10,))["ndcg@10"]
        found.append(mean_by_user(values, test.users))
    return np.stack(found)


def _genres(split: Split, task: Task | None, seen: FloatArray, unseen: FloatArray) -> dict[str, FloatArray | IntArray]:
    if task is None:
        names = ("genre_probe", "genre_information", "plane", "plane_genres")
        return {name: np.empty(0) for name in names}
    train, test = training_targets(split, TRAINED_ON), split.test
    known, asked = (task.labels[targets.positions] >= 0 for targets in (train, test))
    learned = task.labels[train.positions][known]
    wanted, users = task.labels[labelled(task, test).positions], labelled(task, test).users
    accuracy, information = [], []
    for states, others in zip(seen[:, known], unseen[:, asked], strict=True):
        told = logistic_probe(states, learned, others, len(task.classes))
        accuracy.append(mean_by_user((told.argmax(axis=1) == wanted).astype(np.float64), users))
        information.append(mean_by_user(information_about(told, wanted, learned), users))
    shown = np.linspace(0, len(wanted) - 1, min(SHOWN, len(wanted))).astype(np.int64)
    return {
        "genre_probe": np.stack(accuracy),
        "genre_information": np.stack(information),
        "plane": np.stack([principal_plane(states[asked][shown]) for states in unseen]),
        "plane_genres": wanted[shown],
    }
