"""The three arms of a LoRA comparison on a sequence classifier, and how they are trained on the same batches.

A: the frozen base with the head that LoRA training produced. B: the base with the adapter merged and the same head.
C: the frozen base with a head of its own, trained on features that are computed once.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerwise.data.arrays import IntArray
from layerwise.models.classifier import ClassifierRecipe, Course, Rows, Step, fit, in_batches, text_logits
from layerwise.models.lora import merge_lora

try:
    import peft
except ImportError:  # the extra layerwise[lora]
    peft = None


@dataclass(frozen=True)
class Lora:
    """Size of an adapter on all linear layers of a backbone: rank, scale (`alpha / rank`) and dropout of its input."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts with their classes: *num_examples* of each."""

    prompts: Rows
    labels: IntArray

    @property
    def lengths(self) -> IntArray:
        """Tokens of each prompt."""
        return np.array([len(prompt) for prompt in self.prompts])


def train_lora(
    base: PreTrainedModel,
    train: Task,
    validation: Task,
    lora: Lora,
    recipe: ClassifierRecipe,
    seed: int,
    folder: Path,
    on_progress: Callable[[Step], None] = lambda _: None,
) -> Course:
    """Trains an adapter and the head of a sequence classifier and writes both as peft does; the base is left alone.

    The head is trained in full, in fp32, from the base's own; the base computes in bf16 where the device has it.

    Args:
        base: A sequence classifier with a new head.
        train: What is learned.
        validation: What decides which weights are kept.
        lora: Size of the adapter.
        recipe: Rates and lengths.
        seed: Decides the adapter's first weights, order and dropout.
        folder: Where `adapter_config.json` and `adapter_model.safetensors` go.
        on_progress: Called after each validation.

    Raises:
        ImportError: If peft is not installed.
        TrainingDivergedError: If a loss is not finite.
    """
    if peft is None:
        raise ImportError("training an adapter needs peft; install it with: pip install 'layerwise[lora]'")
    config = peft.LoraConfig(
        task_type="SEQ_CLS",  # without it the head would stay untrained
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
    )
    pad = base.config.pad_token_id
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        wrapped = peft.get_peft_model(copy.deepcopy(base), config)

    def answer(task: Task) -> Callable[[IntArray], Tensor]:
        return lambda rows: text_logits(wrapped, [task.prompts[row] for row in rows], pad, autocast=True)

    def validate() -> float:
        return _loss(in_batches(answer(validation), validation.lengths), validation.labels)

    course = fit(wrapped, answer(train), train.labels, train.lengths, validate, recipe, seed, on_progress)
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    return course


def lora_arms(base: PreTrainedModel, folder: str | Path) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Arms A and B of a trained adapter, in evaluation mode, as plain models.

    A is `unload()`, which keeps the trained head; `disable_adapter()` would switch it off as well.

    Args:
        base: The classifier that the adapter was trained on; it is left as it was.
        folder: The adapter with its head.
    """
    frozen: PreTrainedModel = with_adapter(base, folder).unload()
    return frozen.eval(), merge_lora(base, folder).eval()


def with_adapter(base: PreTrainedModel, folder: str | Path) -> Any:
    """A copy of the base with the adapter beside its weights, not merged."""
    if peft is None:
        raise ImportError("reading an adapter needs peft; install it with: pip install 'layerwise[lora]'")
    return peft.PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()


def frozen_features(base: PreTrainedModel, task: Task) -> Tensor:
    """What the head of a classifier is given, *num_examples x hidden*, in fp32, without dropout."""
    headless = copy.deepcopy(base).eval()
    setattr(headless, head_name(base), nn.Identity())  # the model itself pools, whatever its family
    pad = base.config.pad_token_id
    return in_batches(lambda rows: text_logits(headless, [task.prompts[row] for row in rows], pad), task.lengths)


def train_head(
    base: PreTrainedModel,
    features: tuple[Tensor, Tensor],
    train: Task,
    validation: Task,
    recipe: ClassifierRecipe,
    seed: int,
) -> tuple[nn.Module, Course]:
    """A copy of the base's head trained on features of the frozen base: the same batches and updates as with LoRA.

    Args:
        base: The classifier.
        features: Of training and of validation examples, see `frozen_features`.
        train: Their classes and lengths.
        validation: Likewise.
        recipe: Rates and lengths.
        seed: As for LoRA.
    """
    head = copy.deepcopy(getattr(base, head_name(base)))
    features = (features[0].clone(), features[1].clone())  # no inference tensors: they could not be trained on

    def validate() -> float:
        return _loss(head(features[1]), validation.labels)

    course = fit(head, lambda rows: head(features[0][rows]), train.labels, train.lengths, validate, recipe, seed)
    return head, course


def head_name(model: PreTrainedModel) -> str:
    """Name of the module on top of the backbone, such as `classifier` or `score`.

    Raises:
        ValueError: If there is not exactly one.
    """
    names = [str(name) for name, _ in model.named_children() if name not in (model.base_model_prefix, "dropout")]
    if len(names) != 1:
        raise ValueError(f"expected a backbone with one head on top, {type(model).__name__} has {names}")
    return names[0]


def _loss(logits: Tensor, labels: IntArray) -> float:
    """Mean cross-entropy in nats."""
    return float(nn.functional.cross_entropy(logits.float(), torch.as_tensor(labels, device=logits.device)))
