"""Finding, bypassing, resuming and watching layers, in every family, against models that are shortened by hand."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertLMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5EncoderModel,
    T5ForSequenceClassification,
    T5Model,
)

from layerwise.models.families import FAMILIES, Shape, UnsupportedArchitectureError
from layerwise.models.layers import (
    bypassed,
    cut_config,
    forward_inputs,
    layer_prefixes,
    layers_of,
    pretrained_of,
    resumed,
    run_layers,
    shifts_labels,
    stacks_of,
    state_of,
    traced,
)
from layerwise.models.recommender import build_recommender

NUM_LAYERS = 4
INDICES = range(NUM_LAYERS)
FINAL_NORMS = {
    "llama": ("norm",),
    "qwen3": ("norm",),
    "gpt2": ("ln_f",),
    "bert": (None,),  # normalises inside its layers
    "t5": ("encoder.final_layer_norm", "decoder.final_layer_norm"),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture
def model(family):
    """A language model of the family whose layers all matter: noise on every weight."""
    return made(family)


@pytest.fixture
def inputs(family):
    return inputs_of(family)


def made(family):
    model = build_recommender(family.name, 30, 12, Shape(NUM_LAYERS, 16, 24, 4), seed=0).model.eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs_of(family):
    """Two rows, the second of them padded; the decoder's tokens where there is one."""
    tokens = torch.arange(14).reshape(2, 7)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    decoder = {"decoder_input_ids": torch.tensor([[30, 4, 9], [30, 2, 2]])} if len(family.stacks) == 2 else {}
    return {"input_ids": tokens, "attention_mask": mask, **decoder}


