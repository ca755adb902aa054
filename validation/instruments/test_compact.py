"""A compact model computes what the masked twin computes, and `transformers` alone can read it back.

Tests named `trap` take up one known way each to build a compact model that runs and is wrong.
"""

import hashlib
import json
import random
import re
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from layerwise.compression.compact import (
    check_kept_layers,
    compact_model,
    layer_parameters,
    removed_layers,
)
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.layers import bypassed, layers_of, stacks_of
from layerwise.models.recommender import Recommender, build_recommender

NUM_LAYERS, VOCABULARY, END = 4, 41, 40
TOKENS = torch.cat([torch.arange(1, 17).reshape(2, 8), torch.full((2, 1), END)], dim=1)
PROMPT = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS), "max_new_tokens": 12, "do_sample": False}
TABLE = "layer.0.SelfAttention.relative_attention_bias"
FULL, SLIDING = "full_attention", "sliding_attention"

COMMON = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": NUM_LAYERS, "num_attention_heads": 4}
COMMON |= {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, "use_cache": False, "num_labels": 3}
GATED = COMMON | {"intermediate_size": 24, "num_key_value_heads": 2, "tie_word_embeddings": True}
WINDOWS = {"use_sliding_window": True, "sliding_window": 3, "layer_types": [FULL, SLIDING, SLIDING, FULL]}
RELATIVE = {"d_kv": 4, "d_ff": 24, "num_decoder_layers": 3, "decoder_start_token_id": 0, "eos_token_id": END}
FIELDS = {
    "Llama": GATED | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "Qwen3": GATED | WINDOWS | {"head_dim": 4},
    "Qwen2": GATED | WINDOWS,
    "GPT2": COMMON | {"n_positions": 48},
    "Bert": COMMON | {"intermediate_size": 24, "max_position_embeddings": 48},
    "T5": COMMON | RELATIVE,
}
CAUSAL = ("LlamaForCausalLM", "Qwen3ForCausalLM", "Qwen2ForCausalLM", "GPT2LMHeadModel", "BertLMHeadModel")
HEADS = {
    **{f"{name}Model": {} for name in FIELDS},
    **{f"{name}ForSequenceClassification": {} for name in FIELDS},
    **{name: {} for name in CAUSAL},
    "BertLMHeadModel": {"is_decoder": True},
    "BertForMaskedLM": {},
    "T5EncoderModel": {},
    "T5ForConditionalGeneration": {},
    "LlamaForCausalLM-untied": {"tie_word_embeddings": False},
    "GPT2LMHeadModel-inverse": {"scale_attn_by_inverse_layer_idx": True, "add_cross_attention": True},
    "BertLMHeadModel-cross": {"is_decoder": True, "add_cross_attention": True},
    "T5ForConditionalGeneration-untied": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},  # v1.1
}
ANY_HEAD = pytest.mark.parametrize("head", HEADS)
WRITERS = (*CAUSAL, "T5ForConditionalGeneration", "LlamaForCausalLM-untied", "T5ForConditionalGeneration-untied")

READ_WITHOUT_LAYERWISE = """
import json, sys
from pathlib import Path
sys.modules["layerwise"] = None  # an import of it would fail
import torch, transformers
found = {}
for name, (forward, prompt) in torch.load(sys.argv[1]).items():
    folder = Path(sys.argv[2], name, "compact")
    (kind,) = json.loads((folder / "config.json").read_text())["architectures"]
    model, report = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    with torch.no_grad():
        outputs = {key: value for key, value in model(**forward).items() if torch.is_tensor(value)}
        texts = [model.generate(**prompt, use_cache=cache) for cache in (True, False)] if prompt else []
    at = {}
    for key, tensor in model.state_dict().items():
        at.setdefault(tensor.data_ptr(), []).append(key)
    report = {key: sorted(map(str, value)) for key, value in report.items()}
    found[name] = {"report": report, "outputs": outputs, "texts": texts, "sharing": sorted(at.values())}
torch.save(found, sys.argv[3])
"""


