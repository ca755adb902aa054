"""Pictures and tables of layers, as arguments of `claim.figure` and `claim.table`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import page_trend_test

from layerwise.compression.learned import leave_one_out_predictions
from layerwise.data.categories import item_categories
from layerwise.evaluation.tasks import next_event_tasks
from layerwise.lab.hypotheses import FISHERS, bare_cut, damage_by_layer
from layerwise.lab.study import Study
from layerwise.statistics import AllOf, MeanDifference, RankCorrelation, kendalls_w
from layerwise.statistics.rank_effect import spearman
from layerwise.statistics.tables import FloatArray

LEVEL = 0.95
GROUPS = 5  # genres in a picture of states

Picture = dict[str, Any]


def damage_by_depth(studies: Mapping[str, Study]) -> Picture:
    """Loss without each layer against depth, a line per family."""
    lines = [_course(family, damage_by_layer(study)) for family, study in studies.items()]
    return _lines(
        "damage-by-depth", "Loss of NDCG@10 when one layer is bypassed", "loss of NDCG@10", lines, ("no loss", 0.0)
    )


def probes_by_depth(studies: Mapping[str, Study], probe: str) -> Picture:
    """Quality of a probe against depth, a line per family."""
    field, words, unit = {
        "genre": ("genre_probe", "Linear probe for the genre of the next item", "accuracy (share of test events)"),
        "next-item": ("item_probe", "Linear probe for the next item", "NDCG@10"),
    }[probe]
    lines = [
        _course(family, np.stack([getattr(portrait, field) for portrait in study.portraits()]))
        for family, study in studies.items()
    ]
    return _lines(f"{probe}-probe", f"{words}, by the layer whose states it reads", unit, lines)


def rank_by_depth(studies: Mapping[str, Study]) -> Picture:
    """Effective rank of the states against depth, mean over seeds, a line per family."""
    lines = []
    for family, study in studies.items():
        values = np.stack([portrait.rank for portrait in study.portraits()]).mean(axis=0)
        lines.append({"label": family, "x": list(range(len(values))), "y": values.tolist()})
    return _lines("effective-rank", "Effective rank of the states that leave a layer", "effective rank", lines)


def attention_by_depth(studies: Mapping[str, Study], measure: str) -> Picture:
    """A measure of attention against depth, a line per family; layers without a choice are left out."""
    words, unit = {
        "entropy": ("Entropy of attention", "entropy / entropy of equal attention"),
        "distance": ("How far back attention reaches", "distance / distance of equal attention"),
        "recent": ("Attention to the five newest events", "share of attention"),
    }[measure]
    lines = []
    for family, study in studies.items():
        values = np.stack([getattr(portrait, measure) for portrait in study.portraits()])
        told = np.flatnonzero(np.isfinite(values).any(axis=(0, 2)))
        examples = np.isfinite(values[:, told]).all(axis=(0, 1))
        lines.append(_course(family, values[:, told][:, :, examples], told.tolist()))
    return _lines(f"attention-{measure}", f"{words}, by layer", unit, lines)


def importance_heatmap(study: Study) -> Picture:
    """Every importance by layer, each divided by its largest value, mean over seeds; removal damage comes first."""
    rows = {"removal damage": damage_by_layer(study).mean(axis=2), "Shapley value": study.shapley()}
    rows |= {method: study.layer_scores(method) for method in study.tier.importances}
    information = np.stack([portrait.genre_information.mean(axis=-1) for portrait in study.portraits()])
    if information.ndim == 2:
        rows["mutual information with the genre"] = information
    return _heatmap(
        f"importance-{study.subject.family}",
        f"{study.subject.family}: importance of each layer by method",
        "layer",
        "share of the method's largest",
        "method",
        {name: (values / np.abs(values).max(axis=1, keepdims=True)).mean(axis=0) for name, values in rows.items()},
    )


def similarity_heatmap(study: Study) -> Picture:
    """CKA between the states that leave the layers, mean over seeds."""
    mean = np.mean([portrait.similarity for portrait in study.portraits()], axis=0)
    title = f"{study.subject.family}: similarity (linear CKA) of the states that leave two layers"
    rows = {str(index): row for index, row in enumerate(mean)}
    return _heatmap(f"cka-{study.subject.family}", title, "layer", "linear CKA", "layer", rows)


def dependency_heatmap(study: Study) -> Picture:
    """How much bypassing one layer changes what another one adds, mean over seeds."""
    mean = np.mean([portrait.dependency for portrait in study.portraits()], axis=0)
    mean = np.where(np.tri(len(mean), dtype=bool), np.nan, mean)
    title = f"{study.subject.family}: how much a later layer's contribution changes when an earlier layer is bypassed"
    rows = {str(index): row for index, row in enumerate(mean[:-1])}
    return _heatmap(
        f"dependency-{study.subject.family}", title, "affected layer", "relative change", "bypassed layer", rows
    )


def states_map(study: Study) -> Picture:
    """States of the first seed's model by layer on their two principal axes, coloured by the genre of the next item."""
    portrait = study.portraits()[0]
    tasks = next_event_tasks(study.split, item_categories(study.subject.dataset, study.split.table.item_ids))
    common = np.bincount(portrait.plane_genres).argsort()[::-1][:GROUPS]
    series = []
    for layer, points in enumerate(portrait.plane):
        for genre in common:
            of_genre = points[portrait.plane_genres == genre]
            series.append(
                {
                    "label": tasks["genre"].classes[genre],
                    "panel": f"layer {layer}",
                    "x": [float(value) for value in of_genre[:, 0]],
                    "y": [float(value) for value in of_genre[:, 1]],
                }
            )
    return {
        "name": f"states-{study.subject.family}",
        "kind": "map",
        "title": f"{study.subject.family}: states that leave each layer, by the genre of the next item",
        "x_label": "first principal axis",
        "y_label": "second principal axis",
        "series": series,
        "series_label": "genre",
    }


