"""The lab's students: what is stored is what the method makes, at the rate that validation chose; and their rivals."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
import torch

from layerwise.compression.compact import compact_model
from layerwise.compression.distill import Distillation
from layerwise.compression.methods import METHODS, Made, Method, Stage, made_student
from layerwise.compression.quantize import int4_quantized, int8_quantized
from layerwise.evaluation.quality import target_metrics, validation_ndcg
from layerwise.evaluation.ranking import mean_by_user
from layerwise.lab.experiments import (
    LayerScores,
    ModelQuality,
    Quality,
    QuantizedQuality,
    ScratchModel,
    Student,
    TunedStudent,
    students,
)
from layerwise.lab.experiments.students import RATES, SEARCH_BUDGET, best_validation
from layerwise.lab.lab import Lab
from layerwise.lab.store import Store
from layerwise.lab.tiers import Subject
from layerwise.models.families import Shape
from layerwise.models.training import Recipe

SEARCHED = Method("cut", "search", ())  # what the search keeps, bare


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = ["user_id,item_id,timestamp"]
    for user in range(30):
        start = rng.integers(20)
        rows += [f"{user},{(start + step) % 20},{step}" for step in range(12)]
    path = tmp_path_factory.mktemp("data") / "toy.csv"
    path.write_text("\n".join(rows))
    training = Recipe(epochs=2, learning_rate=1e-2, batch_size=16, evaluate_every=1)
    healing = replace(training, epochs=8, learning_rate=5e-3)
    return Subject(str(path), 2, "llama", Shape(4, 16, 32, 2), 6, 0.0, training, healing, Distillation())


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(Store(tmp_path_factory.mktemp("store")))


@pytest.fixture
def full(subject):
    return ScratchModel(subject, 0, 4)


def same(model, other):
    weights, others = model.state_dict(), other.state_dict()
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def best_layers(lab, full, keep, method="empirical-fisher"):
    return tuple(sorted(np.argsort(-lab.get(LayerScores(full, method)))[:keep].tolist()))


# Students


@pytest.mark.parametrize(
    ("name", "share", "keeps", "epochs"),
    [
        ("ours", 0.5, [2], 2),
        ("ours, progressive", 0.25, [2, 1], 4),
        ("ours without healing", 0.25, [1], 2),
        ("magnitude pruning", 0.5, [4], 2),
        ("narrow layers", 0.5, [4], 2),
    ],
)
def test_student_is_what_its_method_makes(lab, subject, full, name, share, keeps, epochs):
    """Made by hand: the epochs in place of the recipe's, the rate times the recipe's, the seed of the full model."""
    full = replace(full, seed=1)
    student = Student(full, METHODS[name], share, epochs, 2.0)
    kept = [best_layers(lab, full, keep) for keep in keeps]
    recipe = replace(subject.healing, epochs=epochs, learning_rate=1e-2)
    importance = lab.get(LayerScores(full, "empirical-fisher"))
    split = lab.split(subject)
    expected = made_student(lab.get(full), METHODS[name], kept, share, split, recipe, 1, importance)
    course = lab.course(student)

    assert same(lab.get(student), expected.recommender)
    assert tuple(course["kept_layers"]) == kept[-1]
    assert [list(stage.values()) for stage in course["validation_by_stage"]] == [
        list(stage.values()) for stage in expected.courses
    ]


def test_the_first_layers_of_every_stack_stay_without_any_score(lab, subject):
    full = ScratchModel(replace(subject, family="t5"), 0, 4)
    student = Student(full, replace(METHODS["first layers"], stages=()), 0.5, 2)

    assert lab.course(student)["kept_layers"] == [0, 2]
    assert same(lab.get(student), compact_model(lab.get(full), (0, 2)))


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.cuts])
def test_a_method_that_cuts_no_layer_keeps_all(lab, full, name):
    course = lab.course(Student(full, replace(METHODS[name], stages=()), 0.5, 2))

    assert course["kept_layers"] == [0, 1, 2, 3]


def test_every_setting_of_a_student_decides_its_place_in_the_store(lab, full):
    student, tuned = Student(full, METHODS["ours"], 0.5, 4), TunedStudent(full, METHODS["ours"], 0.5, 4, 0)
    changes = [
        {},
        {"method": METHODS["ours without bridge"]},
        {"method": replace(METHODS["ours"], via=(0.75,))},
        {"share": 0.25},
        {"epochs": 8},
        {"of": replace(full, seed=1)},
    ]
    variants = [replace(one, **change) for one in (student, tuned) for change in changes]
    variants += [replace(student, rate=0.5), replace(tuned, tuned_on=1)]

    assert len({lab.store.path_of(lab.spec(variant)) for variant in variants}) == len(variants)
    assert {variant.seed for variant in variants} == {0, 1}


def test_effort_grows_with_what_is_trained(full):
    """In layer-epochs: the student's layers, one for the items, and the teacher's forward pass alone."""
    cut, whole, bare = (
        Student(full, METHODS[name], 0.5, 6).effort() for name in ("ours", "narrow layers", "ours without healing")
    )

    assert cut == pytest.approx((2 + 1 + 4 / 3) * 6 + 1)
    assert whole == pytest.approx((4 + 1 + 4 / 3) * 6 + 1)
    assert bare == 1


def test_a_student_is_described_by_its_method_and_rate(full):
    student = Student(full, METHODS["narrow layers"], 0.25, 4)

    assert student.describe() == "narrow layers student of llama with 4 layers, seed 0, 25%"
    assert replace(student, rate=0.5).describe().endswith("25% at 0.5 x the learning rate")
    assert TunedStudent(full, student.method, 0.25, 4, 0).describe() == f"tuned {student.describe()}"


# The rate


def test_the_best_validation_is_that_of_the_last_training():
    course = {"validation_by_stage": [{"1": 0.9}, {"1": 0.2, "2": 0.5, "3": 0.1}]}

    assert best_validation(course) == 0.5


def test_tuned_student_has_the_rate_that_validates_best_on_the_tuning_seed(lab, full):
    other, method = replace(full, seed=1), METHODS["MiniLM"]
    tuned = TunedStudent(other, method, 0.25, 2, tuned_on=0)
    courses = {rate: lab.course(Student(full, method, 0.25, 2, rate)) for rate in RATES}
    found = {rate: max(course["validation_by_stage"][-1].values()) for rate, course in courses.items()}
    best = max(found, key=found.__getitem__)
    course = lab.course(tuned)

    assert len(set(found.values())) > 1
    assert course["rate"] == best
    assert course["kept_layers"] == [0]
    assert course["validation_by_rate"] == {str(rate): value for rate, value in found.items()}
    assert same(lab.get(tuned), lab.get(Student(other, method, 0.25, 2, best)))


@pytest.mark.parametrize("best", RATES)
def test_every_rate_can_win_and_only_the_last_training_on_the_tuning_seed_counts(lab, full, tmp_path, best):
    """The courses of the tuning seed are set by hand: a first training that speaks for another rate is not heard."""
    other, method = replace(full, seed=1), replace(METHODS["first layers"], stages=(Stage(share=0.5), Stage(share=0.5)))
    tuned = TunedStudent(other, method, 0.25, 2, tuned_on=0)

    def course(student):
        if student.seed != 0:
            return lab.course(student)
        wins = student.rate == best
        return {"validation_by_stage": [{"1": 0.1 if wins else 0.9}, {"1": 0.3 if wins else 0.0, "2": 0.2}]}

    tuned.make(Refusing(lab, None, course), tmp_path, lambda *_: None)

    assert tuned.course(tmp_path)["rate"] == best
    assert same(tuned.load(tmp_path), lab.get(Student(other, method, 0.25, 2, best)))


# What is read is what is declared


class Refusing:
    """A lab that hands out what was declared only (all for None), and notes it."""

    def __init__(self, lab, declared, course=None):
        self.lab, self.declared, self.asked = lab, declared, set()
        self.device, self.split = lab.device, lab.split
        self._course = course or lab.course

    def get(self, experiment):
        self._note(experiment)
        return self.lab.get(experiment)

    def course(self, model):
        self._note(model)
        return self._course(model)

    def _note(self, experiment):
        if self.declared is not None and experiment not in self.declared:
            raise LookupError(f"not declared: {experiment.describe()}")
        self.asked.add(experiment)


@pytest.fixture
def untrained(monkeypatch):
    """Students that are not trained: what a method reads shows all the same."""
    monkeypatch.setattr(students, "made_student", lambda full, *_: Made(full, [{1: 0.5}]))


@pytest.mark.parametrize("name", METHODS)
def test_a_student_reads_exactly_what_it_needs(lab, full, tmp_path, untrained, name):
    student = Student(full, METHODS[name], 0.5, 4)
    bench = Refusing(lab, set(student.needs()))

    student.make(bench, tmp_path, lambda *_: None)

    assert bench.asked == set(student.needs())
    assert len(student.needs()) == len(bench.asked)


def test_weights_by_importance_need_the_importance_whatever_chooses_the_layers(full):
    by_rule = Student(full, METHODS["ours without selection"], 0.5, 4)
    by_other = Student(full, replace(METHODS["ours"], by="gate-fisher"), 0.5, 4)

    assert by_rule.needs() == (full, LayerScores(full, "empirical-fisher"))
    assert by_other.needs() == (full, LayerScores(full, "empirical-fisher"), LayerScores(full, "gate-fisher"))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_tuned_student_reads_its_grid_and_the_student_of_the_rate_found(lab, full, tmp_path, seed):
    """On the tuning seed that student is of the grid; on another one it is made from what is declared beside it."""
    tuned = TunedStudent(replace(full, seed=seed), METHODS["ours without healing"], 0.5, 2, tuned_on=0)
    method, grid = tuned.method, {Student(full, tuned.method, 0.5, 2, rate) for rate in RATES}
    own = Student(tuned.of, method, 0.5, 2, 2.0)
    bench = Refusing(lab, {*tuned.needs(), own}, lambda student: prefers_the_last_rate(lab, student))

    tuned.make(bench, tmp_path, lambda *_: None)

    assert bench.asked == grid | {own}
    assert set(tuned.needs()) == grid | set(own.needs())


def prefers_the_last_rate(lab, student):
    return lab.course(student) | {"validation_by_stage": [{"1": student.rate}]}


@pytest.mark.parametrize("kind", [ModelQuality, lambda full: QuantizedQuality(full, 8)], ids=["quality", "quantized"])
def test_quality_reads_the_model_alone(lab, full, tmp_path, kind):
    quality = kind(full)
    bench = Refusing(lab, {full})

    quality.make(bench, tmp_path, lambda *_: None)

    assert set(quality.needs()) == bench.asked == {full}


# The search


@pytest.fixture
def tried(monkeypatch):
    """Validation of every set that a search tries, in order."""
    values = []

    def counted(split):
        validate = validation_ndcg(split)
        return lambda model: values.append(validate(model)) or values[-1]

    monkeypatch.setattr(students, "validation_ndcg", counted)
    return values


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_where_all_sets_can_be_tried_the_best_on_validation_is_kept(lab, subject, tmp_path, tried, family):
    """Half of four layers; in t5 one of two of each stack: a set of one stack alone is not even tried."""
    full = ScratchModel(replace(subject, family=family), 0, 4)
    student = Student(full, SEARCHED, 0.5, 2)
    student.make(Refusing(lab, {full}), tmp_path, lambda *_: None)
    model, validate = lab.get(full), validation_ndcg(lab.split(subject))
    sets = list(combinations(range(4), 2)) if family == "llama" else list(product((0, 1), (2, 3)))
    values = {kept: validate(compact_model(model, kept)) for kept in sets}

    assert len(set(values.values())) > 1
    assert sorted(tried) == pytest.approx(sorted(values.values()), abs=1e-6)
    assert values[tuple(student.course(tmp_path)["kept_layers"])] == pytest.approx(max(tried), abs=1e-6)


def test_a_small_search_keeps_no_worse_a_set_than_the_first_layers(lab, subject, tmp_path, tried):
    """Of 20 of the 70 ways to keep four of eight layers."""
    full = ScratchModel(subject, 0, 8)
    student = Student(full, SEARCHED, 0.5, 2)
    student.make(Refusing(lab, {full}), tmp_path, lambda *_: None)
    model, validate = lab.get(full), validation_ndcg(lab.split(subject))
    first = validate(compact_model(model, (0, 1, 2, 3)))
    found = validate(student.load(tmp_path))

    assert len(tried) == SEARCH_BUDGET
    assert tried[0] == pytest.approx(first, abs=1e-6)
    assert found == pytest.approx(max(tried), abs=1e-6)
    assert len(student.course(tmp_path)["kept_layers"]) == 4


# Quality


def test_quality_of_a_student_is_that_of_its_recommender(lab, subject, full):
    student, split = Student(full, METHODS["ours without healing"], 0.5, 2), lab.split(subject)
    values = target_metrics(lab.get(student), split, split.test)
    stored = lab.get(ModelQuality(student))

    for name, value in values.items():
        np.testing.assert_array_equal(stored[name], mean_by_user(value, split.test.users))


def test_quality_of_any_model_is_the_same_result_where_both_can_be_asked(lab, full):
    one, other = Quality(full), ModelQuality(full)

    assert lab.store.path_of(lab.spec(one)) == lab.store.path_of(lab.spec(other))
    assert one.describe() == other.describe()


@pytest.mark.parametrize(("bits", "quantized"), [(8, int8_quantized), (4, int4_quantized)])
def test_quantised_quality_is_that_of_the_quantised_model(lab, subject, full, bits, quantized):
    split = lab.split(subject)
    values = target_metrics(quantized(lab.get(full)), split, split.test)
    stored = lab.get(QuantizedQuality(full, bits))

    assert stored.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(stored[name], mean_by_user(value, split.test.users))


def test_bits_decide_the_place_and_the_values(lab, full):
    eight, four = QuantizedQuality(full, 8), QuantizedQuality(full, 4)

    assert lab.store.path_of(lab.spec(eight)) != lab.store.path_of(lab.spec(four))
    assert any((lab.get(eight)[name] != lab.get(four)[name]).any() for name in lab.get(four))
    assert four.describe() == "ranking with llama with 4 layers, seed 0 in INT4"
