"""Controls: two cuts whose outcome is known by construction, judged like every other cut.

They are claims that the suite makes about itself. Where depth is needed for the task, the cut must be refuted; where
the layers that go write nothing, it must be supported at exactly 100 %. Any other verdict makes the whole run invalid.
"""

import pytest

from layerwise.lab.experiments import IdentityLayers, PointerChain
from layerwise.statistics import retained

CHAIN_USERS = 200  # every seed draws 256, and leaves out those whose target is in their history, one in sixteen
CUT = pytest.mark.parametrize("cut", ["keep25%"])


@CUT
@pytest.mark.claim("control-depth-needed")
def test_cutting_a_chain_of_pointers_is_refuted(study, claim, cut):
    """Every layer follows one pointer of a chain; a quarter of them ends elsewhere."""
    arms = study.control(PointerChain, CHAIN_USERS)
    solved = float(arms["full"].mean())

    claim.require(solved == 1, f"the full model must follow every chain to its end: NDCG@10 {solved:.4f}")
    claim.judge(retained(arms["compact"], arms["full"], "NDCG@10"))


@CUT
@pytest.mark.claim("control-depth-free")
def test_cutting_layers_that_write_nothing_is_exactly_free(study, claim, cut):
    """Three quarters of the layers add zeros to the residual stream of a trained model."""
    arms = study.control(IdentityLayers)

    claim.judge(retained(arms["compact"], arms["full"], "NDCG@10"))
