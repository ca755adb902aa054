"""H1, attention: what real attention maps say, by depth.

Where it stands: hypothesis H1 of the Layerwise Adapter project, which had random numbers in place of attention maps. It
would be refuted by attention that gets less selective, or nearer, with depth. A decoder that is only started has one
event to attend to; its layers are left out.
"""

import pytest

from layerwise.lab.exhibits import floor_checks
from layerwise.lab.hypotheses import attention_trend
from layerwise.lab.layer_exhibits import attention_by_depth
from layerwise.lab.layer_tables import spread_note
from layerwise.lab.spot_checks import attention_check


@pytest.mark.claim("attention-trend")
@pytest.mark.parametrize("measure", ["focus", "distance"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert", "t5"])
def test_deeper_layers_attend_more_selectively_and_farther_back(study, claim, family, measure):
    """Focus (1 minus normalised entropy) and distance of attention rise with depth."""
    own = study.of(family)
    effect = attention_trend(own, measure)

    for check in [*floor_checks(own), attention_check(own)]:
        claim.require(*check)
    if family == "llama":
        families = {name: study.of(name) for name in study.tier.families}
        shown = ["entropy", "recent"] if measure == "focus" else ["distance"]
        for name in shown:
            claim.figure(**attention_by_depth(families, name))

    by_layer = {f"{measure} by layer": effect.damage.mean(axis=(0, 2)).round(4).tolist()}
    claim.judge(effect, notes=by_layer | spread_note(effect))
