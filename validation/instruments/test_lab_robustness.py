"""The lab on noise and single targets: both arms read one noise, a noisy log reaches everything that learns from it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from layerwise.compression.distill import Distillation
from layerwise.compression.methods import METHODS, made_student
from layerwise.data.noise import with_noisy_events, with_noisy_training
from layerwise.data.scenarios import SCENARIOS
from layerwise.evaluation.quality import target_metrics, validation_ndcg
from layerwise.evaluation.ranking import mean_by_user, ranking_metrics
from layerwise.importance.scores import layer_scores
from layerwise.lab import robustness, robustness_checks
from layerwise.lab.asking import everything
from layerwise.lab.experiments import (
    LayerScores,
    ModelQuality,
    NoisyModel,
    NoisyQuality,
    NoisyScores,
    NoisyStudent,
    ScratchModel,
    TargetQuality,
    closure,
)
from layerwise.lab.lab import Lab
from layerwise.lab.robustness import (
    CLAIMED,
    LEAST_USERS,
    Finding,
    findings,
    history_noise,
    scenario_retention,
    training_noise,
)
from layerwise.lab.robustness_checks import noise_checks, target_check
from layerwise.lab.robustness_tables import (
    noise_figure,
    noise_table,
    not_run,
    scenario_figure,
    scenario_table,
    training_noise_table,
)
from layerwise.lab.store import Store
from layerwise.lab.study import Study
from layerwise.lab.tiers import TIERS, Subject, Tier
from layerwise.models.families import Shape
from layerwise.models.recommender import build_recommender
from layerwise.models.training import Recipe, train
from layerwise.statistics import judge, retained
from layerwise.statistics.verdict import Region
from reports.figures import make_figure
from reports.records import make_table


def build_all(lab, experiments):
    for experiment in closure(experiments):
        lab.build(experiment)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = ["user_id,item_id,timestamp"]
    for user in range(60):
        start = rng.integers(30)
        rows += [f"{user},{(start + step) % 30},{step}" for step in range(14)]
    path = tmp_path_factory.mktemp("data") / "walk.csv"
    path.write_text("\n".join(rows))
    training = Recipe(epochs=10, learning_rate=1e-2, batch_size=32, dropout=0.0, evaluate_every=5)
    healing = replace(training, epochs=2)
    return Subject(str(path), 2, "llama", Shape(4, 16, 32, 2), 8, 0.0, training, healing, Distillation())


@pytest.fixture(scope="module")
def study(subject, tmp_path_factory):
    lab = Lab(Store(tmp_path_factory.mktemp("store")))
    tier = Tier(
        "quick", subject, (0, 1), 0.5, "empirical-fisher", noise=(0.1, 0.4), training_noise=0.3, asks=("robustness",)
    )
    return Study(tier, lab, partial(build_all, lab))


def by_hand(model, split, read):
    """NDCG@10 per target, one target after the other."""
    values = []
    for told, seen, item in zip(read.histories(split.test), split.histories(split.test), split.test.items, strict=True):
        values.append(ranking_metrics(model.scores([told]), np.array([item]), [seen], ks=(10,))["ndcg@10"][0])
    return np.array(values)


# Single targets and noisy histories


def test_single_targets_have_the_values_that_users_are_the_means_of(study):
    (model, _), split = study.full(), study.split
    stored = study.lab.get(TargetQuality(model))

    np.testing.assert_array_equal(stored, target_metrics(study.lab.get(model), split, split.test)["ndcg@10"])
    np.testing.assert_array_equal(mean_by_user(stored, split.test.users), study.lab.get(ModelQuality(model))["ndcg@10"])


def test_noisy_quality_reads_the_noise_of_its_draw_and_masks_what_was_really_seen(study):
    model, split = study.full()[0], study.split
    stored = study.lab.get(NoisyQuality(model, 0.4, 7))
    expected = by_hand(study.lab.get(model), split, with_noisy_events(split, 0.4, 7))

    np.testing.assert_allclose(stored, mean_by_user(expected, split.test.users), atol=1e-6)
    assert not np.allclose(stored, study.lab.get(ModelQuality(model))["ndcg@10"])


def test_every_setting_of_the_noise_decides_its_place_in_the_store(study):
    one = NoisyQuality(study.full()[0], 0.4, 0)
    variants = [one, replace(one, share=0.1), replace(one, draw=1), replace(one, of=study.healed()[0])]

    assert len({study.lab.store.path_of(study.lab.spec(variant)) for variant in variants}) == len(variants)


def test_another_draw_is_another_result(study):
    one, other = (study.lab.get(NoisyQuality(study.full()[0], 0.4, draw)) for draw in (0, 1))

    assert (one != other).any()


def test_both_arms_of_a_seed_read_the_same_noise_and_seeds_differ(study):
    arms = [study.under_noise(models, 0.1) for models in (study.full(), study.healed())]

    assert [[one.draw for one in arm] for arm in arms] == [[0, 1], [0, 1]]


def test_history_noise_is_the_loss_of_full_minus_the_loss_of_compact(study):
    full, compact = (
        np.stack(
            [
                study.lab.get(ModelQuality(model))["ndcg@10"] - study.lab.get(NoisyQuality(model, 0.4, seed))
                for seed, model in enumerate(models)
            ]
        )
        for models in (study.full(), study.healed())
    )

    np.testing.assert_allclose(history_noise(study, 0.4).values, full - compact)
    assert full.mean() > 0


# A noisy log


def noisy_full(study):
    return study.noisy_full()[1]


def same(model, other):
    return all(torch.equal(model.state_dict()[name], weights) for name, weights in other.state_dict().items())


def test_a_noisy_model_is_trained_on_the_noisy_events_of_its_seed(study, subject):
    split = with_noisy_training(study.split, 0.3, 1)
    fresh = build_recommender("llama", split.table.num_items, 8, subject.shape, 1, 0.0)
    expected = train(fresh, split.train_sequences(), validation_ndcg(split), subject.training, 1).recommender
    made = study.lab.get(noisy_full(study))

    assert same(made, expected)
    assert not same(made, study.lab.get(study.full()[1]))


def test_importance_and_student_of_a_noisy_log_know_no_other(study, subject):
    split = with_noisy_training(study.split, 0.3, 1)
    full, student = study.lab.get(noisy_full(study)), study.noisy_healed()[1]
    scores = layer_scores(full, full.labelled_batches(split.train_sequences()), "empirical-fisher")
    np.testing.assert_array_equal(study.lab.get(NoisyScores(noisy_full(study), "empirical-fisher")), scores)

    kept = tuple(sorted(np.argsort(-scores)[:2].tolist()))
    recipe = replace(subject.healing, epochs=student.epochs)
    expected = made_student(full, METHODS["ours"], [kept], 0.5, split, recipe, 1, scores)
    assert same(study.lab.get(student), expected.recommender)


def test_what_a_noisy_student_needs_is_noisy(study):
    student = study.noisy_healed()[0]
    needed = closure([student])

    assert isinstance(student, NoisyStudent)
    assert {type(one) for one in needed} == {NoisyModel, NoisyScores, NoisyStudent}
    assert student.needs() == (student.of, NoisyScores(student.of, "empirical-fisher"))


def test_noisy_and_clean_models_and_students_have_places_of_their_own(study, subject):
    noisy, clean = study.noisy_full()[0], study.full()[0]
    places = [noisy, clean, replace(noisy, noise=0.1), study.noisy_healed()[0], study.healed()[0]]
    places += [NoisyScores(noisy, "fisher"), LayerScores(clean, "fisher")]

    assert isinstance(noisy, ScratchModel)
    assert len({study.lab.store.path_of(study.lab.spec(one)) for one in places}) == len(places)


def test_training_noise_compares_tests_on_true_events(study):
    effect = training_noise(study)
    full, compact = (
        study.quality(clean)["ndcg@10"] - study.quality(noisy)["ndcg@10"]
        for clean, noisy in ((study.full(), study.noisy_full()), (study.healed(), study.noisy_healed()))
    )

    np.testing.assert_allclose(effect.values, full - compact)
    assert effect.values.shape == (2, 60)


def test_the_table_of_a_noisy_log_has_both_arms_with_what_they_lose(study):
    table = training_noise_table(study)
    quality = study.quality(study.noisy_healed())["ndcg@10"].mean()

    make_table(**table)
    assert "with 30% of the training events replaced" in table["title"]
    assert [row[0] for row in table["rows"]] == ["full", "compact"]
    assert table["rows"][1][2].startswith(f"{quality:.4f} (")


def test_table_and_figure_of_noise_have_every_level_and_the_clean_models(study):
    table, figure = noise_table(study), noise_figure(study)
    clean = study.quality(study.full())["ndcg@10"].mean()

    make_table(**table)
    make_figure(**figure)
    assert [row[0] for row in table["rows"]] == ["0%", "10%", "40%"]
    assert [series["x"] for series in figure["series"]] == [[0, 10, 40]] * 2
    assert figure["series"][0]["y"][0] == pytest.approx(clean)
    assert table["rows"][0][1].startswith(f"{clean:.4f} (")


def test_a_tier_without_noise_in_training_says_so(study):
    clean = replace(study, tier=replace(study.tier, training_noise=None))

    with pytest.raises(ValueError, match="the quick tier has no noise in training"):
        clean.noisy_full()
    assert not any(isinstance(one, NoisyModel | NoisyStudent) for one in closure(everything(clean)))


def test_all_that_the_claims_read_is_made_beforehand(study):
    asked = []
    spied = replace(study, prepare=lambda wanted: asked.extend(wanted) or study.prepare(wanted))
    for share in study.tier.noise:
        history_noise(spied, share)
    training_noise(spied)
    findings(spied)

    assert {type(one) for one in asked} == {ModelQuality, NoisyQuality, TargetQuality}
    assert set(asked) <= set(everything(study))


def test_the_shares_of_the_claims_are_those_of_the_tiers():
    assert {TIERS[name].noise for name in ("quick", "standard")} == {(0.05, 0.1, 0.2)}
    assert {name: tier.training_noise for name, tier in TIERS.items() if tier.training_noise} == {"robustness": 0.1}


# Checks


def failed(checks):
    return [words for ok, words in checks if not ok]


def test_nothing_is_wrong_with_honest_noise_but_two_seeds_cannot_show_that_it_harms(study):
    found = failed([*noise_checks(study, 0.4), target_check(study, "full"), target_check(study, "compact")])

    assert [words.partition(",")[0] for words in found] == ["noise must harm"]


def test_noise_that_is_none_is_no_test(study):
    still = replace(study, tier=replace(study.tier, noise=(0.0,)))

    assert "at 0% the full model loses +0 NDCG@10" in " ".join(failed(noise_checks(still, 0.4)))


def test_less_noise_than_is_said_is_noticed(study, monkeypatch):
    monkeypatch.setattr(
        robustness_checks, "with_noisy_events", lambda split, share, seed: with_noisy_events(split, 0.2, 9)
    )
    found = " ".join(failed(noise_checks(replace(study, tier=replace(study.tier, name="other")), 0.4)))

    assert "40% of the last 8 events must be replaced in what the models read: " in found
    assert "the stored ranking of the full model with 40% noise must be what it gives" in found
    assert "the stored ranking of the compact model with 40% noise must be what it gives" in found


def test_values_of_other_targets_are_noticed(study, monkeypatch):
    other = replace(study, tier=replace(study.tier, name="another"))
    monkeypatch.setattr(Study, "target_ndcg", lambda *_: np.zeros((2, 120)))

    assert (
        "targets of the full model must have the means that its users have elsewhere" in target_check(other, "full")[1]
    )
    assert not target_check(other, "full")[0]


# Scenarios


@pytest.fixture(scope="module")
def found(study):
    return findings(study)


def test_a_scenario_counts_its_users_alike(study, found):
    one = next(one for one in found if one.effect and one.users < one.targets < len(study.split.test))
    mask, users = robustness.masks_of(study)[one.scenario.name], study.split.test.users
    inside = np.unique(users[mask])

    assert (one.targets, one.users) == (mask.sum(), len(inside))
    for values, models in ((one.effect.full, study.full()), (one.effect.compact, study.healed())):
        seeds = [study.lab.get(TargetQuality(model)) for model in models]
        np.testing.assert_allclose(values, [[seed[mask & (users == user)].mean() for user in inside] for seed in seeds])


def test_scenarios_that_cannot_be_judged_stay_in_sight(found):
    assert [one.scenario for one in found] == list(SCENARIOS)
    left = [one for one in found if one.effect is None]

    assert left
    assert len(left) < len(found)
    for one in left:
        assert one.users < LEAST_USERS
        assert f"{one.scenario.name}: not run: {one.users} users, needs {LEAST_USERS}" in not_run(found)
    assert len(scenario_table(found)["rows"]) == 100


def test_main_scenarios_are_of_one_fact_and_a_quarter_of_the_targets(study, found):
    total = len(study.split.test)

    for one in found:
        assert one.main == (one.effect is not None and not one.scenario.crossed and one.targets >= total / 4)
    assert any(one.main for one in found)


def finding(name, kept, main=True, noise=0.0, users=200):
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    rng = np.random.default_rng(len(name))
    full = rng.random((5, users))
    compact = kept * full + noise * rng.standard_normal(full.shape)
    return Finding(scenario, users, users, retained(compact, full, "NDCG@10"), main)


@pytest.mark.parametrize(
    ("kept", "main", "outcome"),
    [
        ((1.0, 0.95), True, "supported"),
        ((1.0, 0.5), True, "refuted"),
        ((1.0, 0.88), True, "inconclusive"),
        ((1.0, 0.5), False, "refuted"),
    ],
)
def test_the_joint_verdict_is_supported_only_where_every_scenario_is(kept, main, outcome):
    found = [finding("slow", kept[0], noise=0.05), finding("fast", kept[1], main=main, noise=0.05)]
    effect = scenario_retention(found, main=main)

    assert judge(effect, Region(low=0.0, open_low=True), 0.005).outcome == outcome
    assert dict(effect.edges) == dict.fromkeys(["slow", "fast"], CLAIMED)


def test_a_bad_small_scenario_does_not_count_among_the_main_ones():
    found = [finding("slow", 1.0, noise=0.05), finding("fast", 0.5, main=False, noise=0.05)]

    assert list(scenario_retention(found, main=True).parts) == ["slow"]
    assert list(scenario_retention(found, main=False).parts) == ["slow", "fast"]


def test_without_any_scenario_there_is_nothing_to_judge(found):
    with pytest.raises(ValueError, match="no scenario has enough users"):
        scenario_retention([one for one in found if one.effect is None], main=False)


def test_the_table_shows_the_worst_first_and_names_what_is_shown_to_be_below():
    found = [finding("slow", 1.0, noise=0.05), finding("fast", 0.5, noise=0.05), finding("fair", 0.9, noise=0.05)]
    table = scenario_table(found)

    assert [row[0] for row in table["rows"]] == ["fast", "fair", "slow"]
    assert "; 1 are shown to keep less than 88% of NDCG@10" in table["title"]
    assert [float(row[-1]) < 0.01 for row in table["rows"]] == [True, False, False]
    make_table(**table)


def test_the_figure_has_the_worst_and_the_best_of_those_that_are_known_well():
    names = [scenario.name for scenario in SCENARIOS[:23]]
    found = [finding(name, 0.8 + place / 50, noise=0.05) for place, name in enumerate(names[:22])]
    found.append(finding(names[22], 0.5, noise=9.0))
    figure = scenario_figure(found)

    make_figure(**figure)
    assert [series["label"] for series in figure["series"]] == ["worst", "best"]
    assert [series["x"] for series in figure["series"]] == [names[:10], names[12:22]]
    assert "of 22 scenarios whose" in figure["title"]


def test_an_unbounded_interval_is_told_in_words():
    wild = finding("slow", 1.0, noise=0.0)
    rng = np.random.default_rng(0)
    full = rng.standard_normal((5, 40)) + 0.05
    effect = retained(full + rng.standard_normal(full.shape), np.where(full.mean() > 0, full, full + 1), "NDCG@10")
    row = scenario_table([replace(wild, effect=effect)])["rows"][0]

    assert row[-2].endswith("% (unbounded)")


def test_where_all_were_run_it_says_so():
    assert not_run([finding("slow", 1.0, noise=0.05)]) == ["none"]
