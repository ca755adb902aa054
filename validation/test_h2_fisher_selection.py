"""H2, selection: keeping layers by Fisher information beats random, uniform, first, BlockInfluence and magnitude.

Where it stands: hypothesis H2 of the Layerwise Adapter project. Random stands for the expectation over at least twenty
draws (all there are where they are fewer). It would be refuted by one rival that Fisher does not beat; keeping the same
layers is a tie, and a tie does not beat.
"""

import pytest

from layerwise.lab.exhibits import floor_checks
from layerwise.lab.hypotheses import fisher_selection, fisher_selection_healed
from layerwise.lab.layer_exhibits import cuts_figure
from layerwise.lab.layer_tables import rivals_table
from layerwise.lab.spot_checks import fisher_check


@pytest.mark.claim("fisher-selection")
@pytest.mark.parametrize("removed", [25, 50, 75], ids="remove{}%".format)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert", "t5"])
def test_layers_kept_by_fisher_beat_every_rival_without_healing(study, claim, family, removed):
    """A bare cut by Fisher information keeps more NDCG@10 than each of five rivals of the same size."""
    own = study.of(family)
    effect = fisher_selection(own, 1 - removed / 100)

    for check in [*floor_checks(own), fisher_check(own, (own.tier.selected_by,))]:
        claim.require(*check)
    claim.table(**rivals_table(effect, f"{family}, {removed} % removed, not healed"))
    if (family, removed) == (study.tier.in_detail, 75):
        claim.figure(**cuts_figure(own))

    claim.judge(effect)


@pytest.mark.claim("fisher-selection-healed")
@pytest.mark.parametrize("case", ["llama-remove75%"])
def test_layers_kept_by_fisher_beat_every_rival_after_healing(study, claim, case):
    """A healed cut by Fisher information keeps more NDCG@10 than each of five healed rivals of the same size."""
    effect = fisher_selection_healed(study)

    for check in [*floor_checks(study), fisher_check(study, (study.tier.selected_by,))]:
        claim.require(*check)
    claim.table(**rivals_table(effect, "llama, 75 % removed, healed with the same budget"))

    claim.judge(effect, notes={"random": "one draw per seed"})
