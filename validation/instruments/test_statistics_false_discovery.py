"""Many effects against one edge: p values of a plain t test, adjusted by Benjamini and Yekutieli's formula."""

import numpy as np
import pytest
from scipy import stats

from layerwise.statistics import Exact, MeanDifference, Retention
from layerwise.statistics.false_discovery import adjusted_below, p_below


def test_with_one_seed_it_is_the_one_sided_t_test_of_one_sample():
    values = np.random.default_rng(0).normal(0.1, 1.0, size=40)
    expected = stats.ttest_1samp(values, 0.3, alternative="less").pvalue

    assert p_below(MeanDifference(values[None], "NDCG@10"), 0.3) == pytest.approx(expected, rel=1e-9)


def test_a_retention_is_tested_in_linear_form():
    rng = np.random.default_rng(1)
    compact, full = rng.random((5, 30)), rng.random((5, 30)) + 0.2

    assert p_below(Retention(compact, full, "NDCG@10"), 0.88) == p_below(
        MeanDifference(compact - 0.88 * full, "x"), 0.0
    )


@pytest.mark.parametrize(("value", "expected"), [(0.8, 0.0), (0.88, 1.0), (0.9, 1.0)])
def test_a_number_without_error_is_below_or_not(value, expected):
    assert p_below(Exact(value, "share"), 0.88) == expected


def test_adjusted_values_are_those_of_the_formula():
    """p(i) m (1 + 1/2 + ... + 1/m) / i, made monotone from above, at most 1; by name, whatever the order."""
    rng = np.random.default_rng(2)
    effects = {name: MeanDifference(rng.normal(-0.3, 1, (1, 50)), "x") for name in "edcba"}
    raw = {name: p_below(effect, 0.0) for name, effect in effects.items()}
    ordered = sorted(raw, key=raw.__getitem__)
    factor = 5 * sum(1 / rank for rank in range(1, 6))
    scaled = [raw[name] * factor / rank for rank, name in enumerate(ordered, start=1)]
    expected = {name: min(1.0, *scaled[place:]) for place, name in enumerate(ordered)}

    found = adjusted_below(effects, 0.0)
    assert list(found) == list(effects)
    assert found == pytest.approx(expected)


def test_no_effects_give_nothing():
    assert adjusted_below({}, 0.0) == {}
