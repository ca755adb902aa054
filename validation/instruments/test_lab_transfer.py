"""Transfer: whose choice cuts whose model, in which direction it is judged, and what makes the comparison worthless."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from layerwise.compression.compact import compact_model
from layerwise.data.folders import VARIABLE
from layerwise.evaluation.quality import target_metrics
from layerwise.evaluation.ranking import mean_by_user
from layerwise.lab import spot_checks, transfer, transfer_checks
from layerwise.lab.asking import everything
from layerwise.lab.experiments import AGAIN, LayerScores, ScratchModel, TransferCut, TransferCuts
from layerwise.lab.study import Study
from layerwise.lab.tiers import TIERS
from layerwise.lab.transfer import (
    BAR,
    agreement,
    at_home,
    elsewhere,
    every_pair,
    over_rules,
    overlap,
    pair,
    same_choices,
    studies_of,
    transferred,
)
from layerwise.lab.transfer_plan import subjects_of, transfer_cells, transfer_cuts
from layerwise.lab.transfer_tables import (
    choices_table,
    matrix_figure,
    matrix_table,
    scores_figure,
    transfer_notes,
    transfer_remarks,
)
from layerwise.models.families import Shape
from layerwise.statistics import Outcome, Region, judge, kendalls_w
from reports.figures import make_figure
from reports.records import make_table

# Really made: the tiny study's models, and those of half of its users


@pytest.fixture(scope="module")
def study(tiny, tmp_path_factory):
    """The tiny study with a second dataset: the users with an even number."""
    head, *rows = Path(tiny.subject.dataset).read_text().splitlines()
    path = tmp_path_factory.mktemp("data") / "even.csv"
    path.write_text("\n".join([head, *(row for row in rows if int(row.partition(",")[0]) % 2 == 0)]))
    subjects = (tiny.subject, replace(tiny.subject, dataset=str(path)))
    rules = ("first", "uniform", "random")
    return replace(tiny, tier=replace(tiny.tier, transferred=subjects, rivals=rules, shares=(0.5, 0.25)))


@pytest.fixture(scope="module")
def studies(study):
    return studies_of(study)


def best(scores, keep):
    return tuple(sorted(np.argsort(-scores)[:keep].tolist()))


def test_stored_cuts_are_those_that_are_made_by_hand(study, studies):
    (home, even), split = studies, study.split
    seed, (full, of_even) = 3, (ScratchModel(of.subject, 3, 4) for of in studies.values())
    model, found = study.lab.get(full), study.lab.get(transfer_cuts(study.tier)[seed])
    expected = {
        (0.5, home): best(study.lab.get(LayerScores(full, "empirical-fisher")), 2),
        (0.5, even): best(study.lab.get(LayerScores(of_even, "empirical-fisher")), 2),
        (0.25, even): best(study.lab.get(LayerScores(of_even, "empirical-fisher")), 1),
        (0.5, AGAIN): best(study.lab.get(LayerScores(replace(full, seed=4), "empirical-fisher")), 2),
        (0.5, "uniform"): (0, 2),
        (0.25, "first"): (0,),
    }

    assert list(found) == [
        (share, name) for share in (0.5, 0.25) for name in (home, even, AGAIN, "first", "uniform", "random")
    ]
    for cut, kept in expected.items():
        values = target_metrics(compact_model(model, kept), split, split.test, ks=(10,))["ndcg@10"]
        assert found[cut].kept == kept
        np.testing.assert_array_equal(found[cut].ndcg, mean_by_user(values, split.test.users))


def test_a_cut_needs_the_scores_of_all_that_choose_of_its_own_seed_but_for_the_other_training_at_home(study):
    for seed, cuts in enumerate(transfer_cuts(study.tier)):
        models = (cuts.of, *cuts.sources, cuts.again)
        assert {model.seed for model in models[:-1]} == {seed}
        assert cuts.again == replace(cuts.of, seed=(1, 2, 3, 4, 0)[seed])
        assert {model.of.dataset for model in models} == set(subjects_of(study.tier))
        assert set(cuts.needs()) == {*models, *(LayerScores(model, "empirical-fisher") for model in models)}


def test_every_setting_decides_the_place_in_the_store(study):
    one = transfer_cuts(study.tier)[0]
    variants = [one, replace(one, sources=()), replace(one, by="fisher"), replace(one, rules=())]
    variants += [
        replace(one, shares=(0.5,)),
        replace(one, of=one.sources[0]),
        replace(one, again=one.of),
        transfer_cuts(study.tier)[1],
    ]

    assert len({study.lab.store.path_of(study.lab.spec(variant)) for variant in variants}) == len(variants)


def test_all_that_the_claims_read_is_made_beforehand(study, studies):
    asked = []
    spied = replace(study, prepare=lambda wanted: asked.extend(wanted) or study.prepare(wanted))
    every_pair(studies_of(spied), 0.5)
    for of in studies_of(spied).values():
        transfer_checks.learned_check(of)

    assert {one for one in asked if isinstance(one, TransferCuts)} == {
        cuts for of in studies.values() for cuts in transfer_cuts(of.tier)
    }
    assert set(asked) <= set(everything(study))


def failed(checks):
    return [words for ok, words in checks if not ok]


@pytest.fixture
def enough_examples(monkeypatch):
    """A sample of the tiny data that is large enough for its Fisher information."""
    monkeypatch.setattr(spot_checks, "SEQUENCES", 200)


def test_nothing_is_wrong_with_an_honest_transfer(studies, enough_examples):
    for study in studies.values():
        for share in study.tier.shares:
            assert failed(transfer_checks.transfer_checks(study, share)) == []


def test_layers_that_nobody_chose_are_noticed(study, monkeypatch):
    chosen = transfer.kept_by(study, study.subject.dataset, 0.5)
    others = [tuple(layer for layer in range(4) if layer not in kept) for kept in chosen]
    monkeypatch.setattr(transfer_checks, "kept_by", lambda *_: others)

    (found,) = failed([transfer_checks.choice_check(study, 0.5)])
    assert "must be the 2 of 4 that each training's scores choose" in found
    assert f"{study.subject.dataset}, " in found
    assert "none chose otherwise" not in found


def test_rules_that_keep_more_layers_are_noticed(study, monkeypatch):
    kept_by = transfer.kept_by
    monkeypatch.setattr(
        transfer_checks, "kept_by", lambda at, name, share: kept_by(at, name, 0.5 if name == "first" else share)
    )

    (found,) = failed([transfer_checks.choice_check(study, 0.25)])
    assert "none chose otherwise, rules kept 1 or 2" in found


def test_rankings_of_other_layers_are_noticed(study, monkeypatch):
    cut_ndcg = transfer.cut_ndcg
    monkeypatch.setattr(transfer_checks, "cut_ndcg", lambda at, _, share: cut_ndcg(at, "random", share))

    (found,) = failed([transfer_checks.cut_check(study, 0.25)])
    assert "with 25% of the layers must be what models with the layers that were chosen give" in found


def test_cuts_of_other_users_are_noticed(study, monkeypatch):
    cut_ndcg = transfer.cut_ndcg
    monkeypatch.setattr(transfer_checks, "cut_ndcg", lambda *cut: cut_ndcg(*cut)[:, 1:])

    assert failed([transfer_checks.cut_check(study, 0.5)]) == [
        "a cut must be judged on 5 seeds x 200 users, got (5, 199)"
    ]


# Told: who chose what, and what that keeps

HOME, AWAY, FAR = "home", "away", "far"
KEPT = {HOME: (0, 1), AWAY: (0, 1), FAR: (0, 3), AGAIN: (0, 2), "first": (0, 1), "uniform": (0, 2), "random": (2, 3)}
MEANS = {HOME: 0.4, AWAY: 0.4, FAR: 0.2, AGAIN: 0.3, "first": 0.4, "uniform": 0.25, "random": 0.1}
ORDERS = {HOME: (4, 3, 2, 1), AWAY: (4, 3, 1, 2), FAR: (4, 1, 2, 3)}


class Told:
    """A lab that was told what choosers keep; two seeds have 0.9 and 1.1 times it, users 0.5 to 1.5."""

    def get(self, experiment):
        spread = np.linspace(0.5, 1.5, 6)
        match experiment:
            case TransferCuts():
                of = {0: 0.9, 1: 1.1}[experiment.of.seed] * spread
                names, shares = experiment.choosers(), experiment.shares
                return {(share, name): TransferCut(MEANS[name] * of, KEPT[name]) for share in shares for name in names}
            case LayerScores():
                return np.array(ORDERS[experiment.subject.dataset], dtype=np.float64)
        return {"ndcg@10": 0.5 * {0: 0.9, 1: 1.1}[experiment.of.seed] * spread}


@pytest.fixture
def told(tiny):
    subjects = tuple(replace(tiny.subject, dataset=name) for name in (HOME, AWAY, FAR))
    tier = replace(tiny.tier, subject=subjects[0], transferred=subjects, seeds=(0, 1))
    tier = replace(tier, rivals=("first", "uniform", "random"), shares=(0.5,))
    return Study(tier, Told(), lambda _: None)


def test_elsewhere_is_the_mean_over_the_other_datasets_and_home_is_not_among_them(told):
    spread = np.linspace(0.5, 1.5, 6)

    np.testing.assert_allclose(elsewhere(told, 0.5), np.outer([0.9, 1.1], 0.3 * spread))
    np.testing.assert_allclose(at_home(told, 0.5), np.outer([0.9, 1.1], 0.4 * spread))
    assert transferred(told, 0.5).estimate == pytest.approx(0.3 / 0.4)
    assert transferred(told.on(FAR), 0.5).estimate == pytest.approx(0.4 / 0.2)
    assert pair(told, FAR, 0.5).estimate == pytest.approx(0.5)


def test_every_ordered_pair_is_a_part_and_home_on_home_is_none(told):
    effect = every_pair(studies_of(told), 0.5)

    assert set(effect.parts) == {f"{a} on {b}" for a in (HOME, AWAY, FAR) for b in (HOME, AWAY, FAR) if a != b}
    assert effect.parts["far on home"].estimate == pytest.approx(0.5)
    assert effect.parts["home on far"].estimate == pytest.approx(2.0)
    assert set(effect.edges.values()) == {BAR}


def test_over_rules_is_elsewhere_minus_the_rule(told):
    effect = over_rules(told, 0.5)

    assert {rule: part.estimate for rule, part in effect.parts.items()} == pytest.approx(
        {"first": -0.1, "uniform": 0.05}
    )


def test_choices_that_are_those_of_a_rule_tie_with_it_exactly_however_many_sources_there_are(told, monkeypatch):
    """A mean of six equal numbers need not be that number: its rounding was judged as a lead of the choice."""
    names = tuple("abcdef")
    for name in names:
        monkeypatch.setitem(MEANS, name, MEANS["first"])
        monkeypatch.setitem(KEPT, name, KEPT["first"])
    further = tuple(replace(told.subject, dataset=name) for name in names)
    study = replace(told, tier=replace(told.tier, transferred=(told.subject, *further)))

    effect = over_rules(study, 0.5)

    assert not effect.parts["first"].values.any()
    assert judge(effect, Region(0.0, open_low=True), 0.01).outcome is Outcome.REFUTED


def test_agreement_is_that_of_the_datasets_in_each_seed(told):
    effect = agreement(studies_of(told))

    np.testing.assert_allclose(effect.values, [kendalls_w(list(ORDERS.values()))] * 2)
    # rank sums 12, 7, 5, 6 of mean 7.5: S = 29
    assert effect.estimate == pytest.approx(12 * 29 / (9 * (64 - 4)))


def test_overlap_and_equal_choices_by_hand(told):
    assert overlap(told, AWAY, 0.5) == 1.0
    assert overlap(told, FAR, 0.5) == 0.0  # one of two in common, of four: chance
    assert same_choices(told, 0.5) == (2, 4)  # all of one source, none of the other
    assert same_choices(told.on(FAR), 0.5) == (0, 4)


def test_exhibits_show_every_choice_on_every_dataset(told):
    studies = studies_of(told)
    matrix, figure = matrix_table(studies, 0.5), matrix_figure(studies, 0.5)
    choices, scores = choices_table(studies, 0.5), scores_figure(studies)

    for table in (matrix, choices):
        make_table(**table)
    for picture in (figure, scores):
        make_figure(**picture)
    assert [row[0] for row in matrix["rows"]] == [HOME, AWAY, FAR, AGAIN, "first", "uniform", "random"]
    assert matrix["rows"][0][1].startswith("of full: 80.0 %")
    assert matrix["rows"][2][1].startswith("50.0 %")
    assert matrix["rows"][0][3].startswith("200.0 %")
    assert figure["series"][0]["y"] == pytest.approx([100.0, 100.0, 200.0])
    assert choices["rows"][0] == [HOME, "0.5000", "0 1", choices["rows"][0][3], "2 of 4", "0.50", "0.00"]
    assert scores["series"][0]["y"] == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_what_a_reader_must_know_is_said(told):
    notes, (remark,) = transfer_notes(told, 0.5), transfer_remarks(studies_of(told), 0.5)

    assert notes["the same layers as at home"] == "2 of 4 choices (2 datasets, 2 seeds)"
    assert notes["layers by first, instead"].startswith("keeps 100.0 % of NDCG@10")
    assert notes[f"layers by {AGAIN}, instead"].startswith("keeps 75.0 % of NDCG@10")
    assert notes["the cut chosen at home"].startswith("keeps 80.0 % of the full model's NDCG@10")
    assert "keeps at most 50% of the full model: far" in remark
    assert "does at least as well as a choice from elsewhere: first on home, " in remark
    assert "uniform on home" not in remark
    assert "so that the choice matters little" not in remark
    assert "every other dataset chose" not in remark


# The tier


def test_layers_of_other_models_are_refused(told):
    deeper = replace(told.subject, dataset=AWAY, shape=replace(told.subject.shape, num_layers=6))
    other = replace(told.subject, dataset=AWAY, family="bert")

    for subject in (deeper, other):
        with pytest.raises(
            ValueError, match="layers move between models of one architecture and depth; home has llama"
        ):
            transfer_cuts(replace(told.tier, transferred=(told.subject, subject)))


def test_another_dataset_of_the_users_is_cut_by_all_and_chooses_for_itself(told):
    tier = replace(told.tier, subject=replace(told.subject, dataset="mine"))

    assert list(subjects_of(tier)) == ["mine", HOME, AWAY, FAR]
    assert list(transfer_cuts(tier)[0].choosers())[:4] == ["mine", HOME, AWAY, FAR]
    assert list(subjects_of(told.tier.on(AWAY))) == [AWAY, HOME, FAR]


def test_the_tier_moves_layers_between_equal_shapes():
    subjects = TIERS["robustness"].transferred

    assert len({subject.dataset for subject in subjects}) == len(subjects) >= 6
    assert {(subject.family, subject.shape) for subject in subjects} == {("llama", Shape(8, 64, 172, 2))}
    assert subjects[0] == TIERS["quick"].subject


def test_nothing_is_made_where_a_dataset_is_absent_or_no_layer_moves(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    tier = TIERS["robustness"]
    for subject in tier.transferred[2:]:
        (tmp_path / subject.dataset).mkdir()

    assert transfer_cells(tier) == []
    assert transfer_cells(TIERS["quick"]) == []
    (tmp_path / tier.transferred[1].dataset).mkdir()
    cells = transfer_cells(tier)
    assert len(cells) == len(set(cells)) == 6 * (5 + 1 + 5)
