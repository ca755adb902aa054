"""H2, agreement: three methods, an agreement of 1.000.

Where it stands: hypothesis H2 of the Layerwise Adapter project, where one computation went under three names. Here
true, empirical and gate Fisher information are three computations, and the claim is what was reported: a Kendall's W of
1.000. It would be refuted by an interval below.
"""

import pytest

from layerwise.lab.exhibits import floor_checks
from layerwise.lab.hypotheses import INDEPENDENT_FISHERS, fisher_agreement
from layerwise.lab.layer_exhibits import agreement_heatmap
from layerwise.lab.layer_tables import agreement_notes, distinct_computations
from layerwise.lab.spot_checks import fisher_check


@pytest.mark.claim("fisher-agreement")
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert", "t5"])
def test_three_fisher_methods_put_the_layers_into_one_order(study, claim, family):
    """True, empirical and gate Fisher information agree on the order of the layers, exactly."""
    own = study.of(family)

    for check in [*floor_checks(own), distinct_computations(own, INDEPENDENT_FISHERS)]:
        claim.require(*check)
    claim.require(*fisher_check(own, INDEPENDENT_FISHERS))
    claim.figure(**agreement_heatmap(own))

    claim.judge(fisher_agreement(own), notes=agreement_notes(own))
