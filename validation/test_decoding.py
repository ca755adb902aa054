"""Speedup of decoding: "3.5-4.0x" (Llama 3), "3.8-4.2x" (Qwen 3) with 75 % of the layers removed.

Where it stands: the table of targets of the Layerwise Adapter project, which names no workload. Here one item is
decoded after a real history whose keys and values are cached, with the head over the whole vocabulary. It would be
refuted by an interval below 3.5, or 3.8 for Qwen 3. Only causal families decode.
"""

import copy

import pytest

from layerwise import compare_latency
from layerwise.lab.decoding_tables import decoding_pair, decoding_table, equal_memory_table, next_items
from layerwise.lab.speed_tables import blocks_figure, timing_checks
from layerwise.statistics import speedup

BATCH = 64


@pytest.mark.claim("decoding-speedup")
@pytest.mark.parametrize("workload", [f"{family}-keep25%-batch{BATCH}" for family in ("llama", "qwen3", "gpt2")])
def test_compact_models_decode_the_next_item_several_times_faster(study, claim, workload):
    """With 75 % of the layers removed, a causal recommender decodes 3.5 (Qwen3: 3.8) times as fast."""
    own = study.of(workload.partition("-")[0])
    full, compact = decoding_pair(own, BATCH)
    inputs = next_items(own, BATCH, number=8)
    timed = compare_latency(full, compact, inputs, blocks=30)
    same = compare_latency(compact, copy.deepcopy(compact), inputs, blocks=20)

    for check in timing_checks(own, timed, same):
        claim.require(*check)
    claim.figure(**blocks_figure(timed))
    claim.table(**decoding_table(own))
    claim.table(**equal_memory_table(own, BATCH))

    claim.judge(speedup(timed.full_ms, timed.compact_ms), notes=timed.setting())
