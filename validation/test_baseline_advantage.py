"""Baseline advantage: "+15-20 % NDCG@5 over DistilBERT-style distillation, +25-30 % over magnitude pruning, +40-50 %
over random selection", and the other rivals, at the same depth or bytes and the same training budget.

Where it stands: the table of targets of the Layerwise Adapter project. Each trained method has the same data and steps
and a learning rate from the same grid, chosen on validation. A case is refuted when the ratio of our compact model's
NDCG@5 to the rival's lies below the claimed one.
"""

import pytest

from layerwise.lab.contest_tables import rivals_figure, rivals_table
from layerwise.lab.contests import OTHER_RIVALS, TRAINED_RIVALS, advantage
from layerwise.lab.exhibits import cut_checks, floor_checks

CLAIMED = ("distilbert", "magnitude", "random")
OTHERS = tuple(rival for rival in (*TRAINED_RIVALS, *OTHER_RIVALS) if rival not in CLAIMED)
DATASETS = {"": None, "-ml-latest-small": "ml-latest-small"}


def on_every_dataset(rivals):
    cases = [pytest.param(rival, data, id=f"{rival}{suffix}") for suffix, data in DATASETS.items() for rival in rivals]
    return pytest.mark.parametrize(("rival", "dataset"), cases)


@pytest.mark.claim("baseline-advantage")
@on_every_dataset(CLAIMED)
def test_the_compact_model_is_ahead_of_a_baseline_by_the_claimed_share(study_on, claim, rival, dataset):
    """With 75 % of its layers removed, a recommender is ahead of the baseline by what was claimed."""
    study = study_on(dataset)
    for check in [*floor_checks(study), *cut_checks(study, study.tuned("ours"))]:
        claim.require(*check)
    if rival == CLAIMED[0]:
        claim.table(**rivals_table(study))
        claim.figure(**rivals_figure(study))

    claim.judge(advantage(study, rival))


@pytest.mark.claim("rival-advantage")
@on_every_dataset(OTHERS)
def test_the_compact_model_is_ahead_of_every_other_rival(study_on, claim, rival, dataset):
    """With 75 % of its layers removed, a recommender has more NDCG@5 than by any other way to its depth or bytes."""
    study = study_on(dataset)
    for check in [*floor_checks(study), *cut_checks(study, study.tuned("ours"))]:
        claim.require(*check)

    claim.judge(advantage(study, rival))
