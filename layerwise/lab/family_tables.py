"""Tables and a figure that stand beside the contest of families, as arguments of `claim.table` and `claim.figure`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from layerwise.data.arrays import FloatArray
from layerwise.evaluation.memory import count_parameters
from layerwise.lab.exhibits import LEVEL, best_floor
from layerwise.lab.experiments.tuned import RATES
from layerwise.lab.family_contest import (
    BATCH,
    FAVOURITE,
    chosen_rate,
    epochs_run,
    first_model,
    megabytes,
    milliseconds,
    over,
    over_training_free,
    scoring_times,
)
from layerwise.lab.study import Study
from layerwise.models.families import FAMILIES
from layerwise.statistics import Effect, MeanDifference, speedup


def families_table(study: Study) -> dict[str, Any]:
    """Quality of every family, and the favourite's lead over it; the best training-free recommender stands last."""
    floor = best_floor(study)[0]
    rows = [_quality_row(study, family) for family in FAMILIES]
    rows += [[floor, *_metrics(study.floor()[floor]), _told(over_training_free(study))]]
    return {
        "title": f"Families on {study.subject.data_name}, {study.depth} layers, with all else equal; means over "
        f"{len(study.tier.seeds)} seeds and users",
        "columns": ["family", "NDCG@10 (95 % CI)", "NDCG@5", "HR@10", "MRR", f"{FAVOURITE} minus it, NDCG@10"],
        "rows": rows,
    }


def tuning_table(study: Study) -> dict[str, Any]:
    """What was equal between the families, and the learning rate, which was not."""
    own, first = study.subject.training.learning_rate, study.tier.seeds[0]
    return {
        "title": f"Size and training on {study.subject.data_name}: rates were chosen by seed {first}'s validation",
        "columns": [
            "family",
            "parameters in layers",
            "in all",
            f"of {FAVOURITE}'s",
            *(f"validation at {own * rate:g}" for rate in RATES),
            "chosen rate",
            "epochs",
            "best epoch",
            "training s",
        ],
        "rows": [_tuning_row(study, family) for family in FAMILIES],
    }


def costs_table(study: Study) -> dict[str, Any]:
    """Quality per millisecond and per megabyte, and which families are better and faster at once."""
    times, means, rows = scoring_times(study), milliseconds(study), []
    for family in FAMILIES:
        ndcg, ms, size = _ndcg(study, family), means[family], megabytes(study, family)
        slower = speedup(times[family], times[FAVOURITE])
        rows.append(
            [
                family,
                f"{ndcg:.4f}",
                f"{ms:.2f}",
                "1" if family == FAVOURITE else f"{slower.estimate:.2f} ({_ends(slower, 2)})",
                f"{1000 * ndcg / ms:.2f}",
                f"{size:.3f}",
                f"{1000 * ndcg / size:.1f}",
                ", ".join(_better_and_faster(study, family, means)) or "none",
            ]
        )
    return {
        "title": f"Quality by cost on {study.subject.data_name}: the ten best items for a batch of {BATCH}, and the "
        "bytes of the checkpoint",
        "columns": [
            "family",
            "NDCG@10",
            "ms",
            f"times {FAVOURITE}'s (95 % CI)",
            "NDCG@10 / 1000 per ms",
            "MB",
            "NDCG@10 / 1000 per MB",
            "both better and faster",
        ],
        "rows": rows,
    }


def costs_figure(study: Study) -> dict[str, Any]:
    """Quality against latency, one mark per family."""
    means, floor = milliseconds(study), best_floor(study)
    return {
        "name": f"families-{study.subject.data_name}",
        "kind": "scatter",
        "title": f"Quality against latency of five families on {study.subject.data_name}, at equal size and training",
        "x_label": f"ms per batch of {BATCH}",
        "y_label": "NDCG@10",
        "series_label": "family",
        "series": [{"label": family, "x": [means[family]], "y": [_ndcg(study, family)]} for family in FAMILIES],
        "reference": {"label": f"best training-free: {floor[0]}", "value": float(floor[1].mean())},
    }


def _quality_row(study: Study, family: str) -> list[str]:
    told = "-" if family == FAVOURITE else _told(over(study, family))
    return [family, *_metrics(study.quality(study.matched(family))), told]


def _told(effect: MeanDifference) -> str:
    return effect.sentence(effect.interval(LEVEL))


def _metrics(values: Mapping[str, FloatArray]) -> list[str]:
    mean = MeanDifference(np.atleast_2d(values["ndcg@10"]), "NDCG@10")
    others = [f"{values[name].mean():.4f}" for name in ("ndcg@5", "hr@10", "mrr")]
    return [f"{mean.estimate:.4f} ({_ends(mean, 4)})", *others]


def _tuning_row(study: Study, family: str) -> list[str]:
    models = study.matched(family)
    courses = [study.lab.course(model) for model in models]
    found = {float(rate): value for rate, value in courses[0]["validation_by_rate"].items()}
    rate = chosen_rate(study, family)
    count, own = (count_parameters(first_model(study, name)) for name in (family, FAVOURITE))
    seconds = [study.lab.build(model.at(rate)).seconds for model in models]
    return [
        family,
        f"{count.of_layers:,}",
        f"{count.total:,}",
        f"{count.of_layers / own.of_layers:.1%}, {count.total / own.total:.1%}",
        *(f"{found[at]:.4f}" for at in RATES),
        f"{study.subject.training.learning_rate * rate:g}",
        _span(epochs_run(study, family)),
        _span([course["best_epoch"] for course in courses]),
        f"{sum(seconds) / len(seconds):.0f}",
    ]


def _better_and_faster(study: Study, family: str, means: Mapping[str, float]) -> list[str]:
    """Families with a larger mean quality at a smaller mean time."""
    return [other for other in FAMILIES if _ndcg(study, other) > _ndcg(study, family) and means[other] < means[family]]


def _ndcg(study: Study, family: str) -> float:
    return float(study.quality(study.matched(family))["ndcg@10"].mean())


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _ends(effect: Effect, digits: int) -> str:
    interval = effect.interval(LEVEL)
    return f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"
