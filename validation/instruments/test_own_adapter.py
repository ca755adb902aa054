"""An adapter that somebody brings: what it must be, what is said where it is not, and what it is worth."""

import gc
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from layerwise.commands import adapter as command
from layerwise.commands import main
from layerwise.commands.adapter import Brought, compared, gain, memory_advice, task_of
from layerwise.evaluation.classification import METRICS, classification_metrics
from layerwise.lab.experiments import own_adapter
from layerwise.lab.experiments.likes import base_classifier, like_tasks
from layerwise.lab.lab import Lab
from layerwise.lab.store import Store
from layerwise.lab.tiers import LIKES
from layerwise.models import own_arms
from layerwise.models.classifier import ClassifierRecipe, in_batches, text_logits
from layerwise.models.lora_arms import arm_checks
from layerwise.models.lora_classifier import Lora, frozen_features, lora_arms, train_lora
from layerwise.models.own_adapter import name_remark
from layerwise.models.own_arms import facts_checks, facts_of
from layerwise.statistics import Region

USERS, EVENTS, TOKENS = 30, 12, 8
WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", ":", "next", "Next", "good", "bad"),
    *("red", "blue", "sun", "moon", "sea", "sky", "hill"),
]
TITLES = [f"{thing} {colour}" for thing in WORDS[-5:] for colour in ("red", "blue")]
SIZES = {"vocab_size": len(WORDS), "max_position_embeddings": 64}
RECIPE = ClassifierRecipe(learning_rate=2e-2, epochs=4, batch_size=16, patience=9)


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """Times of toys say nothing; one learning rate for arm C will do."""
    monkeypatch.setattr(own_adapter, "BLOCKS", 2)
    monkeypatch.setattr(own_adapter, "WARMUP", 2)
    monkeypatch.setattr(own_adapter, "INPUTS", 2)
    monkeypatch.setattr(own_adapter, "SECONDS", 0.1)
    monkeypatch.setattr(command, "LIKES", replace(LIKES, head_rates=(1e-2,), per_user=(8, 4, 4)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder in which everybody likes what is red, but for one event in eight."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("colours")
    rows = [
        (f"u{user}", f"i{item}", USERS * time + user, 5 if (item % 2 == 0) != (rng.random() < 1 / 8) else 1)
        for user in range(USERS)
        for time, item in enumerate(rng.permutation(np.arange(len(TITLES)).repeat(2))[:EVENTS])
    ]
    pd.DataFrame(rows, columns=["user", "item", "timestamp", "rating"]).to_csv(folder / "interactions.csv", index=False)
    pd.DataFrame({"item_id": [f"i{item}" for item in range(len(TITLES))], "title": TITLES}).to_csv(
        folder / "items.csv", index=False
    )
    return folder


def brought(base, folder, data, **more):
    """What a person brings; prompts are the candidate alone, from which a toy learns at once."""
    return Brought(str(base), str(folder), str(data), max_tokens=TOKENS, **more)


def save_base(folder, family, hidden=16, seed=0, **tokens):
    """A backbone with random weights and its tokenizer; those of decoders name an end and no padding token."""
    torch.manual_seed(seed)
    if family == "bert":
        sizes = {"hidden_size": hidden, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = BertModel(BertConfig(**SIZES, **sizes))
        folder.mkdir()
        (folder / "vocab.txt").write_text("\n".join(WORDS))
        tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=False)
    else:
        if family == "gpt2":
            sizes = {"n_embd": hidden, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": len(WORDS)}
            model = GPT2Model(GPT2Config(**sizes, bos_token_id=2, eos_token_id=3))
        else:
            sizes = {"hidden_size": hidden, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
            model = LlamaModel(LlamaConfig(**SIZES, **sizes, eos_token_id=3))
        words = Tokenizer(WordLevel({word: code for code, word in enumerate(WORDS)}, unk_token="[UNK]"))
        words.pre_tokenizer = Whitespace()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words, **({"unk_token": "[UNK]", "eos_token": "[SEP]"} | tokens)
        )
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.data.normal_(std=0.3 if "embed" not in name and "wte" not in name else 1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of bases, made once."""
    place, made = tmp_path_factory.mktemp("bases"), {}

    def base(family, **changes):
        key = (family, *sorted(changes.items()))
        if key not in made:
            made[key] = save_base(place / f"{family}-{len(made)}", family, **changes)
        return made[key]

    return base


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(Store.at(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, bases, data, lab):
    """Folders of adapters, made once; a test that changes one takes a copy. The GPT-2's has learned nothing."""
    made = {}

    def adapter(family):
        if family not in made:
            base, folder = bases(family), tmp_path_factory.mktemp(f"adapter-{family}")
            made[family] = folder
            save_untrained(base, folder)
            if family == "gpt2":
                return folder
            task, _ = task_of(brought(base, folder, data))
            model, tasks = base_classifier(task.likes, 7), like_tasks(lab, task.likes)
            model.config.pad_token_id = task.pad
            shutil.rmtree(folder)
            train_lora(model, tasks["train"], tasks["validation"], Lora(4, 8), RECIPE, 0, folder)
            name_base(folder, str(base))
        return made[family]

    return adapter


def save_untrained(base, folder, **fields):
    """An adapter with a fresh head, by peft; `fields` are those of LoraConfig."""
    num_labels = fields.pop("num_labels", 2)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=num_labels)
    given = {"task_type": "SEQ_CLS", "r": 2, "target_modules": "all-linear"} | fields
    peft.get_peft_model(model, peft.LoraConfig(**given)).save_pretrained(folder)


def name_base(folder, base):
    """Notes which base an adapter is of, as peft does for a model that was loaded from a folder."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))


@pytest.fixture
def run(bases, adapters, data, lab, capsys):
    """The command, its exit status and what it said."""

    def run(family="bert", *more, model=None, adapter=None):
        words = ["--model", model or bases(family), "--adapter", adapter or adapters(family), "--data", data]
        words += ["--store", lab.store.root, "--max-tokens", TOKENS, *more]
        status = main.main(["adapter", *map(str, words)])
        said = capsys.readouterr()
        return status, " ".join((said.out + said.err).split())

    return run


@pytest.fixture
def mine(adapters, tmp_path):
    """A copy of an adapter, to be spoilt."""
    return lambda family="bert": shutil.copytree(adapters(family), tmp_path / "mine")


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_an_adapter_that_learned_answers_and_its_arms_are_honest(bases, adapters, data, lab, family):
    made = compared(brought(bases(family), adapters(family), data), lab)

    assert made.flaws == []
    assert command.level(made, "B", "auc-roc").estimate > 75
    assert gain(made, "auc-roc", "A").estimate > 0
    assert set(made.verdicts) == {f"{name}, B - {over}" for name in ("accuracy", "f1", "auc-roc") for over in "AC"}


def test_arms_made_in_turn_answer_as_those_made_side_by_side(bases, adapters, data, lab):
    mine = brought(bases("bert"), adapters("bert"), data)
    made, (task, _) = compared(mine, lab), task_of(mine)
    base, asked = base_classifier(task.likes, 0), like_tasks(lab, task.likes)["test"]

    frozen, tuned = lora_arms(base, adapters("bert"))

    for arm, model in (("A", frozen), ("B", tuned)):
        logits = in_batches(lambda rows: text_logits(model, [asked.prompts[row] for row in rows], 0), asked.lengths)  # noqa: B023
        np.testing.assert_allclose(made.probability[arm], logits.double().softmax(-1)[:, 1], atol=1e-5)
    assert [ok for ok, _ in arm_checks(base, frozen, tuned)] == [True] * 6


def test_features_computed_in_place_are_those_of_a_copy_and_the_head_returns(bases, adapters, data, lab):
    task, _ = task_of(brought(bases("bert"), adapters("bert"), data))
    base, asked = base_classifier(task.likes, 0), like_tasks(lab, task.likes)["validation"]
    head = base.classifier

    torch.testing.assert_close(own_arms.features_of(base, asked, 0, batch=7), frozen_features(base, asked))
    assert base.classifier is head


def classifiers():
    """Which sequence classifiers are alive, by their number in memory."""
    gc.collect()
    found = (one for one in gc.get_objects() if isinstance(one, PreTrainedModel))
    return {id(one) for one in found if "SequenceClassification" in type(one).__name__}


def test_one_model_at_most_is_alive(bases, adapters, data, tmp_path, monkeypatch):
    alive, answer, others = [], text_logits, classifiers()

    def watched(model, *more):
        alive.append(len(classifiers() - others))
        return answer(model, *more)

    monkeypatch.setattr(own_arms, "text_logits", watched)

    compared(brought(bases("bert"), adapters("bert"), data, batch=999), Lab(Store.at(tmp_path)))

    assert alive == [1] * 4  # three parts for A and C, one for B


def test_the_command_prints_and_keeps_arms_verdicts_speed_and_its_limits(run, tmp_path):
    status, said = run("bert", "--out", tmp_path / "report")

    report = (tmp_path / "report" / "README.md").read_text()
    assert status == 0
    for part in ("B - A", "these checkpoints only", "one adapter was judged", "unmerged", "liked"):
        assert part in said
        assert part in report
    for part in ("| accuracy |", "| precision |", "| recall |", "| f1 |", "| auc-roc |", "queries/s", "- holds: "):
        assert part in report


def test_exit_status_says_whether_what_was_asked_for_is_shown(run, monkeypatch):
    assert run("bert", "--at-least", "auc-roc=99")[0] == 1

    monkeypatch.setattr(command, "AHEAD", Region(low=-100.0))  # C is as good: the toy needs no LoRA
    assert run("bert", "--at-least", "auc-roc=-99")[0] == 0


def test_a_second_run_reads_the_store(run, monkeypatch):
    first, loads = run("bert"), []
    monkeypatch.setattr(own_adapter, "base_classifier", lambda *given: loads.append(given))

    assert run("bert") == first
    assert loads == []


def test_another_adapter_at_the_same_place_is_another_task(bases, mine, data):
    folder = mine()
    before, _ = task_of(brought(bases("bert"), folder, data))

    reweighted(lambda weights: {name: 1.01 * weight for name, weight in weights.items()})(folder)
    after, _ = task_of(brought(bases("bert"), folder, data))

    assert before.weights != after.weights


def test_an_adapter_that_was_never_trained_does_not_count(run):
    status, said = run("gpt2", "--at-least", "accuracy=-99")

    assert status == 1
    assert "nothing of this counts: arm B's features must be tuned" in said


def test_answers_at_chance_and_below_are_told_since_no_file_tells_a_fresh_head(bases, adapters, data, lab):
    made = compared(brought(bases("bert"), adapters("bert"), data), lab)
    labels = made.frozen.labels
    constant = replace(made.frozen, probability=made.frozen.probability | {"A": np.full(len(labels), 0.6)})
    swapped = replace(made.tuned, probability={"B": 0.9 - 0.8 * labels})

    remarks = command._chance_remarks(replace(made, frozen=constant, tuned=swapped))

    assert remarks[0].startswith("arm A is not told from chance (AUC-ROC 50.0 %")
    assert remarks[1].startswith("arm B is worse than chance (AUC-ROC 0.0 %")
    assert command._chance_remarks(replace(made, frozen=constant))[1:] == []


def remove(name):
    return lambda folder: (folder / name).unlink()


def configured(**fields):
    def spoil(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return spoil


def reweighted(change):
    def spoil(folder):
        path = folder / "adapter_model.safetensors"
        save_file(change(load_file(path)), path)

    return spoil


def as_pickle(folder):
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def cut_off(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:5])


def without(part):
    return reweighted(lambda weights: {name: weight for name, weight in weights.items() if part not in name})


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "is not a folder; expected an adapter written by peft's save_pretrained"),
        (remove("adapter_config.json"), "has no adapter_config.json"),
        (remove("adapter_model.safetensors"), "has no adapter_model.safetensors"),
        (as_pickle, "adapter_model.bin, which may run code when read; where the source is trusted, convert it"),
        (cut_off, "was it cut off?"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "cannot be read as a JSON object"),
        (configured(peft_type="IA3"), "expected a LoRA adapter (peft_type LORA)"),
        (configured(task_type="CAUSAL_LM"), "got task_type CAUSAL_LM; train it with LoraConfig(task_type='SEQ_CLS')"),
        (configured(task_type=None), "got task_type None"),
        (configured(target_modules=["Wqkv"]), "is for modules Wqkv, and they are not all in"),
        (without(".1."), "it lacks"),
    ],
)
def test_what_is_no_such_adapter_is_said_in_a_sentence(run, mine, family, spoil, said):
    folder = mine(family)
    spoil(folder)

    status, words = run(family, adapter=folder)

    assert status == 2
    assert said in words


@pytest.mark.parametrize(("family", "head"), [("bert", "classifier"), ("gpt2", "score"), ("llama", "score")])
def test_an_adapter_without_a_trained_head_is_refused(run, mine, family, head):
    folder = mine(family)
    without(head)(folder)

    status, words = run(family, adapter=folder)

    assert status == 2
    assert f"brings no trained head (no '{head}' among its weights)" in words
    assert "comparing answers of a random head means nothing" in words


def test_a_head_that_is_changed_by_low_rank_is_refused(run, mine):
    folder = mine()
    name = "base_model.model.classifier.lora_A.weight"
    reweighted(lambda weights: weights | {name: torch.ones(2, 16)})(folder)

    assert "changes the head by low rank (classifier.lora_A.weight)" in run(adapter=folder)[1]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_other_than_two_classes_are_refused(run, bases, tmp_path, family):
    save_untrained(bases(family), tmp_path / "three", num_labels=3)

    status, words = run(family, adapter=tmp_path / "three")

    assert status == 2
    assert "likes have 2 classes (0 dislike, 1 like)" in words
    assert "has a head for 3" in words


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_first_parameter_of_another_width_is_named_with_both_shapes(run, bases, family):
    status, words = run(family, model=bases(family, hidden=24))

    assert status == 2
    assert "was trained on another model than" in words
    assert "16) in the adapter, this base asks for" in words


def test_an_adapter_of_another_architecture_is_refused(run, bases, adapters):
    status, words = run("gpt2", adapter=adapters("llama"))

    assert status == 2
    assert "they are not all in" in words


def test_another_base_of_the_same_shapes_is_told(bases, adapters, data):
    _, remarks = task_of(brought(bases("gpt2", seed=5), adapters("gpt2"), data))
    _, own = task_of(brought(bases("gpt2"), adapters("gpt2"), data))

    assert "but only the same weights make the comparison fair" in remarks[0]
    assert own == remarks[1:]


def test_a_base_is_known_by_its_name_and_by_its_place():
    fields = {"base_model_name_or_path": "org/Small-Model"}

    assert name_remark(fields, "small-model", "/models/x") is None
    assert name_remark(fields, "mine", "/models/small-model/") is None
    assert name_remark({}, "mine") is None
    assert "'org/Small-Model' and is compared on 'mine'" in name_remark(fields, "mine", "/models/x")


def test_a_base_with_weights_below_its_head_that_no_file_holds_does_not_count(run, adapters, bases, tmp_path):
    """A masked language model has no pooler; the one that the classifier gets is drawn."""
    folder = shutil.copytree(bases("bert"), tmp_path / "masked")
    model = BertForMaskedLM.from_pretrained(folder)
    model.save_pretrained(folder)

    status, words = run("bert", model=folder)

    assert status == 0
    assert "nothing of this counts: every weight of the base below its head must come from its checkpoint" in words


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_a_padding_token_the_end_token_fills_up_and_that_is_said(bases, adapters, data, family):
    task, remarks = task_of(brought(bases(family), adapters(family), data))

    assert task.pad == 3
    assert remarks == ["neither base nor tokenizer names a padding token; the end token (3) fills up short prompts"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_any_token_to_fill_up_prompts_nothing_is_compared(run, bases, tmp_path, adapters, family):
    folder = shutil.copytree(bases(family), tmp_path / "endless")
    for name in ("config.json", "tokenizer_config.json"):
        fields = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(fields | {"eos_token_id": None, "eos_token": None}))

    status, words = run(family, model=folder)

    assert status == 2
    assert "neither a padding nor an end token" in words


def test_a_padding_token_without_a_vector_is_refused(run, bases, tmp_path):
    folder = shutil.copytree(bases("llama"), tmp_path / "wide")
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"pad_token_id": None}))
    PreTrainedTokenizerFast.from_pretrained(folder, pad_token="<pad>").save_pretrained(folder)

    assert f"the base has vectors for {len(WORDS)} tokens only" in run("llama", model=folder)[1]


def test_a_base_without_a_tokenizer_is_refused(run, bases, tmp_path):
    folder = shutil.copytree(bases("gpt2"), tmp_path / "mute")
    for path in folder.glob("token*"):
        path.unlink()

    status, words = run("gpt2", model=folder)

    assert status == 2
    assert "has no tokenizer that can be read" in words


def test_a_name_on_the_hub_without_a_network_says_which_folder_to_give(run):
    status, words = run(model="nobody/no-such-model")

    assert status == 2
    assert "HF_HUB_OFFLINE" in words
    assert "pass the folder of a model written by save_pretrained" in words


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_out_of_memory_says_which_batch_to_try(run, mine, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(own_adapter, "base_classifier", fails)

    status, words = run("bert", "--batch", 48, adapter=mine())

    assert status == 2
    assert "out of memory with 48 prompts at a time: try --batch 24" in words
    assert "shorter prompts (--max-tokens)" in memory_advice(Brought("m", "a", "d", batch=1))


def test_another_runtime_error_is_not_taken_for_want_of_memory(run, mine, monkeypatch):
    def fails(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(own_adapter, "base_classifier", fails)

    with pytest.raises(RuntimeError, match="mat1"):
        run("bert", "--batch", 47, adapter=mine())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--batch", "0"], "batch must be at least 1"),
        (["--max-tokens", "65"], "reads at most 64 tokens"),
        (["--at-least", "speed=1"], "a condition is one of accuracy, f1, auc-roc"),
        (["--liked-from", "9"], "a share of 0.0 liked"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(run, more, said):
    status, words = run("bert", *more)

    assert status == 2
    assert said in words


def test_facts_of_the_wrong_arm_are_named(bases, adapters, data):
    task, _ = task_of(brought(bases("bert"), adapters("bert"), data))
    base, again = base_classifier(task.likes, 0), base_classifier(task.likes, 1)
    frozen, tuned = lora_arms(base, adapters("bert"))
    told = [facts_of(model) for model in (base, again, frozen, tuned)]

    def failed(*facts):
        return [sentence for holds, sentence in facts_checks(*facts) if not holds]

    assert failed(*told) == []
    assert failed(*told[:3], told[2])[0].startswith("arm B's features must be tuned")
    assert failed(*told[:2], told[3], told[3])[0].startswith("arm A's features must be the frozen base's")
    assert failed(*told[:2], told[0], told[3])[0].startswith("both arms must have the same head")


def test_levels_are_the_metrics_themselves(bases, adapters, data, lab):
    made = compared(brought(bases("bert"), adapters("bert"), data), lab)
    metrics = classification_metrics(made.probability["B"], made.frozen.labels)

    found = [command.level(made, "B", metric).estimate for metric in METRICS]

    np.testing.assert_allclose(found, [100 * metrics[metric] for metric in METRICS])
