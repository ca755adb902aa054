"""H4: the effects by which one family is judged against the others with all else equal, and what must hold for that."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from layerwise.data.arrays import FloatArray
from layerwise.evaluation.memory import count_parameters, stored_bytes
from layerwise.evaluation.side_by_side import FloatArray as Times
from layerwise.evaluation.side_by_side import time_side_by_side
from layerwise.evaluation.workloads import Scoring
from layerwise.lab.exhibits import LEVEL, Check, best_floor
from layerwise.lab.experiments import Model
from layerwise.lab.experiments.tuned import RATES
from layerwise.lab.speed_tables import scoring_inputs
from layerwise.lab.spot_checks import data_check, ranking_check, training_check
from layerwise.lab.study import Study
from layerwise.models.families import FAMILIES
from layerwise.models.recommender import Recommender
from layerwise.statistics import AllOf, MeanDifference

FAVOURITE = "llama"
OTHERS = tuple(family for family in FAMILIES if family != FAVOURITE)
TOLERANCE = 0.05  # share by which sizes of models may differ that count as equal
BATCH = 64
BLOCKS, NUM_INPUTS = 60, 8  # 30 left a third of the interval to the clock on a busy machine
NEGLIGIBLE = 1 / 3  # of the other error; together they are 5 % larger than that alone


def over(study: Study, rival: str) -> MeanDifference:
    """NDCG@10 of the favourite minus of another family."""
    return MeanDifference(_ndcg(study, FAVOURITE) - _ndcg(study, rival), "NDCG@10")


def over_training_free(study: Study) -> MeanDifference:
    """NDCG@10 of the favourite minus of the best recommender that needs no training."""
    return _over_floor(study, FAVOURITE)


def over_all(study: Study) -> AllOf:
    """The same for every other family, jointly."""
    return AllOf({rival: over(study, rival) for rival in OTHERS})


def per_megabyte(study: Study, rival: str) -> MeanDifference:
    """NDCG@10 per MB of checkpoint of the favourite minus of another family; a MB is a million bytes."""
    own, other = (_ndcg(study, family) / megabytes(study, family) for family in (FAVOURITE, rival))
    return MeanDifference(own - other, "NDCG@10 per MB")


def per_millisecond(study: Study, rival: str) -> MeanDifference:
    """NDCG@10 per ms of a scored batch of the favourite minus of another family."""
    times = milliseconds(study)
    own, other = (_ndcg(study, family) / times[family] for family in (FAVOURITE, rival))
    return MeanDifference(own - other, "NDCG@10 per ms")


def first_model(study: Study, family: str) -> Recommender:
    """The first seed's model of a family; the others have the same size and speed."""
    return study.model(study.matched(family)[0]).eval()


def megabytes(study: Study, family: str) -> float:
    """Size of a family's checkpoint."""
    return stored_bytes(first_model(study, family)) / 1e6


@lru_cache(maxsize=4)
def scoring_times(study: Study) -> dict[str, Times]:
    """Time in ms to find the ten best items for a batch of histories, *blocks*, by family; all timed in turn, once."""
    models = {family: Scoring(first_model(study, family)).eval() for family in FAMILIES}
    inputs = {
        family: scoring_inputs(study, scoring.recommender, BATCH, NUM_INPUTS) for family, scoring in models.items()
    }
    return time_side_by_side(models, inputs, BLOCKS)


def milliseconds(study: Study) -> dict[str, float]:
    """Time to find the ten best items for a batch, by family: the geometric mean over blocks.

    Its ratio between families is the mean ratio within blocks, from which cancels what slows a whole block down.
    """
    return {family: float(np.exp(np.log(times).mean())) for family, times in scoring_times(study).items()}


def contest_checks(study: Study, families: Sequence[str] = (FAVOURITE,)) -> list[Check]:
    """Whether families can be compared: sound data, enough seeds, models of one size that learned and rank as stored.

    A recommender without training may be better than all of them: that is a case of its own, and a remark.
    """
    arms = {family: tuple(study.matched(family)) for family in families}
    return [
        data_check(study.split),
        training_check(study.split),
        (
            len(study.tier.seeds) >= 5,
            f"{len(study.tier.seeds)} independent trainings; a claim about a method needs at least 5",
        ),
        *(learned_check(study, family) for family in arms),
        *(size_check(study, family) for family in arms if family != FAVOURITE),
        *(tuning_check(study, family) for family in arms),
        *(ranking_check(study, arm, f"{family} model") for family, arm in arms.items()),
    ]


