"""Decoding with a study's full and compact model: the next item after a real history, and what fits in equal memory."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerwise.data.arrays import IntArray
from layerwise.evaluation.bounds import bound_of
from layerwise.evaluation.latency import compare_latency
from layerwise.evaluation.memory import cache_bytes, stored_bytes
from layerwise.evaluation.workloads import Decoding
from layerwise.lab.study import Study
from layerwise.models.recommender import Recommender

NUM_INPUTS, WARMUP, BLOCKS = 4, 3, 6  # of what is only shown, not judged


def decoding_pair(study: Study, batch: int) -> tuple[Decoding, Decoding]:
    """Decoding with the first seed's full and healed model, after the same histories, *batch x max_length*.

    Raises:
        ValueError: If the study's family is not causal.
    """
    prompt = torch.from_numpy(long_histories(study, batch)[:, :-1])
    full, compact = (Decoding(model.model, prompt).eval() for model in _models(study))
    return full, compact


def next_items(study: Study, batch: int, number: int) -> list[dict[str, Tensor]]:
    """That many inputs, all different: items *batch x 1* that follow histories, each time dealt to the next row."""
    items = torch.from_numpy(long_histories(study, max(batch, number))[:, -1])
    return [{"input_ids": items.roll(shift)[:batch, None]} for shift in range(number)]


def decoding_table(study: Study, batches: tuple[int, ...] = (1, 8, 64, 256)) -> dict[str, Any]:
    """Milliseconds and speedup by batch size beside what is computed and moved, as arguments of `claim.table`."""
    rows = []
    for batch in batches:
        full, compact = decoding_pair(study, batch)
        inputs = next_items(study, batch, NUM_INPUTS)
        timed = compare_latency(full, compact, inputs, BLOCKS, warmup=WARMUP)
        bound = bound_of(full, compact, inputs[0])
        times = [f"{float(ms.mean()):.2f}" for ms in (timed.full_ms, timed.compact_ms)]
        rows.append([batch, *times, *(f"{ratio:.2f}" for ratio in (timed.speedup, bound.flops, bound.bytes))])
    title = f"Decoding one item after {full.length}, {study.subject.family}; ratio of layers {bound.layers:.2f}"
    columns = ["batch", "full, ms", "compact, ms", "speedup", "ratio of flops", "of bytes moved"]
    return {"title": title, "columns": columns, "rows": rows}


def equal_memory_table(study: Study, batch: int) -> dict[str, Any]:
    """What decodes more in the bytes that the full model's weights and a batch's keys and values take.

    Counted are the checkpoint's bytes and the cache of keys and values; what a call needs besides is not.
    """
    models = _models(study)
    weights = [stored_bytes(model) for model in models]
    per_row = [cache_bytes(model.model, batch=1, length=model.max_length + 1) for model in models]
    budget = weights[0] + batch * per_row[0]
    batches = [batch, (budget - weights[1]) // per_row[1]]
    milliseconds = []
    for arm, size in enumerate(batches):
        timed = compare_latency(*decoding_pair(study, size), next_items(study, size, NUM_INPUTS), BLOCKS, warmup=WARMUP)
        milliseconds.append(float((timed.full_ms, timed.compact_ms)[arm].mean()))
    speeds = [1000 * size / ms for size, ms in zip(batches, milliseconds, strict=True)]
    rows = [
        [name, weights[arm], per_row[arm], batches[arm], f"{milliseconds[arm]:.2f}", f"{speeds[arm]:.0f}"]
        for arm, name in enumerate(("full", "compact"))
    ]
    return {
        "title": f"Decoding in equal memory, {study.subject.family}: {budget} bytes of weights, keys and values; "
        f"the compact model's throughput is {speeds[1] / speeds[0]:.2f} times the full one's",
        "columns": ["model", "weights, bytes", "keys and values per row, bytes", "rows", "ms", "items/s"],
        "rows": rows,
    }


def long_histories(study: Study, number: int) -> IntArray:
    """Histories that fill the model and one more item, *number x max_length + 1*; from the start where they run out."""
    length = _models(study)[0].max_length + 1
    full = [history[-length:] for history in study.split.histories(study.split.test) if len(history) >= length]
    if not full:
        raise ValueError(f"no user of {study.subject.data_name} has a history of {length} items to decode after")
    return np.stack([full[row % len(full)] for row in range(number)])


def _models(study: Study) -> list[Recommender]:
    """The first seed's full and healed model."""
    return [study.model(model) for model in (study.full()[0], study.healed()[0])]
