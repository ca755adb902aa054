"""The text recommender: what must hold before its retention counts, what a reader must know, and its tables."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from layerwise.compression.compact import layer_parameters
from layerwise.compression.selection import number_to_keep
from layerwise.data.arrays import FloatArray
from layerwise.data.splits import Split
from layerwise.lab.experiments import TEXT_IMPORTANCES, TEXT_ROWS, AnyText
from layerwise.lab.spot_checks import METRICS, ROUNDING, SAME, counted_metrics, data_check, training_check
from layerwise.lab.study import Study
from layerwise.lab.tiers import TextTask
from layerwise.statistics import MeanDifference

Check = tuple[bool, str]
LEVEL = 0.95
USERS = 6  # whose targets are ranked anew, per model: five prompts each
NAMES = {"zero-shot": "zero-shot, nothing trained", "head": "head on frozen states", "lora": "LoRA and head, merged"}


def text_checks(study: Study) -> list[Check]:
    """Right data, enough seeds, a full model that learned, compact ones of the claimed depth that rank as stored."""
    task, full = text_task(study), study.text.quality(study.text.models())["ndcg@10"]
    start = study.text.quality(study.text.models("zero-shot"))["ndcg@10"]
    learned = MeanDifference(full - start, "NDCG@10")
    return [
        data_check(study.lab.split(task.subject)),
        training_check(study.lab.split(task.subject)),
        (len(full) >= 5, f"{len(full)} independent trainings; a claim about a method needs at least 5"),
        (
            learned.interval(LEVEL).low > 0,
            f"the full text model must have learned more than its titles say without training: {_difference(learned)}",
        ),
        text_depth_check(study),
        text_ranking_check(study, tuple(study.text.models()[:1]), "full text model"),
        text_ranking_check(study, tuple(study.text.healed()[:1]), "healed text model"),
    ]


@lru_cache(maxsize=4)
def text_depth_check(study: Study) -> Check:
    """Whether the compact and the healed models really have the share of layers that is claimed, and no adapters."""
    task, made = text_task(study), [*study.text.compact(), *study.text.healed()]
    texts = [text_of(study, model) for model in made]
    depth = len(text_of(study, study.text.models()[0]).layers)
    found, expected = sorted({len(text.layers) for text in texts}), number_to_keep(depth, task.kept)
    plain = not any(hasattr(module, "lora_A") for text in texts for module in text.modules())
    return (
        plain and found == [expected],
        f"a text model of {task.kept:.0%} of {depth} layers must have {expected}, and no adapter beside its weights: "
        f"found {found}{'' if plain else ', with adapters'}",
    )


@lru_cache(maxsize=8)
def text_ranking_check(study: Study, models: tuple[AnyText, ...], name: str) -> Check:
    """Whether stored metrics are those that these models give for some users, counted target by target."""
    split, stored = study.lab.split(text_task(study).subject), study.text.quality(models)
    users = np.unique(split.test.users)
    rows = np.unique(np.linspace(0, len(users) - 1, USERS).astype(np.int64))
    found = np.stack([stored[metric][:, rows] for metric in METRICS], axis=-1)  # seeds x users x metrics
    counted = np.stack([_counted(study, model, split, users[rows]) for model in models])
    differ, total = int((np.abs(found - counted).max(axis=-1) > SAME).sum()), found[..., 0].size
    return (
        differ <= max(1, ROUNDING * total),
        f"the stored ranking of the {name} must be what it gives against the whole catalogue, counted one by one: "
        f"{differ} of {total} users differ",
    )


def _counted(study: Study, model: AnyText, split: Split, users: Any) -> FloatArray:
    return counted_metrics(text_of(study, model), split, users)


def text_remarks(study: Study) -> list[str]:
    """What a reader must know: whether the model that is cut is worth cutting, and whether it reads its titles."""
    full = study.text.quality(study.text.models())["ndcg@10"]
    floor_name, floor = best_text_floor(study)
    above = MeanDifference(full - floor, "NDCG@10")
    interval, said = above.interval(LEVEL), []
    if interval.low <= 0:
        relation = "is worse than" if interval.high < 0 else "is not shown to beat"
        said.append(
            f"The full text model {relation} the best training-free recommender, {floor_name}: NDCG@10 "
            f"{full.mean():.4f} against {floor.mean():.4f}, {_difference(above)}. As a recommender "
            "the model that is cut is a straw man: a cut that keeps all of it keeps less than counting gives."
        )
    shuffled = study.text.quality(study.text.models(shuffled=True))["ndcg@10"]
    meant = MeanDifference(full[: len(shuffled)] - shuffled, "NDCG@10")
    if meant.interval(LEVEL).low <= 0:
        said.append(
            "With titles that belong to other items the text model is not shown to be worse "
            f"({shuffled.mean():.4f}, {_difference(meant)}): it learned the items, not what their titles mean."
        )
    epochs = text_task(study).recipe.epochs
    unfinished = [full.seed for full in study.text.models() if _course(study, full)["best_epoch"] == epochs]
    if unfinished:
        said.append(
            f"The full text model was best in its last epoch in {len(unfinished)} of {len(study.text.models())} seeds: "
            "it may not have learned all it can, and healing, which trains on, is flattered by as much."
        )
    return said


def text_table(study: Study) -> dict[str, Any]:
    """Every way to use the pretrained model, with its titles and with shuffled ones, beside the training-free ones."""
    full = float(study.text.quality(study.text.models())["ndcg@10"].mean())
    rows = [[name, "-", *_cells(values[None], full), "-"] for name, values in study.text.floor().items()]
    for row in TEXT_ROWS:
        own, other = study.text.models(row), study.text.models(row, shuffled=True)
        values = study.text.quality(own)["ndcg@10"]
        control = study.text.quality(other)["ndcg@10"]
        rows.append([NAMES[row], str(len(own)), *_cells(values, full), f"{control.mean():.4f} ({len(other)})"])
    task = text_task(study)
    for name, models in (("cut, untrained", study.text.compact()), ("cut and healed", study.text.healed())):
        values = study.text.quality(models)["ndcg@10"]
        rows.append([f"{task.kept:.0%} of the layers, {name}", str(len(models)), *_cells(values, full), "-"])
    columns = ["recommender", "seeds", "NDCG@10", "95 % CI", "of full", "with shuffled titles (seeds)"]
    return {"title": f"{task.base} on {task.subject.data_name}, by titles", "columns": columns, "rows": rows}


def text_layer_table(study: Study) -> dict[str, Any]:
    """Importance of each layer by method, mean over seeds, and in how many seeds it was kept."""
    kept = [tuple(_course(study, compact)["kept_layers"]) for compact in study.text.compact()]
    scores = {method: study.text.scores(method).mean(axis=0) for method in TEXT_IMPORTANCES}
    rows = [
        [
            str(layer),
            *(f"{values[layer]:.3g}" for values in scores.values()),
            f"{sum(layer in k for k in kept)} of {len(kept)}",
        ]
        for layer in range(len(next(iter(scores.values()))))
    ]
    return {"title": "Layers of the full text model", "columns": ["layer", *scores, "kept in"], "rows": rows}


def text_size_table(study: Study) -> dict[str, Any]:
    """Parameters of the full and of the healed model, and where trainings ended."""
    rows = []
    for name, models in (("full", study.text.models()), ("healed", study.text.healed())):
        text = text_of(study, models[0])
        backbone = sum(parameter.numel() for parameter in text.model.parameters())
        head = sum(parameter.numel() for parameter in text.head.parameters())
        ends = [_course(study, model) for model in models]
        best = ", ".join(f"{end['best_epoch']} of {len(end['validation'])}" for end in ends)
        rows.append([name, len(text.layers), layer_parameters(text), backbone, head, best])
    columns = ["model", "layers", "in the layers", "backbone", "head", "epoch kept"]
    return {"title": "Parameters, and epochs of LoRA by seed", "columns": columns, "rows": rows}


def text_gain_kept(study: Study) -> float:
    """Share of what training added to zero-shot NDCG@10 that the healed model keeps."""
    full, healed, start = (
        study.text.quality(models)["ndcg@10"].mean()
        for models in (study.text.models(), study.text.healed(), study.text.models("zero-shot"))
    )
    return float((healed - start) / (full - start))


def best_text_floor(study: Study) -> tuple[str, FloatArray]:
    """Name and NDCG@10, *users*, of the training-free recommender with the largest mean."""
    floor = study.text.floor()
    name = max(floor, key=lambda candidate: float(floor[candidate].mean()))
    return name, floor[name]


def text_of(study: Study, model: AnyText) -> Any:
    """A text recommender itself."""
    study.prepare([model])
    return study.lab.get(model)


def _course(study: Study, model: AnyText) -> dict[str, Any]:
    """What was noted while a text recommender was made."""
    study.prepare([model])
    return model.course(study.lab.build(model).path)


def text_task(study: Study) -> TextTask:
    """The tier's task.

    Raises:
        ValueError: If the tier has none.
    """
    if study.tier.texts is None:
        raise ValueError(f"the {study.tier.name} tier has no text recommender")
    return study.tier.texts


def _cells(values: FloatArray, full: float) -> Sequence[str]:
    interval = MeanDifference(np.asarray(values, dtype=np.float64), "NDCG@10").interval(LEVEL)
    mean = float(values.mean())
    return f"{mean:.4f}", f"{interval.low:.4f} to {interval.high:.4f}", f"{100 * mean / full:.1f} %"


def _difference(effect: MeanDifference) -> str:
    return effect.sentence(effect.interval(LEVEL))
