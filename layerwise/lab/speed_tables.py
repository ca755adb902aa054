"""Speed and memory of a study's full and compact model: workloads, and the tables that stand beside their verdicts."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from layerwise.compression.compact import compact_model
from layerwise.evaluation.bounds import bound_of
from layerwise.evaluation.depth_cost import fit_depth_cost, time_by_depth
from layerwise.evaluation.latency import LatencyComparison, compare_latency
from layerwise.evaluation.memory import count_parameters, stored_bytes
from layerwise.evaluation.resident import peak_resident
from layerwise.evaluation.workloads import Scoring
from layerwise.lab.spot_checks import Check, depth_check
from layerwise.lab.study import Study
from layerwise.models.layers import stacks_of
from layerwise.models.recommender import Recommender
from layerwise.statistics import Speedup, speedup

BATCHES = (1, 8, 64, 256)
NUM_INPUTS, WARMUP = 4, 3  # inputs and rounds of warm-up of what is only shown, not judged
QUARTERS = (1, 2, 3, 4)  # of the full depth: where the line of time against depth is laid


def full_and_compact(study: Study) -> tuple[Scoring, Scoring]:
    """Scoring with the first seed's full and healed model."""
    full, compact = (Scoring(study.model(model)).eval() for model in (study.full()[0], study.healed()[0]))
    return full, compact


def scoring_inputs(study: Study, recommender: Recommender, batch: int, number: int) -> list[dict[str, Tensor]]:
    """Batches of real histories, all different: the test users in turn, from the start again where they run out."""
    histories = study.split.histories(study.split.test)
    starts = range(0, number * batch, batch)
    return [recommender.batch([histories[(start + row) % len(histories)] for row in range(batch)]) for start in starts]


def shallower(workload: Scoring, depth: int) -> Scoring:
    """The same workload with the first layers of each stack, in proportion, `depth` in all; weights are shared."""
    stacks = stacks_of(workload.recommender)
    total = sum(len(layers) for layers in stacks.values())
    kept = {stack.name: range(len(layers) * depth // total) for stack, layers in stacks.items()}
    cut = compact_model(workload.recommender, kept, share_weights=True)
    return Scoring(cut, workload.k, workload.shows_states)


def batches_table(study: Study, full: Scoring, compact: Scoring, blocks: int = 6) -> dict[str, Any]:
    """Milliseconds and speedup by batch size, as arguments of `claim.table`."""
    rows = []
    for batch in BATCHES:
        inputs = scoring_inputs(study, full.recommender, batch, NUM_INPUTS)
        timed = compare_latency(full, compact, inputs, blocks, warmup=WARMUP)
        rows.append([batch, *_times(timed), f"{100 * timed.speedup / timed.bound:.0f} %", _flaws(timed)])
    columns = ["batch", "full, ms", "compact, ms", "speedup", "rows/s, compact", "of layers / kept", "failed checks"]
    return {"title": f"Scoring by batch size, {study.subject.family}", "columns": columns, "rows": rows}


def bounds_table(study: Study, full: Scoring, compact: Scoring, batch: int, blocks: int = 8) -> dict[str, Any]:
    """What the speedup of scoring can reach, by layers, arithmetic, memory traffic and fixed cost."""
    inputs = scoring_inputs(study, full.recommender, batch, NUM_INPUTS)
    bound = bound_of(full, compact, inputs[0])
    depths = [study.depth * quarter // 4 for quarter in QUARTERS]
    cost = fit_depth_cost(time_by_depth([shallower(full, depth) for depth in depths], inputs, blocks, warmup=WARMUP))
    ceiling, error = cost.ceiling(study.depth, study.keep)
    fixed, layer = cost.standard_errors
    rows = [
        ["layers / kept (share of the bound)", f"{bound.layers:.2f}", ""],
        ["floating-point operations", f"{bound.flops:.2f}", "if arithmetic takes the time"],
        ["bytes moved", f"{bound.bytes:.2f}", "if moving memory takes the time"],
        [
            "fixed cost",
            f"{ceiling:.2f} (standard error {error:.2f})",
            f"{cost.fixed_ms:.2f} ({fixed:.2f}) + {cost.layer_ms:.2f} ({layer:.2f}) ms per layer at depths "
            f"{', '.join(map(str, depths))}; largest misfit {100 * cost.misfit:.1f} %",
        ],
    ]
    title = f"Bounds of the speedup of scoring, {study.subject.family}, batch {batch}"
    return {"title": title, "columns": ["by", "at most", "remark"], "rows": rows}


def memory_table(study: Study, batch: int) -> dict[str, Any]:
    """Parameters, bytes of the checkpoint and peak resident bytes of one scored batch."""
    pair = full_and_compact(study)
    inputs = scoring_inputs(study, pair[0].recommender, batch, number=1)[0]
    rows = [_memory_row(name, one.recommender, inputs) for name, one in zip(("full", "compact"), pair, strict=True)]
    columns = ["model", "layers", "parameters", "in the layers", "of them shared", "checkpoint, bytes", "peak, bytes"]
    title = f"Memory, {study.subject.family}; peak resident of a fresh process that scores a batch of {batch}"
    return {"title": title, "columns": columns, "rows": rows}


def timing_checks(study: Study, timed: LatencyComparison, same: LatencyComparison) -> list[Check]:
    """Whether both models did their work while timed, with as many layers as claimed, and the instrument is sound."""
    a_a = no_difference(speedup(same.full_ms, same.compact_ms))
    return [*timed.checks(), depth_check(study, tuple(study.healed()), study.tier.kept), a_a]


def no_difference(same: Speedup) -> Check:
    """Whether an A/A run fails to tell a model from its copy; a sound instrument is failed once in 1,000 runs."""
    interval = same.interval(0.999)
    ends = f"99.9 % interval {interval.low:.3f} to {interval.high:.3f}"
    return interval.low <= 1 <= interval.high, f"a model timed against its own copy must not differ: {ends}"


def blocks_figure(timed: LatencyComparison) -> dict[str, Any]:
    """Speedup in each block, as arguments of `claim.figure`."""
    blocks = list(range(1, len(timed.full_ms) + 1))
    return {
        "name": "blocks",
        "kind": "points",
        "title": "Speedup in each block of alternating timings",
        "x_label": "block",
        "y_label": "full / compact time",
        "series": [{"label": "speedup", "x": blocks, "y": (timed.full_ms / timed.compact_ms).tolist()}],
        "reference": {"label": "ratio of layers", "value": timed.bound},
    }


def _memory_row(name: str, recommender: Recommender, inputs: dict[str, Tensor]) -> Sequence[str | int]:
    count = count_parameters(recommender)
    return [
        name,
        len(recommender.layers),
        count.total,
        count.in_layers,
        count.shared,
        stored_bytes(recommender),
        peak_resident(recommender, inputs),
    ]


def _times(timed: LatencyComparison) -> list[str]:
    full, compact = (float(ms.mean()) for ms in (timed.full_ms, timed.compact_ms))
    return [f"{full:.2f}", f"{compact:.2f}", f"{timed.speedup:.2f}", f"{1000 * timed.batch_size / compact:.0f}"]


def _flaws(timed: LatencyComparison) -> str:
    return "; ".join(sentence for ok, sentence in timed.checks() if not ok) or "none"
