"""H2, rank: "Fisher information quantifies each layer's contribution"; a rank correlation of 0.229 was reported.

Where it stands: hypothesis H2 of the Layerwise Adapter project. It would be refuted by a negative rank correlation
between a layer's Fisher information and what removing that layer really costs.
"""

import pytest

from layerwise.lab.exhibits import floor_checks
from layerwise.lab.hypotheses import FISHERS, fisher_rank
from layerwise.lab.layer_exhibits import scatter
from layerwise.lab.layer_tables import methods_table
from layerwise.lab.spot_checks import damage_check, fisher_check


@pytest.mark.claim("fisher-rank")
@pytest.mark.parametrize("method", FISHERS)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert", "t5"])
def test_fisher_information_ranks_layers_by_removal_damage(study, claim, family, method):
    """Over the layers of a model, Fisher information and removal damage rise together."""
    own = study.of(family)
    influence = fisher_rank(own, "block-influence")

    for check in [*floor_checks(own), damage_check(own), fisher_check(own, (method,))]:
        claim.require(*check)
    claim.figure(**scatter(own, method))
    if (family, method) == ("llama", FISHERS[0]):
        claim.table(**methods_table({name: study.of(name) for name in study.tier.families or (family,)}))

    notes = {
        "reported by the source": 0.229,
        "BlockInfluence on the same models": influence.sentence(influence.interval(0.95)),
    }
    claim.judge(fisher_rank(own, method), notes=notes)
