"""LoRA on a base whose layers hold 4 bits per weight (QLoRA), and tuned models in 8 and 4 bits, on the task of likes.

References:
    Dettmers et al. 2023 (QLoRA), section 4: NF4 with LoRA on all linear layers matches fine-tuning in 16 bits. Here
    without double quantisation and paged optimisers, which save memory and should leave quality alone.
"""

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from layerwise.compression.quantize import (
    int4_quantized,
    int8_quantized,
    nf4_quantized,
    packed_bytes,
    serialised_bytes,
)
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.likes import (
    Answers,
    LikeAnswers,
    LoraAdapter,
    OfLikes,
    base_classifier,
    like_tasks,
    text_answers,
)
from layerwise.lab.store import read_arrays, write_arrays
from layerwise.models.classifier import Course, Step, probabilities
from layerwise.models.lora_classifier import lora_arms, train_lora, with_adapter

try:
    import bitsandbytes
except ImportError:  # the extra layerwise[quantize]
    bitsandbytes = None

FULL, INT8, INT4, QLORA = "LoRA, merged, fp32", "LoRA, merged, INT8", "LoRA, merged, INT4", "LoRA on NF4"
LARGEST_GAP = 0.16  # half of the largest gap between two NF4 levels, -1 and -0.696, and a little
FORMATS = (FULL, INT8, INT4, QLORA)


@dataclass(frozen=True)
class OfNF4(OfLikes):
    """An experiment of one seed that also depends on the version of bitsandbytes.

    Attributes:
        seed: Of head, adapter, order and dropout: those of the LoRA training that it is compared with.
        tuned_on: Seed whose validation chose LoRA's learning rate, which QLoRA takes over.
    """

    seed: int
    tuned_on: int
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.qlora", "layerwise.lab.experiments.likes")

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.lora,)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "bitsandbytes": version("bitsandbytes")}

    @property
    def lora(self) -> LikeAnswers:
        """What LoRA of this seed answers, and its learning rate."""
        return LikeAnswers(self.of, self.seed, self.tuned_on)

    def rate(self, lab: Bench) -> float:
        """LoRA's learning rate."""
        return float(lab.get(self.lora).noted["learning_rate"]["LoRA"])


@dataclass(frozen=True)
class QloraAdapter(OfNF4):
    """An adapter and a head, trained on a base with NF4 layers: folder as peft writes it, and the course."""

    kind: ClassVar[str] = "qlora-adapter"

    def effort(self) -> float:
        return 100.0

    def describe(self) -> str:
        return f"LoRA on {self.of.base} in NF4, seed {self.seed}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        base, tasks = nf4_base(lab, self), like_tasks(lab, self.of)
        recipe = replace(self.of.recipe, learning_rate=self.rate(lab))

        def told(step: Step) -> None:
            report(step.update / step.updates, f"update {step.update} of {step.updates}")

        course = train_lora(
            base, tasks["train"], tasks["validation"], self.of.lora, recipe, self.seed, folder / "adapter", told
        )
        (folder / "course.json").write_text(json.dumps(_noted(course), indent=1))

    def load(self, folder: Path) -> tuple[Path, dict[str, Any]]:
        """Folder of the adapter, and the course of its training."""
        return folder / "adapter", json.loads((folder / "course.json").read_text())


@dataclass(frozen=True)
class QuantizedLikes(OfNF4):
    """Probabilities of the test examples by number format, with the bytes of each model."""

    kind: ClassVar[str] = "quantized-likes"

    def needs(self) -> tuple[Experiment[Any], ...]:
        return self.lora, QloraAdapter(self.of, self.seed, self.tuned_on)

    def effort(self) -> float:
        return 40.0

    def describe(self) -> str:
        return f"LoRA on {self.of.base} in few bits, seed {self.seed}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        test, lora = like_tasks(lab, self.of)["test"], lab.get(self.lora)
        found, sizes = {}, {}
        for number, (name, model) in enumerate(format_models(lab, self).items()):
            report(number / len(FORMATS), name)
            found[name] = probabilities(text_answers(model, test))
            sizes[name] = [serialised_bytes(model), packed_bytes(model)]
        write_arrays(folder / "answers.safetensors", found | {"labels": lora.labels, "users": lora.users})
        apart = float(np.abs(found[FULL] - lora.probability["B"]).max())
        noted = {"bytes": sizes, "learning_rate": self.rate(lab), "apart": apart}
        (folder / "noted.json").write_text(json.dumps(noted, indent=1))

    def load(self, folder: Path) -> Answers:
        arrays = read_arrays(folder / "answers.safetensors")
        noted = json.loads((folder / "noted.json").read_text())
        return Answers({name: arrays[name] for name in FORMATS}, arrays["labels"], arrays["users"], noted)


def format_models(lab: Bench, of: OfNF4) -> dict[str, nn.Module]:
    """The models that are compared, by their format; on the CPU, or all on the lab's device."""
    adapter, _ = lab.get(LoraAdapter(of.of, of.seed, of.rate(lab)))
    own, _ = lab.get(QloraAdapter(of.of, of.seed, of.tuned_on))
    _, tuned = lora_arms(base_classifier(of.of, of.seed).to(lab.device), adapter)
    return {
        FULL: tuned,
        INT8: int8_quantized(tuned),
        INT4: int4_quantized(tuned),
        QLORA: with_adapter(nf4_base(lab, of), own),
    }


def nf4_base(lab: Bench, of: OfNF4) -> PreTrainedModel:
    """The pretrained classifier with a new head, its layers in NF4."""
    return nf4_quantized(base_classifier(of.of, of.seed).to(lab.device))


@cache
def why_no_nf4() -> str | None:
    """Why 4-bit weights cannot be used here, None where they can: a few are quantised and turned back on the CPU."""
    if bitsandbytes is None:
        return "bitsandbytes is not installed; install it with: pip install 'layerwise[quantize]'"
    name = f"bitsandbytes {bitsandbytes.__version__}"
    try:
        numbers = torch.linspace(-1, 1, 64)[None]
        codes, state = bitsandbytes.functional.quantize_4bit(numbers, blocksize=64, quant_type="nf4")
        apart = float((bitsandbytes.functional.dequantize_4bit(codes, state) - numbers).abs().max())
    except (RuntimeError, NotImplementedError, AttributeError, ValueError, OSError) as error:
        return f"{name} has no NF4 for this processor: {str(error).splitlines()[0]:.120}"
    if apart > LARGEST_GAP:
        return f"{name} has a wrong NF4 for this processor: numbers move by {apart:.2f}"
    return None


def _noted(course: Course) -> dict[str, Any]:
    return {"updates": course.updates, "best_update": course.best_update, "validation": course.validation}
