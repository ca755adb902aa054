"""Tables, notes and checks on layers, as arguments of `claim.table`, `claim.judge` and `claim.require`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import page_trend_test

from layerwise.compression.learned import leave_one_out_predictions
from layerwise.lab.hypotheses import FISHERS, damage_by_layer
from layerwise.lab.study import Study
from layerwise.statistics import AllOf, MeanDifference, RankCorrelation, kendalls_w
from layerwise.statistics.tables import FloatArray

LEVEL = 0.95


def methods_table(studies: Mapping[str, Study]) -> dict[str, Any]:
    """How well each importance ranks removal damage, by family; the learned selector never saw the family."""
    methods = next(iter(studies.values())).tier.importances
    rows = [
        [method, *(_correlation(study.layer_scores(method), damage_by_layer(study)) for study in studies.values())]
        for method in methods
    ]
    learned = _learned_scores(studies, methods)
    if learned:
        rows.append(
            [
                "learned from other families",
                *(_correlation(learned[family], damage_by_layer(study)) for family, study in studies.items()),
            ]
        )
    return {
        "title": "Spearman correlation of a layer's score with the loss of NDCG@10 without it (95 % CI)",
        "columns": ["score", *studies],
        "rows": rows,
    }


def depth_notes(study: Study) -> dict[str, Any]:
    """Page's trend test over seeds, and the ends against the middle: published damage is U-shaped."""
    damage = damage_by_layer(study)  # seeds x layers x users
    trend = page_trend_test(damage.mean(axis=2), method="asymptotic")
    ends, middle = damage[:, [0, -1]].mean(axis=1), damage[:, 1:-1].mean(axis=1)
    against = MeanDifference(ends - middle, "NDCG@10")
    return {
        "Page's test that damage rises with depth, over seeds": f"L = {trend.statistic:g}, p = {trend.pvalue:.3g}",
        "first and last layer against those between": against.sentence(against.interval(LEVEL)),
        "damage by layer": [round(float(value), 4) for value in damage.mean(axis=(0, 2))],
    }


def spread_note(effect: RankCorrelation) -> dict[str, Any]:
    """How far apart the layers lie, in standard errors of a layer's mean once what users have in common is taken off.

    Below eight, ranks are more stable from draw to draw than from sample to sample, and the interval may be too short.
    """
    values = effect.damage.mean(axis=0)  # layers x users
    own = values - values.mean(axis=0)
    error = float((own.std(axis=1, ddof=1) / np.sqrt(own.shape[1])).mean())
    apart = float(np.ptp(own.mean(axis=1))) / error if error else 0.0
    warning = "; the interval may be too short" if apart < 8 else ""
    return {"layers lie apart": f"{apart:.1f} standard errors of a layer's mean{warning}"}


def rivals_table(effect: AllOf, title: str) -> dict[str, Any]:
    """Each rival of a joint comparison with its difference."""
    rows = []
    for name, part in effect.parts.items():
        interval = part.interval(LEVEL)
        ends = f"{part.number(interval.low)} to {part.number(interval.high)}"
        rows.append([name, part.describe(), ends])
    return {"title": title, "columns": ["rival", "Fisher minus rival", "95 % CI"], "rows": rows}


def agreement_notes(study: Study) -> dict[str, Any]:
    """What Kendall's W of all four kinds is, and how alike the two closest kinds are."""
    scores = {method: study.layer_scores(method) for method in FISHERS}
    four = np.mean([kendalls_w([scores[method][row] for method in FISHERS]) for row in range(len(study.tier.seeds))])
    return {
        "reported by the source": 1.0,
        "W with the mean per parameter as a fourth": round(float(four), 4),
        "the mean per parameter": "ranks layers of equal size exactly like the trace, by definition",
    }


def distinct_computations(study: Study, methods: Sequence[str]) -> tuple[bool, str]:
    """Whether the scores of the methods differ by more than a factor: one computation under two names would not."""
    shapes = [scores / scores.sum(axis=1, keepdims=True) for scores in map(study.layer_scores, methods)]
    closest = min(float(np.abs(a - b).max()) for index, a in enumerate(shapes) for b in shapes[:index])
    return closest > 1e-4, f"the methods must be different computations: normalised scores differ by {closest:.2g}"


def knows_more_than_frequencies(study: Study, task: str) -> tuple[bool, str]:
    """Whether the task's head tells more than how frequent the classes are."""
    effect = MeanDifference(np.stack([seed.knowledge for seed in study.tasks()[task]]), "nats")
    interval = effect.interval(LEVEL)
    return interval.low > 0, f"the head for {task} must beat class frequencies: {effect.sentence(interval)}"


def _learned_scores(studies: Mapping[str, Study], methods: Sequence[str]) -> dict[str, FloatArray]:
    """Damage predicted from the cheap scores by a selector that learned from the other families."""
    if len(studies) < 3:
        return {}
    scores, damages, groups = [], [], []
    for family, study in studies.items():
        by_method = {method: study.layer_scores(method) for method in methods}
        for row, damage in enumerate(damage_by_layer(study).mean(axis=2)):
            scores.append({method: values[row] for method, values in by_method.items()})
            damages.append(damage)
            groups.append(family)
    depths = [study.depths for study in studies.values() for _ in study.tier.seeds]
    predicted = leave_one_out_predictions(scores, damages, groups, depths)
    return {
        family: np.stack([one for one, group in zip(predicted, groups, strict=True) if group == family])
        for family in studies
    }


def _correlation(scores: FloatArray, damage: FloatArray) -> str:
    effect = RankCorrelation(scores, damage)
    interval = effect.interval(LEVEL)
    return f"{effect.estimate:.2f} ({interval.low:.2f} to {interval.high:.2f})"
