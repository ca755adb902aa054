"""Baseline advantage: "+15-20 % NDCG@5 over DistilBERT-style distillation, +25-30 % over magnitude pruning, +40-50 %
over random selection", and the other rivals, at the same depth or bytes and the same training budget.

Where it stands: the table of targets of the Layerwise Adapter project. Each trained method has the same data and steps
and a learning rate from the same grid, chosen on validation. A case is refuted when the ratio of our compact model's
NDCG@5 to the rival's lies below the claimed one.
"""

import pytest

from layerwise.lab.contest_tables import rivals_figure, rivals_table
from layerwise.lab.contests import OTHER_RIVALS, TRAINED_RIVALS, advantage
from layerwise.lab.exhibits import floor_checks

CLAIMED = ("distilbert", "magnitude", "random")
OTHERS = tuple(rival for rival in (*TRAINED_RIVALS, *OTHER_RIVALS) if rival not in CLAIMED)


def cases(rivals):
    """One parameter per rival on the tier's own dataset, and per rival on the further one."""
    further = "ml-latest-small"
    own = [pytest.param(rival, None, id=rival) for rival in rivals]
    return own + [pytest.param(rival, further, id=f"{rival}-{further}") for rival in rivals]


@pytest.mark.claim("baseline-advantage")
@pytest.mark.parametrize(("rival", "dataset"), cases(CLAIMED))
def test_the_compact_model_is_ahead_of_a_baseline_by_the_claimed_share(study_on, claim, rival, dataset):
    """With 75 % of its layers removed, a recommender is ahead of the baseline by what was claimed."""
    own = study_on(dataset)

    for check in floor_checks(own):
        claim.require(*check)
    if rival == CLAIMED[0]:
        claim.table(**rivals_table(own))
        claim.figure(**rivals_figure(own))

    claim.judge(advantage(own, rival))


@pytest.mark.claim("rival-advantage")
@pytest.mark.parametrize(("rival", "dataset"), cases(OTHERS))
def test_the_compact_model_is_ahead_of_every_other_rival(study_on, claim, rival, dataset):
    """With 75 % of its layers removed, a recommender has more NDCG@5 than by any other way to its depth or bytes."""
    own = study_on(dataset)

    for check in floor_checks(own):
        claim.require(*check)

    claim.judge(advantage(own, rival))
