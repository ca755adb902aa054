"""Tables and figures that stand beside contests of methods, as arguments of `claim.table` and `claim.figure`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from layerwise.compression.compact import layer_parameters
from layerwise.compression.magnitude import sparse_bytes
from layerwise.compression.quantize import int4_quantized, int8_quantized, packed_bytes, serialised_bytes
from layerwise.data.arrays import FloatArray
from layerwise.evaluation.timing import default_timer
from layerwise.lab.contests import (
    OTHER_RIVALS,
    PARTS,
    TRAINED_RIVALS,
    WEIGHTINGS,
    ablation,
    advantage,
    kept_depth,
    rival_quality,
    weighting,
)
from layerwise.lab.experiments import Model, Student, TunedStudent
from layerwise.lab.study import Study
from layerwise.models.modes import evaluating
from layerwise.models.recommender import Recommender
from layerwise.statistics import Effect, MeanDifference, Retention

LEVEL = 0.95
BATCH = 64
CALLS = 9

DepthCurve = Mapping[int, tuple[float, float]]
"""From the number of kept layers to NDCG@10 and ms per batch, the full model last."""


@dataclass(frozen=True)
class Cost:
    """What a model costs: layers, parameters in them and in all, bytes as stored, ms per batch, seconds of training."""

    layers: int
    in_layers: int
    parameters: int
    stored: int
    ms: float
    training: float | None


def rivals_table(study: Study) -> dict[str, Any]:
    """Every rival with its quality and its cost; the full model and ours first, then by quality."""
    rows = [
        _rival_row("full model", study.quality(study.full()), _cost(study, study.full()), None),
        _rival_row("ours", study.quality(study.tuned("ours")), _cost(study, study.tuned("ours")), None),
    ]
    contestants = {
        **{rival: _rival_cost(study, rival) for rival in TRAINED_RIVALS},
        "scratch": _cost(study, study.shallow()),
        "int8": _quantized_cost(study, int8_quantized, serialised_bytes),
        "int4": _quantized_cost(study, int4_quantized, packed_bytes),
        "training-free": None,
    }
    others = [
        _rival_row(TRAINED_RIVALS.get(rival, rival), rival_quality(study, rival), cost, advantage(study, rival))
        for rival, cost in contestants.items()
    ]
    return {
        "title": f"Rivals on {study.subject.data_name}: a quarter of the layers, or of their parameters or bytes; "
        f"ms per batch of {BATCH} and seconds of training as they were on this machine",
        "columns": [
            "method",
            "NDCG@10 (95 % CI)",
            "NDCG@5",
            "ours / rival, NDCG@5",
            "layers",
            "parameters in layers",
            "in all",
            "bytes",
            "ms",
            "training s",
        ],
        "rows": rows + sorted(others, key=lambda row: str(row[1]), reverse=True),
    }


def rivals_figure(study: Study) -> dict[str, Any]:
    """NDCG@5 of ours over each rival's, with 95 % intervals; a ratio without ends is named, not drawn."""
    ratios = {rival: advantage(study, rival) for rival in (*TRAINED_RIVALS, *OTHER_RIVALS)}
    drawn = {rival: ratio for rival, ratio in ratios.items() if _is_bounded(ratio)}
    unbounded = [rival for rival in ratios if rival not in drawn]
    return {
        "name": f"rivals-{study.subject.data_name}",
        "kind": "intervals",
        "title": f"NDCG@5 of our compact model over a rival's on {study.subject.data_name}, with 95 % intervals"
        + (f"; without an interval: {', '.join(unbounded)}" if unbounded else ""),
        "x_label": "",
        "y_label": "ratio of NDCG@5",
        "series": [_interval_series("ours / rival", drawn)] if drawn else [],
        "reference": {"label": "equal", "value": 1.0},
    }


