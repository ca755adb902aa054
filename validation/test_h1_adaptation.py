"""H1, adaptation: tuning only the top band against tuning only the bottom band, for a task that is new to the model.

Where it stands: hypothesis H1 of the Layerwise Adapter project. Both arms start from the same backbone and the same
linear head for the genre of the next item, tune equally many parameters for equally many steps, and are judged by the
log-likelihood of the genres of test events. It would be refuted by a bottom band that adapts better.
"""

import pytest

from layerwise.lab.exhibits import floor_checks
from layerwise.lab.hypotheses import adaptation


@pytest.mark.claim("adaptation")
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert", "t5"])
def test_tuning_the_top_band_beats_tuning_the_bottom_band(study, claim, family):
    """After the same steps, the model with a tuned top band predicts the genre of the next item better."""
    own = study.of(family)
    arms = own.adaptation()
    if not arms:
        pytest.skip(f"{own.subject.dataset} has no item categories; a file of items beside the events would give them")

    for check in floor_checks(own):
        claim.require(*check)

    notes = {f"log-likelihood, {arm}": round(float(values.mean()), 4) for arm, values in arms.items()}
    claim.judge(adaptation(own), notes=notes)
