"""Whether layers come from where they are said to, and what is stored of their cuts is what the models give."""

from functools import lru_cache

import numpy as np

from layerwise.compression.compact import compact_model
from layerwise.compression.selection import number_to_keep, select_layers
from layerwise.data.arrays import FloatArray
from layerwise.lab.exhibits import LEVEL
from layerwise.lab.experiments import AGAIN, ScratchModel
from layerwise.lab.experiments.compact import RULES
from layerwise.lab.spot_checks import (
    METRICS,
    ROUNDING,
    SAME,
    USERS,
    Check,
    counted_metrics,
    data_check,
    fisher_check,
    ranking_check,
    training_check,
)
from layerwise.lab.study import Study
from layerwise.lab.transfer import cut_ndcg, kept_by, popularity, scores_of, sources_of
from layerwise.statistics import MeanDifference

NDCG = METRICS.index("ndcg@10")


def transfer_checks(study: Study, share: float) -> list[Check]:
    """What must hold for one dataset on which layers from all others are kept; the others' scores are checked, too."""
    sources = [study.on(dataset) for dataset in sources_of(study)]
    return [*model_checks(study), *map(importance_check, sources), *choice_checks(study, share)]


def model_checks(study: Study) -> list[Check]:
    """Sound data, enough seeds, full models that learned and rank as stored, and scores that are theirs."""
    return [
        data_check(study.split),
        training_check(study.split),
        (
            len(study.tier.seeds) >= 5,
            f"{len(study.tier.seeds)} independent trainings; a claim about a method needs at least 5",
        ),
        learned_check(study),
        ranking_check(study, tuple(study.full()), f"full model on {study.subject.data_name}"),
        importance_check(study),
    ]


def choice_checks(study: Study, share: float) -> list[Check]:
    """Whether the layers are those that were chosen, everywhere equally many, and their cuts rank as stored."""
    return [choice_check(study, share), cut_check(study, share)]


def importance_check(study: Study) -> Check:
    """Whether the scores by which a dataset chooses are about those of its models."""
    ok, sentence = fisher_check(study, (study.tier.selected_by,))
    return ok, f"{study.subject.data_name}: {sentence}"


def learned_check(study: Study) -> Check:
    """Whether the full model makes use of histories: it beats counting how popular items are."""
    full, popular = study.quality(study.full())["ndcg@10"], popularity(study)
    above = MeanDifference(full - popular, "NDCG@10")
    return (
        above.interval(LEVEL).low > 0,
        f"the full model on {study.subject.data_name} must beat popularity: {full.mean():.4f} against "
        f"{popular.mean():.4f}, {above.sentence(above.interval(LEVEL))}",
    )


def choice_check(study: Study, share: float) -> Check:
    """Whether every stored choice is what the scores of its training, as they are now, choose, and as large as any."""
    keep = number_to_keep(study.depth, share)
    scores = {dataset: scores_of(study.on(dataset)) for dataset in (study.subject.dataset, *sources_of(study))}
    scores[AGAIN] = np.roll(scores[study.subject.dataset], -1, axis=0)
    expected = {chooser: [select_layers(seed, keep) for seed in seeds] for chooser, seeds in scores.items()}
    wrong = [chooser for chooser, kept in expected.items() if kept_by(study, chooser, share) != kept]
    sizes = {len(kept) for rule in study.tier.rivals if rule in RULES for kept in kept_by(study, rule, share)}
    return (
        not wrong and sizes <= {keep},
        f"layers kept on {study.subject.data_name} must be the {keep} of {study.depth} that each training's scores "
        f"choose, and as many by the rules: {', '.join(wrong) or 'none'} chose otherwise, rules kept "
        f"{' or '.join(map(str, sorted(sizes)))}",
    )


def cut_check(study: Study, share: float) -> Check:
    """Whether stored rankings of the cuts are what the full models with these layers alone give, counted one by one."""
    users = np.unique(study.split.test.users)
    rows = np.unique(np.linspace(0, len(users) - 1, USERS).astype(np.int64))
    shape, differ, total = (len(study.tier.seeds), len(users)), 0, 0
    for dataset in (study.subject.dataset, *sources_of(study)):
        stored, kept = cut_ndcg(study, dataset, share), kept_by(study, dataset, share)
        if stored.shape != shape:
            return False, f"a cut must be judged on {shape[0]} seeds x {shape[1]} users, got {stored.shape}"
        counted = np.stack([_counted(study, *cut, tuple(users[rows])) for cut in zip(study.full(), kept, strict=True)])
        differ += int((np.abs(stored[:, rows] - counted) > SAME).sum())
        total += counted.size
    return (
        differ <= ROUNDING * total,
        f"stored rankings on {study.subject.data_name} with {share:.0%} of the layers must be what models with the "
        f"layers that were chosen give, counted one by one: {differ} of {total} values differ",
    )


@lru_cache(maxsize=1024)
def _counted(study: Study, full: ScratchModel, kept: tuple[int, ...], users: tuple[int, ...]) -> FloatArray:
    """NDCG@10 of some users, *users*, after a cut; datasets that choose alike are counted once."""
    cut = compact_model(study.model(full), kept)
    return counted_metrics(cut, study.split, np.array(users))[:, NDCG]
