"""H2, rank: "Fisher information quantifies each layer's contribution"; a rank correlation of 0.229 was reported.

Where it stands: hypothesis H2 of the Layerwise Adapter project. It would be refuted by a negative rank correlation
between a layer's Fisher information and what removing that layer really costs.
"""

import numpy as np
import pytest

from layerwise.lab.exhibits import importance_figure, subject_checks
from layerwise.statistics import RankCorrelation


@pytest.mark.claim("fisher-rank")
@pytest.mark.parametrize("method", ["llama-empirical-fisher"])
def test_fisher_information_ranks_layers_by_removal_damage(study, claim, method):
    """Over the layers of a model, empirical Fisher information and removal damage rise together."""
    scores = study.layer_scores("empirical-fisher")
    damage = np.stack([seed.by_layer for seed in study.damage()])
    influence = RankCorrelation(study.layer_scores("block-influence"), damage)

    for check in subject_checks(study):
        claim.require(*check)
    claim.figure(**importance_figure(study, "empirical-fisher"))

    notes = {
        "reported by the source": 0.229,
        "BlockInfluence on the same models": influence.sentence(influence.interval(0.95)),
    }
    claim.judge(RankCorrelation(scores, damage), notes=notes)
