"""The claims on robustness on tiny subjects, whole and with one thing broken."""

import pytest

from layerwise.lab.experiments import NoisyQuality, TargetQuality


@pytest.mark.parametrize("claim", ["noise-robustness", "scenario-retention"])
def test_nothing_is_wrong_where_nothing_is_broken(suite, claim):
    decision = suite.run(claim)

    assert decision["verdict"] in ("supported", "inconclusive", "refuted"), decision["ruling"]["why"]
    assert all(ok for ok, _ in decision["record"]["checks"])


def test_a_compact_model_that_was_spared_the_noise_is_invalid(suite):
    study = suite.study
    for healed, seed in zip(study.healed(), study.tier.seeds, strict=True):
        suite.replace(NoisyQuality(healed, 0.2, seed), NoisyQuality(healed, 0.0, seed))
    decision = suite.run("noise-robustness")

    assert decision["verdict"] == "invalid"
    assert "the stored ranking of the compact model with 20% noise" in decision["record"]["reason"]


def test_values_of_the_full_model_in_place_of_the_compact_ones_are_invalid(suite):
    for full, healed in zip(suite.study.full(), suite.study.healed(), strict=True):
        suite.replace(TargetQuality(healed), TargetQuality(full))
    decision = suite.run("scenario-retention")

    assert decision["verdict"] == "invalid"
    assert "targets of the compact model must have the means" in decision["record"]["reason"]
