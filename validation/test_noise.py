"""Noise: "5, 10, 20 % of history items replaced at test time: retention must not fall faster than the full model's".

Where it stands: CLAIMS, robustness. Every event of a history is replaced with that chance by an item that its user has
nowhere, drawn like a random training event; full and compact model read the same noise, another one for every seed, and
what is masked stays the true history. It would be refuted by a compact model that loses more NDCG@10 than the full one.
"""

import pytest

from layerwise.lab.exhibits import cut_checks, floor_checks
from layerwise.lab.robustness import history_noise
from layerwise.lab.robustness_checks import noise_checks
from layerwise.lab.robustness_tables import noise_figure, noise_table


@pytest.mark.claim("noise-robustness")
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2], ids="history{:.0%}".format)
@pytest.mark.parametrize("family", ["llama"])
def test_noise_in_histories_costs_the_compact_model_no_more_than_the_full_one(study, claim, family, share):
    """What the full model loses by noise, minus what the healed compact one loses, is not below the margin."""
    own = study.of(family)

    for check in [*floor_checks(own), *cut_checks(own, own.healed()), *noise_checks(own, share)]:
        claim.require(*check)
    if share == min(own.tier.noise):
        claim.table(**noise_table(own))
        claim.figure(**noise_figure(own))

    claim.judge(history_noise(own, share))
