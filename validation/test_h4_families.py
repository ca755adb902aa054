"""H4: "Llama 3 beats other models on recommendation".

Where it stands: hypothesis H4 of the Layerwise Adapter project. Five architectures of one size (within 5 %) are trained
from scratch on item tokens with the same data, batches, number of steps and grid of learning rates. It is refuted where
the interval of Llama minus another family, over users and independent trainings, lies below 0. Beside it stands what
the quality costs: per millisecond of scoring and per megabyte.
"""

import pytest

from layerwise.lab.family_contest import (
    OTHERS,
    contest_checks,
    contest_remarks,
    milliseconds,
    over,
    over_all,
    over_training_free,
    per_megabyte,
    per_millisecond,
    timing_check,
)
from layerwise.lab.family_tables import costs_figure, costs_table, families_table, tuning_table
from layerwise.models.families import FAMILIES

DATASETS = {"ml-100k": None, "office": "amazon18-office-recent"}
SETS = pytest.mark.parametrize("dataset", [pytest.param(at, id=name) for name, at in DATASETS.items()])
PAIRS = [pytest.param(rival, at, id=f"over-{rival}-{name}") for name, at in DATASETS.items() for rival in OTHERS]
RIVALS = pytest.mark.parametrize("rival", OTHERS, ids="over-{}".format)


@pytest.mark.claim("llama-beats-others")
@pytest.mark.parametrize(("rival", "dataset"), PAIRS)
def test_llama_ranks_better_than_another_family(study_on, claim, rival, dataset):
    """Llama has more NDCG@10 than another architecture of its size, trained alike."""
    study = study_on(dataset)
    for check in contest_checks(study, ("llama", rival)):
        claim.require(*check)

    claim.judge(over(study, rival))


@pytest.mark.claim("llama-beats-all")
@SETS
def test_llama_ranks_better_than_every_other_family(study_on, claim, dataset):
    """Llama has more NDCG@10 than each of four other architectures of its size, trained alike."""
    study = study_on(dataset)
    for check in contest_checks(study, tuple(FAMILIES)):
        claim.require(*check)
    for remark in contest_remarks(study):
        claim.remark(remark)
    claim.table(**families_table(study))
    claim.table(**tuning_table(study))
    claim.table(**costs_table(study))
    claim.figure(**costs_figure(study))

    claim.judge(over_all(study))


@pytest.mark.claim("llama-beats-counting")
@SETS
def test_llama_ranks_better_than_the_best_recommender_without_training(study_on, claim, dataset):
    """Llama has more NDCG@10 than the best of popularity, Markov chain, ItemKNN and EASE."""
    study = study_on(dataset)
    for check in contest_checks(study):
        claim.require(*check)

    claim.judge(over_training_free(study))


@pytest.mark.claim("llama-per-megabyte")
@RIVALS
def test_llama_has_more_quality_per_megabyte(study, claim, rival):
    """Llama has more NDCG@10 per megabyte of its checkpoint than another architecture of its size, trained alike."""
    for check in contest_checks(study, ("llama", rival)):
        claim.require(*check)

    claim.judge(per_megabyte(study, rival))


@pytest.mark.claim("llama-per-millisecond")
@RIVALS
def test_llama_has_more_quality_per_millisecond(study, claim, rival):
    """Llama has more NDCG@10 per millisecond of scoring than another architecture of its size, trained alike."""
    for check in [*contest_checks(study, ("llama", rival)), timing_check(study, rival)]:
        claim.require(*check)

    times = {family: round(ms, 3) for family, ms in milliseconds(study).items()}
    claim.judge(per_millisecond(study, rival), notes={"ms per batch of 64": times})
