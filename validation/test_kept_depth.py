"""Kept depth: quality and latency for every kept depth, and whether a quarter of the layers is the right target.

Where it stands: CLAIMS, kept depth. Each case is one depth, healed with the same budget; the figure shows where the
curve of quality bends. A case is refuted when the interval of healed over full lies below 95 % of NDCG@10.
"""

import pytest

from layerwise.lab.contest_tables import depth_curve, depth_figure, depth_table
from layerwise.lab.contests import kept_depth
from layerwise.lab.exhibits import cut_checks, floor_checks


@pytest.mark.claim("kept-depth")
@pytest.mark.parametrize("keep", [1, 2, 3, 4, 6], ids="keep{}of8".format)
@pytest.mark.parametrize("family", ["llama"])
def test_a_healed_model_of_so_many_layers_keeps_the_quality(study, claim, family, keep):
    """A healed model of a few of the layers keeps 95 % of the full model's NDCG@10."""
    share = keep / study.depth

    for check in [*floor_checks(study), *cut_checks(study, study.students("ours", share), share)]:
        claim.require(*check)
    if keep == 1:
        curve = depth_curve(study)
        claim.table(**depth_table(study, curve))
        claim.figure(**depth_figure(curve))

    claim.judge(kept_depth(study, keep))
