"""What stands beside a verdict: checks that the subject is worth judging, and tables of plain numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from layerwise.compression.compact import layer_parameters
from layerwise.data.arrays import FloatArray
from layerwise.data.audit import audit
from layerwise.lab.experiments import CutQuality, Model, TrainingFree
from layerwise.lab.experiments.compact import RULES
from layerwise.lab.spot_checks import data_check, depth_check, ranking_check, training_check
from layerwise.lab.study import Study
from layerwise.statistics import Interval, MeanDifference, retained

Check = tuple[bool, str]
LEVEL = 0.95


def subject_checks(study: Study) -> list[Check]:
    """Whether the full model deserves to be compressed: right data, enough seeds, above the floor and the shallow.

    A full model that a counting rule beats, or that its own first layers beat when trained alone, is a straw man:
    cutting it would prove nothing.
    """
    full = study.quality(study.full())["ndcg@10"]
    shallow = study.quality(study.shallow())["ndcg@10"]
    deeper = MeanDifference(full - shallow, "NDCG@10")
    return [
        *floor_checks(study),
        (
            deeper.interval(LEVEL).high >= 0,
            f"the full model must not be shown to be worse than {study.keep} layers from scratch by the same recipe: "
            f"{full.mean():.4f} against {shallow.mean():.4f}, {_difference(deeper)}",
        ),
    ]


def floor_checks(study: Study) -> list[Check]:
    """Right data that nothing gives away, enough seeds, and full models that rank as stored and above the floor."""
    full = study.quality(study.full())["ndcg@10"]
    floor_name, floor = best_floor(study)
    above = MeanDifference(full - floor, "NDCG@10")
    return [
        data_check(study.split),
        training_check(study.split),
        (
            len(study.tier.seeds) >= 5,
            f"{len(study.tier.seeds)} independent trainings; a claim about a method needs at least 5",
        ),
        (
            above.interval(LEVEL).low > 0,
            f"the full model must beat the best training-free recommender, {floor_name}: "
            f"{full.mean():.4f} against {floor.mean():.4f}, {_difference(above)}",
        ),
        ranking_check(study, tuple(study.full()), "full model"),
    ]


def cut_checks(study: Study, models: Sequence[Model], share: float | None = None) -> list[Check]:
    """Models that have as many layers as is claimed of them, of the tier's share by default, and rank as stored."""
    arm = tuple(models)
    return [depth_check(study, arm, share or study.tier.kept), ranking_check(study, arm, "compact model")]


def remarks(study: Study) -> list[str]:
    """What a reader of the retention must know: where a model of the compact size needs no full model at all."""
    enough = []
    for (family, _), cell in (study.cells() or {(study.subject.family, ""): study}).items():
        full, shallow = cell.quality(cell.full())["ndcg@10"], cell.quality(cell.shallow())["ndcg@10"]
        deeper = MeanDifference(full - shallow, "NDCG@10")
        interval = deeper.interval(LEVEL)
        if interval.low <= 0:
            enough.append(
                f"{family} on {cell.subject.data_name} ({shallow.mean():.4f} against {full.mean():.4f}, full minus "
                f"shallow 95 % CI {interval.low:+.4f} to {interval.high:+.4f}, healed {_mean_of_healed(cell):.4f})"
            )
    if not enough:
        return []
    return [
        "A quarter of the layers from scratch by the same recipe is not shown to be worse than all of them in NDCG@10: "
        f"{'; '.join(enough)}. There depth brings little, and a high retention says little."
    ]


def _mean_of_healed(study: Study) -> float:
    return float(study.quality(study.healed())["ndcg@10"].mean())


def best_floor(study: Study) -> tuple[str, FloatArray]:
    """Name and NDCG@10, *users*, of the training-free recommender with the largest mean."""
    floor = {name: values["ndcg@10"] for name, values in study.floor().items()}
    name = max(floor, key=lambda candidate: float(floor[candidate].mean()))
    return name, floor[name]


def gain_kept(study: Study, metric: str = "ndcg@10") -> float:
    """Share of the full model's gain over the best training-free recommender that the healed model keeps."""
    floor = study.floor()[best_floor(study)[0]][metric].mean()
    full = study.quality(study.full())[metric].mean()
    healed = study.quality(study.healed())[metric].mean()
    return float((healed - floor) / (full - floor))


def over_scratch(study: Study, metric: str = "ndcg@10") -> str:
    """How much better the healed model is than one of its size trained from scratch, with a 95 % interval."""
    healed, shallow = study.quality(study.healed())[metric], study.quality(study.shallow())[metric]
    return _difference(MeanDifference(healed - shallow, metric.upper()))


def audit_table(study: Study) -> dict[str, Any]:
    """What is to be known of the data, as arguments of `claim.table`."""
    return {"title": "Data", "columns": ["fact"], "rows": [[fact] for fact in audit(study.split).sentences()]}