def scatter(study: Study, method: str) -> Picture:
    """A score against removal damage, a mark per layer and a series per seed; the correlation stands in the title."""
    scores, damage = study.layer_scores(method), damage_by_layer(study)
    effect = RankCorrelation(scores, damage)
    interval = effect.interval(LEVEL)
    ends = f"{interval.low:.2f} to {interval.high:.2f}"
    return {
        "name": f"{method}-against-damage",
        "kind": "scatter",
        "title": f"{study.subject.family}: {method} against damage, Spearman {effect.estimate:.2f} (95 % CI {ends})",
        "x_label": f"{method} of a layer ({UNITS.get(method, 'no unit')})",
        "y_label": "loss of NDCG@10 without it",
        "series": [
            {"label": f"seed {seed}", "x": scores[row].tolist(), "y": damage[row].mean(axis=1).tolist()}
            for row, seed in enumerate(study.tier.seeds)
        ],
    }


UNITS = {"fisher": "squared nats", "empirical-fisher": "squared nats", "gate-fisher": "squared nats"} | {
    "mean-fisher": "squared nats per parameter"
}


def agreement_heatmap(study: Study) -> Picture:
    """Spearman correlation between the methods' orders of the layers and with removal damage, mean over seeds."""
    rows = {"removal damage": damage_by_layer(study).mean(axis=2)}
    rows |= {method: study.layer_scores(method) for method in study.tier.importances}
    return {
        **_heatmap(
            f"agreement-{study.subject.family}",
            f"{study.subject.family}: agreement of the methods on the order of the layers",
            "method",
            "Spearman correlation",
            "method",
            {name: np.array([spearman(a, b).mean() for b in rows.values()]) for name, a in rows.items()},
            list(rows),
        )
    }


def tasks_heatmap(study: Study) -> Picture:
    """Spearman correlation of each task's Fisher information with each task's removal damage, mean over seeds."""
    tasks = study.tasks()
    fisher = {name: np.stack([seed.fisher for seed in seeds]).astype(np.float64) for name, seeds in tasks.items()}
    damage = {
        name: np.stack([seed.damage.mean(axis=1) for seed in seeds]).astype(np.float64) for name, seeds in tasks.items()
    }
    rows = {name: np.array([spearman(own, lost).mean() for lost in damage.values()]) for name, own in fisher.items()}
    title = f"{study.subject.family}: Fisher information of one task against removal damage of another"
    name = f"tasks-{study.subject.family}"
    return _heatmap(name, title, "damage to the task", "Spearman correlation", "Fisher of the task", rows, list(damage))


def methods_table(studies: Mapping[str, Study]) -> Picture:
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


def rivals_table(study: Study, effect: AllOf, title: str) -> Picture:
    """Each rival of a joint comparison with its difference."""
    rows = []
    for name, part in effect.parts.items():
        interval = part.interval(LEVEL)
        ends = f"{part.number(interval.low)} to {part.number(interval.high)}"
        rows.append([name, part.describe(), ends])
    return {"title": title, "columns": ["rival", "Fisher minus rival", "95 % CI"], "rows": rows}


def cuts_figure(study: Study) -> Picture:
    """NDCG@10 of bare cuts against the share removed, by the rule that chose the kept layers."""
    full = study.quality(study.full())["ndcg@10"].mean()
    lines = []
    for rule in (study.tier.selected_by, *study.tier.rivals):
        values = [float(100 * bare_cut(study, rule, share).mean() / full) for share in study.tier.compared_shares]
        lines.append(
            {"label": rule, "x": [round(100 * (1 - share)) for share in study.tier.compared_shares], "y": values}
        )
    return {
        **_lines("cuts", f"{study.subject.family}: NDCG@10 of bare cuts", "NDCG@10, % of full", lines, ("full", 100.0)),
        "x_label": "% of the layers removed",
        "series_label": "layers chosen by",
    }


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


def _course(label: str, values: FloatArray, layers: Sequence[int] | None = None) -> Picture:
    """Mean over seeds and users with its interval, by layer, of *seeds x layers x users*."""
    intervals = [MeanDifference(values[:, index], "").interval(LEVEL) for index in range(values.shape[1])]
    return {
        "label": label,
        "x": list(layers or range(values.shape[1])),
        "y": values.mean(axis=(0, 2)).tolist(),
        "low": [interval.low for interval in intervals],
        "high": [interval.high for interval in intervals],
    }


def _lines(
    name: str, title: str, unit: str, lines: Sequence[Picture], reference: tuple[str, float] | None = None
) -> Picture:
    return {
        "name": name,
        "kind": "points",
        "title": title,
        "x_label": "layer, counted from 0 through all stacks",
        "y_label": unit,
        "series": list(lines),
        "series_label": "family",
        "reference": None if reference is None else {"label": reference[0], "value": reference[1]},
    }


def _heatmap(
    name: str,
    title: str,
    columns: str,
    unit: str,
    rows: str,
    values: Mapping[str, FloatArray],
    labels: Sequence[str] | None = None,
) -> Picture:
    width = len(next(iter(values.values())))
    return {
        "name": name,
        "kind": "heatmap",
        "title": title,
        "x_label": columns,
        "y_label": unit,
        "series_label": rows,
        "series": [
            {
                "label": label,
                "x": list(labels or map(str, range(width))),
                "y": [None if np.isnan(value) else float(value) for value in row],
            }
            for label, row in values.items()
        ],
    }
