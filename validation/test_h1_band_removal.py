"""H1, band removal: "the top 30 % of layers matter more for recommendation than the bottom 30 %".

Where it stands: hypothesis H1 of the Layerwise Adapter project, there supported by random attention scores. It would
be refuted by a bottom band whose removal costs more NDCG@10 than that of an equally large top band. An encoder-decoder
has a top and a bottom in each of its stacks.
"""

import numpy as np
import pytest

from layerwise.lab.exhibits import damage_figure, floor_checks, subject_checks
from layerwise.lab.hypotheses import band_removal
from layerwise.lab.spot_checks import damage_check


@pytest.mark.claim("band-removal")
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert", "t5"])
def test_removing_the_top_band_costs_more_than_removing_the_bottom_band(study, claim, family):
    """Bypassing the last 30 % of the layers costs more NDCG@10 than bypassing the first 30 %."""
    own = study.of(family)
    damage = own.damage()

    for check in subject_checks(own) if family == "llama" else floor_checks(own):
        claim.require(*check)
    claim.require(*damage_check(own))
    claim.figure(**damage_figure(own))

    notes = {
        "layers in a band": damage[0].band,
        "loss without the top band": round(float(np.mean([seed.full - seed.without_top for seed in damage])), 4),
        "loss without the bottom band": round(float(np.mean([seed.full - seed.without_bottom for seed in damage])), 4),
    }
    claim.judge(band_removal(own), notes=notes)
