"""The effects that H1 and H2 are judged by, from the measurements of a study."""

from collections.abc import Sequence

import numpy as np

from layerwise.lab.study import Study
from layerwise.statistics import (
    AllOf,
    Effect,
    MeanDifference,
    RankAdvantage,
    RankCorrelation,
    SeedMean,
    kendalls_w,
    s_shape_gain,
)
from layerwise.statistics.rank_effect import spearman
from layerwise.statistics.tables import FloatArray

FISHERS = ("fisher", "empirical-fisher", "mean-fisher", "gate-fisher")
INDEPENDENT_FISHERS = ("fisher", "empirical-fisher", "gate-fisher")  # a mean over equal layers ranks like a sum


def band_removal(study: Study) -> MeanDifference:
    """H1: NDCG@10 lost without the top bands minus that lost without the bottom ones."""
    return MeanDifference(np.stack([seed.without_bottom - seed.without_top for seed in study.damage()]), "NDCG@10")


def depth_trend(study: Study) -> RankCorrelation:
    """H1: depth against the damage of removing a layer."""
    return _against_depth(damage_by_layer(study))


def probe_trend(study: Study, probe: str) -> RankCorrelation:
    """H1: depth against the quality of a linear probe, `"genre"` or `"next-item"`."""
    name = {"genre": "genre_probe", "next-item": "item_probe"}[probe]
    return _against_depth(np.stack([getattr(portrait, name) for portrait in study.portraits()]))


def complexity_trend(study: Study) -> SeedMean:
    """H1: Spearman correlation of depth and effective rank, per seed."""
    ranks = np.stack([portrait.rank for portrait in study.portraits()]).astype(np.float64)
    return SeedMean(spearman(_depths(ranks), ranks), "Spearman correlation")


def s_shape(study: Study) -> SeedMean:
    """H1: how much better an S curve than a line describes the genre probe over depth, per seed."""
    probes = [portrait.genre_probe.mean(axis=1) for portrait in study.portraits()]
    gains = [s_shape_gain(np.arange(len(values), dtype=np.float64), values) for values in probes]
    return SeedMean(np.array(gains), "AICc of the line minus AICc of the S curve")


def attention_trend(study: Study, measure: str) -> RankCorrelation:
    """H1: depth against attention, `"focus"` (1 minus normalised entropy) or `"distance"`.

    A layer that attends to one event only, as in a decoder that is only started, says nothing and is left out.
    """
    portraits = study.portraits()
    name, sign, start = {"focus": ("entropy", -1.0, 1.0), "distance": ("distance", 1.0, 0.0)}[measure]
    values: FloatArray = start + sign * np.stack([getattr(portrait, name) for portrait in portraits])
    told = np.isfinite(values).any(axis=(0, 2))
    examples = np.isfinite(values[:, told]).all(axis=(0, 1))  # the shortest histories have no choice
    return _against_depth(values[:, told][:, :, examples])


def adaptation(study: Study) -> MeanDifference:
    """H1: log-likelihood of the next genre with a tuned top band minus with a tuned bottom band."""
    arms = study.adaptation()
    return MeanDifference(arms["top"] - arms["bottom"], "nats")


def layer_semantics(study: Study) -> AllOf:
    """H1, jointly: every method says that the top layers matter more."""
    return AllOf(
        {
            "band removal": band_removal(study),
            "depth trend": depth_trend(study),
            "genre probe": probe_trend(study, "genre"),
            "focus of attention": attention_trend(study, "focus"),
            "adaptation": adaptation(study),
        }
    )


def fisher_rank(study: Study, method: str) -> RankCorrelation:
    """H2: a score against the damage of removing a layer."""
    return RankCorrelation(study.layer_scores(method), damage_by_layer(study))


def fisher_agreement(study: Study, methods: Sequence[str] = INDEPENDENT_FISHERS) -> SeedMean:
    """H2: Kendall's W of the methods' orders of the layers, per seed."""
    scores = np.stack([study.layer_scores(method) for method in methods], axis=1)  # seeds x methods x layers
    return SeedMean(np.array([kendalls_w(seed) for seed in scores]), "Kendall's W")


def fisher_selection(study: Study, share: float) -> AllOf:
    """H2: NDCG@10 of a bare cut by the tier's Fisher information minus that of each rival's cut."""
    own = bare_cut(study, study.tier.selected_by, share)
    return AllOf({rival: MeanDifference(own - bare_cut(study, rival, share), "NDCG@10") for rival in study.tier.rivals})


def fisher_selection_healed(study: Study) -> AllOf:
    """H2: the same after healing; random stands for one draw per seed."""
    own = study.quality(study.healed_cuts(study.tier.selected_by))["ndcg@10"]
    rivals: dict[str, Effect] = {
        rival: MeanDifference(own - study.quality(study.healed_cuts(rival))["ndcg@10"], "NDCG@10")
        for rival in study.tier.rivals
    }
    return AllOf(rivals)


def fisher_tasks(study: Study, task: str) -> RankAdvantage:
    """H2: a task's own Fisher information against that of the other tasks, by the task's removal damage."""
    tasks = study.tasks()
    fisher = {name: np.stack([seed.fisher for seed in seeds]).astype(np.float64) for name, seeds in tasks.items()}
    others = np.stack([values for name, values in fisher.items() if name != task])
    damage = np.stack([seed.damage for seed in tasks[task]]).astype(np.float64)
    return RankAdvantage(fisher[task], others, damage)


def damage_by_layer(study: Study) -> FloatArray:
    """NDCG@10 lost without each layer, *seeds x num_layers x users*."""
    return np.stack([seed.by_layer for seed in study.damage()]).astype(np.float64)


def bare_cut(study: Study, rule: str, share: float) -> FloatArray:
    """NDCG@10 of a cut without training, *seeds x users*; for random cuts the mean over the draws."""
    if rule == "random":
        return np.stack([cut.by_user for cut in study.random_cuts()[share]]).astype(np.float64)
    return study.rule_cuts()[share, rule].astype(np.float64)


def _against_depth(values: FloatArray) -> RankCorrelation:
    """Depth against *seeds x layers x users*."""
    return RankCorrelation(_depths(values[:, :, 0]), values)


def _depths(values: FloatArray) -> FloatArray:
    """Depth of each layer in the shape of *seeds x layers*."""
    return np.broadcast_to(np.arange(values.shape[1], dtype=np.float64), values.shape).copy()
