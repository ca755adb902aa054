"""A quantised model computes with the weights that a slow quantisation by hand gives, and its bytes are a file's."""

import copy
import io
import zipfile

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn
from transformers.pytorch_utils import Conv1D

from layerwise.compression import quantize
from layerwise.compression.compact import compact_model
from layerwise.compression.magnitude import finished, magnitude_pruned
from layerwise.compression.quantize import (
    int4_quantized,
    int8_quantized,
    nf4_quantized,
    packed_bytes,
    serialised_bytes,
)
from layerwise.models.families import FAMILIES, Shape, UnsupportedArchitectureError
from layerwise.models.recommender import build_recommender

NUM_ITEMS = 30
HISTORIES = [np.array([3, 1, 4]), np.array([2, 7, 1, 8, 28]), np.array([5])]
NF4 = [  # QLoRA, appendix E
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]
needs_torchao = pytest.mark.skipif(
    quantize.torchao is None, reason="needs torchao; install it with: pip install 'layerwise[quantize]'"
)
needs_bitsandbytes = pytest.mark.skipif(
    quantize.bitsandbytes is None, reason="needs bitsandbytes; install it with: pip install 'layerwise[quantize]'"
)
ANY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
ANY_METHOD = pytest.mark.parametrize(
    "method",
    [
        pytest.param(int8_quantized, marks=needs_torchao),
        pytest.param(int4_quantized, marks=needs_torchao),
        pytest.param(nf4_quantized, marks=needs_bitsandbytes),
    ],
)


def made(family, intermediate=44, num_layers=2, hidden=32):
    """A recommender whose linear maps have 32 inputs, 44 (66 ungated, 34 in T5), and weights with a few outliers."""
    recommender = build_recommender(family, NUM_ITEMS, 6, Shape(num_layers, hidden, intermediate, 2), seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in recommender.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator) ** 3
    return recommender


def maps_of(recommender):
    """Names and linear maps inside the layers."""
    return [
        (f"{number}.{path}", module)
        for number, layer in enumerate(recommender.layers)
        for path, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]


def rounded(weight, group, low, high):
    """One row of weights after symmetric quantisation, one number at a time, in fp32.

    The largest number of a block lies halfway between two codes, where the last bit decides: hence the reciprocal.
    """
    out = []
    for start in range(0, len(weight), group):
        block = weight[start : start + group]
        scale = max(abs(block)) / np.float32((high - low) / 2)
        out += [scale * min(max(np.round(entry * (np.float32(1) / scale)), low), high) for entry in block]
    return np.array(out, dtype=np.float32)


def int8_by_hand(weight):
    return np.stack([rounded(row, len(row), -128, 127) for row in weight])


def int4_by_hand(weight, group_size=32):
    width = weight.shape[1]
    group = int(np.ceil(width / np.ceil(width / group_size)))
    return np.stack([rounded(row, group, -8, 7) for row in weight])


def nf4_by_hand(weight):
    flat, out = weight.ravel(), []
    for start in range(0, len(flat), 64):
        block = flat[start : start + 64]
        top = max(abs(block))
        out += [top * min(NF4, key=lambda code, entry=entry: abs(code - entry)) for entry in block / top]
    return np.array(out, dtype=np.float32).reshape(weight.shape)


BY_HAND = {int8_quantized: int8_by_hand, int4_quantized: int4_by_hand, nf4_quantized: nf4_by_hand}


def replaced_by_hand(recommender, by_hand):
    """A plain copy whose layers' weights, *outputs x inputs*, went through `by_hand`."""
    plain = copy.deepcopy(recommender)
    for _, module in maps_of(plain):
        turned = isinstance(module, Conv1D)
        weight = module.weight.detach().numpy()
        changed = by_hand(weight.T if turned else weight)
        module.weight.data = torch.from_numpy(changed.T if turned else changed).contiguous()
    return plain


