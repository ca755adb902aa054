"""The LoRA comparison: its effects, its checks, its models anew, and the tables that stand beside the verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerwise.data.arrays import FloatArray
from layerwise.evaluation.classification import METRICS, classification_metrics
from layerwise.evaluation.latency import LatencyComparison, compare_latency
from layerwise.lab.experiments import ARMS, PARTS, Answers, LoraAdapter, base_classifier, like_tasks
from layerwise.lab.study import Study
from layerwise.models.classifier import probabilities, text_logits
from layerwise.models.layers import layers_of
from layerwise.models.lora_arms import Check, arm_checks
from layerwise.models.lora_classifier import lora_arms, with_adapter
from layerwise.models.prompts import padded
from layerwise.statistics import ClassificationGain

LEVEL = 0.95
SPOTS = 32  # test examples that are answered anew, per arm
SAME = 1e-3  # probabilities further apart come from another model; other processors sum in another order
BATCH, INPUTS = 16, 8  # prompts per timed batch, and number of batches
NAMES = {"A": "A: frozen base, LoRA's head", "B": "B: LoRA, merged", "C": "C: frozen base, own head"}


@dataclass(frozen=True, eq=False)
class Arms:
    """The models of one seed: the classifier before training, arm A, arm B, and B with its adapter unmerged."""

    base: PreTrainedModel
    frozen: PreTrainedModel
    tuned: PreTrainedModel
    unmerged: nn.Module


def like_gain(study: Study, metric: str, over: str) -> ClassificationGain:
    """How many points of a metric arm B is ahead of another arm."""
    return _gain(study.text.likes(), metric, over)


def _gain(answers: Sequence[Answers], metric: str, over: str) -> ClassificationGain:
    ours, theirs = (np.stack([one.probability[arm] for one in answers]).astype(np.float64) for arm in ("B", over))
    labels, users = (values.astype(np.float64) for values in (answers[0].labels, answers[0].users))
    return ClassificationGain(ours, theirs, labels, users, metric)


def like_checks(study: Study) -> list[Check]:
    """What must hold before a gain says what LoRA did: honest arms, one test set, a real answer behind each number."""
    answers = study.text.likes()
    same = all(
        np.array_equal(one.labels, answers[0].labels) and np.array_equal(one.users, answers[0].users) for one in answers
    )
    return [
        (len(answers) >= 5, f"{len(answers)} independent trainings; a claim about a method needs at least 5"),
        (same, f"all seeds must answer the same {len(answers[0].labels)} examples"),
        *(check for one in answers for check in one.checks if not check[0]),
        *rebuilt_checks(study),
    ]


@lru_cache(maxsize=4)
def rebuilt_checks(study: Study) -> list[Check]:
    """Whether the first seed's arms, built anew from the adapter, are honest and answer as stored."""
    arms, answers = rebuilt_arms(study), study.text.likes()[0]
    task = like_tasks(study.lab, _task(study))["test"]
    rows = np.unique(np.linspace(0, len(task.prompts) - 1, SPOTS).astype(np.int64))
    prompts, pad = [task.prompts[row] for row in rows], arms.base.config.pad_token_id
    apart = 0.0
    with torch.inference_mode():
        for arm, model in (("A", arms.frozen), ("B", arms.tuned)):
            anew = probabilities(text_logits(model, prompts, pad))
            apart = max(apart, float(np.abs(anew - answers.probability[arm][rows]).max()))
    told = np.array_equal(answers.labels[rows], task.labels[rows])
    return [
        *arm_checks(arms.base, arms.frozen, arms.tuned),
        (told and apart <= SAME, f"stored answers must be those of the models: {len(rows)} anew, {apart:.1g} apart"),
    ]


@lru_cache(maxsize=2)
def rebuilt_arms(study: Study) -> Arms:
    """The models of the first seed."""
    seed, answers, task = study.tier.seeds[0], study.text.likes()[0], _task(study)
    folder, _ = study.lab.get(LoraAdapter(task, seed, answers.noted["learning_rate"]["LoRA"]))
    base = base_classifier(task, seed)
    frozen, tuned = lora_arms(base, folder)
    return Arms(base, frozen, tuned, with_adapter(base, folder))


def like_inputs(study: Study) -> list[dict[str, Tensor]]:
    """Batches of real test prompts, all different."""
    task, pad = like_tasks(study.lab, _task(study))["test"], rebuilt_arms(study).base.config.pad_token_id
    starts = range(0, BATCH * INPUTS, BATCH)
    return [padded(task.prompts[start : start + BATCH], pad) for start in starts]