def learned_check(study: Study, family: str) -> Check:
    """Whether a family makes use of histories: it beats counting how popular items are."""
    popular = study.floor()["Popularity"]["ndcg@10"]
    above = MeanDifference(_ndcg(study, family) - popular, "NDCG@10")
    return (
        above.interval(LEVEL).low > 0,
        f"the {family} model must beat popularity: {_ndcg(study, family).mean():.4f} against {popular.mean():.4f}, "
        f"{above.sentence(above.interval(LEVEL))}",
    )


def size_check(study: Study, family: str) -> Check:
    """Whether a family has as many parameters as the favourite, in its layers and in all."""
    sizes = [count_parameters(first_model(study, name)) for name in (family, FAVOURITE)]
    (layers, own_layers), (total, own_total) = ([getattr(s, k) for s in sizes] for k in ("of_layers", "total"))
    return (
        max(abs(layers / own_layers - 1), abs(total / own_total - 1)) <= TOLERANCE,
        f"{family} must have as many parameters as {FAVOURITE} within {TOLERANCE:.0%}: {layers:,} against "
        f"{own_layers:,} in the layers, {total:,} against {own_total:,} in all",
    )


def tuning_check(study: Study, family: str) -> Check:
    """Whether all models of a family have the learning rate that the tuning seed's validation prefers."""
    models = study.matched(family)
    found = {rate: best_validation(study, model) for rate, model in models[0].grid().items()}
    chosen = {float(study.lab.course(model)["rate"]) for model in models}
    best = max(found, key=found.__getitem__)
    return (
        chosen == {best},
        f"all {family} models must have the learning rate that validation of seed {models[0].tuned_on} prefers, "
        f"{best:g} times the recipe's: they have {' or '.join(f'{rate:g}' for rate in sorted(chosen))}",
    )


def best_validation(study: Study, model: Model) -> float:
    """The best validation NDCG@10 in the course of a training."""
    return float(max(study.lab.course(model)["validation_ndcg@10"].values()))


def timing_check(study: Study, rival: str) -> Check:
    """Whether the ratio of times is known so well that its error, which the interval leaves out, hardly adds to it.

    What slows both families down changes the unit of their difference, and of its error, but no verdict.
    """
    times = scoring_times(study)
    ratios = np.log(times[rival] / times[FAVOURITE])
    error = ratios.std(ddof=1) / math.sqrt(len(ratios)) * _ndcg(study, rival).mean() / milliseconds(study)[rival]
    share = error / per_millisecond(study, rival).summary.standard_error
    return (
        bool(share <= NEGLIGIBLE),
        f"the error of the times must be at most {NEGLIGIBLE:.0%} of that of the qualities per ms: {share:.0%}",
    )


def contest_remarks(study: Study) -> list[str]:
    """What a reader must know: families below counting, rates at the border of the grid, trainings that ended early."""
    below = [family for family in FAMILIES if _over_floor(study, family).interval(LEVEL).low <= 0]
    edge = [family for family in FAMILIES if chosen_rate(study, family) in (RATES[0], RATES[-1])]
    early = [family for family in FAMILIES if min(epochs_run(study, family)) < study.subject.training.epochs]
    remarks = []
    if below:
        name, floor = best_floor(study)
        told = ", ".join(f"{family} {_ndcg(study, family).mean():.4f}" for family in below)
        remarks.append(
            f"On {study.subject.data_name} some families are not shown to beat {name}, which needs no training "
            f"(NDCG@10 {floor.mean():.4f}): {told}."
        )
    if edge:
        remarks.append(
            f"On {study.subject.data_name} validation chose a learning rate at the border of the grid for "
            f"{', '.join(edge)}: another rate beyond it might suit better."
        )
    if early:
        remarks.append(
            f"On {study.subject.data_name} some trainings of {', '.join(early)} ended before the last epoch, after "
            f"{study.subject.training.patience} validations without a better one."
        )
    return remarks


def chosen_rate(study: Study, family: str) -> float:
    """The learning rate of a family, in units of the recipe's."""
    return float(study.lab.course(study.matched(family)[0])["rate"])


def epochs_run(study: Study, family: str) -> list[int]:
    """Epochs of a family's trainings, one per seed."""
    courses = [study.lab.course(model)["validation_ndcg@10"] for model in study.matched(family)]
    return [max(map(int, course)) for course in courses]


def _over_floor(study: Study, family: str) -> MeanDifference:
    return MeanDifference(_ndcg(study, family) - best_floor(study)[1], "NDCG@10")


def _ndcg(study: Study, family: str) -> FloatArray:
    """NDCG@10, *seeds x users*."""
    return study.quality(study.matched(family))["ndcg@10"]
