"""The arms of a comparison on a model that may be large: made in place, one alive at a time, known by digests."""

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerwise.data.arrays import IntArray
from layerwise.models.classifier import in_batches, text_logits
from layerwise.models.lora_arms import Check, carries_adapters, features_digest, head_digest
from layerwise.models.lora_classifier import Task, head_name

try:
    import peft
except ImportError:  # the extra layerwise[lora]
    peft = None

Told = Callable[[float], None]
"""Called with the share of the prompts that are answered."""


@dataclass(frozen=True)
class Facts:
    """What remains of a model that was freed: sha256 of head and of features, and whether it carried adapters."""

    head: str
    features: str
    adapters: bool = False


def facts_of(model: nn.Module) -> Facts:
    """The facts of a sequence classifier."""
    return Facts(head_digest(model), features_digest(model), carries_adapters(model))


def facts_checks(base: Facts, again: Facts, frozen: Facts, tuned: Facts) -> list[Check]:
    """What `arm_checks` asks of three models that are alive, of the facts of three that were loaded in turn.

    Args:
        base: The base with a fresh head.
        again: The same with another fresh head.
        frozen: Arm A.
        tuned: Arm B.
    """
    return [
        (
            base.features == again.features,
            "every weight of the base below its head must come from its checkpoint; one that is missing there, such as "
            "a pooler, is drawn at random, and the adapter never saw it: take the checkpoint that it was trained on",
        ),
        (not (frozen.adapters or tuned.adapters), "both arms must be plain models without adapters beside weights"),
        (frozen.head == tuned.head, f"both arms must have the same head: sha256 {_two(frozen.head, tuned.head)}"),
        (frozen.head != base.head, f"the arms' head must be the adapter's: sha256 {_two(frozen.head, base.head)}"),
        (
            frozen.features == base.features,
            f"arm A's features must be the frozen base's: sha256 {_two(frozen.features, base.features)}",
        ),
        (
            tuned.features != base.features,
            f"arm B's features must be tuned: sha256 {_two(tuned.features, base.features)}",
        ),
    ]


def adapted(base: PreTrainedModel, folder: str) -> Any:
    """The base itself with an adapter beside its weights; `unload()` makes it arm A, `merge_and_unload()` arm B.

    Args:
        base: A classifier, which is changed: large models are not copied.
        folder: The adapter with its head.

    Raises:
        ImportError: If peft is not installed.
    """
    if peft is None:
        raise ImportError("reading an adapter needs peft; install it with: pip install 'layerwise[lora]'")
    return peft.PeftModel.from_pretrained(base, folder).eval()


def answered(model: nn.Module, task: Task, pad: int, batch: int, told: Told = lambda _: None) -> Tensor:
    """Logits of every prompt in order, *num_examples x classes*, in fp32.

    Args:
        model: A sequence classifier in evaluation mode, also inside peft.
        task: Prompts.
        pad: Padding token.
        batch: Prompts at a time.
        told: Called after each batch.
    """
    done = 0

    def answer(rows: IntArray) -> Tensor:
        nonlocal done
        logits = text_logits(model, [task.prompts[row] for row in rows], pad).float()
        done += len(rows)
        told(done / len(task.prompts))
        return logits

    return in_batches(answer, task.lengths, batch)


def features_of(model: PreTrainedModel, task: Task, pad: int, batch: int, told: Told = lambda _: None) -> Tensor:
    """What the head of a classifier is given, *num_examples x hidden*, in fp32; the model itself pools."""
    with headless(model):
        return answered(model, task, pad, batch, told)


@contextmanager
def headless(model: PreTrainedModel) -> Iterator[None]:
    """Inside, a classifier gives what its head would be given."""
    name = head_name(model)
    head = getattr(model, name)
    setattr(model, name, nn.Identity())
    try:
        yield
    finally:
        setattr(model, name, head)


def head_copy(model: PreTrainedModel) -> nn.Module:
    """A copy of a classifier's head in fp32."""
    head: nn.Module = copy.deepcopy(getattr(model, head_name(model))).float()
    return head


def free(device: torch.device) -> None:
    """Gives memory back that no model needs any more."""
    gc.collect()  # peft's wrappers hold one another
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _two(one: str, other: str) -> str:
    return f"{one[:8]} and {other[:8]}"