def logits_of(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def without(model, removed):
    """The slow way: a copy whose lists of layers really are shorter; T5's table is moved by hand."""
    short, start = copy.deepcopy(model), 0
    for layers in stacks_of(short).values():
        kept = [layer for index, layer in enumerate(layers, start) if index not in removed]
        start += len(layers)
        if kept and model.config.model_type == "t5":
            attention = kept[0].layer[0].SelfAttention
            attention.relative_attention_bias = layers[0].layer[0].SelfAttention.relative_attention_bias
            attention.has_relative_attention_bias = True
        layers._modules = {str(place): layer for place, layer in enumerate(kept)}
    return short


def forwards(model):
    """Layers whose `forward` somebody has replaced."""
    return [layer for layer in layers_of(model) if "forward" in vars(layer)]


# Finding


def test_layers_are_found_in_a_language_model_its_base_and_a_recommender(family, model):
    recommender = build_recommender(family.name, 20, 8, Shape(3, 16, 24, 2), seed=0)

    assert len(layers_of(model)) == NUM_LAYERS
    assert layers_of(model.base_model) == layers_of(model)
    assert stacks_of(model.base_model) == stacks_of(model)
    assert layers_of(recommender) == layers_of(recommender.model)
    assert len(layers_of(recommender)) == 3
    assert pretrained_of(recommender) is recommender.model
    assert pretrained_of(model) is model


def test_encoder_stands_before_decoder_and_an_encoder_alone_is_one_stack():
    model = made(FAMILIES["t5"])
    alone = T5EncoderModel(model.config)

    assert layers_of(model) == [*model.encoder.block, *model.decoder.block]
    assert {stack.name: layers for stack, layers in stacks_of(alone).items()} == {"encoder": alone.encoder.block}
    classifier = T5ForSequenceClassification(model.config)
    assert list(layer_prefixes(classifier).values()) == ["transformer.encoder.block.", "transformer.decoder.block."]


def test_prefixes_name_exactly_the_weights_of_the_layers(model):
    for whole in (model, model.base_model):
        prefixes = layer_prefixes(whole)
        assert prefixes.keys() == stacks_of(whole).keys()
        inside = {id(p) for layer in layers_of(whole) for p in layer.parameters()}
        for name, parameter in whole.named_parameters():
            assert name.startswith(tuple(prefixes.values())) is (id(parameter) in inside)
        for stack, layers in stacks_of(whole).items():
            assert whole.get_submodule(f"{prefixes[stack]}1") is layers[1]


def test_what_is_no_transformer_is_refused():
    for nothing in (nn.Linear(2, 2), SimpleNamespace(model=nn.Linear(2, 2))):
        message = f"expected a transformers model or a Recommender, got {type(nothing).__name__}"
        with pytest.raises(UnsupportedArchitectureError, match=message):
            layers_of(nothing)


# Configuration


def test_cut_configuration_differs_in_depth_alone(family, model):
    model.config.num_items, model.config.max_history = 29, 8  # what a saved recommender carries
    model.set_attn_implementation("eager")
    before = model.config.to_dict()
    cut = cut_config(model.config, {family.stacks[-1]: (1,)})

    per_layer = {name: before[name][1:2] for name in family.per_layer if before.get(name) is not None}
    assert cut.to_dict() == before | {family.stacks[-1].depth: 1} | per_layer
    assert type(cut) is type(model.config)
    assert cut._attn_implementation == "eager"
    assert model.config.to_dict() == before


def test_stacks_of_an_encoder_decoder_are_cut_separately():
    encoder, decoder = FAMILIES["t5"].stacks
    config = made(FAMILIES["t5"]).config

    both = {encoder: (0,), decoder: (1,)}
    for kept, depths in (({encoder: (1,)}, (1, 2)), ({decoder: (0,)}, (2, 1)), (both, (1, 1))):
        cut = cut_config(config, kept)
        model = T5Model(cut)
        assert (cut.num_layers, cut.num_decoder_layers) == depths
        assert (len(model.encoder.block), len(model.decoder.block)) == depths
        assert model.decoder.config.num_layers == depths[1]


def test_lists_with_an_entry_per_layer_are_selected_by_index():
    """Cutting such a list to length instead would reload in silence and compute another function."""
    full, sliding = "full_attention", "sliding_attention"
    config = Qwen2Config(num_hidden_layers=4, layer_types=[full, full, sliding, full], sliding_window=3)
    (stack,) = FAMILIES["qwen3"].stacks

    assert cut_config(config, {stack: (1, 2)}).layer_types == [full, sliding]
    assert cut_config(config, {stack: (0, 3)}).layer_types == [full, full]


# Feeding


def test_only_causal_language_models_shift_their_labels(family, model):
    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    bert, decoder = BertConfig(**tiny), BertConfig(**tiny, is_decoder=True)

    assert shifts_labels(model) is (family.inputs == "causal")
    assert not shifts_labels(model.base_model)
    assert shifts_labels(BertLMHeadModel(decoder))
    assert shifts_labels(Qwen2ForCausalLM(Qwen2Config(**tiny, num_key_value_heads=1)))
    assert not shifts_labels(BertForMaskedLM(bert))
    assert not shifts_labels(BertForSequenceClassification(bert))


def test_inputs_of_a_forward_pass_leave_the_labels_out(family, model, inputs):
    labels = torch.tensor([[1, 2, 3], [4, -100, -100]])
    found = forward_inputs(model, inputs | {"labels": labels})

    assert found.keys() == inputs.keys()
    assert all(found[name] is inputs[name] for name in inputs)


def test_tokens_of_a_decoder_are_made_from_the_labels_where_absent():
    model = made(FAMILIES["t5"])
    batch = inputs_of(FAMILIES["t5"]) | {"labels": torch.tensor([[1, 2, 3], [4, 5, -100]])}
    del batch["decoder_input_ids"]
    inputs, start = forward_inputs(model, batch), model.config.decoder_start_token_id

    assert inputs.keys() == {"input_ids", "attention_mask", "decoder_input_ids"}
    assert inputs["decoder_input_ids"].tolist() == [[start, 1, 2], [start, 4, 5]]
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, model(**batch).logits)


# Bypassing


