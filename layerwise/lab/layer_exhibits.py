"""Pictures of layers, as arguments of `claim.figure`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layerwise.data.categories import item_categories
from layerwise.evaluation.tasks import next_event_tasks
from layerwise.lab.hypotheses import bare_cut, damage_by_layer
from layerwise.lab.study import Study
from layerwise.statistics import MeanDifference, RankCorrelation
from layerwise.statistics.rank_effect import spearman
from layerwise.statistics.tables import FloatArray

LEVEL = 0.95
GROUPS = 5  # genres in a picture of states
UNITS = {
    "fisher": "squared nats",
    "empirical-fisher": "squared nats",
    "gate-fisher": "squared nats",
    "mean-fisher": "squared nats per parameter",
}

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


def agreement_heatmap(study: Study) -> Picture:
    """Spearman correlation between the methods' orders of the layers and with removal damage, mean over seeds."""
    rows = {"removal damage": damage_by_layer(study).mean(axis=2)}
    rows |= {method: study.layer_scores(method) for method in study.tier.importances}
    return _heatmap(
        f"agreement-{study.subject.family}",
        f"{study.subject.family}: agreement of the methods on the order of the layers",
        "method",
        "Spearman correlation",
        "method",
        {name: np.array([spearman(a, b).mean() for b in rows.values()]) for name, a in rows.items()},
        list(rows),
    )


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
