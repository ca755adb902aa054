"""Bounds: operations and bytes counted by hand, ratios of real models, and the line through times of several depths."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from layerwise.compression.compact import compact_model
from layerwise.evaluation.bounds import Bound, Work, bound_of, work_of
from layerwise.evaluation.depth_cost import fit_depth_cost, time_by_depth
from layerwise.evaluation.workloads import Decoding, Scoring
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import build_recommender

FP32 = 4


class Calls(nn.Module):
    """A module that is a function of its inputs and a weight."""

    def __init__(self, function, *shape):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.randn(shape))

    def forward(self, **inputs):
        return self.function(self.weight, **inputs)


def work(function, *shape, **inputs):
    return work_of(Calls(function, *shape), inputs)


def test_a_matrix_product_is_two_operations_per_pair_and_moves_three_matrices():
    found = work(lambda w, x: x @ w, 5, 7, x=torch.randn(3, 5))
    assert found == Work(flops=2 * 3 * 5 * 7, bytes=FP32 * (3 * 5 + 5 * 7 + 3 * 7))


def test_an_addition_moves_its_inputs_and_its_output_and_is_no_matrix_product():
    assert work(lambda w, x: x + w, 3, 5, x=torch.randn(3, 5)) == Work(flops=0, bytes=FP32 * 3 * 15)


@pytest.mark.parametrize("view", [lambda w, x: x.T[1:], lambda w, x: x.reshape(5, 3), lambda w, x: x.detach()])
def test_views_move_nothing(view):
    assert work(view, 1, x=torch.randn(3, 5)).bytes == 0


def test_an_expanded_tensor_is_read_once():
    found = work(lambda w, x: x.expand(100, 5) + w, 100, 5, x=torch.randn(1, 5))
    assert found.bytes == FP32 * (5 + 500 + 500)


def test_of_a_table_only_the_rows_that_are_looked_up_are_moved():
    found = work(lambda w, x: nn.functional.embedding(x, w), 10_000, 6, x=torch.tensor([3, 9]))
    assert found.bytes == 2 * FP32 * 2 * 6 + 2 * 8  # rows read, rows written, two int64 codes


def test_writing_to_a_cache_moves_what_is_written_and_not_the_cache():
    def append(cache, at, x):
        return cache.detach().index_copy_(0, at, x)

    found = work(append, 10_000, 6, at=torch.tensor([1]), x=torch.randn(1, 6))
    assert found.bytes == 2 * FP32 * 6 + 8  # a row read, a row written, one int64 position


def test_attention_is_two_products_of_all_pairs_of_positions():
    query, key = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8)
    found = work(lambda w, q, k: nn.functional.scaled_dot_product_attention(q, k, k), 1, q=query, k=key)
    assert found.flops == 2 * (2 * 3 * 4 * 5 * 8) * 2


def test_model_gradients_and_modes_are_as_they_were_and_counting_works_in_inference_mode():
    model = Calls(lambda w, x: x @ w, 5, 7).train()
    with torch.inference_mode():
        assert work_of(model, {"x": torch.randn(3, 5)}).flops == 210
    assert model.training
    assert model.weight.requires_grad


LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}


def test_operations_of_a_llama_are_those_of_its_matrices():
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, num_hidden_layers=3, **LLAMA))
    tokens = 2 * 7
    projections = 16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24  # query, key and value of half the heads, output, MLP
    attention = 2 * 2 * (2 * 4 * 7 * 7 * 4)
    found = work_of(model, {"input_ids": torch.randint(0, 50, (2, 7))}).flops
    assert found == 3 * (2 * tokens * projections + attention) + 2 * tokens * 16 * 50


def test_bounds_of_equal_models_are_one_and_none_exceeds_the_ratio_of_layers():
    for family in FAMILIES:
        full = build_recommender(family, 60, 12, Shape(8, 16, 32, 2), seed=0)
        kept = {"encoder": (0,), "decoder": (3,)} if family == "t5" else (0, 7)
        inputs = full.batch([np.arange(3 + row) for row in range(5)])
        bound = bound_of(Scoring(full), Scoring(compact_model(full, kept)), inputs)
        assert bound.layers == 4.0
        assert min(bound.flops, bound.bytes) > 2
        assert max(bound.flops, bound.bytes) < 4.0
        assert bound_of(full, full, inputs) == Bound(1.0, 1.0, 1.0)


def test_a_saturated_machine_lies_between_the_two_regimes_whatever_its_peaks():
    large, small = Work(flops=400, bytes=60), Work(flops=101, bytes=20)
    low, high = Bound(4.0, 400 / 101, 60 / 20).regimes
    assert (low, high) == (3.0, 400 / 101)
    for peak in np.logspace(-3, 3, 50):  # operations per byte
        ratio = max(large.flops / peak, large.bytes) / max(small.flops / peak, small.bytes)
        assert low - 1e-9 <= ratio <= high + 1e-9


@pytest.mark.parametrize(
    ("layers", "kept", "hidden", "inner", "heads", "groups", "vocabulary", "expected"),
    [
        (32, 8, 4096, 14336, 32, 8, 128_256, 3.31),  # Llama-3.1-8B
        (16, 4, 2048, 8192, 32, 8, 128_256, 2.44),  # Llama-3.2-1B
    ],
)
def test_decoding_full_size_llamas_moves_so_many_times_fewer_bytes(
    layers, kept, hidden, inner, heads, groups, vocabulary, expected
):
    """Independent figures: (layers + head) / (kept + head), in parameters, by hand from the public shapes."""
    width = hidden // heads

    def decoding(depth):
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            num_key_value_heads=groups,
        )
        with torch.device("meta"):
            return Decoding(LlamaForCausalLM(config).to(torch.bfloat16), torch.zeros(1, 2, dtype=torch.long))

    layer = 2 * hidden * hidden + 2 * hidden * width * groups + 3 * hidden * inner
    by_hand = (layers * layer + hidden * vocabulary) / (kept * layer + hidden * vocabulary)
    assert by_hand == pytest.approx(expected, abs=0.005)
    token = {"input_ids": torch.zeros(1, 1, dtype=torch.long, device="meta")}
    assert bound_of(decoding(layers), decoding(kept), token).bytes == pytest.approx(by_hand, rel=0.005)


# The line through times of several depths


def test_times_on_a_line_give_the_line_and_no_error():
    cost = fit_depth_cost({depth: np.full(5, 3.0 + 0.5 * depth) for depth in (2, 4, 6, 8)})
    assert cost.fixed_ms == pytest.approx(3.0)
    assert cost.layer_ms == pytest.approx(0.5)
    assert cost.ceiling(8, 2) == (pytest.approx(7 / 4), pytest.approx(0, abs=1e-9))
    assert cost.misfit == pytest.approx(0, abs=1e-12)


def test_without_a_fixed_cost_the_ceiling_is_the_ratio_of_layers():
    assert fit_depth_cost({1: [2.0, 3.0], 2: [4.0, 6.0]}).ceiling(8, 2)[0] == pytest.approx(4.0)


def test_standard_errors_are_those_of_repeated_fits():
    """Truth by simulation: the spread of estimates over many experiments equals the mean of the claimed errors."""
    rng = np.random.default_rng(0)

    def experiment():
        drift = rng.normal(0, 0.2, size=12)  # shared by all depths of a block
        cost = fit_depth_cost({at: 3.0 + 0.5 * at + drift + rng.normal(0, 0.1, size=12) for at in (2, 4, 6, 8)})
        return cost.fixed_ms, cost.layer_ms, *cost.standard_errors, *cost.ceiling(8, 2)

    fixed, layer, fixed_error, layer_error, ceiling, ceiling_error = np.array([experiment() for _ in range(800)]).T
    assert fixed_error.mean() == pytest.approx(fixed.std(), rel=0.1)
    assert layer_error.mean() == pytest.approx(layer.std(), rel=0.1)
    assert ceiling_error.mean() == pytest.approx(ceiling.std(), rel=0.1)
    assert ceiling.mean() == pytest.approx(7 / 4, rel=0.01)


def test_a_curve_is_seen_as_a_misfit():
    cost = fit_depth_cost({1: [1.0, 1.0], 2: [2.0, 2.0], 3: [6.0, 6.0]})  # line -2 + 2.5 x: off by .5, 1, .5
    assert cost.misfit == pytest.approx(0.5)


@pytest.mark.parametrize("blocks", [{}, {2: 5}, {2: 1, 4: 1}, {2: 5, 4: 4}], ids=str)
def test_too_little_to_lay_a_line_through_is_an_error(blocks):
    with pytest.raises(ValueError, match="two or more depths"):
        fit_depth_cost({depth: np.ones(number) for depth, number in blocks.items()})


class Ticking(nn.Module):
    """Layers that advance a clock by two seconds each, and three seconds beside them."""

    def __init__(self, depth, clock):
        super().__init__()
        self.layers, self.clock = nn.ModuleList(nn.Linear(2, 2) for _ in range(depth)), clock

    def forward(self, x):
        self.clock.now += 3.0
        self.clock.order.append(len(self.layers))
        for layer in self.layers:
            self.clock.now += 2.0
            x = layer(x)
        return x


def tick(*depths, **options):
    clock = SimpleNamespace(now=0.0, order=[])
    inputs = [{"x": torch.full((1, 2), float(number))} for number in range(4)]
    models = [Ticking(depth, clock) for depth in depths]
    options = {"blocks": 2, "warmup": 2, "calls": 2, "timer": lambda: clock.now} | options
    return time_by_depth(models, inputs, layers_of=lambda model: model.layers, **options), clock.order


def test_depths_are_timed_in_turn_there_and_back():
    times, order = tick(1, 2, 4)
    assert {depth: ms.tolist() for depth, ms in times.items()} == {1: [5000.0] * 2, 2: [7000.0] * 2, 4: [11000.0] * 2}
    there_and_back = [1, 1, 2, 2, 4, 4, 4, 4, 2, 2, 1, 1]
    back_and_there = [4, 4, 2, 2, 1, 1, 1, 1, 2, 2, 4, 4]
    assert order[-24:] == there_and_back + back_and_there


def test_two_models_of_one_depth_are_an_error():
    with pytest.raises(ValueError, match=r"differ in depth, got \[2, 2\]"):
        tick(2, 2)


def test_a_layer_that_is_skipped_is_an_error():
    class Lazy(Ticking):
        def forward(self, x):
            return self.layers[0](x)

    clock = SimpleNamespace(now=0.0, order=[])
    models = [Ticking(1, clock), Lazy(3, clock)]
    inputs = [{"x": torch.full((1, 2), float(number))} for number in range(4)]
    with pytest.raises(ValueError, match="3-layer model a layer did not run"):
        time_by_depth(models, inputs, 2, calls=2, layers_of=lambda model: model.layers)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_many_operations_are_counted_on_a_cuda_device_with_fewer_heads_of_keys_than_of_queries(dtype):
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, num_hidden_layers=2, **shape)).eval()
    tokens = torch.arange(32)[None]
    on_cpu = work_of(model, {"input_ids": tokens}).flops
    assert work_of(model.cuda().to(dtype), {"input_ids": tokens.cuda()}).flops == on_cpu
