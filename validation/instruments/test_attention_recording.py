"""What is recorded of attention gives the maps that the models' own eager attention returns, and disturbs nothing."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from layerwise.models.attention import recorded_attention
from layerwise.models.families import FAMILIES, Shape, UnsupportedArchitectureError
from layerwise.models.layers import bypassed, layers_of
from layerwise.models.recommender import build_recommender

NUM_LAYERS, HIDDEN, HEADS, NUM_ITEMS = 4, 16, 2, 29
TOKENS = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14]])
PADDING = {
    "none": None,
    "right": torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]]),
    "left": torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]]),
}


def spread(model):
    """The model with weights so large that its attention is far from uniform."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or name.endswith("bias"):
                parameter.normal_(std=0.3, generator=random)
    return model.eval()


def built(family, implementation="sdpa", dropout=0.0):
    model = build_recommender(family, NUM_ITEMS, 8, Shape(NUM_LAYERS, HIDDEN, 24, HEADS), 0, dropout).model
    model.set_attn_implementation(implementation)
    return spread(model)


def batch_of(family, padding="none"):
    """T5's decoder reads fewer tokens than its encoder."""
    batch = {"input_ids": TOKENS}
    if family == "t5":
        batch["decoder_input_ids"] = TOKENS[:, 1:6]
    if (mask := PADDING[padding]) is not None:
        batch["attention_mask"] = mask
        if family == "t5":
            batch["decoder_attention_mask"] = mask[:, 1:6]
    return batch


