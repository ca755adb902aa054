"""Full models with few bits per weight: the rival of few layers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from layerwise.compression.quantize import int4_quantized, int8_quantized
from layerwise.data.arrays import FloatArray
from layerwise.evaluation.quality import target_metrics
from layerwise.evaluation.ranking import mean_by_user
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.experiments.models import ScratchModel
from layerwise.lab.store import read_arrays, write_arrays

BITS: dict[int, Callable[[Any], Any]] = {8: int8_quantized, 4: int4_quantized}


@dataclass(frozen=True)
class QuantizedQuality(Experiment[dict[str, FloatArray]]):
    """Test metrics of a quantised full model, one value per user: the mean over its last events."""

    of: ScratchModel
    bits: int
    kind: ClassVar[str] = "quantized"
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.quantized",)

    def effort(self) -> float:
        return 3.0

    def describe(self) -> str:
        return f"ranking with {self.of.describe()} in INT{self.bits}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        split = lab.split(self.subject)
        values = target_metrics(BITS[self.bits](lab.get(self.of)), split, split.test)
        by_user = {name: mean_by_user(value, split.test.users) for name, value in values.items()}
        write_arrays(folder / "quality.safetensors", {name: np.asarray(value) for name, value in by_user.items()})

    def load(self, folder: Path) -> dict[str, FloatArray]:
        return read_arrays(folder / "quality.safetensors")