def quality_table(study: Study) -> dict[str, Any]:
    """Quality of every model of the study, means over seeds and users, as arguments of `claim.table`."""
    full = study.quality(study.full())["ndcg@10"].mean()
    rows = [_quality_row(name, "-", values, full) for name, values in study.floor().items()]
    rows += [_quality_row(name, layers, values, full) for name, layers, values in _models(study)]
    return {
        "title": f"{study.subject.family} on {study.subject.data_name}: {_targets(study)}",
        "columns": ["model", "layers", "NDCG@5", "NDCG@10", "95 % CI", "HR@10", "MRR", "of full", "last event NDCG@10"],
        "rows": rows,
    }


def quality_figure(study: Study) -> dict[str, Any]:
    """NDCG@10 of every model with 95 % intervals, as arguments of `claim.figure`."""
    labels, values = [], []
    for name, layers, metrics in _models(study):
        labels.append(f"{name} ({layers})")
        values.append(metrics["ndcg@10"])
    floor_name, floor = best_floor(study)
    return {
        "name": f"quality-{study.subject.family}-{study.subject.data_name}",
        "kind": "intervals",
        "title": f"{study.subject.family} on {study.subject.data_name}: NDCG@10 over seeds and users, 95 % intervals",
        "x_label": "",
        "y_label": "NDCG@10",
        "series": [_with_intervals("models", labels, values)],
        "reference": {"label": f"best training-free: {floor_name}", "value": float(floor.mean())},
    }


def retention_matrix(studies: Mapping[tuple[str, str], Study], datasets: Sequence[str]) -> dict[str, Any]:
    """NDCG@10 that healed models keep, by family and dataset, as arguments of `claim.table`; cells may wait to be run.

    Args:
        studies: By family and dataset, those that were run.
        datasets: All that belong to the matrix.
    """
    families = list(dict.fromkeys(family for family, _ in studies))
    rows = [
        [family, *(_cell(studies[family, at]) if (family, at) in studies else "not run" for at in datasets)]
        for family in families
    ]
    return {
        "title": "NDCG@10 kept with a quarter of the layers, healed (95 % CI), and that of a quarter from scratch",
        "columns": ["family", *datasets],
        "rows": rows,
    }


def _cell(study: Study) -> str:
    full = study.quality(study.full())["ndcg@10"]
    healed, shallow = (study.quality(models)["ndcg@10"] for models in (study.healed(), study.shallow()))
    return f"{_share(healed, full)}; scratch {_share(shallow, full)}"


def training_free_table(study: Study) -> dict[str, Any]:
    """Retention of NDCG@10 after every cut without training, as arguments of `claim.table`."""
    cuts, rows = study.training_free(), []
    for cut in (cut for cut in TrainingFree(study.full()[0], study.tier.rules).cuts() if not cut.bridged):
        bare, bridged = cuts[cut.name], cuts[replace(cut, bridged=True).name]
        explained = [share for found in bridged for share in found.explained if np.isfinite(share)]
        kept = Counter(found.kept for found in bare).most_common(1)[0]
        rows.append(
            [
                f"{1 - cut.share:.0%}",
                cut.by,
                " ".join(map(str, kept[0])) + (f" (in {kept[1]} of {len(bare)} seeds)" if kept[1] < len(bare) else ""),
                _retention(study, bare),
                _retention(study, bridged),
                f"{np.mean(explained):.2f}" if explained else "-",
            ]
        )
    return {
        "title": f"{study.subject.family}: share of NDCG@10 kept without training",
        "columns": ["removed", "chosen by", "kept layers", "bare cut", "with bridges", "R² of the bridges"],
        "rows": rows,
    }


def gap_rivals_table(study: Study) -> dict[str, Any]:
    """What closes the gaps of the tier's cut, and how well, as arguments of `claim.table`."""
    full = study.quality(study.full())["ndcg@10"]
    ways = {**study.gap_rivals(), "healed (all weights trained)": study.quality(study.healed())["ndcg@10"]}
    return {
        "title": f"{study.subject.family}: ways to close the gaps of {study.keep} of {study.depth} layers",
        "columns": ["gaps", "NDCG@10", "of full", "trained"],
        "rows": [
            [way, f"{values.mean():.4f}", _share(values, full), "yes" if "trained" in way else "no"]
            for way, values in ways.items()
        ],
    }


def training_free_figure(study: Study) -> dict[str, Any]:
    """Retention against the share removed for the plain rules and the tier's method, as arguments of `claim.figure`."""
    full, cuts = study.quality(study.full())["ndcg@10"].mean(), study.training_free()
    lines: dict[str, dict[str, list[Any]]] = {}
    shown = (*RULES, study.tier.selected_by)  # every rule at once could not be told apart; the table has them all
    for cut in (cut for cut in TrainingFree(study.full()[0], study.tier.rules).cuts() if cut.by in shown):
        line = lines.setdefault(f"{cut.by}{', bridged' if cut.bridged else ''}", {"x": [], "y": []})
        line["x"].append(round(100 * (1 - cut.share)))
        line["y"].append(float(100 * np.mean([found.ndcg for found in cuts[cut.name]]) / full))
    return {
        "name": f"training-free-{study.subject.family}",
        "kind": "points",
        "title": f"{study.subject.family}: NDCG@10 kept without training",
        "x_label": "% of the layers removed",
        "y_label": "NDCG@10, % of full",
        "series": [{"label": label, **line} for label, line in lines.items()],
        "reference": {"label": "full model", "value": 100.0},
    }