def eager_maps(model, batch):
    """The maps that `transformers` returns itself, one per layer, each *batch x heads x queries x keys*."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    with torch.no_grad():
        output = twin(**batch, output_attentions=True)
    if "encoder_attentions" in output:
        return output.encoder_attentions + output.decoder_attentions
    return output.attentions


def map_of(attention):
    scores = attention.scores()
    return scores.masked_fill(~attention.visible(), torch.finfo(scores.dtype).min).softmax(-1)


def assert_maps_are_eager(model, batch, real=None):
    with recorded_attention(model) as trace, torch.no_grad():
        model(**batch)
    maps = eager_maps(model, batch)

    assert maps[0][:, :, -1].max() > 2 / maps[0].shape[-1]  # the last query is far from uniform over its keys
    assert list(trace) == list(range(len(layers_of(model)))) == list(range(len(maps)))
    for index, wanted in enumerate(maps):
        found = map_of(trace[index])
        assert found.shape == wanted.shape
        asked = torch.ones(wanted.shape[0], wanted.shape[2]) if real is None else real[index]
        asked = asked.bool()[:, None, :, None].expand_as(wanted)
        torch.testing.assert_close(found[asked], wanted[asked], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_softmax_of_recorded_scores_is_the_eager_map(family, implementation, padding):
    model, mask, real = built(family, implementation), PADDING[padding], None
    if mask is not None:
        decoder = NUM_LAYERS // 2 if family == "t5" else 0
        real = [mask] * (NUM_LAYERS - decoder) + [mask[:, 1:6]] * decoder

    assert_maps_are_eager(model, batch_of(family, padding), real)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_shared_keys_and_a_sliding_window_are_seen_as_they_are_used(implementation):
    """Four heads share two heads of keys and values; the first layer sees three keys at most."""
    config = Qwen3Config(
        vocab_size=NUM_ITEMS,
        hidden_size=HIDDEN,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        use_sliding_window=True,
        sliding_window=3,
        layer_types=["sliding_attention", "full_attention"],
    )
    model = spread(Qwen3ForCausalLM(config))
    model.set_attn_implementation(implementation)
    assert_maps_are_eager(model, {"input_ids": TOKENS})

    with recorded_attention(model) as trace:
        model(input_ids=TOKENS)
    assert trace[0].queries.shape == trace[0].keys.shape == trace[0].values.shape == (2, 4, 7, 8)
    for shared in (trace[1].keys, trace[1].values):
        assert torch.equal(shared[:, 0], shared[:, 1])
        assert torch.equal(shared[:, 2], shared[:, 3])
        assert not torch.equal(shared[:, 1], shared[:, 2])
    assert trace[0].visible()[0, 0].sum(-1).tolist() == [1, 2, 3, 3, 3, 3, 3]
    assert trace[1].visible()[0, 0].sum(-1).tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_scaling_is_the_layers_own():
    """GPT-2 may divide the scores of each layer by its number."""
    config = GPT2Config(
        vocab_size=NUM_ITEMS,
        n_positions=8,
        n_embd=HIDDEN,
        n_layer=3,
        n_head=HEADS,
        scale_attn_by_inverse_layer_idx=True,
    )
    model = spread(GPT2LMHeadModel(config))
    assert_maps_are_eager(model, {"input_ids": TOKENS})

    with recorded_attention(model) as trace:
        model(input_ids=TOKENS)
    assert [trace[layer].scaling for layer in range(3)] == pytest.approx([8**-0.5, 8**-0.5 / 2, 8**-0.5 / 3])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_what_a_mask_adds_to_visible_scores_counts(implementation):
    model = built("llama", implementation)
    added = torch.randn(2, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    mask = added.masked_fill(torch.ones(7, 7).triu(1).bool(), torch.finfo(torch.float32).min)

    assert_maps_are_eager(model, {"input_ids": TOKENS, "attention_mask": mask})


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_visible_keys_do_not_depend_on_the_implementation(family):
    """The eager mask adds huge negative numbers to what is hidden; the scores leave them out."""
    batch, traces = batch_of(family, "right"), []
    for implementation in ("sdpa", "eager"):
        model = built(family, implementation)
        with recorded_attention(model) as trace, torch.no_grad():
            model(**batch)
        traces.append(trace)

    torch.testing.assert_close(traces[0][0].scores(), traces[1][0].scores())
    for layer in range(NUM_LAYERS):
        visible = [trace[layer].visible().broadcast_to(trace[layer].scores().shape) for trace in traces]
        assert torch.equal(*visible)
        assert not visible[0].all()


@pytest.mark.parametrize(("implementation", "expected"), [("sdpa", [1, 2, 3, 4, 5, 6, 7]), ("eager", [7] * 7)])
def test_without_a_mask_only_sdpa_hides_later_keys(implementation, expected):
    """A model always gives its eager attention a mask; a layer on its own need not."""
    model = built("gpt2", implementation)
    attention = layers_of(model)[0].attn
    with recorded_attention(model) as trace, torch.no_grad():
        output, _ = attention(model.transformer.wte(TOKENS))
        attended = map_of(trace[0]) @ trace[0].values

        torch.testing.assert_close(attention.c_proj(attended.transpose(1, 2).flatten(2)), output)
    assert trace[0].visible()[0, 0].sum(-1).tolist() == expected


def test_single_query_sees_all_keys_of_a_cache():
    model = built("llama")
    with torch.no_grad():
        cache = model(input_ids=TOKENS[:, :6], use_cache=True).past_key_values
        with recorded_attention(model) as trace:
            model(input_ids=TOKENS[:, 6:], past_key_values=cache)
    maps = eager_maps(model, {"input_ids": TOKENS})

    for layer in range(NUM_LAYERS):
        torch.testing.assert_close(map_of(trace[layer])[:, :, 0], maps[layer][:, :, 6], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("training", [False, True], ids=["evaluating", "dropout"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_model_computes_the_same_inside_and_is_left_as_it_was(family, implementation, training):
    model = built(family, implementation, dropout=0.3).train(training)
    batch = batch_of(family, "right")

    def outcome():
        torch.manual_seed(0)
        logits = model(**batch).logits
        gradients = torch.autograd.grad(logits.square().mean(), list(model.parameters()), allow_unused=True)
        return [logits, *(gradient for gradient in gradients if gradient is not None)]

    before, state = outcome(), copy.deepcopy(model.state_dict())
    with recorded_attention(model):
        inside = outcome()
    after = outcome()

    for wanted, *found in zip(before, inside, after, strict=True):
        assert all(torch.equal(wanted, each) for each in found)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.config._attn_implementation == implementation
    assert all(part.training == training for part in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    if training:
        torch.manual_seed(1)
        assert not torch.equal(model(**batch).logits, before[0])  # dropout was at work


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_recording_costs_no_tensor_operation(family):
    model, batch = built(family), batch_of(family, "right")
    with torch.no_grad(), Operations() as outside:
        model(**batch)
    with torch.no_grad(), recorded_attention(model) as trace, Operations() as inside:
        model(**batch)

    assert len(trace) == NUM_LAYERS
    assert inside.names == outside.names


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_flows_from_the_trace_into_the_model(family):
    """What the last layer's attention works with depends on the embedding and on the first layer."""
    model = built(family)
    with recorded_attention(model) as trace:
        model(**batch_of(family))
    for tensor in (trace[3].queries, trace[3].keys, trace[3].values):
        first = layers_of(model)[2 if family == "t5" else 0]  # of the decoder
        sources = [model.get_input_embeddings().weight, next(p for p in first.parameters() if p.ndim > 1)]
        for gradient in torch.autograd.grad(tensor.square().sum(), sources, retain_graph=True):
            assert gradient.abs().max() > 0


