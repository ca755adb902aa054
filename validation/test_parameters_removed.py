"""Memory: "75 % of the layer parameters gone".

Where it stands: the table of targets of the Layerwise Adapter project. It would be refuted by a compact model that
still holds more than a quarter of the full model's layer parameters. Counted, not estimated.
"""

import pytest

from layerwise.compression.compact import layer_parameters
from layerwise.lab.exhibits import size_table
from layerwise.lab.spot_checks import depth_check
from layerwise.statistics import Exact


@pytest.mark.claim("parameters-removed")
@pytest.mark.parametrize("family", ["llama-keep25%"])
def test_three_quarters_of_the_layer_parameters_are_gone(study, claim, family):
    """The compact model really has a quarter of the parameters in its layers."""
    full = layer_parameters(study.model(study.full()[0]))
    compact = layer_parameters(study.model(study.compact()[0]))

    claim.require(*depth_check(study, tuple(study.compact()), study.tier.kept))
    claim.table(**size_table(study))
    claim.judge(Exact(100 * (1 - compact / full), "% of layer parameters removed"))
