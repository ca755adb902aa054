"""What an order will take, before anything is trained: results to be made, time, memory, storage."""

import time
from dataclasses import dataclass, replace

from layerwise.commands.order import Job
from layerwise.lab.engine import default_workers
from layerwise.lab.experiments import ScratchModel, Student, closure
from layerwise.lab.lab import Lab
from layerwise.models.recommender import Recommender, build_recommender
from layerwise.models.training import train

ADAM = 4  # copies of the weights in training: themselves, gradients, two moments
FLOAT = 4  # bytes
STEPS = 4  # of a training that are timed


@dataclass(frozen=True)
class Plan:
    """What is still to be made, and roughly what it takes.

    Attributes:
        missing: What each result is.
        minutes: Of wall clock, with `workers` processes, from the time of one epoch of a small piece of the data here.
        megabytes: Peak memory of one training, by weights, optimiser and scores of a batch.
        storage: Megabytes of checkpoints that are kept.
        workers: Processes side by side.
    """

    missing: list[str]
    minutes: float
    megabytes: float
    storage: float
    workers: int


def plan_of(job: Job, lab: Lab, workers: int | None = None) -> Plan:
    """The plan of a job; the time of a step is measured, on a model of random weights of the same size."""
    missing = lab.missing(closure(job.experiments()))
    workers = min(workers or default_workers(lab.device), max(1, len(missing)))
    subject, items = job.subject, lab.split(job.subject).table.num_items
    model = build_recommender(subject.family, items, subject.max_length, subject.shape, seed=0)
    weights = sum(parameter.numel() for parameter in model.parameters())
    models = [one for one in missing if isinstance(one, ScratchModel | Student)]
    effort = sum(one.effort() for one in missing)
    seconds = _seconds_per_epoch(model, job, lab) / (subject.shape.num_layers + 1) * effort if missing else 0.0
    targets = subject.training.batch_size * subject.max_length
    return Plan(
        [one.describe() for one in missing],
        seconds / workers / 60,
        FLOAT * (ADAM * weights + 3 * targets * items) / 1e6,
        FLOAT * weights * len(models) / 1e6,
        workers,
    )


def _seconds_per_epoch(model: Recommender, job: Job, lab: Lab) -> float:
    """Of a training of the full model, from a few of its steps."""
    subject = job.subject
    sequences = lab.split(subject).train_sequences()
    few = sequences[: STEPS * subject.training.batch_size]
    once = replace(subject.training, epochs=1)
    train(model, few[: subject.training.batch_size], lambda _: 0.0, once, seed=0)  # warm-up
    began = time.perf_counter()
    train(model, few, lambda _: 0.0, once, seed=0)
    return (time.perf_counter() - began) * len(sequences) / len(few)