def test_inner_recording_leaves_the_outer_one_at_work():
    model = built("llama")
    with recorded_attention(model) as outer:
        with recorded_attention(model) as inner:
            model(input_ids=TOKENS)
        assert all(outer[layer].queries is inner[layer].queries for layer in range(NUM_LAYERS))
        recorded = inner[0]
        model(input_ids=TOKENS.flip(1))

    assert inner[0] is recorded
    assert not torch.equal(outer[0].values, recorded.values)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_copy_made_inside_is_not_recorded_and_goes_on_to_work(family):
    model, batch = built(family, "eager"), batch_of(family)
    with recorded_attention(model) as trace, torch.no_grad():
        model(**batch)
        before = dict(trace)
        twin = copy.deepcopy(model)
        twin(**{name: tokens.flip(1) for name, tokens in batch.items()})
        assert all(trace[layer] is before[layer] for layer in range(NUM_LAYERS))

    with torch.no_grad():
        assert torch.equal(twin(**batch).logits, model(**batch).logits)
    assert_maps_are_eager(twin, batch)  # its own recording


def test_student_and_teacher_are_recorded_apart():
    teacher, student = built("llama", "eager"), built("llama", "sdpa")
    with recorded_attention(teacher) as wanted, recorded_attention(student) as told:
        teacher(input_ids=TOKENS)
        assert not told
        student(input_ids=TOKENS.flip(1))

    assert not torch.equal(wanted[0].values, told[0].values)
    assert (teacher.config._attn_implementation, student.config._attn_implementation) == ("eager", "sdpa")


def test_bypassed_layer_has_no_entry():
    model = built("t5")
    with bypassed(model, [1, 2]), recorded_attention(model) as trace:
        model(**batch_of("t5"))

    assert list(trace) == [0, 3]


def test_recommender_is_recorded_like_the_model_inside():
    recommender = build_recommender("bert", NUM_ITEMS, 8, Shape(NUM_LAYERS, HIDDEN, 24, HEADS), 0).eval()
    with recorded_attention(recommender) as trace, torch.no_grad():
        recommender(**recommender.batch([TOKENS[0].numpy(), TOKENS[1, :3].numpy()]))

    assert len(trace) == NUM_LAYERS
    assert trace[0].visible().expand(2, 1, 8, 8)[:, 0, 0].sum(-1).tolist() == [7 + 1, 3 + 1]  # events and the mask


def test_implementation_is_restored_after_an_error():
    model = built("t5", "eager")
    with pytest.raises(IndexError), recorded_attention(model):
        model(input_ids=TOKENS + NUM_ITEMS, decoder_input_ids=TOKENS)

    for part in (model, model.encoder, model.decoder):
        assert part.config._attn_implementation == "eager"
    with recorded_attention(model) as trace:
        model(**batch_of("t5"))
    assert len(trace) == NUM_LAYERS


def test_other_implementations_are_refused():
    model = built("llama")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match=r"\['eager', 'sdpa'\], got 'flex_attention'"), recorded_attention(model):
        pass

    assert model.config._attn_implementation == "flex_attention"


def test_layer_without_attention_is_refused():
    model = built("llama")
    model.model.layers[1] = torch.nn.Identity()
    with pytest.raises(UnsupportedArchitectureError, match="Identity without it"), recorded_attention(model):
        pass

    assert model.config._attn_implementation == "sdpa"
