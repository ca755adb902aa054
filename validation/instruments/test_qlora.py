"""LoRA on a base in NF4: it learns, leaves the 4-bit base alone, and is not run where bitsandbytes cannot work."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

from layerwise.compression.quantize import nf4_quantized, serialised_bytes
from layerwise.lab import like_tables, qlora_tables
from layerwise.lab.asking import everything
from layerwise.lab.experiments import FORMATS, QloraAdapter, QuantizedLikes, qlora, why_no_nf4
from layerwise.lab.experiments.likes import Answers
from layerwise.lab.lab import Lab
from layerwise.lab.store import Store
from layerwise.lab.study import Study
from layerwise.lab.tiers import LIKES, TIERS
from layerwise.models.classifier import ClassifierRecipe, in_batches, probabilities, text_logits
from layerwise.models.lora_classifier import Lora, Task, train_lora, with_adapter

RECIPE = ClassifierRecipe(learning_rate=2e-2, epochs=14, batch_size=16, patience=40)
NEEDS_NF4 = pytest.mark.skipif(why_no_nf4() is not None, reason=str(why_no_nf4()))

TIER = replace(TIERS["text"], few_bits=True)


@pytest.fixture
def base():
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=20, max_position_embeddings=16, **sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return BertForSequenceClassification(config).eval()


def task(count=96, seed=0):
    """Whether token 3 is in the prompt."""
    rng = np.random.default_rng(seed)
    prompts = [[2, *rng.integers(4, 20, size=rng.integers(2, 8)).tolist()] for _ in range(count)]
    labels = rng.integers(2, size=count)
    for prompt, label in zip(prompts, labels, strict=True):
        if label:
            prompt[int(rng.integers(1, len(prompt)))] = 3
    return Task(prompts, labels)


def right(model, asked):
    logits = in_batches(lambda rows: text_logits(model, [asked.prompts[row] for row in rows], 0), asked.lengths)
    return float(((probabilities(logits) > 0.5) == asked.labels).mean())


@NEEDS_NF4
def test_lora_learns_on_an_nf4_base_and_leaves_its_codes_alone(base, tmp_path):
    packed = nf4_quantized(base)
    before = {name: weight.clone() for name, weight in packed.state_dict().items()}

    train_lora(packed, task(), task(48, seed=1), Lora(rank=4, alpha=8), RECIPE, 0, tmp_path)
    tuned = with_adapter(packed, tmp_path)

    assert right(tuned, task(200, seed=2)) > 0.8
    assert all(torch.equal(weight, before[name]) for name, weight in packed.state_dict().items())
    codes = [name for name, weight in tuned.state_dict().items() if weight.dtype == torch.int8]
    assert len(codes) == 2 * 6
    assert serialised_bytes(packed) < serialised_bytes(base) / 2


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (None, "bitsandbytes is not installed"),
        (
            NotImplementedError("no kernel for this processor\nmore"),
            "has no NF4 for this processor: no kernel for this processor",
        ),
        (0.5, "has a wrong NF4 for this processor: numbers move by 0.50"),
    ],
)
def test_where_bitsandbytes_cannot_work_the_reason_is_said_and_nothing_is_made(monkeypatch, tmp_path, broken, said):
    def quantize_4bit(numbers, **_):
        if isinstance(broken, Exception):
            raise broken
        return numbers, broken

    functional = SimpleNamespace(quantize_4bit=quantize_4bit, dequantize_4bit=lambda codes, state: codes + state)
    module = broken and SimpleNamespace(functional=functional, __version__="0.1")
    monkeypatch.setattr(qlora, "bitsandbytes", module)
    qlora.why_no_nf4.cache_clear()
    try:
        assert said in qlora.why_no_nf4()
        assert Study(TIER, Lab(Store.at(tmp_path)), lambda _: None).text.bit_answers() == []
    finally:
        qlora.why_no_nf4.cache_clear()


@NEEDS_NF4
def test_a_study_asks_for_every_seed_and_only_in_a_tier_that_wants_it(tmp_path):
    lab = Lab(Store.at(tmp_path))
    wanted = [one for one in everything(Study(TIER, lab, lambda _: None)) if one.kind == "quantized-likes"]

    assert [one.seed for one in wanted] == [0, 1, 2, 3, 4]
    assert Study(TIERS["quick"], lab, lambda _: None).text.bit_answers() == []


def test_bitsandbytes_and_the_seed_decide_the_adapter(monkeypatch):
    settings = [QloraAdapter(LIKES, seed, 0).settings() for seed in (0, 1)]
    monkeypatch.setattr(qlora, "version", lambda _: "9.9")

    assert settings[0] != settings[1]
    assert QloraAdapter(LIKES, 0, 0).settings()["bitsandbytes"] == "9.9"
    assert QloraAdapter(LIKES, 3, 0) in QuantizedLikes(LIKES, 3, 0).needs()


def answers(seed, wrong=0.0, apart=0.0):
    """Twenty examples of five users that LoRA answers rightly, and QLoRA but for a share."""
    labels, rng = np.tile([0.0, 1.0], 10), np.random.default_rng(seed)
    full = 0.1 + 0.8 * labels
    own = np.where(rng.random(20) < wrong, 1 - full, full)
    found = dict.fromkeys(FORMATS, full) | {FORMATS[-1]: own}
    noted = {"apart": apart, "bytes": {name: [9 - number, 9 - number] for number, name in enumerate(FORMATS)}}
    return Answers(found, labels, np.repeat(np.arange(5.0), 4), noted)


def told(found):
    """A study that has these answers."""
    text = SimpleNamespace(few_bits=lambda: found, likes=lambda: [replace(one, noted={}) for one in found])
    return SimpleNamespace(text=text)


def test_the_effect_is_qlora_minus_lora_in_points():
    found = [answers(seed, wrong=0.3) for seed in range(5)]
    hits = [(one.probability[FORMATS[-1]] > 0.5) == one.labels for one in found]

    assert qlora_tables.format_gain(told(found), "accuracy").estimate == pytest.approx(100 * (np.mean(hits) - 1))
    assert qlora_tables.format_gain(told(found), "accuracy", FORMATS[1]).estimate == 0


def test_checks_name_too_few_seeds_and_answers_of_another_model():
    sound = [answers(seed) for seed in range(5)]

    def failed(found):
        return [sentence for holds, sentence in qlora_tables.format_checks(told(found)) if not holds]

    assert failed(sound) == []
    assert failed(sound[:4])[0].startswith("4 independent trainings")
    assert failed([*sound[:4], answers(4, apart=0.1)]) == [
        "LoRA's answers must be those of the comparison with the frozen base: 0.1 apart"
    ]


@pytest.fixture
def toy(tmp_path):
    """A task of likes on colours, and a folder with a text model that knows their names."""
    rng, words = np.random.default_rng(0), ["red", "blue", "sun", "moon", "next", "good", "bad", ",", ":"]
    rows = [
        (user, item, 30 * time + user, 1 + 4 * (item % 2))
        for user in range(30)
        for time, item in enumerate(rng.permutation(12))
    ]
    pd.DataFrame(rows, columns=["user", "item", "timestamp", "rating"]).to_csv(
        tmp_path / "interactions.csv", index=False
    )
    titles = [f"{thing} {colour}" for thing in ("sun", "moon") for colour in ("red", "blue")] * 3
    pd.DataFrame({"item_id": range(12), "title": titles}).to_csv(tmp_path / "items.csv", index=False)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizer(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "base")
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=14, **sizes)).save_pretrained(tmp_path / "base")
    recipe = replace(RECIPE, epochs=1, batch_size=32)
    of = {"dataset": str(tmp_path), "base": str(tmp_path / "base"), "max_tokens": 12, "recipe": recipe}
    return replace(LIKES, **of, rates=(1e-2,), head_rates=(1e-2,))


@NEEDS_NF4
def test_formats_are_compared_on_the_answers_of_lora_itself(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(qlora_tables, "BLOCKS", 2)
    monkeypatch.setattr(qlora_tables, "SECONDS", 0.1)
    monkeypatch.setattr(like_tables, "BATCH", 4)
    tier = replace(TIER, likes=toy, seeds=(0,))
    study = Study(tier, Lab(Store.at(tmp_path / "store")), lambda _: None)

    table = qlora_tables.format_table(study)
    like_tables.rebuilt_arms.cache_clear()  # it would keep this toy's models alive

    assert [row[0] for row in table["rows"]] == list(FORMATS)
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    stored, packed = ([int(row[column].replace(",", "")) for row in table["rows"]] for column in (5, 6))
    assert stored[0] == max(stored)
    assert packed[0] > packed[1] > packed[2]  # torchao keeps a byte per 4-bit value
    failed = [sentence for holds, sentence in qlora_tables.format_checks(study) if not holds]
    assert failed == ["1 independent trainings; a claim about a method needs at least 5"]
    assert np.isfinite(qlora_tables.format_gain(study, "accuracy").estimate)
