"""Retention without any training: our own bar is 97, 95 and 88 % of NDCG@10 with 25, 50 and 75 % of the layers removed.

Where it stands: CLAIMS, quality retention, second half ("our own bar"). It would be refuted by a compact model with
bridges, chosen and built without a training step, whose interval of compact over full lies below the bar. The tier's
method chooses the layers, as in the other claims; what other rules give stands in the table.
"""

import numpy as np
import pytest

from layerwise.lab.exhibits import floor_checks, gap_rivals_table, training_free_figure, training_free_table
from layerwise.statistics import retained


@pytest.mark.claim("training-free-retention")
@pytest.mark.parametrize("removed", [25, 50, 75], ids="remove{}%".format)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert", "t5"])
def test_a_bridged_cut_keeps_the_quality_without_training(study, claim, family, removed):
    """With a share of its layers removed and bridged, and without training, a recommender keeps most of its quality."""
    own = study.of(family)
    full = own.quality(own.full())["ndcg@10"]
    cuts, kept = own.training_free(), f"{1 - removed / 100:g}/{study.tier.selected_by}"
    compact = np.stack([cut.ndcg for cut in cuts[f"{kept}/bridged"]])
    bare = np.stack([cut.ndcg for cut in cuts[f"{kept}/bare"]])

    for check in floor_checks(own):
        claim.require(*check)
    if removed == 75:
        claim.table(**training_free_table(own))
        claim.figure(**training_free_figure(own))
    if (family, removed) == ("llama", 75):
        claim.table(**gap_rivals_table(own))

    bare_effect = retained(bare, full, "NDCG@10")
    notes = {"without bridges": bare_effect.sentence(bare_effect.interval(0.95))}
    claim.judge(retained(compact, full, "NDCG@10"), notes=notes)
