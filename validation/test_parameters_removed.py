"""Memory: "75 % of the layer parameters gone".

Where it stands: the table of targets of the Layerwise Adapter project. It would be refuted by a compact model that
still holds more than a quarter of the full model's layer parameters. Counted, not estimated.
"""

import pytest

from layerwise.compression.compact import layer_parameters
from layerwise.evaluation.memory import count_parameters
from layerwise.lab.exhibits import size_table
from layerwise.lab.speed_tables import memory_table
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


@pytest.mark.claim("parameters-removed-by-family")
@pytest.mark.parametrize("case", [f"{family}-keep25%" for family in ("llama", "qwen3", "gpt2", "bert", "t5")])
def test_three_quarters_of_what_belongs_to_layers_is_gone_in_every_family(study, claim, case):
    """The compact model has a quarter of the parameters that belong to layers; bytes and peak stand beside it."""
    own = study.of(case.partition("-")[0])
    full, compact = (count_parameters(own.model(model)) for model in (own.full()[0], own.healed()[0]))

    claim.table(**memory_table(own, batch=64))

    counted_all = 100 * (1 - compact.in_layers / full.in_layers)
    notes = {"% removed, with what a stack has once": round(counted_all, 3)}
    claim.judge(Exact(100 * (1 - compact.of_layers / full.of_layers), "% of layer parameters removed"), notes=notes)
