"""Models of full size, whole and cut to a quarter of their layers, timed on a CUDA card.

Weights are random, which makes no difference to time. Which layers are kept makes none either: the first of each
stack are, in the full model's own memory.
"""

import copy
import gc
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerwise.compression.compact import compact_model
from layerwise.evaluation.audited import Mode
from layerwise.evaluation.bounds import Bound, Work, bound_of, work_of
from layerwise.evaluation.card import CardState, card_state
from layerwise.evaluation.latency import LatencyComparison, compare_latency
from layerwise.evaluation.memory import cache_bytes, peak_allocated
from layerwise.evaluation.workloads import Decoding, Scoring, random_tokens
from layerwise.lab.speed_tables import no_difference, shallower
from layerwise.lab.spot_checks import Check
from layerwise.models.full_size import random_language_model, random_recommender
from layerwise.models.layers import layers_of
from layerwise.models.recommender import Recommender
from layerwise.statistics import speedup

ITEMS, EVENTS, PROMPT = 10_000, 64, 512  # catalogue, events of a history, tokens before the one that is decoded
QUARTER = 4  # full depth over kept depth
BATCH = 64  # rows that decode
SATURATING = 5e13  # operations of a full call that keep a card busy for a tenth of a second or so
NUM_INPUTS = 4
BLOCKS, A_A_BLOCKS, SHOWN_BLOCKS = 12, 8, 4
SECONDS = 2.0  # of timed calls in a comparison, as far as two calls per turn allow


@dataclass(frozen=True)
class Way:
    """How a workload is called.

    Attributes:
        batch: Rows of a call; None for as many as saturate the card, by the size of the model.
        mode: See `compare_latency`.
    """

    batch: int | None
    mode: Mode

    def rows(self, workload: nn.Module) -> int:
        """Rows of a call of this workload: those that were given, or a power of two that saturates."""
        if self.batch is not None:
            return self.batch
        in_layers = sum(parameter.numel() for layer in layers_of(workload) for parameter in layer.parameters())
        return int(2 ** round(math.log2(SATURATING / (2 * in_layers * EVENTS))))


WAYS = {"saturated": Way(None, "eager"), "captured": Way(1, "captured"), "eager": Way(1, "eager")}
"""By name in a case, those that are judged."""
SHOWN = (Way(8, "eager"), Way(8, "captured"), Way(64, "eager"), Way(64, "captured"))


@dataclass(frozen=True)
class Timed:
    """One workload, called in one way.

    Attributes:
        pair: Full against compact.
        same: The compact model against its copy.
        card: The card right after the calls.
        bound: What the ratio can be, by layers, arithmetic and memory.
        work: Of a call of the compact model.
    """

    pair: LatencyComparison
    same: LatencyComparison
    card: CardState
    bound: Bound
    work: Work

    def checks(self) -> list[Check]:
        """What must hold before the speedup counts."""
        quarter = self.pair.full_layers == QUARTER * self.pair.compact_layers
        kept = f"a quarter of the layers is kept: {self.pair.compact_layers} of {self.pair.full_layers}"
        a_a = no_difference(speedup(self.same.full_ms, self.same.compact_ms))
        return [*self.pair.checks(), (quarter, kept), a_a, *self.card.checks()]


