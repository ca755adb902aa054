"""H1, depth trend: "high layers 16-24 clearly above low layers 0-8, 8-16 transitional".

Where it stands: hypothesis H1 of the Layerwise Adapter project. It would be refuted by a negative rank correlation
between a layer's depth and what removing that layer costs. Published damage is U-shaped, so the ends are compared with
the middle beside it.
"""

import pytest

from layerwise.lab.exhibits import floor_checks
from layerwise.lab.hypotheses import depth_trend
from layerwise.lab.layer_exhibits import damage_by_depth, dependency_heatmap, importance_heatmap, similarity_heatmap
from layerwise.lab.layer_tables import depth_notes, spread_note
from layerwise.lab.spot_checks import damage_check


@pytest.mark.claim("depth-trend")
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert", "t5"])
def test_removal_damage_rises_with_depth(study, claim, family):
    """The deeper a layer lies, the more NDCG@10 is lost when it is bypassed."""
    own = study.of(family)

    for check in [*floor_checks(own), damage_check(own)]:
        claim.require(*check)
    if family == "llama":
        claim.figure(**damage_by_depth({name: study.of(name) for name in study.tier.families or (family,)}))
    if study.tier.families:
        claim.figure(**importance_heatmap(own))
        claim.figure(**dependency_heatmap(own))
        claim.figure(**similarity_heatmap(own))

    effect = depth_trend(own)
    claim.judge(effect, notes=depth_notes(own) | spread_note(effect))
