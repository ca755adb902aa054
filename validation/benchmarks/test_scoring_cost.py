"""What scoring a batch costs with all layers and with a quarter of them, by family, and the share of the bound (layers
over kept layers): with masks and position biases as `transformers` makes them, and as `Prepared` does; called eagerly,
and compiled.

Times on a shared processor are printed, not judged; what decides is that both ways give the same outputs and that every
layer ran in every timed call. Weights are random, histories are those of the test users of MovieLens-100K.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table

from layerwise.data.readers import load_interactions
from layerwise.data.splits import leave_last_out
from layerwise.evaluation.bounds import bound_of
from layerwise.evaluation.latency import compare_latency
from layerwise.evaluation.workloads import Scoring
from layerwise.lab.speed_tables import shallower
from layerwise.lab.tiers import SUBJECT
from layerwise.models.families import FAMILIES
from layerwise.models.recommender import build_recommender
from layerwise.statistics import speedup

BATCH, NUM_INPUTS, BLOCKS, KEPT = 64, 4, 6, 0.25
ROUNDS, COMPILED_ROUNDS = 4, 2  # compiling takes most of the time
AS_TRANSFORMERS_DOES = SimpleNamespace(using=nullcontext)


def ways(recommender):
    """By way, scoring with all layers and with a quarter of them; the weights are the same."""
    whole, kept = Scoring(recommender), round(KEPT * len(recommender.layers))
    pairs = {way: (Scoring(recommender), shallower(whole, kept)) for way in ("plain", "prepared")}
    for scoring in pairs["plain"]:
        scoring.prepared = AS_TRANSFORMERS_DOES
    return pairs


def timed(pairs, inputs, rounds, mode_of=lambda way: "eager"):
    """By way, milliseconds of the full and of the compact model in every block, *2 x blocks*; rounds take every way."""
    found = {way: [] for way in pairs}
    for number in range(rounds):
        for way in sorted(pairs, reverse=number % 2 == 1):
            one = compare_latency(*pairs[way], inputs, BLOCKS, warmup=3, mode=mode_of(way))
            assert [sentence for ok, sentence in one.checks()[:3] if not ok] == []  # outputs, layers of both
            found[way].append((one.full_ms, one.compact_ms))
    return {way: np.concatenate(parts, axis=1) for way, parts in found.items()}


def row(way, pair, times, inputs):
    full, compact = (len(scoring.recommender.layers) for scoring in pair)
    ratio = speedup(*times)
    interval, bound = ratio.interval(0.95), bound_of(*pair, inputs)
    large, small = times.mean(axis=1)
    fixed = (full * small - compact * large) / (full - compact)  # the line through two depths, at none
    return [
        way,
        f"{large:.2f}",
        f"{small:.2f}",
        f"{ratio.estimate:.2f} ({interval.low:.2f} to {interval.high:.2f})",
        f"{100 * ratio.estimate / bound.layers:.0f} %",
        f"{bound.bytes:.2f}",
        f"{fixed:.2f}",
        f"{(large - fixed) / full:.2f}",
    ]


@pytest.fixture(params=FAMILIES)
def scored(request):
    """A family, its recommender with random weights, and batches of real histories."""
    split = leave_last_out(
        load_interactions(SUBJECT.dataset, min_events=SUBJECT.test_targets + 2), SUBJECT.test_targets
    )
    histories = split.histories(split.test)
    num_items = 1 + max(int(history.max()) for history in histories)
    recommender = build_recommender(request.param, num_items, SUBJECT.max_length, SUBJECT.shape, seed=0).eval()
    inputs = [recommender.batch(histories[start : start + BATCH]) for start in range(0, NUM_INPUTS * BATCH, BATCH)]
    return request.param, recommender, inputs


def show(capsys, family, first_column, pairs, times, inputs):
    columns = (first_column, "full, ms", "compact, ms", "speedup", "share", "by bytes", "fixed, ms", "a layer, ms")
    table = Table(*columns, title=f"{family}, random weights, batch {BATCH}")
    for way, pair in pairs.items():
        table.add_row(*row(way, pair, times[way], inputs[0]))
    with capsys.disabled():
        Console(width=130).print("\n", table)


def test_scoring_with_a_quarter_of_the_layers(scored, capsys):
    family, recommender, inputs = scored
    pairs = ways(recommender)
    with torch.inference_mode():
        for plain, prepared in zip(*pairs.values(), strict=True):
            for one in inputs:
                assert all(torch.equal(a, b) for a, b in zip(plain(**one), prepared(**one), strict=True))

    show(capsys, family, "masks and biases", pairs, timed(pairs, inputs, ROUNDS), inputs)


def test_compiled_scoring_with_a_quarter_of_the_layers(scored, capsys):
    """`torch.compile` needs a C++ compiler."""
    family, recommender, inputs = scored
    whole = Scoring(recommender)
    pair = whole, shallower(whole, round(KEPT * len(recommender.layers)))
    pairs = {"eager": pair, "compiled": pair}

    show(capsys, family, "called", pairs, timed(pairs, inputs, COMPILED_ROUNDS, mode_of=str), inputs)
