"""The learned selector: finds what was planted, agrees with an outside program, and never sees what it predicts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut

from layerwise.compression.learned import PLACES, STRENGTHS, fit_selector, leave_one_out_predictions
from layerwise.compression.selection import select_layers

DEPTHS = (12, 8, 16, 12, 24, 6, 12, 10)


def planted(seed=0, depths=DEPTHS, noise=0.3):
    """Models whose damage is half what `left` sees and half what `right` sees; `blind` sees nothing.

    Each score is in a unit of its own, damages differ in scale from model to model.
    """
    rng = np.random.default_rng(seed)
    scores, damages = [], []
    for depth in depths:
        left, right = rng.normal(size=(2, depth))
        scores.append({"left": 1e-6 * np.exp(left), "right": 100 * right, "blind": rng.normal(size=depth)})
        damages.append((left + right + noise * rng.normal(size=depth)) * 10 ** rng.uniform(-3, 3))
    return scores, damages


def agreement(predictions, damages):
    return np.mean([spearmanr(p, d).statistic for p, d in zip(predictions, damages, strict=True)])


def unit_ranks(values):
    """Ranks from 0 to 1, written out."""
    return (rankdata(values) - 1) / (len(values) - 1)


def test_damage_that_is_one_scores_rank_is_recovered_exactly():
    """A falling function of one score, at any depth: the weight is -1 but for the penalty, all others vanish."""
    rng = np.random.default_rng(0)
    scores = [{"true": rng.normal(size=depth), "blind": rng.normal(size=depth)} for depth in DEPTHS]
    damages = [np.exp(-model["true"]) for model in scores]

    selector = fit_selector(scores, damages)

    assert selector.strength == STRENGTHS[0]
    assert selector.weights["true"] == pytest.approx(-1, abs=0.01)
    assert all(abs(selector.weights[name]) < 0.01 for name in ("blind", *PLACES))
    assert selector.explained == pytest.approx(1, abs=1e-3)
    unseen = rng.normal(size=9)
    predicted = selector.predict({"true": unseen, "blind": rng.normal(size=9)})
    assert predicted == pytest.approx(unit_ranks(-unseen), abs=0.02)
    assert select_layers(predicted, keep=3) == select_layers(-unseen, keep=3)


def test_planted_places_are_recovered():
    """Damage is 4 over a layer's number from the start of its stack plus 2 over that from the end; no score sees it."""
    rng = np.random.default_rng(1)
    depths = [(6, 6)] * 10 + [(12,)] * 10
    scores = [{"blind": rng.normal(size=12)} for _ in depths]
    damages = [
        np.concatenate([4 / np.arange(1, depth + 1) + 2 / np.arange(depth, 0, -1) for depth in stacks])
        for stacks in depths
    ]

    selector = fit_selector(scores, damages, depths=depths)

    assert min(selector.weights["near-start"], selector.weights["near-end"]) > 0.2
    assert abs(selector.weights["blind"]) < 0.1
    assert select_layers(selector.predict({"blind": rng.normal(size=20)}), keep=3) == (0, 1, 19)
    assert select_layers(selector.predict({"blind": rng.normal(size=16)}, depths=(8, 8)), keep=4) == (0, 7, 8, 15)


def test_later_stack_that_matters_more_is_seen():
    scores = [{"blind": np.zeros(6)} for _ in range(4)]
    damages = [[0, 0, 0, 1, 1, 1]] * 4

    selector = fit_selector(scores, damages, depths=[(3, 3)] * 4)

    assert select_layers(selector.predict({"blind": np.zeros(6)}, depths=(3, 3)), keep=3) == (3, 4, 5)


def test_places_alone_can_be_learned_from():
    """The baseline that scores must beat; with two models of three layers the middle one goes first."""
    selector = fit_selector([{}, {}], [[5, 0, 3], [4, 1, 2]], depths=[(3,), (3,)])

    assert select_layers(selector.predict({}, depths=(5,)), keep=2) == (0, 4)


def test_two_scores_that_complement_each_other_beat_each_alone_on_unseen_models():
    scores, damages = planted()
    learned = agreement(leave_one_out_predictions(scores, damages), damages)
    alone = {name: agreement([model[name] for model in scores], damages) for name in scores[0]}

    assert learned > max(alone.values()) + 0.1
    assert abs(alone["blind"]) < 0.4 < min(alone["left"], alone["right"])


def test_weights_and_strength_equal_those_of_an_outside_program():
    """scikit-learn's ridge on the rows of all models, strengths compared by its leave-one-group-out."""
    scores, damages = planted(noise=3.0)
    groups = ["a", "b", "c", "a", "b", "c", "d", "d"]
    rows, targets, weights, labels = [], [], [], []
    for model, damage, group, depth in zip(scores, damages, groups, DEPTHS, strict=True):
        layers = np.arange(depth)
        places = [layers / (depth - 1), 1 / (1 + layers), 1 / (depth - layers), 0 * layers]
        columns = np.array([unit_ranks(model[name]) for name in sorted(model)] + places).T
        rows.append(columns - columns.mean(0))
        targets.append(unit_ranks(damage) - 0.5)
        weights.append(np.full(depth, 1 / depth))
        labels += [group] * depth
    rows, targets, weights = np.concatenate(rows), np.concatenate(targets), np.concatenate(weights)

    def ridge(train, strength):
        models = weights[train].sum()  # a model's weights sum to 1
        return Ridge(alpha=strength * models, fit_intercept=False).fit(
            rows[train], targets[train], sample_weight=weights[train]
        )

    def error(strength):
        folds = LeaveOneGroupOut().split(rows, targets, labels)
        return sum(
            weights[test] @ (targets[test] - ridge(train, strength).predict(rows[test])) ** 2 for train, test in folds
        )

    strength = min(STRENGTHS, key=error)
    selector = fit_selector(scores, damages, groups)

    assert selector.strength == strength
    assert STRENGTHS[0] < strength < STRENGTHS[-1]
    assert list(selector.weights) == ["blind", "left", "right", *PLACES]
    assert list(selector.weights.values()) == pytest.approx(ridge(slice(None), strength).coef_)
    assert selector.explained == pytest.approx(1 - error(strength) / (weights @ targets**2))


