"""The real claims on tiny subjects, whole and with one thing broken; see docs/sabotage.md."""

import numpy as np
import pytest
from scipy.special import log_softmax

from layerwise.data.splits import Split
from layerwise.evaluation import quality, ranking
from layerwise.lab.experiments import LayerPortrait, LayerScores, ModelQuality
from layerwise.models.layers import bypassed
from layerwise.models.recommender import Recommender


def refused(suite, claim):
    """Why a case is invalid, or fails before its verdict; always red."""
    decision = suite.run(claim)
    assert suite.result.ret == pytest.ExitCode.TESTS_FAILED
    assert decision["verdict"] in ("invalid", "missing")
    return decision["ruling"]["why"] + (decision["record"] or {"reason": ""})["reason"]


@pytest.mark.parametrize(
    "claim",
    ["quality-retention", "parameters-removed", "speedup", "attention-trend", "fisher-rank", "fisher-agreement"],
)
def test_nothing_is_wrong_where_nothing_is_broken(suite, claim):
    decision = suite.run(claim)
    assert decision["verdict"] in ("supported", "inconclusive", "refuted"), decision["ruling"]["why"]
    assert all(ok for ok, _ in decision["record"]["checks"])


# -- the models


@pytest.mark.parametrize("claim", ["quality-retention", "speedup"])
def test_a_compact_model_that_is_secretly_the_full_one_is_invalid(suite, claim):
    for full, healed in zip(suite.study.full(), suite.study.healed(), strict=True):
        suite.replace(healed, full, kept_layers=[0])
    suite.drop("quality")
    assert "a model of 25% of 4 layers must have 1: it has 4 and says that it keeps 1" in refused(suite, claim)


def test_a_bare_cut_that_removes_nothing_is_invalid(suite):
    for full, compact in zip(suite.study.full(), suite.study.compact(), strict=True):
        suite.replace(compact, full, kept_layers=[0])
    assert "must have 1: it has 4" in refused(suite, "parameters-removed")


def test_a_stored_result_of_another_model_is_invalid(suite):
    for full, healed in zip(suite.study.full(), suite.study.healed(), strict=True):
        suite.replace(ModelQuality(healed), ModelQuality(full))
    assert "the stored ranking of the compact model must be what its model gives" in refused(suite, "quality-retention")


def test_a_stored_result_that_was_swapped_is_made_again(suite):
    honest = suite.run("quality-retention")["record"]["estimate"]
    full, healed = suite.study.full()[0], suite.study.healed()[0]
    source, target = (suite.lab.build(ModelQuality(model)).path / "quality.safetensors" for model in (full, healed))
    target.write_bytes(source.read_bytes())
    assert suite.run("quality-retention")["record"]["estimate"] == honest
    assert "quality.safetensors has changed since it was written; it is made again" in suite.said.replace("\n", " ")


# -- the ranking


def ranked(change):
    """`ranking_metrics` on other scores, targets and histories than it was given."""
    return lambda *given: ranking.ranking_metrics(*change(*given))


def among_few(scores, targets, seen, ks):
    """A candidate list of the target and ten others: all others are scored last."""
    few = scores.copy()
    few[:, 10:] = scores.min() - 1
    few[np.arange(len(scores)), targets] = scores[np.arange(len(scores)), targets]
    return few, targets, seen, ks


def not_masked(scores, targets, seen, ks):
    return scores, targets, [history[:0] for history in seen], ks


def masked_with_zero(scores, targets, seen, ks):
    zeroed = scores.copy()
    for row, history in zip(zeroed, seen, strict=True):
        row[history] = 0
    return zeroed, targets, [history[:0] for history in seen], ks


@pytest.mark.parametrize("change", [among_few, not_masked, masked_with_zero])
def test_another_ranking_than_of_all_unseen_items_is_invalid(suite, monkeypatch, change):
    """Scores are log-probabilities, among which a zero stands above everything."""
    scores = Recommender.scores
    monkeypatch.setattr(Recommender, "scores", lambda *given: log_softmax(scores(*given), axis=1))
    monkeypatch.setattr(quality, "ranking_metrics", ranked(change))
    suite.drop("quality")
    assert "against the whole catalogue, counted one by one" in refused(suite, "quality-retention")


def test_ties_broken_in_favour_of_the_target_are_invalid(suite, monkeypatch):
    """Constant scores would be perfect."""
    monkeypatch.setattr(quality, "ranking_metrics", favoured)
    monkeypatch.setattr(Recommender, "scores", constant)
    suite.drop("quality")
    assert "counted one by one: 100 of 100 users differ, at most 1.0000 stored" in refused(suite, "quality-retention")