@pytest.mark.parametrize("removed", [(), (0,), (3,), (2,), (1, 2), (0, 2), (0, 1, 2), (0, 1, 2, 3)], ids=str)
def test_bypassed_model_computes_what_a_shorter_list_of_layers_computes(model, inputs, removed):
    with bypassed(model, removed):
        masked = logits_of(model, inputs)

    assert torch.equal(masked, logits_of(without(model, removed), inputs))


def test_every_layer_matters_to_the_models_of_these_tests(model, inputs):
    """Else the equalities here would hold for anything."""
    full = logits_of(model, inputs)
    for index in INDICES:
        with bypassed(model, (index,)):
            assert (logits_of(model, inputs) - full).abs().max() > 0.1


@pytest.mark.parametrize("outside", [(-1,), (4,), (0, 99)], ids=str)
def test_layer_out_of_range_is_no_layer_to_bypass(model, outside):
    with pytest.raises(ValueError, match=rf"must lie within \[0, 4\), got \[{outside[-1]}\]"), bypassed(model, outside):
        pass
    assert not forwards(model)


def test_bypassed_layers_come_back_also_after_an_error(model, inputs):
    before = logits_of(model, inputs)
    with bypassed(model, (0, 2)):
        assert forwards(model) == [layers_of(model)[index] for index in (0, 2)]
    with pytest.raises(RuntimeError, match="stop"), bypassed(model, (0, 2)):
        raise RuntimeError("stop")

    assert not forwards(model)
    assert torch.equal(logits_of(model, inputs), before)


def test_bypasses_nest_and_a_layer_may_be_named_twice(model, inputs):
    with bypassed(model, (1,)):
        outer = logits_of(model, inputs)
        with bypassed(model, (1, 2, 2)):
            inner = logits_of(model, inputs)
        assert torch.equal(logits_of(model, inputs), outer)

    assert torch.equal(outer, logits_of(without(model, (1,)), inputs))
    assert torch.equal(inner, logits_of(without(model, (1, 2)), inputs))
    assert not forwards(model)


def test_a_forward_that_somebody_else_put_on_a_layer_is_still_there_afterwards(model, inputs):
    """Tools that spread a model over devices wrap `forward` on the instance."""
    layer = layers_of(model)[1]
    wrapped = layer.forward
    layer.forward = lambda *args, **kwargs: wrapped(*args, **kwargs)
    theirs = layer.forward
    with bypassed(model, (1,)):
        masked = logits_of(model, inputs)
    assert layer.forward is theirs

    del layer.forward
    assert torch.equal(masked, logits_of(without(model, (1,)), inputs))


# Watching and resuming


def hidden_states_and_trace(model, inputs):
    """What `transformers` collects, one tuple per stack, and what is traced in the same pass."""
    with torch.no_grad(), traced(model) as trace:
        output = model(**inputs, output_hidden_states=True)
    names = ("encoder_hidden_states", "decoder_hidden_states") if len(stacks_of(model)) == 2 else ("hidden_states",)
    return [output[name] for name in names], trace


def test_trace_holds_what_enters_and_leaves_each_layer(model, inputs):
    tuples, trace = hidden_states_and_trace(model, inputs)
    entered = [state for states in tuples for state in states[:-1]]
    left = [state for states in tuples for state in (*states[1:-1], None)]  # None: the tuple does not hold it

    assert len(trace.inputs) == len(trace.outputs) == len(entered) == NUM_LAYERS
    assert all(torch.equal(found, state) for found, state in zip(trace.inputs, entered, strict=True))
    assert all(state is None or torch.equal(found, state) for found, state in zip(trace.outputs, left, strict=True))


def test_trap_last_hidden_state_is_after_the_final_norm(family, model, inputs):
    """Where a norm follows the layers, the tuple's last entry is no layer's output; a trace holds the output itself."""
    tuples, trace = hidden_states_and_trace(model, inputs)
    end = 0
    for layers, norm, states in zip(stacks_of(model).values(), FINAL_NORMS[family.name], tuples, strict=True):
        end += len(layers)
        left = trace.outputs[end - 1]
        after = left if norm is None else model.base_model.get_submodule(norm)(left)
        assert torch.equal(states[-1], after)
        assert bool((states[-1] - left).abs().max() > 0.1) is (norm is not None)


