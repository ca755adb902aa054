"""Tables and figures that stand beside the verdicts on robustness, as arguments of `claim.table` and `claim.figure`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layerwise.lab.robustness import (
    ARMS,
    CLAIMED,
    LEVEL,
    Finding,
    Values,
    history_noise,
    loss_by_noise,
    loss_by_noisy_training,
    ndcg_after_training,
    ndcg_under_noise,
)
from layerwise.lab.study import Study
from layerwise.statistics import Effect, MeanDifference, Retention, retained
from layerwise.statistics.false_discovery import adjusted_below

SHOWN = 10  # worst, and as many of the best, scenarios in the figure
WIDEST = 0.5  # interval of a retention in the figure; the table has all
RATE = 0.01  # of false discoveries


def noise_table(study: Study) -> dict[str, Any]:
    """Both models side by side at every level of noise, as arguments of `claim.table`."""
    rows = []
    for share in (0.0, *study.tier.noise):
        full, compact = (ndcg_under_noise(study, arm, share) for arm in ARMS)
        row = [f"{share:.0%}", _mean(full), _mean(compact), _share(retained(compact, full, "NDCG@10"))]
        losses = [_told(loss_by_noise(study, arm, share)) for arm in ARMS] if share else ["-", "-"]
        rows.append([*row, *losses, _told(history_noise(study, share)) if share else "-"])
    return {
        "title": f"NDCG@10 (95 % CI) with a share of each history replaced by random items, {study.subject.family} on "
        f"{study.subject.data_name}; both models read the same noise, and the true history is masked",
        "columns": [
            "replaced",
            "full",
            "compact",
            "kept",
            "full loses",
            "compact loses",
            "full's loss minus compact's",
        ],
        "rows": rows,
    }


def noise_figure(study: Study) -> dict[str, Any]:
    """NDCG@10 of both models over the share of noise, as arguments of `claim.figure`."""
    shares = (0.0, *study.tier.noise)
    series = []
    for arm in ARMS:
        values = [ndcg_under_noise(study, arm, share) for share in shares]
        intervals = [MeanDifference(value, "NDCG@10").interval(LEVEL) for value in values]
        series.append(
            {
                "label": arm,
                "x": [round(100 * share) for share in shares],
                "y": [float(value.mean()) for value in values],
                "low": [interval.low for interval in intervals],
                "high": [interval.high for interval in intervals],
            }
        )
    return {
        "name": "history-noise",
        "kind": "points",
        "title": "NDCG@10 by noise in the histories (95 % CI)",
        "x_label": "% of the events replaced",
        "y_label": "NDCG@10",
        "series": series,
    }


def training_noise_table(study: Study) -> dict[str, Any]:
    """Both models trained on true and on noisy events, as arguments of `claim.table`."""
    rows = []
    for arm in ARMS:
        means = [_mean(ndcg_after_training(study, arm, noisy)) for noisy in (False, True)]
        rows.append([arm, *means, _told(loss_by_noisy_training(study, arm))])
    return {
        "title": f"NDCG@10 (95 % CI) with {study.tier.training_noise:.0%} of the training events replaced",
        "columns": ["model", "true events", "noisy events", "loses"],
        "rows": rows,
    }


def scenario_table(found: Sequence[Finding]) -> dict[str, Any]:
    """Every scenario, the worst first, those that were not run last, as arguments of `claim.table`."""
    rates = adjusted_below(_effects(found), CLAIMED)
    rows = [_scenario_row(one, rates) for one in (*by_retention(found), *(one for one in found if one.effect is None))]
    shown = sum(rate <= RATE for rate in rates.values())
    return {
        "title": f"{len(found)} scenarios, worst first; {shown} are shown to keep less than {CLAIMED:.0%} of NDCG@10 "
        f"at a false discovery rate of {RATE:.0%} (Benjamini-Yekutieli)",
        "columns": [
            "scenario",
            "who",
            "main",
            "targets",
            "users",
            "full",
            "compact",
            "kept (95 % CI)",
            "adjusted p",
        ],
        "rows": rows,
    }


def scenario_figure(found: Sequence[Finding]) -> dict[str, Any]:
    """The worst and the best scenarios, as arguments of `claim.figure`; wide intervals would hide the others."""
    ordered = [one for one in by_retention(found) if _width(_effect(one)) < WIDEST]
    parts = {"worst": ordered[:SHOWN], "best": ordered[SHOWN:][-SHOWN:]}
    return {
        "name": "scenarios",
        "kind": "intervals",
        "title": f"Where the compact model keeps least and most, of {len(ordered)} scenarios whose 95 % interval is "
        f"narrower than {100 * WIDEST:.0f} points",
        "x_label": "",
        "y_label": "% of NDCG@10 kept",
        "series": [_kept_series(label, part) for label, part in parts.items() if part],
        "reference": {"label": "claimed", "value": 100 * CLAIMED},
    }


def not_run(found: Sequence[Finding]) -> list[str]:
    """Scenarios that say nothing on this dataset, each with the reason; none is dropped without a word."""
    return [f"{one.scenario.name}: {one.why_not}" for one in found if one.effect is None] or ["none"]


def by_retention(found: Sequence[Finding]) -> list[Finding]:
    """Scenarios that were run, from the least kept to the most."""
    return sorted((one for one in found if one.effect is not None), key=lambda one: _effect(one).estimate)


def _kept_series(label: str, found: Sequence[Finding]) -> dict[str, Any]:
    intervals = [_effect(one).interval(LEVEL) for one in found]
    return {
        "label": label,
        "x": [one.scenario.name for one in found],
        "y": [100 * _effect(one).estimate for one in found],
        "low": [100 * interval.low for interval in intervals],
        "high": [100 * interval.high for interval in intervals],
    }


def _scenario_row(one: Finding, rates: Mapping[str, float]) -> list[str | int]:
    scenario, main = one.scenario, "yes" if one.main else ""
    start: list[str | int] = [scenario.name, scenario.definition, main, one.targets, one.users]
    if one.effect is None:
        return [*start, "-", "-", one.why_not, "-"]
    means = [f"{values.mean():.4f}" for values in (one.effect.full, one.effect.compact)]
    return [*start, *means, _share(one.effect), f"{rates[scenario.name]:.3g}"]


def _effects(found: Sequence[Finding]) -> dict[str, Effect]:
    return {one.scenario.name: one.effect for one in found if one.effect is not None}


def _effect(one: Finding) -> Retention:
    if one.effect is None:
        raise ValueError(f"{one.scenario.name!r} was {one.why_not}; ask for scenarios that were run")
    return one.effect


def _mean(values: Values) -> str:
    interval = MeanDifference(values, "NDCG@10").interval(LEVEL)
    return f"{values.mean():.4f} ({interval.low:.4f} to {interval.high:.4f})"


def _width(effect: Retention) -> float:
    interval = effect.interval(LEVEL)
    return interval.high - interval.low


def _share(effect: Retention) -> str:
    interval = effect.interval(LEVEL)
    if not np.isfinite(interval.high):
        return f"{100 * effect.estimate:.1f} % (unbounded)"
    return f"{100 * effect.estimate:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def _told(effect: MeanDifference) -> str:
    interval = effect.interval(LEVEL)
    return f"{effect.estimate:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"
