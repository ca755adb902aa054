"""The A/A check fails wherever a model can be told from its copy; states tell inputs apart in an audit."""

import numpy as np
import pytest
import torch

from layerwise.evaluation.audited import AuditedModel
from layerwise.evaluation.workloads import Scoring
from layerwise.lab.speed_tables import no_difference, shallower
from layerwise.models.families import Shape
from layerwise.models.recommender import build_recommender
from layerwise.statistics import speedup


def against_its_copy(ratio, spread, blocks=12):
    """An A/A run whose blocks' ratios have that mean and spread."""
    deviations = np.linspace(-1, 1, blocks)
    return speedup(np.full(blocks, 1.0), 1 / (ratio + spread * deviations / deviations.std()))


@pytest.mark.parametrize(
    ("ratio", "spread", "sound"),
    [
        (1.0, 0.02, True),
        (1.02, 0.05, True),  # cannot be told from 1
        (0.996, 0.001, False),  # small, and can be told all the same
        (1.004, 0.001, False),
        (1.02, 0.001, False),
        (0.98, 0.001, False),
    ],
)
def test_a_difference_that_shows_fails_the_instrument_however_small(ratio, spread, sound):
    ok, sentence = no_difference(against_its_copy(ratio, spread))

    assert ok == sound, sentence
    assert "must not differ" in sentence


def test_states_tell_histories_apart_that_random_weights_score_alike():
    model = build_recommender("llama", 30, 12, Shape(4, 16, 32, 2), seed=0).eval()
    inputs = [model.batch([np.arange(start, start + 9)]) for start in range(3)]
    with torch.inference_mode():
        plain, telling = (AuditedModel("full", Scoring(model, 5, shows), inputs, float) for shows in (False, True))

    assert telling.apart / telling.scale > plain.apart / plain.scale


def test_a_cut_shows_its_states_where_the_full_workload_does():
    model = build_recommender("llama", 30, 12, Shape(4, 16, 32, 2), seed=0).eval()
    for shows in (False, True):
        with torch.inference_mode():
            outputs = shallower(Scoring(model, 5, shows), 2).eval()(**model.batch([np.arange(9)]))
        assert len(outputs) == 2 + shows
