"""Which results the claims of a tier read, so that a run can make all of them side by side before it reads the first.

A tier names the parts that its claims belong to (`Tier.asks`); what asks for text models, noise in training, matched
families or layers that travel is said by the tier's own fields for them.
"""

from collections.abc import Callable
from typing import Any

from layerwise.compression.methods import METHODS
from layerwise.lab.experiments import (
    FLOOR,
    RULES,
    TEXT_IMPORTANCES,
    TEXT_ROWS,
    BandAdaptation,
    Experiment,
    FloorQuality,
    GapRivals,
    IdentityLayers,
    LayerPortrait,
    LayerScores,
    LayerShapley,
    ModelQuality,
    PointerChain,
    QuantizedQuality,
    RandomCuts,
    RemovalDamage,
    TargetQuality,
    TaskImportances,
    TextQuality,
    TextScores,
    TrainingFree,
)
from layerwise.lab.study import Study
from layerwise.lab.transfer_plan import transfer_cells
from layerwise.models.families import FAMILIES

Asked = list[Experiment[Any]]


def everything(study: Study) -> Asked:
    """All results that the claims of the study's tier read, the longest first within each part."""
    return [
        *(experiment for part in study.tier.asks for experiment in PARTS[part](study)),
        *_noise_in_training(study),
        *study.text.like_answers(),
        *_texts(study),
        *study.text.bit_answers(),
        *_matched_families(study),
        *transfer_cells(study.tier),
        *study.controls_of(PointerChain),
        *study.controls_of(IdentityLayers),
    ]


def _retention(study: Study) -> Asked:
    """Full, shallow, compact and healed models of every family and dataset of the tier, else of its subject alone."""
    cells = study.cells().values() or [study]
    return [experiment for cell in cells for experiment in _retention_of(cell)]


def _retention_of(cell: Study) -> Asked:
    rules = RULES if cell.subject.family == cell.tier.in_detail else ()
    ruled = (compact for by in rules for compact in cell.compact(by))
    models = (*cell.full(), *cell.shallow(), *cell.healed(), *cell.compact(), *ruled)
    return [*map(ModelQuality, models), *_floor(cell)]


def _bare_cuts(study: Study) -> Asked:
    """Cuts without training of every family, and ways to close the gaps of the subject's own cut."""
    tier = study.tier
    return [
        *(TrainingFree(full, tier.rules) for family in tier.families for full in study.of(family).full()),
        *(GapRivals(full, tier.selected_by, tier.kept) for full in study.full()),
    ]


def _robustness(study: Study) -> Asked:
    """Noise in histories, and scenarios."""
    arms = (study.full(), study.healed())
    noisy = (one for share in study.tier.noise for models in arms for one in study.under_noise(models, share))
    return [*(TargetQuality(model) for models in arms for model in models), *noisy]


def _damage(study: Study) -> Asked:
    """What removing layers of the subject costs, beside every importance of them."""
    return [*map(RemovalDamage, study.full()), *_scores(study)]


def _layers(study: Study) -> Asked:
    """What layers hold and do in every family, and the subject's cuts by every rule, healed."""
    rules = (study.tier.selected_by, *study.tier.rivals)
    return [
        *(experiment for family in study.tier.families for experiment in _layers_of(study.of(family))),
        *map(ModelQuality, study.shallow()),
        *(ModelQuality(healed) for by in rules for healed in study.healed_cuts(by)),
    ]


def _layers_of(study: Study) -> Asked:
    kinds = (ModelQuality, BandAdaptation, LayerPortrait, TaskImportances, LayerShapley, RemovalDamage)
    return [
        *(RandomCuts(full, study.tier.compared_shares) for full in study.full()),
        *map(study.rule_cut, study.full()),
        *(kind(full) for kind in kinds for full in study.full()),
        *_scores(study),
        *_floor(study),
    ]


def _ablation(study: Study) -> Asked:
    """Our method for every depth, with other weights of layers, and without each of its parts."""
    weightings = [name for name in METHODS if name == "ours" or name.endswith(" weights")]
    parts = ["ours", "ours, uniform weights", *(name for name in METHODS if name.startswith("ours without "))]
    ablated = [study.of(family) for family in study.tier.ablated]
    students = [
        *(student for keep in study.tier.depths for student in study.students("ours", keep / study.depth)),
        *(student for name in weightings for student in study.students(name, study.tier.weighted_share)),
        *(student for of in ablated for name in parts for student in of.students(name)),
    ]
    full = (model for of in ablated for model in of.full())
    return [*map(ModelQuality, (*full, *students)), *(floor for of in ablated for floor in _floor(of))]


def _rivals(study: Study) -> Asked:
    """Other methods at the same depth or bytes, on every dataset where they are compared."""
    return [experiment for at in study.contested() for experiment in _rivals_of(at)]


def _rivals_of(study: Study) -> Asked:
    tuned = ["ours", *(name for name in METHODS if not name.startswith("ours"))]
    return [
        *map(ModelQuality, (*study.full(), *study.shallow())),
        *(ModelQuality(student) for name in tuned for student in study.tuned(name)),
        *_floor(study),
        *(QuantizedQuality(full, bits) for bits in (8, 4) for full in study.full()),
    ]


def _noise_in_training(study: Study) -> Asked:
    if study.tier.training_noise is None:
        return []
    models = (*study.full(), *study.noisy_full(), *study.healed(), *study.noisy_healed())
    return [*map(ModelQuality, models), *_floor(study)]


def _texts(study: Study) -> Asked:
    task = study.tier.texts
    if task is None:
        return []
    models = (*study.text.models(), *study.text.healed(), *study.text.compact())
    rows = [(row, shuffled) for row in TEXT_ROWS for shuffled in (False, True)]
    return [
        *map(TextQuality, models),
        *(TextQuality(model) for row, shuffled in rows for model in study.text.models(row, shuffled)),
        *(TextScores(full, method) for method in TEXT_IMPORTANCES for full in study.text.models()),
        *(FloorQuality(task.subject, name) for name in FLOOR),
    ]


def _matched_families(study: Study) -> Asked:
    """Every family, all else equal, at home and on the further subjects."""
    asked: Asked = []
    for at in study.matched_studies():
        models = [model for family in FAMILIES for model in at.matched(family)]
        asked += [*map(ModelQuality, models), *_floor(at)]
    return asked


def _scores(study: Study) -> Asked:
    return [LayerScores(full, method) for method in study.tier.importances for full in study.full()]


def _floor(study: Study) -> Asked:
    return [FloorQuality(study.subject, name) for name in FLOOR]


PARTS: dict[str, Callable[[Study], Asked]] = {
    "retention": _retention,
    "bare cuts": _bare_cuts,
    "robustness": _robustness,
    "damage": _damage,
    "layers": _layers,
    "ablation": _ablation,
    "rivals": _rivals,
}
