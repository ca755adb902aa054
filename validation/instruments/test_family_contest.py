"""Contest of families: who is compared with whom, in which direction, and what makes the comparison worthless."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from layerwise.compression.distill import Distillation
from layerwise.data.interactions import Interactions
from layerwise.data.splits import leave_last_out
from layerwise.evaluation.memory import count_parameters
from layerwise.lab import family_contest
from layerwise.lab.experiments import FloorQuality, Model, ScratchModel, TunedModel
from layerwise.lab.family_contest import (
    FAVOURITE,
    OTHERS,
    contest_checks,
    contest_remarks,
    over,
    over_all,
    over_training_free,
    per_megabyte,
    per_millisecond,
    size_check,
    timing_check,
    tuning_check,
)
from layerwise.lab.family_tables import costs_figure, costs_table, families_table, tuning_table
from layerwise.lab.study import Study
from layerwise.lab.tiers import TIERS, Subject, Tier
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import build_recommender
from layerwise.models.training import Recipe
from reports.figures import make_figure
from reports.records import make_table

RECIPE = Recipe(epochs=8, learning_rate=1e-2)
HOME = Subject("home", 2, FAVOURITE, Shape(4, 32, 44, 2), 6, 0.0, RECIPE, RECIPE, Distillation())
TOY = Tier("toy", HOME, (3, 4), 0.25, "empirical-fisher", families=tuple(FAMILIES))
MEANS = {"llama": 0.3, "qwen3": 0.2, "gpt2": 0.25, "bert": 0.35, "t5": 0.1}
TIMES = {"llama": 4.0, "qwen3": 5.0, "gpt2": 2.0, "bert": 3.0, "t5": 8.0}


class Told:
    """A lab that was told the mean NDCG@10 of every family; two seeds have 0.9 and 1.1 times it, users 0.5 to 1.5."""

    def __init__(self, means=MEANS, rates=(), epochs=(), floors=(), preferred=()):
        self.means, self.rates, self.epochs, self.floors = means, dict(rates), dict(epochs), dict(floors)
        self.preferred = dict(preferred)

    def get(self, experiment):
        if isinstance(experiment, Model):
            return self.model(experiment)
        spread = np.linspace(0.5, 1.5, 6)
        if isinstance(experiment, FloorQuality):
            values = self.floors.get(experiment.name, 0.05) * spread
        else:
            values = self.means[experiment.subject.family] * spread * {3: 0.9, 4: 1.1}.get(experiment.of.seed, 1.0)
        return dict.fromkeys(("ndcg@5", "ndcg@10", "hr@10", "mrr"), values)

    def model(self, experiment):
        subject = experiment.subject
        return build_recommender(subject.family, 40, subject.max_length, subject.shape, 0)

    def course(self, model):
        if isinstance(model, ScratchModel):
            at = model.of.training.learning_rate / RECIPE.learning_rate
            return {"validation_ndcg@10": {"2": 0.1, "8": 0.1 + (at == self.preferred.get(model.of.family, 1.0))}}
        rate, last = self.rates.get(model.of.family, 1.0), self.epochs.get(model.of.family, 8)
        found = {str(at): 0.1 + (at == rate) for at in (0.5, 1.0, 2.0)}
        return {"rate": rate, "validation_by_rate": found, "validation_ndcg@10": {"2": 0.1, str(last): 0.2}} | {
            "best_epoch": last
        }

    def build(self, experiment):
        return SimpleNamespace(seconds=10.0 * experiment.seed)

    def split(self, subject):
        users, steps = np.divmod(np.arange(120 * 8), 8)
        items = np.random.default_rng(0).permuted(np.tile(np.arange(40), (120, 1)), axis=1)[:, :8].ravel()
        return leave_last_out(Interactions.from_columns("made", users, items, steps), 2)

    def study(self, **changes):
        return Study(replace(TOY, **changes), self, lambda _: None)


@pytest.fixture
def clock(monkeypatch):
    """Blocks whose times are half and twice the family's own: the geometric mean is that."""
    monkeypatch.setattr(
        family_contest, "time_side_by_side", lambda models, *_: {n: TIMES[n] * np.array([0.5, 2.0]) for n in models}
    )
    family_contest.scoring_times.cache_clear()
    yield
    family_contest.scoring_times.cache_clear()


# Who is compared


def test_families_differ_in_nothing_but_architecture():
    study = Told().study()
    subjects = {family: {model.of for model in study.matched(family)} for family in FAMILIES}

    assert subjects == {family: {replace(HOME, family=family)} for family in FAMILIES}
    assert study.matched("t5") == [TunedModel(replace(HOME, family="t5"), seed, 4, 3) for seed in (3, 4)]