def made(head, seed=0, **changes):
    """A random model whose layers all matter: noise of 0.3 on every weight, bias and norm."""
    kind, _, variant = head.partition("-")
    model_class = getattr(transformers, kind)
    fields = next(fields for name, fields in FIELDS.items() if kind.startswith(name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(model_class.config_class(**fields | HEADS[head] | changes)).eval()
        if variant == "untied" and kind.startswith("T5"):  # what reading a v1.1 checkpoint gives
            model.lm_head.weight = nn.Parameter(torch.randn(VOCABULARY, 16))
        if model.can_generate():
            model.generation_config.repetition_penalty = 1.1  # not the default, which needs no copy
        for parameter in model.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


shared = cache(made)  # for tests that only look


def inputs_of(model):
    """Two rows, the second of them padded; what a decoder or cross-attention reads besides."""
    inputs = {"input_ids": TOKENS, "attention_mask": torch.tensor([[1] * 9, [1] * 7 + [0] * 2])}
    if len(stacks_of(model)) == 2 and "Classification" not in type(model).__name__:
        inputs["decoder_input_ids"] = torch.tensor([[0, 5, 6, 7], [0, 9, 8, 7]])
    if getattr(model.config, "add_cross_attention", False):
        inputs["encoder_hidden_states"] = torch.linspace(-1, 1, 160).reshape(2, 5, 16)
    return inputs


def outputs_of(model):
    with torch.no_grad():
        outputs = model(**inputs_of(model))
    return {name: value for name, value in outputs.items() if isinstance(value, Tensor)}


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def cuts(head):
    """Layers to keep, and the same as indices through all layers."""
    if head.startswith("T5") and head != "T5EncoderModel":
        yield {"encoder": (1, 3), "decoder": (2,)}, (1, 3, 6)
        yield {"encoder": (0, 2)}, (0, 2, 4, 5, 6)
        yield {"decoder": (1, 2)}, (0, 1, 2, 3, 5, 6)
        yield (3, 4, 6), (3, 4, 6)
    else:
        for kept in ((1, 3), (3,), (0, 1), (0, 1, 2)):  # GPT-2's layer scales move by powers of two: without rounding
            yield kept, kept


CUTS = [pytest.param(head, *cut, id=f"{head}-{cut[0]}") for head in HEADS for cut in cuts(head)]


def masked_outputs(model, kept):
    with bypassed(model, removed_layers(kept, len(layers_of(model)))):
        return outputs_of(model)


def digest(model):
    """Everything of a model that somebody could have changed."""
    parts = [str(model.config.to_dict()), str(getattr(model, "generation_config", None)), str(model)]
    for name, module in model.named_modules():
        parts.append(f"{name} {module.training} {sorted(vars(module))} {list(module._forward_hooks.values())}")
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parts.append(f"{name} {parameter.requires_grad} {id(parameter)} {parameter.data_ptr()}")
    text = hashlib.sha256("\n".join(parts).encode())
    gradients = [(f"{name}'s gradient", p.grad) for name, p in model.named_parameters() if p.grad is not None]
    for name, tensor in [*model.state_dict().items(), *model.named_buffers(), *gradients]:
        text.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        text.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return text.hexdigest()


def sharing(model):
    """Names in the state dict, grouped by the memory that they stand for."""
    at = {}
    for name, tensor in model.state_dict().items():
        at.setdefault(tensor.data_ptr(), []).append(name)
    return sorted(at.values())


# What it computes


@ANY_HEAD
def test_keeping_all_layers_gives_the_same_bits(head):
    model = shared(head)
    compact = compact_model(model, range(len(layers_of(model))))

    assert compact is not model
    assert type(compact) is type(model)
    assert same(outputs_of(compact), outputs_of(model))
    assert same(outputs_of(compact_model(model, {})), outputs_of(model))  # no stack named: all kept whole


@pytest.mark.parametrize(("head", "kept", "flat"), CUTS)
def test_compact_model_is_its_masked_twin(head, kept, flat):
    model = shared(head)
    expected = masked_outputs(model, flat)

    assert same(outputs_of(compact_model(model, kept)), expected)
    assert same(outputs_of(compact_model(model, flat, share_weights=True)), expected)


@ANY_HEAD
def test_removed_layers_mattered_to_the_models_of_these_tests(head):
    """Else the equalities here would hold for anything."""
    model = shared(head)
    full, depth = outputs_of(model), len(layers_of(model))
    for index in range(depth):
        found = outputs_of(compact_model(model, removed_layers((index,), depth)))
        assert max((found[name] - full[name]).abs().max() for name in full) > 0.05


@st.composite
def models_and_kept_layers(draw):
    """A tiny model of a random family and shape, and layers of it to keep, at least one of each stack."""
    head = draw(st.sampled_from([*CAUSAL, "BertForMaskedLM", "T5ForConditionalGeneration"]))
    depth, heads = draw(st.integers(2, 5)), draw(st.sampled_from([1, 2, 4]))
    size = {"hidden_size": 16, "num_hidden_layers": depth, "num_attention_heads": heads}
    depths, tie = [depth], {} if head.startswith("T5") else {"tie_word_embeddings": draw(st.booleans())}
    if head.startswith(("Llama", "Qwen")):
        size["num_key_value_heads"] = draw(st.sampled_from([n for n in (1, 2, 4) if heads % n == 0]))
    if head.startswith("Qwen"):
        size["layer_types"] = draw(st.lists(st.sampled_from([FULL, SLIDING]), min_size=depth, max_size=depth))
    if head.startswith("T5"):
        depths.append(draw(st.integers(2, 5)))
        size |= {"num_decoder_layers": depths[1], "feed_forward_proj": draw(st.sampled_from(["relu", "gated-gelu"]))}
    kept = [sorted(draw(st.sets(st.integers(0, depth - 1), min_size=1))) for depth in depths]
    flat = tuple(index + sum(depths[:stack]) for stack, indices in enumerate(kept) for index in indices)
    return made(head, draw(st.integers(0, 9)), **size, **tie), flat


@settings(max_examples=60, deadline=None)
@given(models_and_kept_layers())
def test_compact_model_of_any_shape_is_its_masked_twin(case):
    model, kept = case
    compact = compact_model(model, kept)

    assert len(layers_of(compact)) == len(kept)
    assert same(outputs_of(compact), masked_outputs(model, kept))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("head", [*CAUSAL, "BertForMaskedLM", "T5ForConditionalGeneration"])
def test_compact_model_is_its_masked_twin_in_other_precisions(tmp_path, head, dtype):
    """Read from disk in half precision, rotary frequencies and some of T5's weights stay in fp32; a cast would show."""
    shared(head).save_pretrained(tmp_path)
    for model in (type(shared(head)).from_pretrained(tmp_path, dtype=dtype), made(head).to(dtype)):
        _, flat = next(cuts(head))
        compact = compact_model(model, flat)
        kinds = {name: tensor.dtype for name, tensor in [*compact.named_parameters(), *compact.named_buffers()]}
        assert same(outputs_of(compact), masked_outputs(model, flat))
        theirs = {name: tensor.dtype for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
        assert kinds == {name: theirs[name] for name in kinds}
        assert dtype in kinds.values()


@pytest.mark.parametrize("name", FAMILIES)
def test_compact_recommender_scores_like_its_masked_twin(tmp_path, name):
    recommender = build_recommender(name, 20, 8, Shape(4, 16, 24, 2), seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in recommender.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    histories = [np.array([1, 2, 3]), np.array([7]), np.arange(15)]
    full = recommender.scores(histories)
    with bypassed(recommender, (0, 2)):
        masked = recommender.scores(histories)
    compact = compact_model(recommender, (1, 3))
    compact.save(tmp_path)

    np.testing.assert_array_equal(compact.scores(histories), masked)
    np.testing.assert_array_equal(Recommender.load(tmp_path).scores(histories), masked)
    assert np.abs(masked - full).max() > 0.1
    assert (compact.num_items, compact.max_length, len(compact.layers), len(recommender.layers)) == (20, 8, 2, 4)
    for training in (True, False):
        modes = {module.training for module in compact_model(recommender.train(training), (1, 3)).modules()}
        assert modes == {training}


# What it leaves alone


@ANY_HEAD
def test_model_passed_in_and_global_state_are_untouched(head):
    model = made(head).train()
    layers_of(model)[1].eval().requires_grad_(False)
    layers_of(model)[2].register_forward_hook(lambda *_: None)
    sum(value.sum() for value in model(**inputs_of(model)).values() if torch.is_tensor(value)).backward()
    before, states = digest(model), (torch.get_rng_state(), random.getstate())
    for share_weights in (True, False):
        compact = compact_model(model, next(cuts(head))[1], share_weights).requires_grad_(False).eval()
        compact.config.num_labels = compact.config.num_hidden_layers = 1
        if compact.can_generate():
            compact.generation_config.max_length = 3
    for tensor in [*compact.parameters(), *compact.buffers()]:
        tensor.data.fill_(7)

    assert digest(model) == before
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (torch.get_default_dtype(), torch.get_default_device()) == (torch.float32, torch.device("cpu"))


@ANY_HEAD
def test_weights_are_copies_unless_they_are_to_be_shared(head):
    """Shared are all but what depends on the layer's index; the parameters themselves never are."""
    model = shared(head)
    theirs, ids = {p.data_ptr() for p in model.parameters()}, {id(p) for p in model.parameters()}
    copied, sharer = (compact_model(model, next(cuts(head))[1], share_weights) for share_weights in (False, True))
    apart = [name for name, parameter in sharer.named_parameters() if parameter.data_ptr() not in theirs]

    assert not theirs & {parameter.data_ptr() for parameter in copied.parameters()}
    assert not ids & {id(parameter) for parameter in sharer.parameters()}
    assert [name for name in apart if not re.search(r"\.attn\.c_attn|crossattention\.q_attn", name)] == []
    assert bool(apart) is (head == "GPT2LMHeadModel-inverse")


def test_training_a_model_that_shares_its_weights_trains_the_full_one():
    model = made("LlamaForCausalLM")
    compact = compact_model(model, (2,), share_weights=True)
    with torch.no_grad():
        layers_of(compact)[0].mlp.up_proj.weight.zero_()

    assert not layers_of(model)[2].mlp.up_proj.weight.any()
    assert layers_of(model)[1].mlp.up_proj.weight.any()


@pytest.mark.parametrize("share_weights", [False, True])
def test_mode_and_gradient_flags_are_carried_over(share_weights):
    """Of each layer, and of the table that the first encoder layer holds for a layer that takes its place."""
    model = made("T5ForConditionalGeneration").train()
    first, _, third = list(model.encoder.block)[:3]
    third.eval().layer[1].requires_grad_(False)
    first.layer[0].SelfAttention.relative_attention_bias.eval().requires_grad_(False)
    model.shared.requires_grad_(False)
    compact = compact_model(model, {"encoder": (2, 3)}, share_weights)
    block = "encoder.block.0.layer.1"

    assert {name for name, p in compact.named_parameters() if not p.requires_grad} == {
        "shared.weight",
        f"encoder.block.0.{TABLE}.weight",
        *(f"{block}.{path}.weight" for path in ("DenseReluDense.wi", "DenseReluDense.wo", "layer_norm")),
    }
    assert {name for name, module in compact.named_modules() if not module.training} == {
        name for name, _ in compact.named_modules() if name == "encoder.block.0" or name.startswith("encoder.block.0.")
    }
    assert all(parameter.grad is None for parameter in compact.parameters())


# What is saved


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Per head, the compact model, the folder of the full and the compact one, and what `transformers` alone reads."""
    folder, compacts, asked = tmp_path_factory.mktemp("checkpoints"), {}, {}
    for head in HEADS:
        compacts[head] = compact_model(shared(head), next(cuts(head))[0])
        shared(head).save_pretrained(folder / head / "full")
        compacts[head].save_pretrained(folder / head / "compact")
        asked[head] = inputs_of(compacts[head]), PROMPT if head in WRITERS else None
    torch.save(asked, folder / "asked.pt")
    command = [sys.executable, "-c", READ_WITHOUT_LAYERWISE, folder / "asked.pt", folder, folder / "found.pt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = torch.load(folder / "found.pt")
    return {head: (compacts[head], folder / head, found[head]) for head in HEADS}


@ANY_HEAD
def test_transformers_alone_reads_the_saved_model_back(checkpoints, head):
    compact, _, read = checkpoints[head]

    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= read["report"].keys()
    assert not any(read["report"].values())
    assert same(read["outputs"], outputs_of(compact))


@ANY_HEAD
def test_file_shrinks_by_exactly_the_removed_layers(checkpoints, head):
    """T5's tables of relative positions belong to a stack, not to a layer."""
    _, folder, _ = checkpoints[head]
    removed = removed_layers(next(cuts(head))[1], len(layers_of(shared(head))))
    weights = [named for index in removed for named in layers_of(shared(head))[index].named_parameters()]
    expected = 4 * sum(weight.numel() for name, weight in weights if "relative_attention_bias" not in name)
    full, compact = (weight_bytes(folder / name) for name in ("full", "compact"))

    assert full - compact == expected > 0


def weight_bytes(folder):
    """Size of a checkpoint's weights without the header, whose length stands in its first eight bytes."""
    content = (folder / "model.safetensors").read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


def test_layer_parameters_are_those_of_the_layers_alone():
    layer = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24 + 2 * 16  # q o, k v, feed-forward, norms

    assert layer_parameters(shared("LlamaForCausalLM")) == NUM_LAYERS * layer
    assert layer_parameters(compact_model(shared("LlamaForCausalLM"), (1, 2))) == 2 * layer


@pytest.mark.parametrize("head", WRITERS)
def test_generation_with_a_cache_equals_generation_without(checkpoints, head):
    compact, _, read = checkpoints[head]
    texts = [compact.generate(**PROMPT, use_cache=use_cache) for use_cache in (True, False)] + read["texts"]

    assert len(texts) == 4
    assert all(torch.equal(text, texts[0]) for text in texts)
    assert texts[0].shape[1] > (1 if head.startswith("T5") else TOKENS.shape[1])


# Known ways to be wrong


@ANY_HEAD
def test_trap_stale_layer_idx(head):
    """A module that keeps its old index writes to a place of the cache that is not there."""
    compact = compact_model(shared(head), next(cuts(head))[0])
    for layers in stacks_of(compact).values():
        found = [{m.layer_idx for m in layer.modules() if hasattr(m, "layer_idx")} for layer in layers]
        assert found == [{index} for index in range(len(layers))]


@ANY_HEAD
def test_trap_stale_num_hidden_layers(checkpoints, head):
    """A stale count is read back as a deeper model whose further layers are random."""
    compact, folder, _ = checkpoints[head]
    full = shared(head).config.to_dict()
    saved = json.loads((folder / "compact" / "config.json").read_text())
    for stack, layers in stacks_of(compact).items():
        assert saved[stack.depth] == getattr(compact.config, stack.depth) == len(layers) < full[stack.depth]
        full[stack.depth] = len(layers)
    if "layer_types" in full:
        full["layer_types"] = compact.config.layer_types
    assert compact.config.to_dict() | {"architectures": None} == full | {"architectures": None}
    assert saved["architectures"] == [type(compact).__name__]
    if compact.can_generate():
        assert compact.generation_config.to_dict() == shared(head).generation_config.to_dict()


@pytest.mark.parametrize("head", [head for head in HEADS if head.startswith("Qwen")])
@pytest.mark.parametrize("kept", [(1, 3), (0, 3), (1, 2, 3), (3,)], ids=str)
def test_trap_lists_with_an_entry_per_layer(tmp_path, head, kept):
    """Cut to length instead of selected by index, the list is read back and computes another function."""
    model = shared(head)
    compact = compact_model(model, kept)
    compact.save_pretrained(tmp_path)

    assert compact.config.layer_types == [WINDOWS["layer_types"][index] for index in kept]
    assert same(outputs_of(type(model).from_pretrained(tmp_path)), masked_outputs(model, kept))

    saved = json.loads((tmp_path / "config.json").read_text())
    saved["layer_types"] = WINDOWS["layer_types"][: len(kept)]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    wrong = outputs_of(type(model).from_pretrained(tmp_path))
    assert same(wrong, outputs_of(compact)) is (saved["layer_types"] == compact.config.layer_types)


@pytest.mark.parametrize("head", [head for head in HEADS if head.startswith("T5")])
def test_trap_relative_bias_table_of_t5(checkpoints, head):
    """Only a stack's first layer holds the table; without its first layer a stack would lose it."""
    compact, _, _ = checkpoints[head]
    for stack, layers in stacks_of(compact).items():
        theirs = next(theirs for of, theirs in stacks_of(shared(head)).items() if of == stack)
        assert torch.equal(layers[0].get_submodule(TABLE).weight, theirs[0].get_submodule(TABLE).weight)
        owners = [layer.layer[0].SelfAttention.has_relative_attention_bias for layer in layers]
        assert owners == [True] + [False] * (len(layers) - 1)
        with torch.no_grad():
            layers[0].get_submodule(TABLE).weight.mul_(-1)
            changed = outputs_of(compact)
            layers[0].get_submodule(TABLE).weight.mul_(-1)
        assert not same(changed, outputs_of(compact))


@pytest.mark.parametrize(("kept", "exact"), [((1, 3), True), ((3,), True), ((2,), False), ((0, 2, 3), False)], ids=str)
@pytest.mark.parametrize("cross", [True, False])
def test_trap_inverse_layer_scaling_of_gpt2(tmp_path, kept, exact, cross):
    """Attention is divided by the index + 1; where the quotient of two such is no power of two, folding rounds."""
    model = made("GPT2LMHeadModel-inverse", add_cross_attention=cross)
    compact_model(model, kept).save_pretrained(tmp_path)
    found, expected = outputs_of(AutoModelForCausalLM.from_pretrained(tmp_path)), masked_outputs(model, kept)

    assert same(found, expected) or not exact
    torch.testing.assert_close(found["logits"], expected["logits"], rtol=1e-4, atol=1e-4)

    compact = compact_model(model, kept)
    new, old = next((new, old) for new, old in enumerate(kept) if new != old)
    layers_of(compact)[new].attn.c_attn.load_state_dict(layers_of(model)[old].attn.c_attn.state_dict())
    assert (outputs_of(compact)["logits"] - expected["logits"]).abs().max() > 0.01


@pytest.mark.parametrize("how", ["kept", "taken off", "never made"])
def test_trap_pooler_of_bert(tmp_path, how):
    """A pooler that the full model has is kept; one that it does without is not made up."""
    model = made("BertModel")
    if how == "taken off":
        model.pooler = None
    if how == "never made":
        model = transformers.BertModel(model.config, add_pooling_layer=False).eval()
    compact = compact_model(model, (1, 3))
    compact.save_pretrained(tmp_path)
    options = {"add_pooling_layer": how == "kept", "output_loading_info": True}
    read, report = transformers.BertModel.from_pretrained(tmp_path, **options)

    assert not any(report.values())
    assert ("pooler_output" in outputs_of(read)) is (how == "kept")
    assert same(outputs_of(read), masked_outputs(model, (1, 3)))


@ANY_HEAD
def test_trap_tied_embeddings(checkpoints, head):
    """What shares memory in the full model shares it in the compact one, also when read back, and nothing else does."""
    compact, _, read = checkpoints[head]
    groups = [[name for name in names if name in compact.state_dict()] for names in sharing(shared(head))]
    ties = {name for names in groups if len(names) > 1 for name in names}

    assert {name for names in sharing(compact) if len(names) > 1 for name in names} == ties
    assert read["sharing"] == sharing(compact)
    output = shared(head).get_output_embeddings()
    if output is not None:
        tied = output.weight is shared(head).get_input_embeddings().weight
        assert (compact.get_output_embeddings().weight is compact.get_input_embeddings().weight) is tied
        assert tied is ("untied" not in head)


# What is refused


@pytest.mark.parametrize("kept", [(), (3, 3), (1, 0), (99,), (-1,), (0, 4), (0, 2, 1)], ids=str)
def test_bad_kept_layers_are_refused_with_value_and_range(kept):
    message = re.escape(f"kept_layers must increase strictly within [0, 4), got {kept}")
    for head in ("LlamaForCausalLM", "T5EncoderModel", "BertModel", "GPT2Model"):
        with pytest.raises(ValueError, match=f"^{message}$"):
            compact_model(shared(head), kept)
    with pytest.raises(ValueError, match=f"^{message}$"):
        compact_model(shared("T5Model"), {"encoder": kept})


def test_stacks_that_are_unknown_or_left_empty_are_refused():
    refused = {
        r"kept_layers \(0, 1\) leave no layer of the decoder, whose layers are 4 to 6": (0, 1),
        r"kept_layers \(4, 6\) leave no layer of the encoder, whose layers are 0 to 3": (4, 6),
        r"must name \['encoder', 'decoder'\], got \['decodr'\]": {"decodr": (0,)},
        r"within \[0, 3\), got \(3,\)": {"decoder": (3,)},
        r"within \[0, 3\), got \(\)": {"decoder": ()},
        r"within \[0, 7\), got \(0, 7\)": (0, 7),
    }
    for message, kept in refused.items():
        with pytest.raises(ValueError, match=message):
            compact_model(shared("T5Model"), kept)
    with pytest.raises(ValueError, match=r"must name \['encoder'\], got \['decoder'\]"):
        compact_model(shared("T5EncoderModel"), {"decoder": (0,)})
    with pytest.raises(ValueError, match=r"must name \['layers'\], got \['encoder'\]"):
        compact_model(shared("BertModel"), {"encoder": (0,)})


def test_share_given_for_layers_is_no_layer():
    with pytest.raises(TypeError, match=r"kept_layers must be whole numbers, got \(0\.25,\)"):
        compact_model(shared("LlamaModel"), (0.25,))


def test_kept_layers_may_come_from_numpy():
    assert check_kept_layers(np.array([0, 2]), 3) == (0, 2)
    assert all(type(index) is int for index in check_kept_layers(np.array([0, 2]), 3))
    assert check_kept_layers(range(3), 3) == (0, 1, 2)


def test_removed_layers_are_the_others():
    assert removed_layers((1, 2), 4) == (0, 3)
    assert removed_layers(range(4), 4) == ()


def test_adapters_quantised_and_offloaded_weights_are_refused():
    adapted, quantised, offloaded = (made("LlamaModel") for _ in range(3))
    adapted.layers[1].self_attn.q_proj.lora_A = nn.Linear(16, 2)
    quantised.hf_quantizer = object()
    offloaded.layers[3].mlp.to("meta")

    with pytest.raises(ValueError, match=r"LoRA adapters.*merge them before the cut"):
        compact_model(adapted, (0,))
    with pytest.raises(ValueError, match="the model is quantised; cut it first"):
        compact_model(quantised, (0,))
    with pytest.raises(ValueError, match=r"layers\.3\.mlp\.\w+\.weight is not in memory \(offloaded\)"):
        compact_model(offloaded, (0,))