def test_a_group_has_no_influence_on_its_own_predictions():
    """Two families of four models: turning one's damages upside down changes what is said of the other only."""
    scores, damages = planted()
    groups = ["llama", "llama", "bert", "bert", "gpt2", "gpt2", "t5", "t5"]
    poisoned = [-np.asarray(d) if group == "bert" else d for d, group in zip(damages, groups, strict=True)]

    clean = leave_one_out_predictions(scores, damages, groups)
    after = leave_one_out_predictions(scores, poisoned, groups)

    for before, now, group in zip(clean, after, groups, strict=True):
        assert np.array_equal(before, now) == (group == "bert")


def test_a_prediction_is_that_of_a_selector_fitted_to_the_other_groups():
    scores, damages = planted()
    groups = [0, 1, 2, 0, 1, 2, 3, 3]
    others = [index for index, group in enumerate(groups) if group != 2]
    selector = fit_selector(*([part[index] for index in others] for part in (scores, damages, groups)))

    predictions = leave_one_out_predictions(scores, damages, groups)

    assert np.array_equal(predictions[2], selector.predict(scores[2]))
    assert np.array_equal(predictions[5], selector.predict(scores[5]))
    assert not np.array_equal(predictions[3], selector.predict(scores[3]))


@settings(deadline=None)
@given(st.integers(0, 2**16))
def test_only_the_order_of_scores_and_damages_within_a_model_counts(seed):
    scores, damages = planted(seed, depths=(3, 5, 4))
    monotone = [{name: np.exp(values / 100) - 7 for name, values in model.items()} for model in scores]
    scaled = [1000 * np.asarray(damage) + 3 for damage in damages]

    assert fit_selector(scores, damages) == fit_selector(monotone, scaled)


def test_prediction_has_mean_one_half_and_follows_the_layers_when_they_are_named_otherwise():
    scores, damages = planted()
    selector = fit_selector(scores, damages)
    predicted = selector.predict(scores[0])

    assert predicted.mean() == pytest.approx(0.5)
    assert np.array_equal(predicted, selector.predict({**scores[0], "unknown": np.ones(12)}))


def test_constant_scores_and_damages_give_finite_predictions():
    """Ties share their average rank, so a constant says nothing: neither of a layer nor of a model."""
    scores = [{"constant": np.ones(depth)} for depth in (4, 6, 1)]
    selector = fit_selector(scores, [np.zeros(4), np.zeros(6), np.zeros(1)])

    assert set(selector.weights.values()) == {0.0}
    assert np.isnan(selector.explained)
    assert selector.predict({"constant": np.ones(5)}).tolist() == [0.5] * 5


def test_missing_score_is_named():
    scores, damages = planted()
    selector = fit_selector(scores, damages)
    del scores[3]["left"]

    with pytest.raises(ValueError, match=r"scores \['left'\] are missing, got \['blind', 'right'\]"):
        selector.predict(scores[3])
    with pytest.raises(ValueError, match=r"scores \['left'\] are missing, got \['blind', 'right'\]"):
        fit_selector(scores, damages)


def test_too_few_groups_are_refused():
    scores, damages = planted()
    with pytest.raises(ValueError, match=r"needs two to fit, got \['one'\]"):
        fit_selector(scores, damages, ["one"] * len(scores))
    with pytest.raises(ValueError, match=r"needs two to fit, got \['two'\]"):
        leave_one_out_predictions(scores, damages, ["one", *["two"] * (len(scores) - 1)])


def test_input_that_does_not_fit_is_refused():
    fine = {"a": [1, 2, 3]}
    with pytest.raises(ValueError, match="each model needs scores, damages, a group and depths, got 2, 1, 2 and 2"):
        fit_selector([fine, fine], [[1, 2, 3]])
    with pytest.raises(ValueError, match="scores and damages must be of one length, got 3, 2"):
        fit_selector([fine, fine], [[1, 2, 3], [1, 2]])
    with pytest.raises(ValueError, match="scores must be of one length"):
        fit_selector([{"a": [1, 2, 3], "b": [1, 2]}] * 2, [[1, 2, 3]] * 2)
    with pytest.raises(ValueError, match="without any score the depths must be given"):
        fit_selector([{}, {}], [[1, 2, 3]] * 2)
    with pytest.raises(ValueError, match=r"of the depths \(2, 2\)"):
        fit_selector([fine, fine], [[1, 2, 3]] * 2, depths=[(3,), (2, 2)])
    with pytest.raises(ValueError, match="a must be one finite number per layer"):
        fit_selector([fine, {"a": [1, 2, float("nan")]}], [[1, 2, 3]] * 2)
    with pytest.raises(ValueError, match="damages must be one finite number per layer"):
        fit_selector([fine, fine], [[1, 2, 3], [1, 2, float("inf")]])
    with pytest.raises(ValueError, match=r"\['near-start'\] are places of a layer"):
        fit_selector([{"near-start": [1, 2, 3]}] * 2, [[1, 2, 3]] * 2)
