"""Text recommenders: a pretrained model that reads titles keeps 95 % of NDCG@10 with half of its layers, healed.

Where it stands: our own bar for a cut of 50 % in the table of targets, there without training; here a text model is cut
by an importance of its layers and healed by LoRA that listens to the full one. It would be refuted by an interval of
healed over full below 95 %. Whether the full text model is worth cutting is said first: a training-free recommender may
beat it.
"""

import pytest

from layerwise.lab.text_tables import (
    text_checks,
    text_gain_kept,
    text_layer_table,
    text_remarks,
    text_size_table,
    text_table,
)
from layerwise.statistics import retained


@pytest.mark.claim("text-retention")
@pytest.mark.parametrize("model", ["minilm-keep50%"])
def test_healed_text_model_keeps_95_percent_of_ndcg10(study, claim, model):
    """With half of its layers removed and healed by LoRA, a text recommender keeps 95 % of the full one's NDCG@10."""
    full, healed = (study.text.quality(models)["ndcg@10"] for models in (study.text.models(), study.text.healed()))

    for check in text_checks(study):
        claim.require(*check)
    for remark in text_remarks(study):
        claim.remark(remark)
    for table in (text_table, text_layer_table, text_size_table):
        claim.table(**table(study))

    claim.judge(retained(healed, full, "NDCG@10"), notes={"of what training added": round(text_gain_kept(study), 4)})