def favoured(scores, targets, seen, ks):
    raised = scores.copy()
    raised[np.arange(len(scores)), targets] += 1e-3
    return ranking.ranking_metrics(raised, targets, seen, ks)


def constant(recommender, histories, value=0.0):
    return np.full((len(histories), recommender.num_items), value, dtype=np.float32)


def test_constant_scores_are_invalid(suite, monkeypatch):
    monkeypatch.setattr(Recommender, "scores", constant)
    suite.drop("quality")
    assert "the full model must beat the best training-free recommender" in refused(suite, "quality-retention")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_no_verdict(suite, monkeypatch, value):
    monkeypatch.setattr(Recommender, "scores", lambda model, histories: constant(model, histories, value))
    suite.drop("quality")
    assert "scores must be finite" in refused(suite, "quality-retention")


def test_metrics_on_other_users_in_one_arm_are_invalid(suite):
    def turned(arrays):
        arrays.update({name: values[::-1].copy() for name, values in arrays.items()})

    for healed in suite.study.healed():
        suite.rewrite(ModelQuality(healed), turned)
    assert "the stored ranking of the compact model must be what its model gives" in refused(suite, "quality-retention")


def test_metrics_on_fewer_users_in_one_arm_are_invalid(suite):
    def shortened(arrays):
        arrays.update({name: values[:-1] for name, values in arrays.items()})

    for healed in suite.study.healed():
        suite.rewrite(ModelQuality(healed), shortened)
    reason = refused(suite, "quality-retention")
    assert "the compact model must be judged on 5 seeds x 200 users, got (5, 199)" in reason


def test_targets_in_training_are_invalid(suite, monkeypatch):
    def everything(split):
        return np.split(split.table.items, split.table.offsets[1:-1])

    monkeypatch.setattr(Split, "train_sequences", everything)
    assert "800 of 800 targets lie in the training sequences" in refused(suite, "quality-retention")


# -- importance and attention


def test_random_numbers_in_place_of_fisher_information_are_invalid(suite):
    rng = np.random.default_rng(0)
    for full in suite.study.full():
        suite.rewrite(LayerScores(full, "empirical-fisher"), lambda arrays: arrays.update(scores=rng.random(4)))
    assert "stored scores must be about those computed anew" in refused(suite, "fisher-rank")


def test_constant_importance_is_invalid(suite):
    for full in suite.study.full():
        suite.rewrite(LayerScores(full, "empirical-fisher"), lambda arrays: arrays.update(scores=np.ones(4)))
    assert "empirical-fisher nan" in refused(suite, "fisher-rank")


def test_one_fisher_under_three_names_is_invalid(suite):
    for full in suite.study.full():
        for name in ("empirical-fisher", "gate-fisher"):
            suite.replace(LayerScores(full, name), LayerScores(full, "fisher"))
    reason = refused(suite, "fisher-agreement")
    assert "the methods must be different computations: normalised scores differ by 0" in reason


def test_attention_that_no_model_computed_is_invalid(suite):
    rng = np.random.default_rng(0)
    for full in suite.study.full():
        drawn = lambda arrays: arrays.update(entropy=rng.random(arrays["entropy"].shape))  # noqa: E731
        suite.rewrite(LayerPortrait(full), drawn)
    assert "stored attention must be that of the models' own maps" in refused(suite, "attention-trend")


# -- timing


def is_timed(recommender):
    return bool(recommender.layers[0]._forward_hooks)


def skipping(recommender, forward, **inputs):
    with bypassed(recommender, range(1, len(recommender.layers))):
        return forward(recommender, **inputs)


def remembering(recommender, forward, **inputs):
    return recommender.__dict__.setdefault("memory", forward(recommender, **inputs).clone())


def halving(recommender, forward, **inputs):
    rows = len(inputs["last"])
    few = {name: part[: -(-rows // 2)] for name, part in inputs.items()}
    return forward(recommender, **few) if len(recommender.layers) == 1 else forward(recommender, **inputs)


@pytest.mark.parametrize(
    ("cheat", "reason"),
    [
        (skipping, "timed outputs equal untimed ones"),
        (remembering, "timed outputs equal untimed ones"),
        (halving, "compact model must answer for every row of a batch as for the row alone: 32 outputs for 64 rows"),
    ],
)
def test_a_model_that_does_less_than_its_work_is_invalid(suite, monkeypatch, cheat, reason):
    forward = Recommender.forward

    def cheating(recommender, **inputs):
        cheats = cheat is halving or is_timed(recommender)
        return cheat(recommender, forward, **inputs) if cheats else forward(recommender, **inputs)

    monkeypatch.setattr(Recommender, "forward", cheating)
    assert reason in refused(suite, "speedup")