def _retention(study: Study, cuts: Sequence[CutQuality]) -> str:
    return _share(np.stack([cut.ndcg for cut in cuts]), study.quality(study.full())["ndcg@10"])


def _share(compact: FloatArray, full: FloatArray) -> str:
    kept = retained(compact, full, "NDCG@10")
    interval = kept.interval(LEVEL)
    return f"{100 * kept.estimate:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def damage_figure(study: Study) -> dict[str, Any]:
    """Damage of removing each single layer with 95 % intervals, as arguments of `claim.figure`."""
    damage = np.stack([damage.by_layer for damage in study.damage()])  # seeds x layers x users
    layers = list(range(study.depth))
    return {
        "name": "removal-damage",
        "kind": "intervals",
        "title": "Loss of NDCG@10 when one layer is bypassed, with 95 % intervals",
        "x_label": "layer",
        "y_label": "loss of NDCG@10",
        "series": [_with_intervals("damage", [str(layer) for layer in layers], [damage[:, at] for at in layers])],
        "reference": {"label": "no loss", "value": 0.0},
    }


def importance_figure(study: Study, method: str) -> dict[str, Any]:
    """Score against damage of each layer, one series per seed, as arguments of `claim.figure`."""
    scores = study.layer_scores(method)
    series = [
        {
            "label": f"seed {seed}",
            "x": [float(score) for score in scores[row]],
            "y": [float(loss) for loss in damage.by_layer.mean(axis=1)],
        }
        for row, (seed, damage) in enumerate(zip(study.tier.seeds, study.damage(), strict=True))
    ]
    return {
        "name": f"{method}-against-damage",
        "kind": "scatter",
        "title": f"{method} of a layer against the loss of NDCG@10 without it",
        "x_label": f"{method} (squared nats)",
        "y_label": "loss of NDCG@10",
        "series": series,
    }


def size_table(study: Study) -> dict[str, Any]:
    """Parameters of the full and the compact model, as arguments of `claim.table`."""
    rows = []
    for name, model in (("full", study.full()[0]), ("compact", study.compact()[0])):
        recommender = study.model(model)
        total = sum(parameter.numel() for parameter in recommender.parameters())
        rows.append([name, len(recommender.layers), layer_parameters(recommender), total])
    return {
        "title": "Parameters (tied item matrix counted once)",
        "columns": ["model", "layers", "in the layers", "in all"],
        "rows": rows,
    }


def _models(study: Study) -> list[tuple[str, int, Mapping[str, FloatArray]]]:
    by = study.tier.selected_by
    rules = (by, *RULES) if study.subject.family == study.tier.in_detail else (by,)
    untrained = {f"kept by {rule}, untrained": study.quality(study.compact(rule)) for rule in rules}
    return [
        ("full", study.depth, study.quality(study.full())),
        ("from scratch", study.keep, study.quality(study.shallow())),
        *((name, study.keep, values) for name, values in untrained.items()),
        (f"kept by {by}, healed", study.keep, study.quality(study.healed())),
    ]


def _quality_row(name: str, layers: int | str, values: Mapping[str, FloatArray], full: float) -> list[str | int]:
    ndcg = np.atleast_2d(values["ndcg@10"])
    interval = _interval(ndcg)
    return [
        name,
        layers,
        f"{values['ndcg@5'].mean():.4f}",
        f"{ndcg.mean():.4f}",
        f"{interval.low:.4f} to {interval.high:.4f}",
        f"{values['hr@10'].mean():.4f}",
        f"{values['mrr'].mean():.4f}",
        f"{100 * ndcg.mean() / full:.1f} %",
        f"{values['last/ndcg@10'].mean():.4f}",
    ]


def _with_intervals(label: str, x: Sequence[str], values: Sequence[FloatArray]) -> dict[str, Any]:
    intervals = [_interval(value) for value in values]
    return {
        "label": label,
        "x": list(x),
        "y": [float(value.mean()) for value in values],
        "low": [interval.low for interval in intervals],
        "high": [interval.high for interval in intervals],
    }


def _interval(values: FloatArray) -> Interval:
    """Interval of a mean over seeds and users."""
    return MeanDifference(np.asarray(values, dtype=np.float64), "NDCG@10").interval(LEVEL)


def _difference(effect: MeanDifference) -> str:
    return effect.sentence(effect.interval(LEVEL))


def _targets(study: Study) -> str:
    return (
        f"each user's last {study.subject.test_targets} events, never trained on, ranked from their true prefix "
        f"against all {study.split.table.num_items:,} items"
    )
