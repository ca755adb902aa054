"""H1, probes: "semantic complexity rises with depth", in an S shape.

Where it stands: hypothesis H1 of the Layerwise Adapter project. Linear probes read each layer's states at the position
that is asked; the trend would be refuted by a negative rank correlation between depth and the probe's quality or the
states' effective rank, the S shape by a straight line that describes the same profile better. With eight layers the S
curve must leave 33 times smaller squares to make up for its two further parameters, and a curve that only bends gains
as well.
"""

import pytest

from layerwise.lab.exhibits import floor_checks
from layerwise.lab.hypotheses import complexity_trend, probe_trend, s_shape
from layerwise.lab.layer_exhibits import probes_by_depth, rank_by_depth, states_map
from layerwise.lab.layer_tables import spread_note

FAMILIES = ["llama", "qwen3", "gpt2", "bert", "t5"]


@pytest.fixture
def own(study, family, claim):
    own = study.of(family)
    for check in floor_checks(own):
        claim.require(*check)
    if not own.portraits()[0].genre_probe.size:
        pytest.skip(f"{own.subject.dataset} has no item categories; a file of items beside the events would give them")
    return own


@pytest.fixture
def families(study):
    return {family: study.of(family) for family in study.tier.families}


@pytest.mark.claim("probe-trend")
@pytest.mark.parametrize("probe", ["genre", "next-item"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_linear_probe_reads_more_from_deeper_layers(own, families, claim, family, probe):
    """The deeper the layer, the better a linear probe tells the genre of the next item, and the item itself."""
    effect = probe_trend(own, probe)

    if family == "llama":
        claim.figure(**probes_by_depth(families, probe))
    if probe == "genre":
        claim.figure(**states_map(own))

    by_layer = {"probe by layer": effect.damage.mean(axis=(0, 2)).round(4).tolist()}
    claim.judge(effect, notes=by_layer | spread_note(effect))


@pytest.mark.claim("complexity-trend")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_effective_rank_of_states_rises_with_depth(own, families, claim, family):
    """The deeper the layer, the more dimensions its states use."""
    if family == "llama":
        claim.figure(**rank_by_depth(families))

    claim.judge(complexity_trend(own))


@pytest.mark.claim("s-shape")
@pytest.mark.parametrize("family", FAMILIES)
def test_probe_accuracy_over_depth_is_an_s_and_no_line(own, families, claim, family):
    """A logistic curve over depth describes the genre probe's accuracy better than a straight line."""
    if family == "llama":
        claim.figure(**probes_by_depth(families, "genre"))

    claim.judge(s_shape(own))
