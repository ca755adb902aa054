"""What is to be compressed and how: from the words of a command to experiments of the lab."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from layerwise.compression.methods import OURS
from layerwise.compression.selection import number_to_keep
from layerwise.data.folders import located
from layerwise.data.readers import load_interactions
from layerwise.importance.scores import METHODS
from layerwise.lab.experiments import (
    FLOOR,
    RULES,
    Experiment,
    FineTuned,
    FloorQuality,
    ModelQuality,
    ScratchModel,
    Student,
    weights_digest,
)
from layerwise.lab.tiers import DEEP, SUBJECT, TIERS, Subject, as_patient
from layerwise.lab.tiers import EPOCHS as EPOCHS_OF
from layerwise.models.catalogue import shape_of
from layerwise.models.families import FAMILIES, family_of
from layerwise.models.loading import load_config

TARGETS = 5  # last events of a user that are never trained on
STEPS = 1200  # of a training, about as many as the tiers' own take
EPOCHS = (8, 64)  # at least and at most
MANY_USERS = 4000  # from here on batches are larger
BATCHES = (32, 128)


@dataclass(frozen=True)
class Order:
    """What is to be compressed, and how.

    Attributes:
        model: Name of a family, whose model is trained from scratch; or a pretrained language model (a folder, or a
            name on the hub) whose layers learn the catalogue.
        data: Name, folder or file of interactions.
        keep: Share of the layers that stays, in (0, 1).
        by: What chooses them: an importance of `layer_scores`, or `first`, `uniform`, `random`.
        seeds: Independent trainings; five tell something about the method, one about this model only.
        epochs: Of the full model's training; by default as many as make about 1,200 steps.
        learning_rate: Peak of that training; by default the tiers' own.
    """

    model: str
    data: str
    keep: float = 0.25
    by: str = "empirical-fisher"
    seeds: int = 1
    epochs: int | None = None
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise ValueError(f"keep must be a share of the layers between 0 and 1, such as 25%, got {self.keep:g}")
        if self.by not in (*METHODS, *RULES):
            raise ValueError(f"layers are chosen by one of {', '.join((*METHODS, *RULES))}, got {self.by!r}")
        for name in ("seeds", "epochs", "learning_rate"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name.replace('_', ' ')} must be above 0, got {value}")


@dataclass(frozen=True)
class Job:
    """The experiments of an order.

    Attributes:
        order: What was asked for.
        full: Full models, one per seed.
        compact: Their healed students.
        shallow: Models of the compact size, trained from scratch by the full model's recipe; none beside a pretrained
            model, whose like cannot be trained here.
    """

    order: Order
    full: list[ScratchModel]
    compact: list[Student]
    shallow: list[ScratchModel]

    @property
    def subject(self) -> Subject:
        """Data, shape and recipes."""
        return self.full[0].subject

    def experiments(self) -> list[Experiment[Any]]:
        """All results that a report reads."""
        models = (*self.full, *self.compact, *self.shallow)
        return [*map(ModelQuality, models), *(FloorQuality(self.subject, name) for name in FLOOR)]


def job_of(order: Order) -> Job:
    """The experiments that an order needs.

    Raises:
        FileNotFoundError: If data or model are not there.
        ValueError: If they cannot be read.
        UnsupportedArchitectureError: If the model's architecture is unknown.
    """
    subject = _subject(order)
    depth, seeds = subject.shape.num_layers, range(order.seeds)
    if not 0 < (keep := number_to_keep(depth, order.keep)) < depth:
        raise ValueError(f"{order.keep:.0%} of {depth} layers are {keep}; keep at least one and fewer than all")
    full = [_full(order, subject, seed) for seed in seeds]
    method = replace(OURS, by=order.by)
    tier = replace(TIERS["standard"], subject=subject)
    epochs, rate = tier.healing_epochs, tier.healing_rate
    shallow = [ScratchModel(subject, seed, keep) for seed in seeds if order.model in FAMILIES]
    return Job(order, full, [Student(one, method, order.keep, epochs, rate) for one in full], shallow)


def _full(order: Order, subject: Subject, seed: int) -> ScratchModel:
    depth = subject.shape.num_layers
    if order.model in FAMILIES:
        return ScratchModel(subject, seed, depth)
    return FineTuned(subject, seed, depth, order.model, weights_digest(order.model))


def _subject(order: Order) -> Subject:
    known = {subject.dataset: subject for subject in (TIERS["standard"].subject, *TIERS["standard"].elsewhere)}
    subject = known.get(order.data) or _sized(order.data)
    if order.model in FAMILIES:
        longer = EPOCHS_OF.get(order.model, DEEP.epochs) / DEEP.epochs
        training = replace(subject.training, epochs=round(subject.training.epochs * longer))
        subject = as_patient(replace(subject, family=order.model, training=training))
    else:
        config = load_config(order.model)
        positions = getattr(config, "max_position_embeddings", None) or subject.max_length + 1
        length = min(subject.max_length, positions - 1)  # one position is for what is asked, or learned
        subject = replace(subject, family=family_of(config).name, shape=shape_of(config), max_length=length)
    rate = order.learning_rate or subject.training.learning_rate
    training = replace(subject.training, epochs=order.epochs or subject.training.epochs, learning_rate=rate)
    return replace(subject, training=training)


def _sized(data: str) -> Subject:
    """A subject for a data set that no tier knows: as many steps as those, whatever the number of users."""
    table = load_interactions(located(data)).without_repeats()
    counts = np.diff(table.offsets)
    targets = TARGETS if np.median(counts) >= TARGETS + 2 else 1  # one more to validate, one to train on
    users = int((counts >= targets + 2).sum())
    batch = BATCHES[users >= MANY_USERS]
    epochs = int(np.clip(-(-STEPS * batch // max(users, 1)), *EPOCHS))
    return replace(
        SUBJECT,
        dataset=data,
        test_targets=targets,
        training=replace(DEEP, epochs=epochs, batch_size=batch),
        healing=replace(SUBJECT.healing, epochs=max(EPOCHS[0] // 2, epochs // 4), batch_size=batch),
    )