def like_latency(study: Study, other: str, blocks: int) -> LatencyComparison:
    """Times of arm A and of another model in turn: `tuned`, `unmerged`, or `frozen` again for a copy of itself."""
    arms = rebuilt_arms(study)
    compared = lora_arms(arms.base, _folder(study))[0] if other == "frozen" else getattr(arms, other)
    return compare_latency(arms.frozen, compared, like_inputs(study), blocks, layers_of=_layers)


def like_table(study: Study) -> dict[str, Any]:
    """The five metrics by arm, means over seeds in percent, and what LoRA adds with 95 % intervals."""
    answers = study.text.likes()
    rows = []
    for metric in METRICS:
        means = {arm: 100 * _mean(answers, arm, metric) for arm in ARMS}
        gains = [_told(_gain(answers, metric, over), means[over]) for over in ("A", "C")]
        rows.append([metric, *(f"{means[arm]:.1f}" for arm in ARMS), *gains, f"{100 * _majority(answers, metric):.1f}"])
    columns = ["metric, %", *NAMES.values(), "B - A, points", "B - C, points", "all called likes"]
    return {"title": f"Like or dislike, {len(answers)} seeds, {_sample(answers)}", "columns": columns, "rows": rows}


def like_setting_table(study: Study) -> dict[str, Any]:
    """Examples and class balance by part, learning rates that validation chose, and how training went."""
    answers = study.text.likes()
    noted = answers[0].noted
    rows: list[list[str]] = [
        [part, f"{noted['examples'][part]:,} examples, {100 * noted['liked'][part]:.1f} % liked"] for part in PARTS
    ]
    for kind, by_rate in noted["validation_by_rate"].items():
        tried = ", ".join(f"{float(rate):g}: {loss:.4f}" for rate, loss in by_rate.items())
        rows.append([f"learning rate, {kind}", f"{noted['learning_rate'][kind]:g}; validation, nats: {tried}"])
    for kind in ("LoRA", "head"):
        courses = [one.noted["course"][kind] for one in answers]
        best = ", ".join(f"{course['best_update']} of {course['updates']}" for course in courses)
        rows.append([f"update kept, {kind}", best])
    return {"title": "Data and training", "columns": ["what", "value"], "rows": rows}


def like_speed_table(study: Study, merged: LatencyComparison, blocks: int = 10) -> dict[str, Any]:
    """Queries per second of arm A, of LoRA merged and of LoRA beside the weights."""
    rows = []
    for name, timed in (("merged", merged), ("unmerged", like_latency(study, "unmerged", blocks))):
        frozen, lora = (BATCH * 1000 / float(ms.mean()) for ms in (timed.full_ms, timed.compact_ms))
        rows.append([name, f"{frozen:.1f}", f"{lora:.1f}", f"{timed.speedup:.3f}"])
    columns = ["LoRA", "base, queries/s", "LoRA, queries/s", "LoRA / base"]
    return {"title": f"Queries per second, batch {BATCH}", "columns": columns, "rows": rows}


def _task(study: Study) -> Any:
    if study.tier.likes is None:
        raise ValueError(f"the {study.tier.name} tier has no text model")
    return study.tier.likes


def _folder(study: Study) -> Any:
    rate = study.text.likes()[0].noted["learning_rate"]["LoRA"]
    return study.lab.get(LoraAdapter(_task(study), study.tier.seeds[0], rate))[0]


def _layers(model: nn.Module) -> Sequence[nn.Module]:
    """Layers of a plain model, or of the one inside peft."""
    return layers_of(model.get_base_model() if hasattr(model, "get_base_model") else model)  # type: ignore[operator]


def _mean(answers: Sequence[Answers], arm: str, metric: str) -> float:
    return float(np.mean([classification_metrics(one.probability[arm], one.labels)[metric] for one in answers]))


def _majority(answers: Sequence[Answers], metric: str) -> float:
    labels: FloatArray = answers[0].labels
    return classification_metrics(np.ones_like(labels), labels)[metric]


def _told(gain: ClassificationGain, of: float) -> str:
    interval = gain.interval(LEVEL)
    relative = f"{100 * gain.estimate / of:+.0f} %" if of else "-"
    return f"{gain.estimate:+.1f} ({interval.low:+.1f} to {interval.high:+.1f}), {relative}"


def _sample(answers: Sequence[Answers]) -> str:
    return f"{len(answers[0].labels):,} examples of {len(np.unique(answers[0].users))} users"
