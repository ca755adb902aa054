"""Transfer: the effects by which layers chosen on one dataset are judged on another, from bare cuts of its model."""

from collections.abc import Mapping

import numpy as np

from layerwise.lab.experiments import FloorQuality, TransferCut
from layerwise.lab.study import Study
from layerwise.lab.transfer_plan import POPULARITY, subjects_of, transfer_cuts
from layerwise.statistics import (
    AllOf,
    Effect,
    MeanDifference,
    Retention,
    SeedMean,
    kendalls_w,
    kuncheva_index,
    retained,
)
from layerwise.statistics.tables import FloatArray

BAR = 0.95  # share of what layers chosen at home keep
FIXED = ("first", "uniform")  # rules that look at no data; another random draw would be another rule
METRIC = "NDCG@10"


def studies_of(study: Study) -> dict[str, Study]:
    """Dataset -> the study on it, for all that choose layers for one another; the study's own comes first."""
    return {dataset: study.on(dataset) for dataset in subjects_of(study.tier)}


def sources_of(study: Study) -> list[str]:
    """The other datasets, whose models choose layers for the study's own."""
    return [dataset for dataset in subjects_of(study.tier) if dataset != study.subject.dataset]


def cut_ndcg(study: Study, chooser: str, share: float) -> FloatArray:
    """NDCG@10, *seeds x users*, of the study's models cut by the choice of a dataset, another training or a rule."""
    return np.stack([cuts[share, chooser].ndcg for cuts in _cuts(study)]).astype(np.float64)


def kept_by(study: Study, chooser: str, share: float) -> list[tuple[int, ...]]:
    """The layers that a dataset, another training or a rule chose for the study's full models, one set per seed."""
    return [cuts[share, chooser].kept for cuts in _cuts(study)]


def at_home(study: Study, share: float) -> FloatArray:
    """NDCG@10, *seeds x users*, of the cut by the study's own choice."""
    return cut_ndcg(study, study.subject.dataset, share)


def elsewhere(study: Study, share: float) -> FloatArray:
    """The same by the choice of the others, the mean over all of them, user by user."""
    mean: FloatArray = _by_source(study, share).mean(axis=0)
    return mean


def transferred(study: Study, share: float) -> Retention:
    """What layers chosen elsewhere keep of what those chosen at home keep; elsewhere is the mean over all others."""
    return retained(elsewhere(study, share), at_home(study, share), METRIC)


def pair(study: Study, chooser: str, share: float) -> Retention:
    """The same for a single dataset, for another training at home, or for a rule."""
    return retained(cut_ndcg(study, chooser, share), at_home(study, share), METRIC)


def every_pair(studies: Mapping[str, Study], share: float) -> AllOf:
    """Jointly, every ordered pair of datasets: what the first one's choice keeps on the second one."""
    parts: dict[str, Effect] = {
        f"{studies[source].subject.data_name} on {study.subject.data_name}": pair(study, source, share)
        for study in studies.values()
        for source in sources_of(study)
    }
    return AllOf(parts, dict.fromkeys(parts, BAR))


def over_rules(study: Study, share: float) -> AllOf:
    """NDCG@10 with layers chosen elsewhere minus that with layers by each rule that looks at no data.

    The mean over the others is that of the differences: equal numbers differ by exactly nothing, while their mean may
    round off them, and that would be judged where an exact tie decides.
    """
    leads = {rule: _by_source(study, share) - cut_ndcg(study, rule, share) for rule in FIXED}
    return AllOf({rule: MeanDifference(by_source.mean(axis=0), METRIC) for rule, by_source in leads.items()})


def agreement(studies: Mapping[str, Study]) -> SeedMean:
    """Kendall's W of the datasets' orders of the layers by importance, per seed."""
    scores = np.stack([scores_of(study) for study in studies.values()], axis=1)  # seeds x datasets x layers
    return SeedMean(np.array([kendalls_w(seed) for seed in scores]), "Kendall's W")


def scores_of(study: Study) -> FloatArray:
    """Importance of each layer by the tier's method, *seeds x num_layers*."""
    return study.layer_scores(study.tier.selected_by)


def overlap(study: Study, source: str, share: float) -> float:
    """Mean over seeds of how far another's choice agrees with that at home; 0 is chance, 1 the same layers."""
    sets = zip(kept_by(study, source, share), kept_by(study, study.subject.dataset, share), strict=True)
    return float(np.mean([kuncheva_index(left, right, study.depth) for left, right in sets]))


def same_choices(study: Study, share: float) -> tuple[int, int]:
    """In how many of all pairs of a source and a seed the source chose just what home chose."""
    own = kept_by(study, study.subject.dataset, share)
    same = [
        chosen == kept for at in sources_of(study) for chosen, kept in zip(kept_by(study, at, share), own, strict=True)
    ]
    return sum(same), len(same)


def popularity(study: Study) -> FloatArray:
    """NDCG@10, *users*, of counting how popular items are."""
    wanted = FloorQuality(study.subject, POPULARITY)
    study.prepare([wanted])
    return study.lab.get(wanted)["ndcg@10"].astype(np.float64)


def _by_source(study: Study, share: float) -> FloatArray:
    """NDCG@10 of the cuts by the others' choices, *sources x seeds x users*."""
    return np.stack([cut_ndcg(study, source, share) for source in sources_of(study)])


def _cuts(study: Study) -> list[dict[tuple[float, str], TransferCut]]:
    wanted = transfer_cuts(study.tier)
    study.prepare(wanted)
    return [study.lab.get(one) for one in wanted]
