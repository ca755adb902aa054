"""H1, jointly: "the top 30 % of layers matter more for recommendation than the bottom 30 %", by five methods.

Where it stands: hypothesis H1 of the Layerwise Adapter project. The joint claim holds where band removal, depth trend,
genre probe, focus of attention and adaptation all hold, each at the full error rate (an intersection-union test); it is
refuted where one of them is, at a fifth of the rate.
"""

import pytest

from layerwise.lab.exhibits import floor_checks
from layerwise.lab.hypotheses import layer_semantics
from layerwise.lab.spot_checks import attention_check, damage_check


@pytest.mark.claim("layer-semantics")
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert", "t5"])
def test_five_methods_agree_that_the_top_layers_matter_more(study, claim, family):
    """Every one of five independent methods says that the top layers matter more than the bottom ones."""
    own = study.of(family)
    if not own.adaptation():
        pytest.skip(f"{own.subject.dataset} has no item categories; a file of items beside the events would give them")
    effect = layer_semantics(own)

    for check in [*floor_checks(own), damage_check(own), attention_check(own)]:
        claim.require(*check)

    claim.judge(effect, notes={name: part.sentence(part.interval(0.95)) for name, part in effect.parts.items()})
