"""H3: "layer-wise weights beat uniform weights in distillation".

Where it stands: hypothesis H3 of the Layerwise Adapter project. Teacher, student, steps and the total weight of the
terms that compare layers are the same; only its division among the layers differs. Half of the layers are kept, so that
there are enough of them to weigh. It would be refuted by weighted students with less NDCG@10 than uniform ones.
Published for language models: how intermediate layers are matched hardly matters (arXiv 2502.04499).
"""

import pytest

from layerwise.lab.contest_tables import weightings_table
from layerwise.lab.contests import WEIGHTINGS, weighting
from layerwise.lab.exhibits import cut_checks, floor_checks


@pytest.mark.claim("weighting")
@pytest.mark.parametrize("weights", WEIGHTINGS)
@pytest.mark.parametrize("family", ["llama"])
def test_layer_wise_weights_beat_uniform_ones(study, claim, family, weights):
    """Students taught with layer-wise weights have more NDCG@10 than students taught with uniform weights."""
    share = study.tier.weighted_share
    arms = [study.students(method, share) for method in (WEIGHTINGS[weights], "ours, uniform weights")]

    for check in [*floor_checks(study), *(check for arm in arms for check in cut_checks(study, arm, share))]:
        claim.require(*check)
    if weights == "fisher":
        claim.table(**weightings_table(study))

    claim.judge(weighting(study, weights))
