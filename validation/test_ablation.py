"""Ablation: what selection, bridge, healing, distillation and weighting each contribute, one removed at a time.

Where it stands: CLAIMS, ablation. Without selection the layers are random; without bridge the cut starts bare; without
healing it stays bridged; without distillation it learns from the items alone; without weighting the layers count alike.
A part that takes NDCG@10 away refutes its case. Llama hardly needs its depth on these data, T5 does.
"""

import pytest

from layerwise.lab.contest_tables import ablation_table
from layerwise.lab.contests import PARTS, ablation
from layerwise.lab.exhibits import cut_checks, floor_checks
from layerwise.lab.spot_checks import ranking_check


@pytest.mark.claim("ablation")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_each_part_of_the_method_adds_to_its_quality(study, claim, family, part):
    """The whole method has more NDCG@10 than the method without one of its parts."""
    own = study.of(family)

    for check in [*floor_checks(own), *cut_checks(own, own.students("ours"))]:
        claim.require(*check)
    claim.require(*ranking_check(own, tuple(own.students(PARTS[part])), f"model without {part}"))
    if part == "selection":
        claim.table(**ablation_table(own))

    claim.judge(ablation(own, part))
