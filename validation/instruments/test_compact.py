"""A compact model computes what the masked twin computes, and `transformers` alone can read it back."""

import hashlib
import re
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from layerwise.compression.compact import (
    check_kept_layers,
    compact_model,
    layer_parameters,
    removed_layers,
)
from layerwise.models.families import Shape, UnsupportedArchitectureError, bypassed, layers_of
from layerwise.models.recommender import build_recommender

NUM_LAYERS, VOCABULARY = 6, 41
TOKENS = torch.arange(18).reshape(2, 9)
READ_WITHOUT_LAYERWISE = """
import sys
sys.modules["layerwise"] = None  # an import of it would fail
import torch
from transformers import AutoModelForCausalLM
model, report = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(report.values()), report
assert sum(name.startswith("model.layers.") and name.endswith("q_proj.weight") for name in model.state_dict()) == 3
with torch.no_grad():
    torch.save(model(torch.arange(18).reshape(2, 9)).logits, sys.argv[2])
"""


def made(seed=0, num_layers=NUM_LAYERS, **fields):
    """Random Llama whose layers all matter: large weights, grouped-query attention."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        **{"tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None} | fields,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


shared = cache(made)  # for tests that only look


@pytest.fixture
def model():
    return made()


def logits_of(model, tokens=TOKENS):
    with torch.no_grad():
        return model(tokens).logits


def masked_logits(model, kept, tokens=TOKENS):
    with bypassed(model, removed_layers(kept, len(layers_of(model)))), torch.no_grad():
        return model(tokens, use_cache=False).logits


def digest(model):
    """Everything of a model that somebody could have changed."""
    parts = [str(model.config.to_dict()), str(model.generation_config.to_dict()), str(model)]
    for name, module in model.named_modules():
        parts.append(f"{name} {module.training} {sorted(vars(module))} {len(module._forward_hooks)}")
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parts.append(f"{name} {parameter.requires_grad} {parameter.grad} {parameter.data_ptr()}")
    text = hashlib.sha256("\n".join(parts).encode())
    for name, tensor in [*model.state_dict().items(), *model.named_buffers()]:
        text.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        text.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return text.hexdigest()


def test_keeping_all_layers_gives_the_same_bits(model):
    compact = compact_model(model, range(NUM_LAYERS))

    assert compact is not model
    assert torch.equal(logits_of(compact), logits_of(model))


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, NUM_LAYERS - 1), min_size=1), st.integers(0, 2), st.booleans())
def test_compact_model_is_its_masked_twin(kept, seed, tie):
    model = shared(seed, tie_word_embeddings=tie)
    compact = compact_model(model, sorted(kept))

    assert torch.equal(logits_of(compact), masked_logits(model, kept))


def test_removed_layers_mattered_to_the_models_of_these_tests():
    """Else the equalities here would hold for anything."""
    model = shared()
    for index in range(NUM_LAYERS):
        kept = removed_layers((index,), NUM_LAYERS)
        assert (logits_of(compact_model(model, kept)) - logits_of(model)).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_compact_model_is_its_masked_twin_in_other_precisions(tmp_path, dtype):
    """Read from disk in half precision, a model keeps its rotary frequencies in fp32; casting them would show."""
    shared().save_pretrained(tmp_path)
    long = torch.arange(80).reshape(2, 40) % VOCABULARY
    for model in (AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype), made().to(dtype)):
        compact = compact_model(model, (1, 2, 5))
        assert torch.equal(logits_of(compact, long), masked_logits(model, (1, 2, 5), long))
        assert {p.dtype for p in compact.parameters()} == {dtype}
        assert [b.dtype for b in compact.buffers()] == [b.dtype for b in model.buffers()]


def test_model_passed_in_and_global_generator_are_untouched(model):
    model.train()
    model.model.layers[2].requires_grad_(False)
    model(TOKENS, labels=TOKENS).loss.backward()
    before, state = digest(model), torch.get_rng_state()
    compact = compact_model(model, (0, 2, 5))
    with torch.no_grad():
        for parameter in compact.parameters():
            parameter.fill_(7)
    compact.config.num_hidden_layers = 1
    compact.generation_config.max_length = 3

    assert digest(model) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_are_copies_of_the_kept_layers_in_their_order(model):
    compact = compact_model(model, (1, 4))

    for new, old in enumerate((1, 4)):
        pairs = zip(layers_of(compact)[new].parameters(), layers_of(model)[old].parameters(), strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    theirs = {parameter.data_ptr() for parameter in model.parameters()}
    assert not theirs & {parameter.data_ptr() for parameter in compact.parameters()}


def test_compact_model_has_its_own_correct_configuration(model):
    compact = compact_model(model, (1, 3, 5))

    assert type(compact) is LlamaForCausalLM
    assert compact.config.num_hidden_layers == 3
    assert compact.config.to_dict() == model.config.to_dict() | {"num_hidden_layers": 3}
    assert [layer.self_attn.layer_idx for layer in layers_of(compact)] == [0, 1, 2]
    assert compact.generation_config.to_dict() == model.generation_config.to_dict()
    assert compact.config._attn_implementation == model.config._attn_implementation
    assert compact.device == model.device


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_gradient_flags_are_carried_over(model, training):
    model.train(training)
    model.model.layers[4].train(not training)
    model.model.layers[4].mlp.requires_grad_(False)
    model.model.embed_tokens.requires_grad_(False)
    compact = compact_model(model, (0, 4))
    modules = dict(compact.named_modules())

    assert compact.training is training
    assert modules["model.layers.0.mlp"].training is training
    assert modules["model.layers.1"].training is (not training)
    assert modules["model.layers.1.mlp.up_proj"].training is (not training)
    frozen = {name for name, parameter in compact.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        "model.embed_tokens.weight",
        *(f"model.layers.1.mlp.{part}_proj.weight" for part in ("up", "gate", "down")),
    }
    assert all(parameter.grad is None for parameter in compact.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_mode_of_a_recommender_is_carried_over(training):
    recommender = build_recommender("llama", 20, 8, Shape(3, 16, 24, 2), seed=0).train(training)
    compact = compact_model(recommender, (0, 2))

    assert {module.training for module in compact.modules()} == {training}


def test_compact_recommender_scores_like_its_masked_twin():
    recommender = build_recommender("llama", 20, 8, Shape(4, 16, 24, 2), seed=0)
    histories = [np.array([1, 2, 3]), np.array([7]), np.arange(15)]
    with bypassed(recommender, (0, 2)):
        masked = recommender.scores(histories)
    compact = compact_model(recommender, (1, 3))

    np.testing.assert_array_equal(compact.scores(histories), masked)
    assert (compact.num_items, compact.max_length, len(compact.layers)) == (20, 8, 2)
    assert len(recommender.layers) == 4


def test_base_model_without_a_head_is_cut_too(model):
    compact = compact_model(model.model, (2, 3))
    with torch.no_grad(), bypassed(model, (0, 1, 4, 5)):
        masked = model.model(TOKENS, use_cache=False).last_hidden_state
        assert torch.equal(compact(TOKENS).last_hidden_state, masked)


def test_transformers_alone_reads_the_saved_model_back(tmp_path, model):
    compact = compact_model(model, (0, 3, 4))
    compact.save_pretrained(tmp_path / "compact")
    command = [sys.executable, "-c", READ_WITHOUT_LAYERWISE, tmp_path / "compact", tmp_path / "logits.pt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits_of(compact))


def test_file_shrinks_by_the_removed_layers(tmp_path, model):
    sizes = {}
    for name, saved in (("full", model), ("compact", compact_model(model, (1, 2)))):
        saved.save_pretrained(tmp_path / name)
        sizes[name] = (tmp_path / name / "model.safetensors").stat().st_size
    parameters = 4 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24 + 2 * 16)  # four layers: q o, k v, feed-forward, norms
    header = 4 * 9 * 150  # names, shapes and offsets of nine tensors per layer

    assert layer_parameters(model) * 4 // NUM_LAYERS == parameters
    assert 4 * parameters < sizes["full"] - sizes["compact"] < 4 * parameters + header


@pytest.mark.parametrize("tie", [True, False])
def test_tied_embeddings_stay_tied_and_untied_ones_stay_apart(tmp_path, tie):
    compact = compact_model(made(tie_word_embeddings=tie), (0, 5))
    compact.save_pretrained(tmp_path)
    for model in (compact, AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert (model.lm_head.weight is model.model.embed_tokens.weight) is tie
        assert torch.equal(logits_of(model), logits_of(compact))


def test_generation_with_a_cache_equals_generation_without(model):
    compact = compact_model(model, (1, 3, 5))
    cached, plain = (
        compact.generate(TOKENS, max_new_tokens=20, do_sample=False, use_cache=use_cache) for use_cache in (True, False)
    )

    assert torch.equal(cached, plain)
    assert cached.shape == (2, 29)


@pytest.mark.parametrize("kept", [(), (3, 3), (1, 0), (99,), (-1,), (0, 6), (0, 2, 1)], ids=str)
def test_bad_kept_layers_are_refused_with_value_and_range(kept):
    message = re.escape(f"kept_layers must increase strictly within [0, 6), got {kept}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        compact_model(shared(), kept)


def test_share_given_for_layers_is_no_layer():
    with pytest.raises(TypeError, match=r"kept_layers must be whole numbers, got \(0\.25,\)"):
        compact_model(shared(), (0.25,))


def test_kept_layers_may_come_from_numpy():
    assert check_kept_layers(np.array([0, 2]), 3) == (0, 2)
    assert all(type(index) is int for index in check_kept_layers(np.array([0, 2]), 3))
    assert check_kept_layers(range(3), 3) == (0, 1, 2)


def test_removed_layers_are_the_others():
    assert removed_layers((1, 2), 4) == (0, 3)
    assert removed_layers(range(4), 4) == ()


def test_unknown_architecture_is_refused_and_supported_ones_are_named():
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=1, vocab_size=11, n_positions=8))
    with pytest.raises(UnsupportedArchitectureError, match=r"'gpt2' is not supported; .* \['llama'\]"):
        compact_model(gpt2, (0,))


# A model with weights that mean something


@pytest.fixture(scope="module")
def stories(pytestconfig):
    """Tokenizer, model and lines of evaluation text of stories260K."""
    folder = pytestconfig.rootpath.parent / "shared" / "models" / "stories260K-llama"
    if not folder.is_dir():
        pytest.skip("no pretrained stories260K-llama in ../shared/models next to the repository")
    lines = (folder / "eval_paragraphs.txt").read_text().splitlines()
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder), lines


def loss_per_token(model, tokenizer, lines):
    """Token-weighted mean over lines, as in the model's SOURCE.md."""
    losses, counts = [], []
    for line in lines:
        tokens = tokenizer(line, return_tensors="pt").input_ids
        with torch.no_grad():
            losses.append(model(tokens, labels=tokens).loss.item())
        counts.append(tokens.shape[1] - 1)
    return np.average(losses, weights=counts)


