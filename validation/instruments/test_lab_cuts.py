"""The lab's cuts: what is stored for a way to cut a model is what cutting it that way gives."""

from dataclasses import replace

import numpy as np
import pytest

from layerwise.compression.bridge import bridged_model
from layerwise.compression.compact import compact_model
from layerwise.compression.distill import Distillation
from layerwise.compression.selection import number_to_keep
from layerwise.evaluation.quality import target_metrics
from layerwise.evaluation.ranking import mean_by_user
from layerwise.lab.exhibits import gap_rivals_table, training_free_figure, training_free_table
from layerwise.lab.experiments import Cut, GapRivals, LayerScores, ScratchModel, TrainingFree
from layerwise.lab.experiments.compact import kept_layers
from layerwise.lab.lab import Lab
from layerwise.lab.store import Store
from layerwise.lab.study import Study
from layerwise.lab.tiers import EPOCHS, TIERS, Subject, Tier
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.training import Recipe

RULES = ("first", "uniform", "empirical-fisher")


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = ["user_id,item_id,timestamp"]
    for user in range(30):
        start = rng.integers(20)
        rows += [f"{user},{(start + step) % 20},{step}" for step in range(12)]
    path = tmp_path_factory.mktemp("data") / "toy.csv"
    path.write_text("\n".join(rows))
    recipe = Recipe(epochs=2, learning_rate=1e-2, batch_size=16, evaluate_every=1)
    return Subject(str(path), 2, "llama", Shape(4, 16, 32, 2), 6, 0.0, recipe, recipe, Distillation())


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(Store(tmp_path_factory.mktemp("store")))


def ndcg(model, split):
    values = target_metrics(model, split, split.test, ks=(10,))["ndcg@10"]
    return mean_by_user(values, split.test.users)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_stored_cuts_are_those_that_are_made_by_hand(lab, subject, family):
    of = replace(subject, family=family)
    full, split = ScratchModel(of, 0, 4), lab.split(of)
    model = lab.get(full)
    batches = model.labelled_batches(split.train_sequences())
    found = lab.get(TrainingFree(full, RULES, (0.5,)))
    uniform = (0, 2)  # in t5 the first of two layers of each stack
    scores = lab.get(LayerScores(full, "empirical-fisher"))
    best = (
        tuple(sorted(np.argsort(-scores)[:2].tolist()))
        if family == "llama"
        else (int(scores[1] > scores[0]), 2 + int(scores[3] > scores[2]))
    )

    assert found["0.5/uniform/bare"].kept == uniform
    assert found["0.5/empirical-fisher/bridged"].kept == best
    assert found["0.5/uniform/bare"].explained == ()
    np.testing.assert_array_equal(found["0.5/uniform/bare"].ndcg, ndcg(compact_model(model, uniform), split))
    bridged = bridged_model(model, uniform, batches)
    np.testing.assert_array_equal(found["0.5/uniform/bridged"].ndcg, ndcg(bridged.model, split))
    assert found["0.5/uniform/bridged"].explained == tuple(gap.explained for gap in bridged.gaps)


def test_every_rule_and_share_is_there_with_and_without_bridges(subject):
    cuts = TrainingFree(ScratchModel(subject, 0, 4), RULES, (0.75, 0.25)).cuts()

    assert len(cuts) == len({cut.name for cut in cuts}) == 2 * 3 * 2
    assert Cut(0.25, "first", True).name == "0.25/first/bridged"


def test_layers_are_kept_by_the_share_of_each_stack(lab, subject):
    for family, share in (("llama", 0.25), ("t5", 0.5)):
        full = ScratchModel(replace(subject, family=family), 0, 4)
        kept = kept_layers(lab, full, "first", share)
        assert kept == ((0,) if family == "llama" else (0, 2))
        assert len(kept) == number_to_keep(4, share)


def test_ways_to_close_gaps_stand_side_by_side(lab, subject):
    full, split = ScratchModel(subject, 0, 4), lab.split(subject)
    model = lab.get(full)
    found = lab.get(GapRivals(full, "first", 0.5))

    assert set(found) == {
        "bare cut",
        "bridge",
        "bridge, square map (ReplaceMe)",
        "bridge and readout refit",
        "readout refit",
        "trained gap adapters",
    }
    np.testing.assert_array_equal(found["bare cut"], ndcg(compact_model(model, (0, 1)), split))
    assert any((found["trained gap adapters"] != found[way]).any() for way in ("bare cut", "bridge"))


def test_exhibits_show_every_cut_of_a_study(lab, subject):
    tier = Tier("toy", subject, (0, 1), 0.25, "first", ("llama",), RULES)
    study = Study(tier, lab, lambda _: None)
    table, figure, rivals = training_free_table(study), training_free_figure(study), gap_rivals_table(study)

    assert [(row[0], row[1]) for row in table["rows"]] == [(f"{p}%", by) for p in (25, 50, 75) for by in RULES]
    assert {line["label"] for line in figure["series"]} == {
        f"{by}{end}" for by in ("first", "uniform") for end in ("", ", bridged")
    }
    assert [row[0] for row in rivals["rows"]][-1] == "healed (all weights trained)"
    values = [float(row[1]) for row in rivals["rows"][:-1]]
    assert values == sorted(values)


def test_standard_tier_judges_every_family_with_its_own_epochs():
    standard = TIERS["standard"]

    assert standard.families == tuple(FAMILIES)
    assert standard.subject_of("llama") == standard.subject == TIERS["quick"].subject
    assert standard.subject_of("bert").training == replace(standard.subject.training, epochs=EPOCHS["bert"])
