"""What the arms of a LoRA adapter that somebody brought answer: one model after another, each freed before the next."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerwise.data.arrays import FloatArray
from layerwise.evaluation.audited import AuditedModel
from layerwise.evaluation.timing import default_timer, name_of, synchronised, time_in_turn
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.likes import PARTS, base_classifier, like_tasks, likes_of
from layerwise.lab.store import read_arrays, write_arrays
from layerwise.lab.tiers import LikeTask, Subject
from layerwise.models.classifier import probabilities
from layerwise.models.lora_classifier import Task, head_name, train_head
from layerwise.models.own_adapter import CONFIG, WEIGHTS
from layerwise.models.own_arms import Facts, adapted, answered, facts_of, features_of, free, head_copy
from layerwise.models.prompts import padded

BATCH, INPUTS, BLOCKS, WARMUP, SECONDS = 16, 8, 10, 10, 20.0  # of the timing: prompts, batches, blocks, rounds, at most
SHARES = (0.1, 0.5, 0.6)  # of the work before training, validation and test prompts are read


@dataclass(frozen=True)
class OwnTask:
    """An adapter and its base on examples of likes.

    Attributes:
        likes: Data, base, prompts, and how arm C's head is trained.
        adapter: Folder of the adapter.
        pad: Padding token.
        batch: Prompts at a time.
        weights: Digest of the base's and the adapter's files: others at the same place are another task.
    """

    likes: LikeTask
    adapter: str
    pad: int
    batch: int
    weights: str

    @property
    def subject(self) -> Subject:
        """What the lab reads the data by."""
        return self.likes.subject


@dataclass(frozen=True, eq=False)
class OwnAnswers:
    """What some arms answer on the test examples.

    Attributes:
        probability: Of a like, arm -> *examples*.
        labels: Whether the candidate was liked, *examples*.
        users: User code, *examples*.
        noted: Facts of the models, times in ms per batch, what was tried.
    """

    probability: dict[str, FloatArray]
    labels: FloatArray
    users: FloatArray
    noted: dict[str, Any]

    def facts(self, model: str) -> Facts:
        """Facts of one of the models."""
        return Facts(**self.noted["facts"][model])


@dataclass(frozen=True)
class OwnArms(Experiment[OwnAnswers]):
    """Base of both: the time per batch is of the machine and the day on which the result was made."""

    of: OwnTask
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.own_adapter",)

    def needs(self) -> tuple[Experiment[Any], ...]:
        return ()

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "peft": version("peft")}

    def load(self, folder: Path) -> OwnAnswers:
        arrays = read_arrays(folder / "answers.safetensors")
        noted = json.loads((folder / "noted.json").read_text())
        labels, users = arrays.pop("labels"), arrays.pop("users")
        return OwnAnswers(arrays, labels, users, noted)

    def _write(self, lab: Bench, folder: Path, logits: dict[str, Tensor], noted: dict[str, Any]) -> None:
        test = likes_of(lab, self.of.likes).test
        found = {arm: probabilities(values) for arm, values in logits.items()}
        found |= {"labels": test.labels.astype(np.float64), "users": test.users.astype(np.float64)}
        write_arrays(folder / "answers.safetensors", found)
        (folder / "noted.json").write_text(json.dumps(noted, indent=1))

    def _base(self, lab: Bench, seed: int) -> PreTrainedModel:
        """The base with a head of a seed; two seeds show whether anything below the head is drawn, too."""
        free(lab.device)
        base = base_classifier(self.of.likes, seed).to(lab.device)
        base.config.pad_token_id = self.of.pad
        return base


@dataclass(frozen=True)
class FrozenArms(OwnArms):
    """Arms A and C: the frozen base with the adapter's head, and with one trained on its features here."""

    kind: ClassVar[str] = "own-adapter-frozen"

    def effort(self) -> float:
        return 3.0

    def describe(self) -> str:
        return "frozen base"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        of, tasks = self.of, like_tasks(lab, self.of.likes)
        model = self._base(lab, seed=0)
        fresh, facts = head_copy(model), {"base": asdict(facts_of(model))}
        model = adapted(model, of.adapter).unload().eval()
        facts["A"] = asdict(facts_of(model))
        timed = times_of(model, tasks["test"], of.pad)
        features = {
            part: features_of(model, tasks[part], of.pad, of.batch, _told(report, number, part))
            for number, part in enumerate(PARTS)
        }
        kept = head_copy(model)
        setattr(model, head_name(model), fresh)
        own, noted = self._own_head(model, tasks, features)
        with torch.inference_mode():
            logits = {"A": kept(features["test"]), "C": own(features["test"])}
        likes = likes_of(lab, of.likes)
        parts = {part: [len(getattr(likes, part)), getattr(likes, part).balance] for part in PARTS}
        self._write(lab, folder, logits, {"facts": facts, "times": {"A": timed}, "parts": parts, **noted})

    def _own_head(
        self, model: PreTrainedModel, tasks: dict[str, Task], features: dict[str, Tensor]
    ) -> tuple[nn.Module, dict[str, Any]]:
        """Arm C's head, with the learning rate of the smallest validation loss, and the loss by rate in nats."""
        given, found, losses = (features["train"], features["validation"]), {}, {}
        for rate in self.of.likes.head_rates:
            recipe = replace(self.of.likes.recipe, learning_rate=rate)
            found[rate], course = train_head(model, given, tasks["train"], tasks["validation"], recipe, seed=0)
            losses[rate] = min(course.validation.values())
        best = min(losses, key=losses.__getitem__)
        return found[best], {"head_rate": best, "head_losses": {str(rate): loss for rate, loss in losses.items()}}