def test_no_family_of_the_tier_gets_more_steps_than_another():
    """Where retention is judged, BERT and T5 train longer: that must not reach this contest."""
    study = Study(TIERS["models"], None, None)

    assert study.of("bert").full()[0].of.training.epochs > study.matched("bert")[0].of.training.epochs
    assert len({model.of.training for family in FAMILIES for model in study.matched(family)}) == 1


@pytest.mark.parametrize("num_items", [1682, 3316], ids="{} items".format)
@pytest.mark.parametrize("family", OTHERS)
def test_models_of_the_tier_are_of_one_size(family, num_items):
    tier = TIERS["models"]
    subject = next((s for s in tier.matched if num_items == 3316), tier.subject)
    own, other = (
        count_parameters(build_recommender(name, num_items, subject.max_length, subject.shape, 0))
        for name in (FAVOURITE, family)
    )

    assert other.of_layers == pytest.approx(own.of_layers, rel=0.05)
    assert other.total == pytest.approx(own.total, rel=0.05)


def test_a_study_of_further_data_keeps_its_subject_and_compares_nothing_else():
    away = replace(HOME, dataset="away")
    study = Told().study(matched=(away,)).on("away")

    assert study.subject == away
    assert (study.tier.families, study.tier.matched) == ((), ())
    assert study.matched("bert")[0].of == replace(away, family="bert")


# Effects


@pytest.mark.parametrize(("rival", "lead"), [("qwen3", 0.1), ("gpt2", 0.05), ("bert", -0.05), ("t5", 0.2)])
def test_a_lead_is_llama_minus_the_other(rival, lead):
    effect = over(Told().study(), rival)

    assert effect.estimate == pytest.approx(lead)
    assert (effect.unit, effect.values.shape) == ("NDCG@10", (2, 6))


def test_the_joint_lead_is_that_over_every_other_family():
    study = Told().study()
    effect = over_all(study)

    assert {name: part.estimate for name, part in effect.parts.items()} == {
        rival: over(study, rival).estimate for rival in ("qwen3", "gpt2", "bert", "t5")
    }
    assert effect.weakest == "bert"


def test_quality_per_millisecond_divides_each_family_by_its_own_time(clock):
    study = Told().study()

    assert per_millisecond(study, "gpt2").estimate == pytest.approx(0.3 / 4 - 0.25 / 2)
    assert per_millisecond(study, "qwen3").estimate == pytest.approx(0.3 / 4 - 0.2 / 5)
    assert per_millisecond(study, "t5").unit == "NDCG@10 per ms"


def test_quality_per_megabyte_divides_each_family_by_its_own_checkpoint(tmp_path):
    study, sizes = Told().study(), {}
    for family in ("llama", "bert"):
        study.model(study.matched(family)[0]).model.save_pretrained(tmp_path / family)
        sizes[family] = (tmp_path / family / "model.safetensors").stat().st_size / 1e6

    effect = per_megabyte(study, "bert")

    assert effect.estimate == pytest.approx(0.3 / sizes["llama"] - 0.35 / sizes["bert"])
    assert effect.unit == "NDCG@10 per MB"


# Checks and remarks


def failed(checks):
    return [sentence for ok, sentence in checks if not ok]


def test_a_family_of_another_size_is_not_compared():
    class Larger(Told):
        def model(self, experiment):
            wide = replace(experiment.subject, shape=Shape(4, 32, 60, 2))
            return super().model(SimpleNamespace(subject=wide if wide.family == "gpt2" else experiment.subject))

    ok, sentence = size_check(Larger().study(), "gpt2")

    assert not ok
    assert "gpt2 must have as many parameters as llama within 5%" in sentence
    assert size_check(Told().study(), "qwen3")[0]


def test_a_family_that_does_not_beat_popularity_is_not_compared():
    study = Told({**MEANS, "gpt2": 0.04}).study(seeds=(3, 4, 5, 6, 7))
    checks = contest_checks(study, ("llama", "gpt2"))
    below = [sentence for sentence in failed(checks) if "popularity" in sentence]

    assert len(below) == 1
    assert below[0].startswith("the gpt2 model must beat popularity: 0.0400 against 0.0500")
    assert not [sentence for sentence in failed(contest_checks(study)) if "popularity" in sentence]


def test_a_family_that_does_not_beat_every_way_of_counting_is_told():
    floors = {"EASE": 0.25}
    study = Told(floors=floors).study(seeds=(3, 4, 5, 6, 7))
    (remark,) = contest_remarks(study)

    assert (
        "not shown to beat EASE, which needs no training (NDCG@10 0.2500): qwen3 0.2000, gpt2 0.2500, t5 0.1000."
        in remark
    )
    assert over_training_free(study).estimate == pytest.approx(0.05)


