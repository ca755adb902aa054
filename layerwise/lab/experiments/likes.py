"""LoRA on a binary task: adapters of a sequence classifier, and what its arms answer on the test examples."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from layerwise.data.arrays import FloatArray
from layerwise.data.folders import located
from layerwise.data.likes import Likes, likes_by_time
from layerwise.data.titles import item_titles
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.manifest import file_digests
from layerwise.lab.store import read_arrays, write_arrays
from layerwise.lab.tiers import LikeTask
from layerwise.models.assets import pretrained_folder
from layerwise.models.classifier import Course, Step, has_half_precision, in_batches, probabilities, text_logits
from layerwise.models.like_prompts import like_prompts
from layerwise.models.loading import load_pretrained
from layerwise.models.lora_arms import Check, arm_checks
from layerwise.models.lora_classifier import Task, frozen_features, head_name, lora_arms, train_head, train_lora

CODE = ("layerwise.lab.experiments.likes",)
PARTS = ("train", "validation", "test")
ARMS = ("A", "B", "C")


@dataclass(frozen=True)
class OfLikes(Experiment[Any]):
    """An experiment on a binary task; the pretrained weights and the version of peft decide its result, too."""

    of: LikeTask
    code: ClassVar[tuple[str, ...]] = CODE

    def needs(self) -> tuple[Experiment[Any], ...]:
        return ()

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "base": _base_digest(self.of.base), "peft": version("peft")}


@dataclass(frozen=True)
class FrozenFeatures(OfLikes):
    """What the head of the frozen base is given for every prompt: part -> *examples x hidden*."""

    kind: ClassVar[str] = "frozen-features"

    def effort(self) -> float:
        return 40.0

    def describe(self) -> str:
        return f"features of {self.of.base}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        base, tasks, found = base_classifier(self.of, 0).to(lab.device), like_tasks(lab, self.of), {}
        for done, part in enumerate(PARTS):
            report(done / len(PARTS), part)
            found[part] = frozen_features(base, tasks[part]).cpu().numpy()
        write_arrays(folder / "features.safetensors", found)

    def load(self, folder: Path) -> dict[str, Tensor]:
        return {part: torch.as_tensor(values) for part, values in read_arrays(folder / "features.safetensors").items()}


@dataclass(frozen=True)
class LoraAdapter(OfLikes):
    """An adapter with its head, as peft writes it: a folder, with the course of the training beside it."""

    seed: int
    rate: float
    kind: ClassVar[str] = "lora-adapter"

    def effort(self) -> float:
        return 80.0

    def describe(self) -> str:
        return f"LoRA on {self.of.base} at {self.rate:g}, seed {self.seed}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        base, tasks = base_classifier(self.of, self.seed).to(lab.device), like_tasks(lab, self.of)
        recipe = replace(self.of.recipe, learning_rate=self.rate)
        told = _told(report)
        course = train_lora(
            base, tasks["train"], tasks["validation"], self.of.lora, recipe, self.seed, folder / "adapter", told
        )
        noted = {**_noted(course), "precision": "bf16" if has_half_precision(lab.device) else "fp32"}
        (folder / "course.json").write_text(json.dumps(noted, indent=1))

    def load(self, folder: Path) -> tuple[Path, dict[str, Any]]:
        """Folder of the adapter, and the course of its training."""
        return folder / "adapter", json.loads((folder / "course.json").read_text())


@dataclass(frozen=True, eq=False)
class Answers:
    """What the arms of one seed answer.

    Attributes:
        probability: Probability of a like, arm -> *examples*.
        labels: Whether the candidate was liked, *examples*.
        users: User code, *examples*.
        noted: Chosen learning rates, courses, class balance, checks of the arms.
    """

    probability: dict[str, FloatArray]
    labels: FloatArray
    users: FloatArray
    noted: dict[str, Any]

    @property
    def checks(self) -> list[Check]:
        """Whether the arms were what they are called, when they answered."""
        return [(bool(holds), str(words)) for holds, words in self.noted["checks"]]


@dataclass(frozen=True)
class LikeAnswers(OfLikes):
    """Probabilities of the test examples by arm, with learning rates that the tuning seed's validation chose.

    Arm A answers by its own head on the features of the frozen base, which the checks show to be its features.
    """

    seed: int
    tuned_on: int
    kind: ClassVar[str] = "like-answers"

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (FrozenFeatures(self.of), *self._grid())

    def _grid(self) -> list[LoraAdapter]:
        return [LoraAdapter(self.of, self.tuned_on, rate) for rate in self.of.rates]

    def effort(self) -> float:
        return 20.0 if self.seed == self.tuned_on else 100.0

    def describe(self) -> str:
        return f"arms of LoRA on {self.of.base}, seed {self.seed}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        tasks, features = like_tasks(lab, self.of), lab.get(FrozenFeatures(self.of))
        by_rate = {grid.rate: smallest(lab.get(grid)[1]) for grid in self._grid()}
        rate = min(by_rate, key=by_rate.__getitem__)
        adapter, course = lab.get(LoraAdapter(self.of, self.seed, rate))
        base = base_classifier(self.of, self.seed)
        frozen, tuned = lora_arms(base, adapter)
        report(0.6, "the tuned arm answers")
        head_rate, heads = self._head_rate(tasks, features)
        head, head_course = self._head(tasks, features, head_rate)
        with torch.inference_mode():
            logits = {
                "A": getattr(frozen, head_name(frozen))(features["test"]),
                "B": text_answers(tuned.to(lab.device), tasks["test"]),
                "C": head(features["test"]),
            }
        found = {arm: probabilities(values) for arm, values in logits.items()}
        examples = likes_of(lab, self.of).test
        write_arrays(
            folder / "answers.safetensors",
            found | {"labels": examples.labels.astype(np.float64), "users": examples.users.astype(np.float64)},
        )
        noted = {
            "learning_rate": {"LoRA": rate, "head": head_rate},
            "validation_by_rate": {"LoRA": by_rate, "head": heads},
            "course": {"LoRA": course, "head": _noted(head_course)},
            "liked": {part: getattr(likes_of(lab, self.of), part).balance for part in PARTS},
            "examples": {part: len(tasks[part].prompts) for part in PARTS},
            "checks": arm_checks(base, frozen, tuned.to("cpu")),
        }
        (folder / "noted.json").write_text(json.dumps(noted, indent=1))

    def load(self, folder: Path) -> Answers:
        arrays = read_arrays(folder / "answers.safetensors")
        noted = json.loads((folder / "noted.json").read_text())
        return Answers({arm: arrays[arm] for arm in ARMS}, arrays["labels"], arrays["users"], noted)

    def _head_rate(self, tasks: dict[str, Task], features: dict[str, Tensor]) -> tuple[float, dict[float, float]]:
        """The learning rate of arm C's head that is best on the tuning seed's validation, and the loss by rate."""
        tuning = replace(self, seed=self.tuned_on)
        by_rate = {rate: smallest(_noted(tuning._head(tasks, features, rate)[1])) for rate in self.of.head_rates}
        return min(by_rate, key=by_rate.__getitem__), by_rate

    def _head(self, tasks: dict[str, Task], features: dict[str, Tensor], rate: float) -> tuple[torch.nn.Module, Course]:
        base, recipe = base_classifier(self.of, self.seed), replace(self.of.recipe, learning_rate=rate)
        given = (features["train"], features["validation"])
        return train_head(base, given, tasks["train"], tasks["validation"], recipe, self.seed)


def base_classifier(of: LikeTask, seed: int) -> PreTrainedModel:
    """The pretrained model in fp32 with a new head of a seed, on the CPU."""
    folder = pretrained_folder(of.base)
    return load_pretrained(folder, head="sequence-classification", dtype=torch.float32, new_head=True, seed=seed)


def text_answers(model: PreTrainedModel, task: Task) -> Tensor:
    """Logits of every prompt, in fp32."""
    pad = model.config.pad_token_id
    return in_batches(lambda rows: text_logits(model, [task.prompts[row] for row in rows], pad), task.lengths)


def likes_of(lab: Bench, of: LikeTask) -> Likes:
    """The task's examples."""
    return likes_by_time(lab.split(of.subject).table, of.liked_from, of.per_user)


