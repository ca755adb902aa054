"""H1, band removal: "the top 30 % of layers matter more for recommendation than the bottom 30 %".

Where it stands: hypothesis H1 of the Layerwise Adapter project, there supported by random attention scores. It would
be refuted by a bottom band whose removal costs more NDCG@10 than that of an equally large top band.
"""

import numpy as np
import pytest

from layerwise.lab.exhibits import damage_figure, subject_checks
from layerwise.statistics import MeanDifference


@pytest.mark.claim("band-removal")
@pytest.mark.parametrize("family", ["llama"])
def test_removing_the_top_band_costs_more_than_removing_the_bottom_band(study, claim, family):
    """Bypassing the last 30 % of the layers costs more NDCG@10 than bypassing the first 30 %."""
    damage = study.damage()
    top = np.stack([seed.full - seed.without_top for seed in damage])
    bottom = np.stack([seed.full - seed.without_bottom for seed in damage])

    for check in subject_checks(study):
        claim.require(*check)
    claim.figure(**damage_figure(study))

    notes = {
        "layers in a band": damage[0].band,
        "loss without the top band": round(float(top.mean()), 4),
        "loss without the bottom band": round(float(bottom.mean()), 4),
    }
    claim.judge(MeanDifference(top - bottom, "NDCG@10"), notes=notes)