@pytest.mark.parametrize(("stored", "preferred", "ok"), [(2.0, 2.0, True), (1.0, 2.0, False), (2.0, 0.5, False)])
def test_a_rate_that_validation_does_not_prefer_spoils_the_comparison(stored, preferred, ok):
    study = Told(rates={"bert": stored}, preferred={"bert": preferred}).study()

    assert tuning_check(study, "bert")[0] == ok
    assert tuning_check(study, "bert")[1].endswith(f"{preferred:g} times the recipe's: they have {stored:g}")
    assert tuning_check(study, "t5")[0]


def test_a_ratio_of_times_that_is_known_badly_spoils_quality_per_millisecond(monkeypatch):
    noisy = {name: np.full(2, ms) for name, ms in TIMES.items()} | {"gpt2": np.array([1.0, 4.0])}
    monkeypatch.setattr(family_contest, "scoring_times", lambda _: noisy)
    study = Told().study()

    assert timing_check(study, "qwen3")[0]
    assert not timing_check(study, "gpt2")[0]


def test_what_slows_every_family_down_in_a_block_spoils_nothing(monkeypatch):
    slowed = {name: ms * np.array([1.0, 3.0]) for name, ms in TIMES.items()}
    monkeypatch.setattr(family_contest, "scoring_times", lambda _: slowed)

    assert timing_check(Told().study(), "qwen3")[1].endswith(": 0%")


def test_the_error_of_times_is_weighed_against_that_of_qualities_per_millisecond(monkeypatch):
    """Two blocks whose log ratios lie .02 apart: the mean has an error of .01."""
    apart = {name: np.full(2, ms) for name, ms in TIMES.items()}
    apart["qwen3"] = 5.0 * np.exp([-0.01, 0.01])
    monkeypatch.setattr(family_contest, "scoring_times", lambda _: apart)
    study = Told().study()
    share = 0.01 * 0.2 / 5 / per_millisecond(study, "qwen3").summary.standard_error

    assert 0 < share < 1
    assert timing_check(study, "qwen3")[1].endswith(f": {share:.0%}")


@pytest.mark.parametrize(("rate", "told"), [(0.5, True), (1.0, False), (2.0, True)])
def test_a_rate_at_the_border_of_the_grid_is_told(rate, told):
    remarks = contest_remarks(Told(rates={"bert": rate}).study(seeds=(3, 4, 5, 6, 7)))

    assert bool(remarks) == told
    assert not told or "border of the grid for bert:" in remarks[0]


def test_a_training_that_ended_early_is_told():
    (remark,) = contest_remarks(Told(epochs={"t5": 6}).study(seeds=(3, 4, 5, 6, 7)))

    assert "some trainings of t5 ended before the last epoch" in remark


# Tables and the figure


def test_families_stand_side_by_side_with_the_lead_over_each_and_the_floor_below():
    table = families_table(Told().study())
    rows = {row[0]: row for row in table["rows"]}

    make_table(**table)
    assert [*rows] == [*FAMILIES, "Popularity"]
    assert {name: float(rows[name][1].split()[0]) for name in FAMILIES} == pytest.approx(MEANS)
    assert rows["llama"][-1] == "-"
    assert rows["Popularity"][-1].startswith("+0.25 ")
    assert rows["bert"][-1].startswith("-0.05 ")
    assert rows["t5"][-1].startswith("+0.2 ")


def test_tuning_table_shows_what_validation_chose_and_what_the_training_took():
    table = tuning_table(Told(rates={"t5": 2.0}, epochs={"gpt2": 6}).study())
    rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}

    make_table(**table)
    assert [rows[name]["chosen rate"] for name in ("llama", "t5")] == ["0.01", "0.02"]
    assert rows["t5"]["validation at 0.02"] == "1.1000"
    assert rows["t5"]["validation at 0.005"] == "0.1000"
    assert [rows[name]["epochs"] for name in ("llama", "gpt2")] == ["8", "6"]
    assert rows["llama"]["of llama's"] == "100.0%, 100.0%"
    assert rows["llama"]["training s"] == "35"


def test_costs_name_the_families_that_are_both_better_and_faster(clock):
    table = costs_table(Told().study())
    rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}

    make_table(**table)
    assert rows["llama"]["both better and faster"] == "bert"
    assert rows["qwen3"]["both better and faster"] == "llama, gpt2, bert"
    assert rows["bert"]["both better and faster"] == "none"
    assert rows["gpt2"]["both better and faster"] == "none"
    assert rows["t5"]["ms"] == "8.00"
    assert rows["t5"]["times llama's (95 % CI)"].startswith("2.00 (")
    assert rows["llama"]["NDCG@10 / 1000 per ms"] == "75.00"


def test_costs_figure_has_a_mark_for_every_family(clock):
    figure = costs_figure(Told().study())

    make_figure(**figure)
    assert {s["label"]: (s["x"], s["y"]) for s in figure["series"]} == {
        family: ([pytest.approx(TIMES[family])], [pytest.approx(MEANS[family])]) for family in FAMILIES
    }
    assert figure["reference"]["value"] == pytest.approx(0.05)
    json.dumps(figure)