def test_pretrained_model_loses_what_its_source_says_without_each_layer(stories):
    """Numbers of an independent masked evaluation, quoted in SOURCE.md with three decimals."""
    tokenizer, model, lines = stories
    found = [
        loss_per_token(compact_model(model, removed_layers((index,), 5)), tokenizer, lines)
        for index in range(len(layers_of(model)))
    ]

    assert loss_per_token(compact_model(model, range(5)), tokenizer, lines) == pytest.approx(1.063, abs=2e-3)
    assert found == pytest.approx([4.707, 2.022, 1.719, 1.753, 2.149], abs=2e-3)


def test_pretrained_model_tells_the_story_its_source_quotes(stories):
    tokenizer, model, _ = stories
    tokens = tokenizer("Once upon a time", return_tensors="pt").input_ids
    told = compact_model(model, range(5)).generate(tokens, max_new_tokens=40, do_sample=False)

    assert tokenizer.decode(told[0], skip_special_tokens=True).strip() == (
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
        "One day, she saw a big, red ball."
    )


def test_compact_pretrained_model_survives_the_disk_and_generates(tmp_path, stories):
    tokenizer, model, _ = stories
    compact = compact_model(model, (0, 1, 3, 4))
    compact.save_pretrained(tmp_path)
    read, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    tokens = tokenizer("Once upon a time", return_tensors="pt").input_ids
    with torch.no_grad():
        masked = masked_logits(model, (0, 1, 3, 4), tokens)

    assert not any(report.values())
    assert torch.equal(logits_of(read, tokens), masked)
    cached, plain = (
        read.generate(tokens, max_new_tokens=30, do_sample=False, use_cache=use_cache) for use_cache in (True, False)
    )
    assert torch.equal(cached, plain)