def weightings_table(study: Study) -> dict[str, Any]:
    """NDCG@10 by weights of layers."""
    share = study.tier.weighted_share
    rows = [["uniform", *_mean(study.quality(study.students("ours, uniform weights", share))["ndcg@10"]), "-"]]
    for kind, method in WEIGHTINGS.items():
        values = study.quality(study.students(method, share))["ndcg@10"]
        rows.append([kind, *_mean(values), _sentence(weighting(study, kind))])
    return {
        "title": f"Students of {share:.0%} of the layers by weights of the layers in distillation",
        "columns": ["weights", "NDCG@10", "95 % CI", "minus uniform"],
        "rows": rows,
    }


def ablation_table(study: Study) -> dict[str, Any]:
    """NDCG@10 without each part."""
    rows = [["nothing", *_mean(study.quality(study.students("ours"))["ndcg@10"]), "-"]]
    for part, method in PARTS.items():
        values = study.quality(study.students(method))["ndcg@10"]
        rows.append([part, *_mean(values), _sentence(ablation(study, part))])
    return {
        "title": f"{study.subject.family}: what each part adds, with {study.tier.kept:.0%} of the layers kept",
        "columns": ["left out", "NDCG@10", "95 % CI", "whole minus without"],
        "rows": rows,
    }


def depth_curve(study: Study) -> DepthCurve:
    """NDCG@10, over seeds and users, and ms per batch by kept depth; timed anew at each call."""
    curve: dict[int, tuple[float, float]] = {}
    for keep in study.tier.depths:
        models = study.students("ours", keep / study.depth)
        ndcg = float(study.quality(models)["ndcg@10"].mean())
        curve[keep] = ndcg, _milliseconds(study, study.model(models[0]))
    full = study.full()
    curve[study.depth] = float(study.quality(full)["ndcg@10"].mean()), _milliseconds(study, study.model(full[0]))
    return curve


def depth_table(study: Study, curve: DepthCurve) -> dict[str, Any]:
    """Quality and latency by kept depth, and where the curve bends."""
    rows = []
    for keep, (ndcg, ms) in curve.items():
        kept = kept_depth(study, keep) if keep < study.depth else None
        share = f"{100 * kept.estimate:.1f} % ({_percent(kept)})" if kept is not None else "100 %"
        rows.append([keep, f"{ndcg:.4f}", share, f"{ms:.1f}", f"{curve[study.depth][1] / ms:.2f}×"])
    return {
        "title": f"Kept depth, healed; the curve of quality bends most at {knee(curve)} layers",
        "columns": ["layers", "NDCG@10", "of full (95 % CI)", f"ms per batch of {BATCH}", "speedup"],
        "rows": rows,
    }


def depth_figure(curve: DepthCurve) -> dict[str, Any]:
    """Quality against latency, one point per kept depth."""
    return {
        "name": "kept-depth",
        "kind": "points",
        "title": "Quality against latency by kept depth, 1 layer to all",
        "x_label": f"ms per batch of {BATCH}",
        "y_label": "NDCG@10",
        "series": [
            {
                "label": "healed",
                "x": [ms for _, ms in curve.values()],
                "y": [ndcg for ndcg, _ in curve.values()],
            }
        ],
        "reference": {"label": "95 % of the full model", "value": 0.95 * curve[max(curve)][0]},
    }


def knee(curve: DepthCurve) -> int:
    """The depth whose quality lies farthest above the line from the first depth to the last.

    References:
        Satopaa et al. 2011 (Kneedle), section III, without smoothing: there are as many points as layers.
    """
    depths = np.array(list(curve), dtype=np.float64)
    quality = np.array([ndcg for ndcg, _ in curve.values()])
    line = quality[0] + (quality[-1] - quality[0]) * (depths - depths[0]) / (depths[-1] - depths[0])
    return int(depths[np.argmax(quality - line)])