def scoring_pair(shape: str, device: torch.device) -> tuple[Scoring, Scoring]:
    """Finding the ten best of `ITEMS` items with all layers and with a quarter of them; one set of weights."""
    full = Scoring(random_recommender(shape, ITEMS, EVENTS, device), shows_states=True).eval()
    return full, shallower(full, len(layers_of(full)) // QUARTER).eval()


def requests(recommender: Recommender, batch: int, number: int = NUM_INPUTS, seed: int = 0) -> list[dict[str, Tensor]]:
    """Batches of full histories of random items, all different; nothing is padded, so there is no mask."""
    rng = np.random.default_rng(seed)
    batches = [recommender.batch(list(rng.integers(0, ITEMS, (batch, EVENTS)))) for _ in range(number)]
    return [{name: tensor for name, tensor in one.items() if "mask" not in name} for one in batches]


def decoding_pair(shape: str, device: torch.device, batch: int = BATCH) -> tuple[Decoding, Decoding]:
    """Decoding a token over the whole vocabulary after `PROMPT` others, with all layers and with a quarter of them."""
    model = random_language_model(shape, device=device)
    cut = compact_model(model, range(len(layers_of(model)) // QUARTER), share_weights=True)
    (prompt,) = _tokens(model, (batch, PROMPT), 1, seed=0)
    full, compact = (Decoding(one, prompt).eval() for one in (model, cut))
    return full, compact


def time_scoring(shape: str, device: torch.device) -> tuple[dict[str, Timed], list[dict[str, Any]]]:
    """Scoring in every judged way, by its name, and the tables that stand beside; nothing stays on the card."""
    full, compact = scoring_pair(shape, device)
    by_way, rows = {}, []
    for name, way in WAYS.items():
        inputs = requests(full.recommender, way.rows(full))
        by_way[name] = _timed(full, compact, inputs, device, way.mode)
        rows.append(_row(by_way[name].pair))
    judged = {(timed.pair.batch_size, timed.pair.mode) for timed in by_way.values()}
    for way in SHOWN:
        if (way.batch, way.mode) in judged:
            continue
        inputs = requests(full.recommender, way.rows(full))
        rows.append(_row(compare_latency(full, compact, inputs, SHOWN_BLOCKS, mode=way.mode, seconds=1.0)))
    tables = [
        {
            "title": f"Scoring {ITEMS:,} items after {EVENTS} events, {shape}, random weights",
            "columns": ["batch", "mode", "full, ms", "compact, ms", "speedup", "of layers / kept", "failed checks"],
            "rows": sorted(rows, key=lambda row: (row[0], row[1])),
        },
        _memory_table(shape, full, compact),
    ]
    del full, compact
    _free()
    return by_way, tables


def time_decoding(shape: str, device: torch.device) -> tuple[Timed, list[dict[str, Any]]]:
    """Decoding as a captured graph, and the tables that stand beside; nothing stays on the card."""
    full, compact = decoding_pair(shape, device)
    timed = _timed(full, compact, _next_tokens(full, BATCH), device, "captured")
    weights = [_weight_bytes(one) for one in (full, compact)]
    per_row = [cache_bytes(one.model, batch=1, length=PROMPT + 1) for one in (full, compact)]
    cut = compact.model
    del full, compact
    _free()
    rows = [BATCH, (weights[0] + BATCH * per_row[0] - weights[1]) // per_row[1]]
    milliseconds = [float(timed.pair.full_ms.mean()), _decoding_ms(cut, rows[1])]
    return timed, [_equal_memory_table(shape, weights, per_row, rows, milliseconds)]


def _decoding_ms(model: PreTrainedModel, rows: int) -> float:
    """Milliseconds of a captured call that decodes that many rows."""
    (prompt,) = _tokens(model, (rows, PROMPT), 1, seed=0)
    crowd = Decoding(model, prompt).eval()
    timed = compare_latency(crowd, copy.deepcopy(crowd), _next_tokens(crowd, rows), 2, mode="captured", seconds=1.0)
    del crowd
    _free()
    return float(timed.full_ms.mean())


def _equal_memory_table(
    shape: str, weights: list[int], per_row: list[int], rows: list[int], milliseconds: list[float]
) -> dict[str, Any]:
    """What both models decode in the bytes of the full one's weights and cache; lists are full, then compact."""
    speeds = [1000 * batch / ms for batch, ms in zip(rows, milliseconds, strict=True)]
    budget = weights[0] + rows[0] * per_row[0]
    columns = zip(("full", "compact"), weights, per_row, rows, milliseconds, speeds, strict=True)
    return {
        "title": f"Decoding in equal memory, {shape}: {budget / 1e9:.2f} GB of weights, keys and values; the compact "
        f"model's throughput is {speeds[1] / speeds[0]:.2f} times the full one's",
        "columns": ["model", "weights, bytes", "keys and values per row, bytes", "rows", "ms", "tokens/s"],
        "rows": [[*sizes, f"{ms:.2f}", f"{speed:.0f}"] for *sizes, ms, speed in columns],
    }


def bounds_table(title: str, timed: Timed) -> dict[str, Any]:
    """What the ratio can be, and what the compact model's call reaches of the card, as arguments of `claim.table`."""
    seconds = float(timed.pair.compact_ms.mean()) / 1000
    rows = [
        ["layers / kept (share of the bound)", f"{timed.bound.layers:.2f}", ""],
        ["floating-point operations", f"{timed.bound.flops:.2f}", f"{timed.work.flops / seconds / 1e12:.0f} TFLOP/s"],
        ["bytes moved", f"{timed.bound.bytes:.2f}", f"{timed.work.bytes / seconds / 1e12:.2f} TB/s"],
        ["measured", f"{timed.pair.speedup:.2f}", f"{1000 * seconds:.3f} ms"],
    ]
    return {"title": title, "columns": ["ratio of", "full / compact", "of the compact call"], "rows": rows}


def _timed(
    full: nn.Module, compact: nn.Module, inputs: list[dict[str, Tensor]], device: torch.device, mode: Mode
) -> Timed:
    pair = compare_latency(full, compact, inputs, BLOCKS, mode=mode, seconds=SECONDS)
    card = card_state(device)
    same = compare_latency(compact, copy.deepcopy(compact), inputs, A_A_BLOCKS, mode=mode, seconds=SECONDS / 2)
    timed = Timed(pair, same, card, bound_of(full, compact, inputs[0]), work_of(compact, inputs[0]))
    _free()
    return timed


def _row(timed: LatencyComparison) -> list[str | int]:
    flaws = "; ".join(sentence for ok, sentence in timed.checks() if not ok) or "none"
    times = [f"{float(ms.mean()):.3f}" for ms in (timed.full_ms, timed.compact_ms)]
    share = f"{100 * timed.speedup / timed.bound:.0f} %"
    return [timed.batch_size, timed.mode, *times, f"{timed.speedup:.2f}", share, flaws]


def _memory_table(shape: str, full: Scoring, compact: Scoring) -> dict[str, Any]:
    """Weights, and the peak of a call."""
    (inputs,) = requests(full.recommender, BATCH, number=1)
    rows = []
    for name, workload in (("full", full), ("compact", compact)):
        parameters = sum(parameter.numel() for parameter in workload.parameters())
        peak = peak_allocated(workload, inputs)
        rows.append([name, len(layers_of(workload)), parameters, _weight_bytes(workload), peak])
    title = f"Memory, {shape}: weights, and with what scoring a batch of {BATCH} allocates at its peak"
    columns = ["model", "layers", "parameters", "weights, bytes", "peak, bytes"]
    return {"title": title, "columns": columns, "rows": rows}


def _weight_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def _next_tokens(workload: Decoding, batch: int) -> list[dict[str, Tensor]]:
    return [{"input_ids": token} for token in _tokens(workload.model, (batch, 1), NUM_INPUTS, seed=1)]


def _tokens(model: Any, shape: tuple[int, int], number: int, seed: int) -> list[Tensor]:
    vocabulary = model.get_input_embeddings().num_embeddings
    return [tokens.to(model.device) for tokens in random_tokens(number, vocabulary, shape, seed)]


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()
