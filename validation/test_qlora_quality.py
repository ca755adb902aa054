"""QLoRA: "NF4 with LoRA on all linear layers matches 16-bit fine-tuning".

Where it stands: Dettmers et al. 2023 (QLoRA), section 4; a case of the project's LoRA comparison.
An adapter trained on a base in NF4 that loses more than 2 points of accuracy against one trained on the base in full
precision, with the same seeds, batches and learning rate, refutes it. Where bitsandbytes cannot work it is not run.
"""

import pytest

from layerwise.lab.qlora_tables import format_checks, format_gain, format_table


@pytest.mark.claim("qlora-quality")
@pytest.mark.parametrize("metric", ["accuracy"])
def test_lora_on_four_bits_is_as_good_as_lora(nf4_study, claim, metric):
    """LoRA on a base in NF4 classifies likes at most 2 points worse than LoRA on the full-precision base."""
    for check in format_checks(nf4_study):
        claim.require(*check)
    claim.table(**format_table(nf4_study))

    claim.judge(format_gain(nf4_study, metric))
