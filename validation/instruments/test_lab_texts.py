"""The whole way of a text recommender on a toy: pretrained folder, head, LoRA, cut, healing, metrics, checkpoint."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel, BertTokenizer

from layerwise.compression.distill import Distillation
from layerwise.compression.text_healing import heal_text, text_distillation_loss
from layerwise.lab.asking import everything
from layerwise.lab.experiments import CompactText, HealedText, TextModel, TextQuality, TextScores
from layerwise.lab.experiments.text import untrained
from layerwise.lab.lab import Lab
from layerwise.lab.store import Store
from layerwise.lab.study import Study
from layerwise.lab.text_study import TextStudy
from layerwise.lab.text_tables import (
    NAMES,
    best_text_floor,
    text_checks,
    text_depth_check,
    text_layer_table,
    text_ranking_check,
    text_remarks,
    text_size_table,
    text_table,
)
from layerwise.lab.tiers import TIERS, TextTask
from layerwise.models.lora_classifier import Lora
from layerwise.models.text_fitting import TextRecipe
from layerwise.models.text_training import next_item_loss
from reports.records import make_table

CLAIM = Path(__file__).parents[1] / "test_text_retention.py"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "next", ":", *"abcdefghijkl"]
ITEMS = list("abcdefghijkl")
SHORT = TextRecipe(epochs=2, per_user=2, learning_rate=1e-2, head_rate=1e-2, batch_size=16)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    base, data = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("data")
    (base / "words.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2,
        max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config).save_pretrained(base)
    BertTokenizer(vocab=str(base / "words.txt")).save_pretrained(base)
    rng = np.random.default_rng(0)
    events = [(user, ITEMS[item], time) for user in range(24) for time, item in enumerate(rng.permutation(12)[:9])]
    pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"]).to_csv(data / "interactions.csv", index=False)
    pd.DataFrame({"item_id": ITEMS, "title": ITEMS}).to_csv(data / "items.csv", index=False)
    return TextTask(
        dataset=str(data), base=str(base), pooling="mean", max_tokens=24, head_examples=2, head_recipe=SHORT,
        lora=Lora(rank=2, alpha=4), recipe=SHORT, kept=0.5, selected_by="empirical-fisher", healing=SHORT,
        distillation=Distillation(), controls=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(Store.at(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def healed(task):
    return HealedText(CompactText(TextModel(task, 0), "empirical-fisher", 0.5))


def test_a_healed_model_is_a_plain_checkpoint_of_the_layers_with_the_largest_scores(task, lab, healed):
    scores = lab.get(TextScores(healed.full, "empirical-fisher"))
    folder = lab.build(healed).path / "model"

    plain, told = AutoModel.from_pretrained(folder, output_loading_info=True)

    assert lab.course(healed.of)["kept_layers"] == sorted(np.argsort(scores)[-2:].tolist())
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert plain.config.num_hidden_layers == len(lab.get(healed).layers) == 2
    assert not any("lora" in name for name in plain.state_dict())


def test_quality_is_one_value_per_user_and_moves_with_the_weights(lab, healed):
    healed_quality, cut = (lab.get(TextQuality(model)) for model in (healed, healed.of))

    assert healed_quality["ndcg@10"].shape == healed_quality["last/mrr"].shape == (24,)
    assert not np.array_equal(healed_quality["mrr"], cut["mrr"])


def test_shuffled_titles_are_those_of_other_items_and_another_model(task, lab):
    own, other = (untrained(lab, task, shuffled) for shuffled in (False, True))

    assert sorted(own.titles) == sorted(other.titles) == ITEMS
    assert own.titles != other.titles
    assert lab.spec(TextModel(task, 0)) != lab.spec(TextModel(task, 0, shuffled=True))


def test_lora_starts_from_the_trained_head_and_the_head_from_how_often_items_were_seen(task, lab):
    start = untrained(lab, task, shuffled=False)
    head, full = (lab.get(TextModel(task, 0, row)) for row in ("head", "lora"))

    assert all(torch.equal(weight, full.model.state_dict()[name]) is False for name, weight in
               head.model.state_dict().items() if name.endswith("query.weight"))  # fmt: skip
    torch.testing.assert_close(head.model.state_dict(), start.model.state_dict())
    assert torch.linalg.norm(full.item_matrix - head.item_matrix) < torch.linalg.norm(full.item_matrix)
    assert len(json.loads((lab.build(TextModel(task, 0)).path / "course.json").read_text())["validation"]) == 2


def test_a_row_that_is_none_is_refused(task):
    with pytest.raises(ValueError, match="row must be one of zero-shot, head, lora, got 'full'"):
        TextModel(task, 0, "full").needs()


def test_distillation_of_weight_one_pulls_towards_the_teacher_and_of_weight_zero_is_the_plain_loss(task, lab):
    teacher, text = lab.get(TextModel(task, 0)), lab.get(TextModel(task, 0, "zero-shot"))
    batch = text.labelled_batches([np.array([0, 1]), np.array([3])], np.array([2, 5]))[0]
    told, asked = teacher(**batch).detach(), text(**batch).detach()

    plain = text_distillation_loss(teacher, Distillation(weight=0.0))
    whole = text_distillation_loss(teacher, Distillation(weight=1.0, temperature=2.0))

    assert plain(asked, batch) == pytest.approx(float(next_item_loss(asked, batch)))
    p, q = ((scores / 2).double().softmax(-1) for scores in (told, asked))
    assert float(whole(asked, batch)) == pytest.approx(float(4 * (p * (p / q).log()).sum(-1).mean()), rel=1e-4)
    assert float(whole(told, batch)) == pytest.approx(0, abs=1e-6)


def test_a_teacher_of_other_prompts_is_refused(task, lab, healed):
    other = untrained(lab, replace(task, max_tokens=20), shuffled=False)

    with pytest.raises(ValueError, match="must read the same prompts; they differ in max_tokens"):
        heal_text(lab.get(healed.of), other, [np.arange(4)], lambda _: 0.0, task.lora, SHORT, 0, Distillation())


@pytest.fixture(scope="module")
def study(task, lab):
    tier = replace(TIERS["text"], texts=task, likes=None, seeds=(0, 1))
    return Study(tier, lab, lambda _: None)


class InflatedTexts(TextStudy):
    def quality(self, models):
        return {name: values + 0.1 for name, values in super().quality(models).items()}


class Inflated(Study):
    """A study whose stored metrics of text recommenders are better than its models."""

    @property
    def text(self):
        return InflatedTexts(self.tier, self.lab, self.prepare)


def test_tables_have_a_cell_for_each_column_and_the_shuffled_controls_of_every_row(study):
    tables = [table(study) for table in (text_table, text_layer_table, text_size_table)]

    assert all(len(row) == len(table["columns"]) for table in tables for row in table["rows"])
    rows = {row[0]: row for row in tables[0]["rows"]}
    assert [rows[name][1] for name in NAMES.values()] == ["1", "2", "2"]
    control = study.text.quality(study.text.models("lora", shuffled=True))["ndcg@10"].mean()
    assert rows[NAMES["lora"]][-1] == f"{control:.4f} (1)"
    assert [row[-1] for row in tables[1]["rows"]].count("0 of 2") <= 2
    assert [row[1] for row in tables[2]["rows"]] == [4, 2]


def test_a_model_that_does_not_beat_counting_is_called_a_straw_man(study):
    floor_name, floor = best_text_floor(study)

    remark = text_remarks(study)[0]  # the toy's events are random

    assert floor_name in remark
    assert f"{floor.mean():.4f}" in remark
    assert "the model that is cut is a straw man" in remark


def test_stored_ranking_and_depth_are_checked_against_the_models(study):
    full, inflated = tuple(study.text.models()[:1]), Inflated(study.tier, study.lab, study.prepare)

    assert text_ranking_check(study, full, "full")[0]
    assert not text_ranking_check(inflated, full, "full")[0]
    assert text_depth_check(study)[0]
    assert [holds for holds, words in text_checks(study) if "independent trainings" in words] == [False]  # two seeds


class Shown:
    """What a claim test shows and judges."""

    def __init__(self):
        self.checks, self.remarks, self.tables, self.effect = [], [], [], None

    def require(self, holds, words):
        self.checks.append((holds, words))

    def remark(self, words):
        self.remarks.append(words)

    def table(self, **table):
        self.tables.append(make_table(**table))

    def judge(self, effect, notes):
        self.effect = effect


def test_the_claim_judges_healed_over_full_of_every_seed_and_user(study):
    shown, claim_test = Shown(), runpy.run_path(str(CLAIM))["test_healed_text_model_keeps_95_percent_of_ndcg10"]

    claim_test(study, shown, "minilm-keep50%")

    full, healed = (study.text.quality(models)["ndcg@10"] for models in (study.text.models(), study.text.healed()))
    assert full.shape == (2, 24)
    assert shown.effect.kind == "retention"
    assert shown.effect.estimate == pytest.approx(healed.mean() / full.mean())
    assert (len(shown.checks), len(shown.tables)) == (7, 3)
    assert all(words for _, words in shown.checks)
    assert "straw man" in shown.remarks[0]


def test_a_text_tier_trains_the_models_that_its_claims_read_for_every_seed():
    tier = TIERS["text"]
    study = Study(tier, None, None)

    planned = everything(study)

    assert {one for one in planned if isinstance(one, TextQuality) and isinstance(one.of, HealedText)} == {
        TextQuality(HealedText(CompactText(TextModel(tier.texts, seed), "empirical-fisher", 0.5)))
        for seed in tier.seeds
    }
    assert [model.seed for model in study.text.models("lora", shuffled=True)] == [0]
    assert Study(TIERS["quick"], None, None).text.models() == []


def test_a_tier_reads_with_another_text_model_in_all_its_claims_or_says_that_it_has_none():
    other = TIERS["text"].reading_with("some/model")
    assert (other.likes.base, other.texts.base, other.texts.pooling) == ("some/model", "some/model", "last")
    assert TIERS["text"].likes.base == "all-MiniLM-L6-v2"
    with pytest.raises(ValueError, match="quick tier has no claim on a text model; the text tier has"):
        TIERS["quick"].reading_with("some/model")