def _rival_row(
    name: str, quality: Mapping[str, FloatArray], cost: Cost | None, effect: Retention | None
) -> list[str | int]:
    mean, interval = _mean(quality["ndcg@10"])
    row: list[str | int] = [name, f"{mean} ({interval})", f"{quality['ndcg@5'].mean():.4f}"]
    row.append("-" if effect is None else f"{effect.estimate:.3f} ({_ratio(effect)})")
    if cost is None:
        return [*row, "-", "-", "-", "-", "-", "-"]
    training = "-" if cost.training is None else f"{cost.training:.0f}"
    sizes = [f"{number:,}" for number in (cost.in_layers, cost.parameters, cost.stored)]
    return [*row, cost.layers, *sizes, f"{cost.ms:.1f}", training]


def _rival_cost(study: Study, rival: str) -> Cost:
    models = study.tuned(TRAINED_RIVALS[rival])
    return _cost(study, models, sparse_bytes if rival == "magnitude" else serialised_bytes)


def _cost(study: Study, models: list[Any], stored: Callable[[Recommender], int] = serialised_bytes) -> Cost:
    recommender = study.model(models[0])
    pruned = sum(int((weights == 0).sum()) for layer in recommender.layers for weights in layer.parameters())
    return Cost(
        len(recommender.layers),
        layer_parameters(recommender) - pruned,
        sum(weights.numel() for weights in recommender.parameters()) - pruned,
        stored(recommender),
        _milliseconds(study, recommender),
        _seconds(study, models),
    )


def _quantized_cost(
    study: Study, quantized: Callable[[Recommender], Recommender], stored: Callable[[Recommender], int]
) -> Cost:
    full = study.model(study.full()[0])
    few_bits = quantized(full)
    total = sum(weights.numel() for weights in full.parameters())
    ms = _milliseconds(study, few_bits)
    return Cost(len(full.layers), layer_parameters(full), total, stored(few_bits), ms, None)


def _seconds(study: Study, models: list[Model]) -> float:
    """Mean seconds that a training took; the search of a learning rate is not counted."""
    made = [study.lab.build(_trained(study, model)).seconds for model in models]
    return float(np.mean(made))


def _trained(study: Study, model: Model) -> Model:
    if not isinstance(model, TunedStudent):
        return model
    return Student(model.of, model.method, model.share, model.epochs, float(study.lab.course(model)["rate"]))


def _milliseconds(study: Study, recommender: Recommender) -> float:
    """Median ms of a scoring pass over a batch of real histories."""
    histories = study.split.histories(study.split.test)
    starts = range(0, min(CALLS * BATCH, len(histories)), BATCH)
    batches = [recommender.batch(histories[start : start + BATCH]) for start in starts]
    timer, times = default_timer(study.lab.device), []
    with evaluating(recommender), torch.inference_mode():
        recommender(**batches[0])
        for batch in batches:
            began = timer()
            recommender(**batch)
            times.append(1000 * (timer() - began))
    return float(np.median(times))


def _mean(values: FloatArray) -> tuple[str, str]:
    interval = MeanDifference(np.asarray(values, dtype=np.float64), "NDCG@10").interval(LEVEL)
    return f"{values.mean():.4f}", f"{interval.low:.4f} to {interval.high:.4f}"


def _sentence(effect: MeanDifference) -> str:
    return effect.sentence(effect.interval(LEVEL))


def _ratio(effect: Effect) -> str:
    interval = effect.interval(LEVEL)
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _percent(effect: Effect) -> str:
    interval = effect.interval(LEVEL)
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _is_bounded(effect: Effect) -> bool:
    interval = effect.interval(LEVEL)
    return bool(np.isfinite([interval.low, interval.high]).all())


def _interval_series(label: str, effects: Mapping[str, Effect]) -> dict[str, Any]:
    intervals = [effect.interval(LEVEL) for effect in effects.values()]
    return {
        "label": label,
        "x": list(effects),
        "y": [float(effect.estimate) for effect in effects.values()],
        "low": [interval.low for interval in intervals],
        "high": [interval.high for interval in intervals],
    }