@dataclass(frozen=True)
class TunedArm(OwnArms):
    """Arm B: the base with the adapter merged; timed before the merging, too."""

    kind: ClassVar[str] = "own-adapter-tuned"

    def describe(self) -> str:
        return "LoRA-tuned base"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        of, test = self.of, like_tasks(lab, self.of.likes)["test"]
        base = self._base(lab, seed=1)
        facts = {"base again": asdict(facts_of(base))}
        beside = adapted(base, of.adapter)
        times = {"unmerged": times_of(beside, test, of.pad)}
        model = beside.merge_and_unload(safe_merge=True).eval()
        times["merged"] = times_of(model, test, of.pad)
        logits = answered(model, test, of.pad, of.batch, lambda share: report(share, "test prompts"))
        facts["B"] = asdict(facts_of(model))
        self._write(lab, folder, {"B": logits}, {"facts": facts, "times": times})


def own_digest(base_digest: str, adapter: str | Path) -> str:
    """sha256 over the digest of a base and an adapter's two files."""
    digest = hashlib.sha256(base_digest.encode())
    for name in (CONFIG, WEIGHTS):
        with (Path(adapter) / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def times_of(model: nn.Module, task: Task, pad: int) -> dict[str, Any]:
    """Median ms of a batch of real prompts in each of ten blocks, and what clock told it.

    Only one model is alive, so that none is timed in turn with another: a machine that drifts shows as a difference.

    Raises:
        ValueError: If a timed answer is not that of an untimed call.
    """
    inputs = _inputs(task, pad, next(model.parameters()).device)
    timer = default_timer(inputs[0]["input_ids"].device)
    with torch.inference_mode():
        arm = AuditedModel("timed", model, inputs, synchronised(timer, inputs[0]["input_ids"].device))
        turns = time_in_turn([arm], len(inputs), BLOCKS, WARMUP, None, SECONDS)
    if arm.difference > 1e-3 * max(1.0, arm.scale):
        raise ValueError(f"timed answers differ from untimed ones by {arm.difference:.3g}; is the machine sound?")
    rows = len(inputs[0]["input_ids"])
    return {"ms": turns.block_ms[:, 0].tolist(), "rows": rows, "clock": name_of(timer)}


def _inputs(task: Task, pad: int, device: torch.device) -> Sequence[dict[str, Tensor]]:
    rows = max(1, min(BATCH, len(task.prompts) // 2))
    starts = range(0, min(INPUTS, len(task.prompts) // rows) * rows, rows)
    batches = (padded(task.prompts[start : start + rows], pad) for start in starts)
    return [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]


def _told(report: Report, number: int, part: str) -> Any:
    first, last = SHARES[number], (*SHARES[1:], 1.0)[number]
    return lambda share: report(first + (last - first) * share, f"{part} prompts")