def like_tasks(lab: Bench, of: LikeTask) -> dict[str, Task]:
    """Prompts and classes by part."""
    likes, tokenizer = likes_of(lab, of), AutoTokenizer.from_pretrained(pretrained_folder(of.base))
    titles = item_titles(located(of.dataset), likes.table.item_ids)
    tasks = {}
    for part in PARTS:
        examples = getattr(likes, part)
        prompts = like_prompts(tokenizer, titles, of.max_tokens, likes, examples)
        tasks[part] = Task(prompts, examples.labels.astype(np.int64))
    return tasks


def smallest(course: dict[str, Any]) -> float:
    """The smallest validation loss of a training, in nats."""
    return float(min(course["validation"].values()))


def _noted(course: Course) -> dict[str, Any]:
    return {"updates": course.updates, "best_update": course.best_update, "validation": course.validation}


def _told(report: Report) -> Callable[[Step], None]:
    def told(step: Step) -> None:
        report(step.update / step.updates, f"update {step.update} of {step.updates}, validation {step.latest:.4f} nats")

    return told


@lru_cache(maxsize=4)
def _base_digest(base: str) -> dict[str, str]:
    """sha256 of the files of a pretrained model that decide its answers."""
    digests = file_digests(Path(pretrained_folder(base)))
    return {name: digest for name, digest in digests.items() if name.endswith((".safetensors", ".json", ".txt"))}
