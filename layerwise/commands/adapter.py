"""Compares a LoRA adapter that somebody brings with its frozen base, on examples of likes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray

from layerwise.lab.experiments import FrozenArms, OwnAnswers, OwnTask, TunedArm, own_digest, weights_digest
from layerwise.lab.lab import Lab
from layerwise.lab.progress import Board, Task
from layerwise.lab.tiers import LIKES
from layerwise.models.assets import pretrained_folder
from layerwise.models.loading import load_config
from layerwise.models.lora_arms import Check
from layerwise.models.own_adapter import adapter_fields, check_belongs, load_tokenizer, name_remark, padding_of
from layerwise.models.own_arms import facts_checks
from layerwise.statistics import ClassificationGain, Region, Verdict, judge

ALPHA = 0.01  # chance of a false "supported", over all conditions of a run
CLAIMED = {"accuracy": 3.0, "f1": 3.0, "auc-roc": 2.0}  # points of B - A, as the project claims; judged by default
AHEAD = Region(low=0.0, open_low=True)  # of arm C, the cheapest rival, at all
LEVEL = 0.95


@dataclass(frozen=True)
class Brought:
    """What a person brings.

    Attributes:
        model: Base: a folder, or a name on the hub.
        adapter: Folder of the adapter, with its head.
        data: Name, folder or file of interactions with ratings and titles.
        liked_from: Lowest rating that counts as a like.
        max_tokens: Longest prompt.
        batch: Prompts at a time.
    """

    model: str
    adapter: str
    data: str
    liked_from: float = 4.0
    max_tokens: int = LIKES.max_tokens
    batch: int = 64

    def __post_init__(self) -> None:
        for name in ("max_tokens", "batch"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name.replace('_', ' ')} must be at least 1, got {value}")


@dataclass(frozen=True)
class Compared:
    """What an adapter does, and how far that can be believed.

    Attributes:
        frozen: What arms A and C answer.
        tuned: What arm B answers.
        remarks: What a reader must know, in sentences.
        verdicts: On gains of B over A, by metric, and on B over C.
    """

    frozen: OwnAnswers
    tuned: OwnAnswers
    remarks: tuple[str, ...]
    verdicts: Mapping[str, Verdict]

    @property
    def probability(self) -> dict[str, NDArray[np.float64]]:
        """Of a like, arm -> *examples*."""
        found = self.frozen.probability | self.tuned.probability
        return {arm: found[arm].astype(np.float64) for arm in ("A", "B", "C")}

    @property
    def labels(self) -> NDArray[np.float64]:
        """Whether the candidate was liked, *examples*."""
        return self.frozen.labels.astype(np.float64)

    @property
    def users(self) -> NDArray[np.float64]:
        """User code, *examples*."""
        return self.frozen.users.astype(np.float64)

    @property
    def checks(self) -> list[Check]:
        """What must hold before B - A says what LoRA did to the features."""
        frozen, tuned = self.frozen, self.tuned
        return facts_checks(frozen.facts("base"), tuned.facts("base again"), frozen.facts("A"), tuned.facts("B"))

    @property
    def flaws(self) -> list[str]:
        """Checks that failed: then no number counts."""
        return [sentence for holds, sentence in self.checks if not holds]


def task_of(brought: Brought) -> tuple[OwnTask, list[str]]:
    """The task, once base and adapter are seen to belong together, and remarks on them; no weights are read.

    Raises:
        FileNotFoundError: If a file is missing, or the hub cannot be reached.
        ImportError: If peft is not installed.
        UnsupportedArchitectureError: If the base's architecture is unknown.
        ValueError: If they do not belong together; see `check_belongs`.
    """
    base, adapter = str(Path(pretrained_folder(brought.model)).expanduser()), str(Path(brought.adapter).expanduser())
    fields, config = adapter_fields(adapter), load_config(pretrained_folder(brought.model))
    check_belongs(config, adapter, brought.model)
    pad, padding = padding_of(config, load_tokenizer(base))
    positions = getattr(config, "max_position_embeddings", None) or brought.max_tokens
    if brought.max_tokens > positions:
        raise ValueError(f"{brought.model} reads at most {positions} tokens, got --max-tokens {brought.max_tokens}")
    likes = replace(
        LIKES, dataset=brought.data, base=base, liked_from=brought.liked_from, max_tokens=brought.max_tokens
    )
    weights = own_digest(weights_digest(base), adapter)
    remarks = [remark for remark in (name_remark(fields, brought.model, base), padding) if remark]
    return OwnTask(likes, adapter, pad, brought.batch, weights), remarks


def compared(
    brought: Brought, lab: Lab, at_least: Mapping[str, float] | None = None, stream: IO[str] | None = None
) -> Compared:
    """The three arms on the test examples; finished ones stay in the lab's store.

    Args:
        brought: Base, adapter and data.
        lab: Where results are kept and models run.
        at_least: Metric -> points by which arm B must be ahead of arm A; by default the project's claims.
        stream: Where progress is drawn; standard error by default.

    Raises:
        MemoryError: If a model and its prompts do not fit; says what to try.
        Exception: As for `task_of`; ValueError also where the data have no ratings, titles or common clock.
    """
    conditions = checked(at_least or CLAIMED)
    task, remarks = task_of(brought)
    arms = (FrozenArms(task), TunedArm(task))
    board = Board({arm.kind: Task(arm.describe(), arm.effort()) for arm in arms}, stream)
    try:
        for arm in arms:  # one after another, never side by side: memory for one model must do
            artefact = lab.build(arm, partial(board.update, arm.kind))
            board.finish(arm.kind, artefact.seconds)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(memory_advice(brought)) from error
    finally:
        board.close()
    frozen, tuned = (lab.get(arm) for arm in arms)
    return _judged(Compared(frozen, tuned, tuple(remarks), {}), conditions)


def checked(conditions: Mapping[str, float]) -> dict[str, float]:
    """The conditions, once all of them name a metric.

    Raises:
        ValueError: If one does not.
    """
    if unknown := [name for name in conditions if name not in CLAIMED]:
        raise ValueError(f"a condition is one of {', '.join(CLAIMED)} and points, such as accuracy=3, got {unknown[0]}")
    return dict(conditions)


def gain(made: Compared, metric: str, over: str) -> ClassificationGain:
    """How many points of a metric arm B is ahead of another arm; the interval is over users, not over trainings."""
    found = made.probability
    return ClassificationGain(found["B"][None], found[over][None], made.labels, made.users, metric)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or this machine had no memory left; torch has no kind of its own for the latter."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def memory_advice(brought: Brought) -> str:
    """What to try where a batch did not fit."""
    if brought.batch == 1:
        return (
            "out of memory with one prompt at a time: try shorter prompts (--max-tokens), a smaller base, or a device "
            "with more memory"
        )
    return (
        f"out of memory with {brought.batch} prompts at a time: try --batch {brought.batch // 2}; if the weights alone "
        "do not fit, take a smaller base or a device with more memory. What was finished is kept"
    )


def _judged(made: Compared, conditions: Mapping[str, float]) -> Compared:
    alpha = ALPHA / (2 * len(conditions))
    verdicts = {}
    for metric, points in conditions.items():
        verdicts[f"{metric}, B - A"] = judge(gain(made, metric, "A"), Region(low=points), alpha)
        verdicts[f"{metric}, B - C"] = judge(gain(made, metric, "C"), AHEAD, alpha)
    return replace(made, remarks=(*made.remarks, *_chance_remarks(made)), verdicts=verdicts)


def _chance_remarks(made: Compared) -> list[str]:
    """What an AUC-ROC at or below chance may mean: no check of files can tell a trained head from a fresh one."""
    remarks = []
    for arm in ("A", "B"):
        points = level(made, arm, "auc-roc")
        interval = points.interval(LEVEL)
        seen = f"AUC-ROC {points.estimate:.1f} %, {interval.low:.1f} to {interval.high:.1f}"
        if interval.low <= 50 <= interval.high:
            remarks.append(f"arm {arm} is not told from chance ({seen}): {CHANCE[arm]}")
        elif interval.high < 50:
            remarks.append(f"arm {arm} is worse than chance ({seen}): was class 0 the like in the adapter's training?")
    return remarks


CHANCE = {
    "A": "a head that grew up with tuned features may say nothing on frozen ones, so that B - A flatters it; see B - C",
    "B": "the head may never have been trained, or the adapter learned from another kind of prompt",
}


def level(made: Compared, arm: str, metric: str) -> ClassificationGain:
    """A metric of one arm in points: what it is ahead of an answer that is always wrong, whose every metric is 0."""
    wrong = 1 - made.labels[None]
    return ClassificationGain(made.probability[arm][None], wrong, made.labels, made.users, metric)
