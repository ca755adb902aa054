"""QLoRA against LoRA on the task of likes: the effect, its checks, and a table of number formats."""

from typing import Any

import numpy as np
import torch

from layerwise.data.arrays import FloatArray
from layerwise.evaluation.audited import AuditedModel
from layerwise.evaluation.classification import classification_metrics
from layerwise.evaluation.timing import default_timer, name_of, synchronised, time_in_turn
from layerwise.lab.experiments import FORMATS, QuantizedLikes, format_models
from layerwise.lab.like_tables import SAME, like_inputs
from layerwise.lab.study import Study
from layerwise.models.lora_arms import Check
from layerwise.statistics import ClassificationGain

FULL, QLORA = FORMATS[0], FORMATS[-1]
METRICS = ("accuracy", "f1", "auc-roc")
BLOCKS, SECONDS = 10, 60.0  # of the timing


def format_gain(study: Study, metric: str, name: str = QLORA) -> ClassificationGain:
    """How many points of a metric a format is ahead of LoRA in full precision, the same seeds and users."""
    found = study.text.few_bits()
    ours, theirs = (np.stack([one.probability[arm] for one in found]).astype(np.float64) for arm in (name, FULL))
    labels, users = (values.astype(np.float64) for values in (found[0].labels, found[0].users))
    return ClassificationGain(ours, theirs, labels, users, metric)


def format_checks(study: Study) -> list[Check]:
    """What must hold before the difference says what 4 bits cost."""
    found, likes = study.text.few_bits(), study.text.likes()
    apart = max(float(one.noted["apart"]) for one in found)
    same = all(np.array_equal(one.labels, other.labels) for one, other in zip(found, likes, strict=True))
    smaller = all(one.noted["bytes"][QLORA][0] < one.noted["bytes"][FULL][0] for one in found)
    return [
        (len(found) >= 5, f"{len(found)} independent trainings; a claim about a method needs at least 5"),
        (same, f"both must answer the same {len(found[0].labels)} examples"),
        (apart <= SAME, f"LoRA's answers must be those of the comparison with the frozen base: {apart:.1g} apart"),
        (smaller, "a model on an NF4 base must take fewer bytes than one in full precision"),
    ]


def format_table(study: Study) -> dict[str, Any]:
    """Quality, bytes and latency of LoRA by number format; means over seeds, latency of the first seed's models."""
    found, ms, clock = study.text.few_bits(), *format_latency(study)
    rows = []
    for number, name in enumerate(FORMATS):
        metrics = [classification_metrics(one.probability[name], one.labels) for one in found]
        means = [f"{100 * np.mean([values[metric] for values in metrics]):.1f}" for metric in METRICS]
        stored, packed = found[0].noted["bytes"][name]
        rows.append([name, *means, _lost(study, name), f"{stored:,}", f"{packed:,}", f"{ms[:, number].mean():.1f}"])
    columns = ["format", "accuracy, %", "F1, %", "AUC-ROC, %", "accuracy - LoRA's, points"]
    columns += ["bytes stored", "bytes if packed", f"ms per batch of 16 ({clock})"]
    return {"title": f"LoRA in few bits, {len(found)} seeds", "columns": columns, "rows": rows}


def format_latency(study: Study) -> tuple[FloatArray, str]:
    """Median ms per batch of the first seed's models in turn, *blocks x formats*, and the clock."""
    first = QuantizedLikes(study.tier.likes, study.tier.seeds[0], study.tier.seeds[0])  # type: ignore[arg-type]
    device = study.lab.device
    inputs = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in like_inputs(study)]
    timer = default_timer(device)
    with torch.inference_mode():
        arms = [
            AuditedModel(name, model, inputs, synchronised(timer, device))
            for name, model in format_models(study.lab, first).items()
        ]
        turns = time_in_turn(arms, len(inputs), BLOCKS, 10, None, SECONDS)
    return turns.block_ms, name_of(timer)


def _lost(study: Study, name: str) -> str:
    if name == FULL:
        return "-"
    gain = format_gain(study, "accuracy", name)
    interval = gain.interval(0.95)
    return f"{gain.estimate:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})"