def written(model):
    """Bytes of the tensors in a file that `torch.save` wrote."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    with zipfile.ZipFile(file) as archive:
        return sum(entry.file_size for entry in archive.infolist() if "/data/" in entry.filename)


def state_of(model):
    """Everything of a model that must not change."""
    return (
        {name: weight.clone() for name, weight in model.state_dict().items()},
        [(name, type(module), module.training) for name, module in model.named_modules()],
        [(name, parameter.requires_grad) for name, parameter in model.named_parameters()],
        [parameter.grad is None for parameter in model.parameters()],
        model.model.config.to_dict(),
        model.model.config._attn_implementation,
    )


# What a quantised model computes


@ANY_METHOD
@ANY_FAMILY
def test_quantised_model_computes_with_the_weights_quantised_by_hand(family, method):
    recommender = made(family)
    truth = replaced_by_hand(recommender, BY_HAND[method]).scores(HISTORIES)

    np.testing.assert_allclose(method(recommender).scores(HISTORIES), truth, rtol=1e-3, atol=1e-4)
    change = np.abs(truth - recommender.scores(HISTORIES)).max()
    assert change > 1e-2, "else the full model would pass as well"


@ANY_METHOD
def test_passes_and_copies_leave_a_quantised_model_as_it_is(method):
    """At these widths a layer of bitsandbytes repacks its weights at the first pass, and rounds their scales then."""
    quantised = method(made("llama", intermediate=64, hidden=64))
    first, size = quantised.scores(HISTORIES), serialised_bytes(quantised)

    np.testing.assert_array_equal(quantised.scores(HISTORIES), first)
    np.testing.assert_array_equal(copy.deepcopy(quantised).scores(HISTORIES), first)
    assert serialised_bytes(quantised) == size


@ANY_METHOD
@pytest.mark.parametrize("width", [64, 128])
def test_widths_that_bitsandbytes_has_bf16_kernels_for_are_computed_in_fp32(method, width):
    recommender = made("llama", intermediate=width, hidden=64)
    truth = replaced_by_hand(recommender, BY_HAND[method]).scores(HISTORIES)

    np.testing.assert_allclose(method(recommender).scores(HISTORIES), truth, rtol=1e-3, atol=1e-4)


@needs_torchao
@settings(max_examples=20, deadline=None)
@given(
    width=st.integers(2, 70), group_size=st.integers(2, 40), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 2**32 - 1)
)
def test_int4_map_of_any_width_is_the_map_quantised_by_hand(width, group_size, scale, seed):
    weight, linear = random_map(3, width, scale, seed)
    with torch.no_grad():
        found = quantize._int4(linear, group_size)(torch.eye(width)).T

    np.testing.assert_allclose(found, int4_by_hand(weight, group_size), rtol=1e-6, atol=0)


@needs_bitsandbytes
@settings(max_examples=20, deadline=None)
@given(outputs=st.integers(1, 70), width=st.integers(1, 70), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 2**32 - 1))
def test_nf4_map_of_any_width_is_the_map_quantised_by_hand(outputs, width, scale, seed):
    weight, linear = random_map(outputs, width, scale, seed)
    with torch.no_grad():
        found = quantize._NF4Linear(linear)(torch.eye(width)).T

    np.testing.assert_allclose(found, nf4_by_hand(weight), rtol=1e-6, atol=0)


def random_map(outputs, width, scale, seed):
    """A linear map without bias, and its weight."""
    linear = nn.Linear(width, outputs, bias=False)
    generator = torch.Generator().manual_seed(seed)
    linear.weight.data = scale * torch.randn(outputs, width, generator=generator)
    return linear.weight.detach().numpy().copy(), linear


@needs_torchao
def test_smaller_groups_change_scores_less():
    recommender = made("llama")
    truth = recommender.scores(HISTORIES)
    coarse, fine = (np.abs(int4_quantized(recommender, size).scores(HISTORIES) - truth).mean() for size in (44, 4))

    assert fine < coarse


@ANY_METHOD
@ANY_FAMILY
def test_weights_of_zero_stay_zero(family, method):
    recommender = made(family)
    for _, module in maps_of(recommender):
        module.weight.data.zero_()

    np.testing.assert_array_equal(method(recommender).scores(HISTORIES), recommender.scores(HISTORIES))


@ANY_METHOD
@ANY_FAMILY
def test_bf16_model_stays_one_and_its_weights_move_by_half_a_step_at_most(family, method):
    recommender = made(family).bfloat16()
    quantised = method(recommender)
    inputs = {name: tensor for name, tensor in quantised.batch(HISTORIES).items() if name != "last"}
    with torch.no_grad():
        states = quantised.states(inputs)
        weights = [
            (matrix_of(new), matrix_of(old))
            for (_, new), (_, old) in zip(maps_of(quantised), maps_of(recommender), strict=True)
        ]

    assert states.dtype is torch.bfloat16
    assert states.isfinite().all()
    half_step = {int8_quantized: 0.5 / 127.5, int4_quantized: 0.5 / 7.5, nf4_quantized: (NF4[1] - NF4[0]) / 2}[method]
    for weight, before in weights:
        assert 0 < (weight - before).abs().max() <= before.abs().max() * (half_step + 2**-6)  # rounding of bf16


def matrix_of(module):
    """The matrix that a map multiplies with, *inputs x outputs*."""
    width = module.nx if isinstance(module, Conv1D) else module.in_features
    return module(torch.eye(width, dtype=torch.bfloat16)) - (0 if module.bias is None else module.bias)


@ANY_METHOD
@ANY_FAMILY
def test_what_is_not_quantised_can_still_be_trained(family, method):
    recommender = made(family)
    quantised = method(recommender)
    quantised(**quantised.batch(HISTORIES)).square().mean().backward()
    plain = replaced_by_hand(recommender, BY_HAND[method])
    plain(**plain.batch(HISTORIES)).square().mean().backward()
    truth = dict(plain.named_parameters())
    trained = {name: weight.grad for name, weight in quantised.named_parameters() if weight.requires_grad}

    assert trained
    for name, gradient in trained.items():
        torch.testing.assert_close(gradient, truth[name].grad, rtol=1e-3, atol=1e-4)


# What a quantised model is


@ANY_METHOD
@ANY_FAMILY
def test_every_linear_map_inside_the_layers_is_quantised_and_nothing_else(family, method):
    recommender = made(family)
    quantised = method(recommender)
    before, after = recommender.state_dict(), quantised.state_dict()
    inside = {id(module) for _, module in maps_of(recommender)}
    maps = {f"{path}.weight" for path, module in recommender.named_modules() if id(module) in inside}
    plain = {
        name
        for name, weight in before.items()
        if type(after[name]) is torch.Tensor and after[name].dtype is torch.float32 and torch.equal(after[name], weight)
    }

    assert len(maps) == len(inside) > 0
    assert before.keys() - plain == maps
    assert type(quantised) is type(recommender)


@ANY_METHOD
@ANY_FAMILY
def test_model_passed_in_and_global_generator_are_untouched_and_modes_and_flags_are_the_models(family, method):
    recommender = made(family).train()
    recommender.layers[1].eval()
    recommender.layers[0].requires_grad_(False)
    recommender(**recommender.batch(HISTORIES)).sum().backward()
    before, generator = state_of(recommender), torch.get_rng_state()
    quantised = method(recommender)
    maps = {id(module.weight) for _, module in maps_of(quantised)}
    with torch.no_grad():
        for parameter in quantised.parameters():
            if id(parameter) not in maps:
                parameter.fill_(7)

    same(state_of(recommender), before)
    assert torch.equal(torch.get_rng_state(), generator)
    modes = {name: module.training for name, module in recommender.named_modules()}
    assert {name: module.training for name, module in quantised.named_modules()} == modes
    flags = dict(recommender.named_parameters())
    for name, parameter in quantised.named_parameters():
        assert parameter.requires_grad == (flags[name].requires_grad and id(parameter) not in maps), name
        assert parameter.grad is None


def same(state, other):
    weights, *rest = state
    others, *rest_of_other = other
    assert rest == rest_of_other
    assert weights.keys() == others.keys()
    assert all(torch.equal(weight, others[name]) for name, weight in weights.items())


@ANY_METHOD
def test_transformers_model_is_quantised_as_inside_a_recommender(method):
    recommender = made("qwen3")
    alone, inside = method(recommender.model), method(recommender).model
    tokens = torch.tensor([[3, 1, 4]])

    assert type(alone) is type(recommender.model)
    with torch.no_grad():
        assert torch.equal(alone(tokens).logits, inside(tokens).logits)


@ANY_METHOD
@ANY_FAMILY
def test_compact_model_is_quantised_like_any_other(family, method):
    compact = compact_model(
        made(family, num_layers=3), {"encoder": (0,), "decoder": (0,)} if family == "t5" else (0, 2)
    )
    truth = replaced_by_hand(compact, BY_HAND[method]).scores(HISTORIES)

    np.testing.assert_allclose(method(compact).scores(HISTORIES), truth, rtol=1e-3, atol=1e-4)


# Bytes


def shapes_of(recommender):
    """Outputs and inputs of each linear map inside the layers."""
    return [
        tuple(module.weight.T.shape if isinstance(module, Conv1D) else module.weight.shape)
        for _, module in maps_of(recommender)
    ]


def dense_bytes(recommender):
    """Every parameter once, in fp32; with no buffers, as none of these families saves one."""
    return 4 * sum(parameter.numel() for parameter in recommender.parameters())


@ANY_FAMILY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_a_plain_model_are_those_of_its_checkpoint_without_the_header(tmp_path, family, dtype):
    recommender = made(family).to(dtype)
    recommender.save(tmp_path)
    file = (tmp_path / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(file[:8], "little")

    assert serialised_bytes(recommender) == packed_bytes(recommender) == len(file) - header


@ANY_FAMILY
def test_tied_weights_count_once(family):
    recommender = made(family)
    twice = sum(weight.nbytes for weight in recommender.state_dict().values())

    assert serialised_bytes(recommender) == dense_bytes(recommender) < twice


@ANY_METHOD
@ANY_FAMILY
def test_bytes_of_a_quantised_model_are_those_in_a_file_of_torch(family, method):
    quantised = method(made(family))

    assert serialised_bytes(quantised) == written(quantised)


@needs_torchao
@ANY_FAMILY
def test_int8_takes_a_byte_per_weight_and_five_per_channel(family):
    recommender = made(family)
    shapes = shapes_of(recommender)
    expected = sum(rows * columns + rows * (4 + 1) for rows, columns in shapes)  # fp32 scale, int8 zero point
    rest = dense_bytes(recommender) - sum(4 * rows * columns for rows, columns in shapes)
    quantised = int8_quantized(recommender)

    assert serialised_bytes(quantised) == rest + expected
    assert packed_bytes(quantised) == rest + expected - sum(rows for rows, _ in shapes)
    naive = sum(parameter.numel() * parameter.element_size() for parameter in quantised.parameters())
    assert naive == dense_bytes(recommender), "the trap that this function is for"


@needs_torchao
@ANY_FAMILY
def test_int4_takes_a_byte_per_weight_in_torchao_and_half_a_byte_packed(family):
    recommender = made(family)
    shapes = shapes_of(recommender)
    groups = {32: (1, 32), 34: (2, 17), 44: (2, 22), 66: (3, 22)}  # of at most 32, by inputs
    rest = dense_bytes(recommender) - sum(4 * rows * columns for rows, columns in shapes)
    quantised = int4_quantized(recommender)
    held = [(rows, *groups[columns]) for rows, columns in shapes]

    assert serialised_bytes(quantised) == rest + sum(rows * number * (size + 4 + 1) for rows, number, size in held)
    assert packed_bytes(quantised) == rest + sum(
        rows * number * size // 2 + rows * number * 4 for rows, number, size in held
    )


@needs_torchao
def test_packed_bytes_of_int4_are_enough_to_restore_every_weight():
    quantised = int4_quantized(made("llama"))
    stored = {}
    for name, weight in quantised.state_dict().items():
        if hasattr(weight, "qdata"):
            codes = (weight.qdata.flatten() + 8).to(torch.uint8)
            stored[f"{name}.codes"] = codes[::2] * 16 + codes[1::2]
            stored[f"{name}.scale"] = weight.scale
        elif name != "model.lm_head.weight":  # tied
            stored[name] = weight
    file = save(stored)

    assert packed_bytes(quantised) == len(file) - 8 - int.from_bytes(file[:8], "little")
    for name, weight in quantised.state_dict().items():
        if hasattr(weight, "qdata"):
            packed, scale = stored[f"{name}.codes"].int(), stored[f"{name}.scale"]
            codes = torch.stack([packed // 16, packed % 16], 1).flatten() - 8
            restored = codes.view(*scale.shape, -1) * scale[:, :, None]
            assert torch.equal(restored.flatten(1), weight.dequantize())


@needs_torchao
def test_zero_points_count_where_scales_are_not_symmetric():
    torchao = quantize.torchao
    linear = nn.Linear(64, 3, bias=False)
    config = torchao.IntxWeightOnlyConfig(
        weight_dtype=torch.int4, granularity=torchao.PerGroup(32), mapping_type=torchao.MappingType.ASYMMETRIC
    )
    linear.weight.data += 1  # far from symmetric
    torchao.quantize_(linear, config)

    assert packed_bytes(linear) == 3 * (64 // 2 + 2 * 4 + 2 * 1)


@needs_bitsandbytes
@ANY_FAMILY
def test_nf4_takes_half_a_byte_per_weight_and_four_bytes_per_block_of_64(family):
    recommender = made(family)
    shapes = shapes_of(recommender)
    rest = dense_bytes(recommender) - sum(4 * rows * columns for rows, columns in shapes)
    quantised = nf4_quantized(recommender)

    expected = rest + sum(-(-rows * columns // 64) * (32 + 4) for rows, columns in shapes)
    assert serialised_bytes(quantised) == packed_bytes(quantised) == expected


@needs_bitsandbytes
@pytest.mark.parametrize("nested", [True, False])
def test_bytes_of_bitsandbytes_own_layers_hold_their_scales(nested):
    linear = quantize.bitsandbytes.nn.Linear4bit(64, 32, compress_statistics=nested, quant_type="nf4").to("cpu")

    assert serialised_bytes(linear) == packed_bytes(linear) == written(linear) > 64 * 32 // 2 + 4 * 32


# What cannot be quantised


@needs_torchao
@needs_bitsandbytes
@ANY_METHOD
def test_model_that_is_quantised_already_is_refused(method):
    quantised = method(made("gpt2"))
    for again in (int8_quantized, int4_quantized, nf4_quantized):
        with pytest.raises(ValueError, match=r"expected a plain weight in attn\.c_attn of each layer, got "):
            again(quantised)


@ANY_METHOD
def test_masks_are_finished_first(method):
    pruned = magnitude_pruned(made("llama"), 0.5)
    with pytest.raises(ValueError, match=r"after its masks or other parametrisations are finished"):
        method(pruned)
    method(finished(pruned))


@ANY_METHOD
def test_adapters_are_merged_first(method):
    recommender = made("llama")
    config = peft.LoraConfig(target_modules=["q_proj"])
    adapted = peft.get_peft_model(recommender.model, config).get_base_model()
    with pytest.raises(ValueError, match="carries LoRA adapters; merge them first"):
        method(adapted)


@needs_torchao
@pytest.mark.parametrize("group_size", [1, 0, -32])
def test_group_of_fewer_than_two_weights_is_refused(group_size):
    with pytest.raises(ValueError, match=f"group_size must be at least 2, got {group_size}"):
        int4_quantized(made("llama"), group_size)


@ANY_METHOD
def test_unknown_architecture_is_refused(method):
    with pytest.raises(UnsupportedArchitectureError, match="expected a transformers model or a Recommender"):
        method(nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("method", "library"),
    [(int8_quantized, "torchao"), (int4_quantized, "torchao"), (nf4_quantized, "bitsandbytes")],
)
def test_without_the_library_the_extra_is_named(monkeypatch, method, library):
    monkeypatch.setattr(quantize, library, None)
    with pytest.raises(ImportError, match=rf"needs {library}; install it with: pip install 'layerwise\[quantize\]'"):
        method(made("llama"))