def test_trace_removes_its_hooks_also_after_an_error(model, inputs):
    with pytest.raises(RuntimeError, match="stop"), traced(model) as trace:
        raise RuntimeError("stop")
    logits_of(model, inputs)

    assert trace.inputs == trace.outputs == []
    assert not any(layer._forward_hooks for layer in layers_of(model))


@pytest.mark.parametrize("index", INDICES)
def test_resumed_model_equals_the_bypassed_one(model, inputs, index):
    before = logits_of(model, inputs)
    with bypassed(model, (index,)):
        expected = logits_of(model, inputs)
    with traced(model) as trace:
        logits_of(model, inputs)
    with resumed(model, index, trace):
        found = logits_of(model, inputs)

    assert torch.equal(found, expected)
    assert not forwards(model)
    assert torch.equal(logits_of(model, inputs), before)


@pytest.mark.parametrize("index", INDICES)
def test_resumed_model_computes_only_the_later_layers(family, model, inputs, index):
    computed = []
    for place, layer in enumerate(layers_of(model)):
        layer.get_submodule(family.branches[0]).register_forward_hook(lambda *_, at=place: computed.append(at))
    with traced(model) as trace:
        logits_of(model, inputs)
    assert computed == list(INDICES)

    computed.clear()
    with resumed(model, index, trace):
        logits_of(model, inputs)
    assert computed == list(range(index + 1, NUM_LAYERS))


def test_resumed_recommender_equals_the_bypassed_one(family):
    recommender = build_recommender(family.name, 20, 8, Shape(NUM_LAYERS, 16, 24, 2), seed=0).eval()
    batch = recommender.batch([torch.arange(1, 6).numpy(), torch.arange(9).numpy()])
    with torch.no_grad(), traced(recommender) as trace:
        recommender(**batch)
    for index in INDICES:
        with torch.no_grad(), bypassed(recommender, (index,)):
            expected = recommender(**batch)
        with torch.no_grad(), resumed(recommender, index, trace):
            assert torch.equal(recommender(**batch), expected)


def test_layers_run_without_the_head_pass_the_same_states(model, inputs):
    heads = []
    model.get_output_embeddings().register_forward_hook(lambda *_: heads.append(1))
    with torch.no_grad(), traced(model) as whole:
        model(**inputs)
    with torch.no_grad(), traced(model) as layers_alone:
        run_layers(model, inputs)

    assert len(heads) == (2 if model.base_model is model else 1)  # no part of a T5 is it without its head
    for found, expected in ((layers_alone.inputs, whole.inputs), (layers_alone.outputs, whole.outputs)):
        assert all(torch.equal(state, same) for state, same in zip(found, expected, strict=True))


def test_layers_of_a_t5_classifier_run_too():
    config = made(FAMILIES["t5"]).config
    config.eos_token_id = 13
    with torch.random.fork_rng(devices=[]):
        classifier = T5ForSequenceClassification(config).eval()
    with torch.no_grad(), traced(classifier) as trace:
        run_layers(classifier, {"input_ids": torch.tensor([[3, 4, 13], [5, 6, 13]]), "labels": torch.tensor([0, 1])})

    assert [tuple(state.shape) for state in trace.outputs] == [(2, 3, 16)] * NUM_LAYERS


def test_state_of_an_output_is_its_first_part():
    state = torch.zeros(1, 2, 3)

    assert state_of(state) is state
    assert state_of((state, torch.ones(1))) is state


def test_gradients_pass_through_a_bypassed_layer_to_the_others(model, inputs):
    with bypassed(model, (1,)):
        model(**inputs).logits.sum().backward()
    reached = [any(p.grad is not None and p.grad.any() for p in layer.parameters()) for layer in layers_of(model)]

    assert reached == [True, False, True, True]
