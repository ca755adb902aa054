"""Noise in training: a compact model of a noisy log must not lose more than the full model of that log.

Where it stands: CLAIMS, robustness, "label noise in training". A tenth of the training events is replaced by items that
their users have nowhere; full model, importance of its layers and healing know no other log. Tests read true events.
It would be refuted by a compact model that loses more NDCG@10 against its clean version than the full model does.
"""

import pytest

from layerwise.lab.exhibits import cut_checks, floor_checks
from layerwise.lab.robustness import training_noise
from layerwise.lab.robustness_tables import training_noise_table
from layerwise.lab.spot_checks import ranking_check


@pytest.mark.claim("training-noise-robustness")
@pytest.mark.parametrize("family", ["llama"], ids="{}-events10%".format)
def test_noise_in_training_costs_the_compact_model_no_more_than_the_full_one(study, claim, family):
    """What the full model loses by noisy training, minus what the healed compact one loses, is not below the margin."""
    own = study.of(family)

    for models in (own.healed(), own.noisy_healed()):
        for check in cut_checks(own, models):
            claim.require(*check)
    for check in [*floor_checks(own), ranking_check(own, tuple(own.noisy_full()), "full model of the noisy log")]:
        claim.require(*check)
    claim.table(**training_noise_table(own))

    claim.judge(training_noise(own))
