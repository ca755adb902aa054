"""Losses between attentions: by hand on tiny tensors, zero for equal layers, blind to padding, gradients by path."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.compression.relations import attention_transfer, score_loss, value_relation_transfer
from layerwise.models.attention import LayerAttention, recorded_attention
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import build_recommender

LOSSES = [score_loss, attention_transfer, value_relation_transfer]
DIVERGENCES = [attention_transfer, value_relation_transfer]
PARTS = ("queries", "keys", "values", "position_bias")
BOTH = torch.tensor([[True, True]])
FROM_HALVES = 1 / 4 * math.log((1 / 4) / (1 / 2)) + 3 / 4 * math.log((3 / 4) / (1 / 2))  # KL((1/4, 3/4) || (1/2, 1/2))


def attention(queries, keys, values, is_causal=False, scaling=1.0, position_bias=None):
    """One example with one head; one vector per position."""
    tensors = (torch.tensor([[part]], dtype=torch.float64) for part in (queries, keys, values))
    return LayerAttention(*tensors, scaling, None, is_causal, position_bias)


def drawn(seed, heads=2, width=3, is_causal=True):
    """Two examples of five positions with a position bias."""
    random = np.random.default_rng(seed)
    parts = (torch.tensor(random.normal(size=(2, heads, 5, width))) for _ in range(3))
    return LayerAttention(*parts, 0.7, None, is_causal, torch.tensor(random.normal(size=(1, heads, 5, 5))))


def valid_of(lengths):
    return torch.arange(5) < torch.tensor(lengths)[:, None]


# By hand


@pytest.mark.parametrize(
    ("is_causal", "valid", "expected"),
    [
        (False, [True, True], (4 + 25 + 1 + 0) / 4),
        (True, [True, True], (4 + 1 + 0) / 3),
        (False, [True, False], 4),
        (False, [False, True], 0),
    ],
)
def test_score_loss_by_hand(is_causal, valid, expected):
    """Scores of the student are 1 1 / 2 2, those of the teacher 3 6 / 1 2."""
    student = attention([[1.0], [2.0]], [[1.0], [1.0]], [[0.0], [0.0]], is_causal)
    teacher = attention([[6.0], [2.0]], [[1.0], [2.0]], [[0.0], [0.0]], is_causal, scaling=0.5)

    assert score_loss(student, teacher, torch.tensor([valid])).item() == pytest.approx(expected)


def test_position_bias_belongs_to_the_scores():
    """Without a product, the scores are the bias: 1 2 / 3 4 against none."""
    bias = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    student = attention([[0.0], [0.0]], [[0.0], [0.0]], [[0.0], [0.0]], position_bias=bias)
    teacher = replace(student, position_bias=None)

    assert score_loss(student, teacher, BOTH).item() == pytest.approx((1 + 4 + 9 + 16) / 4)


@pytest.mark.parametrize(("is_causal", "expected"), [(False, FROM_HALVES), (True, FROM_HALVES / 2)])
def test_attention_transfer_by_hand(is_causal, expected):
    """The teacher attends (1/4, 3/4), the student evenly; a causal first query has no choice."""
    student = attention([[0.0], [0.0]], [[1.0], [2.0]], [[0.0], [0.0]], is_causal)
    teacher = attention([[1.0], [1.0]], [[0.0], [math.log(3)]], [[0.0], [0.0]], is_causal)

    assert attention_transfer(student, teacher, BOTH).item() == pytest.approx(expected)
    backward = 1 / 2 * math.log((1 / 2) / (1 / 4)) + 1 / 2 * math.log((1 / 2) / (3 / 4))
    assert attention_transfer(teacher, student, BOTH).item() == pytest.approx(backward * expected / FROM_HALVES)


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("is_causal", [False, True])
def test_value_relation_by_hand(width, is_causal):
    """The teacher's second value relates (0, log 3) to both, its first (0, 0); the student's values are all zero."""
    zeros = [[0.0] * width] * 2
    related = [[0.0] * width, [math.sqrt(math.log(3) * math.sqrt(width))] + [0.0] * (width - 1)]
    student = attention([[5.0], [1.0]], [[1.0], [2.0]], zeros, is_causal)
    teacher = attention([[1.0], [1.0]], [[0.0], [3.0]], related, is_causal)

    assert value_relation_transfer(student, teacher, BOTH).item() == pytest.approx((0 + FROM_HALVES) / 2)


def test_losses_average_over_pairs_or_queries_and_not_over_examples():
    """An example with four real positions counts four times as much as one with one, or 10 pairs to 1."""
    student, teacher, valid = drawn(0), drawn(1), valid_of([4, 1])
    for loss in LOSSES:
        each = [loss(student, teacher, valid & (torch.arange(2) == row)[:, None]) for row in range(2)]
        first, second = (10, 1) if loss is score_loss else (4, 1)
        expected = (first * each[0] + second * each[1]) / (first + second)
        torch.testing.assert_close(loss(student, teacher, valid), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_without_a_position_that_counts_is_undefined(loss):
    assert loss(drawn(0), drawn(1), valid_of([0, 0])).isnan()


# Invariants


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), lengths=st.tuples(st.integers(1, 5), st.integers(0, 5)), is_causal=st.booleans())
def test_losses_are_not_negative_and_zero_for_equal_layers(seed, lengths, is_causal):
    student, teacher, valid = drawn(seed, is_causal=is_causal), drawn(seed + 1, 2, 4, is_causal), valid_of(lengths)
    for loss in LOSSES:
        assert loss(student, teacher, valid) >= -1e-12
        assert loss(student, student, valid).abs() <= 1e-12
    if is_causal and max(lengths) == 1:  # one visible key leaves no choice
        assert all(loss(student, teacher, valid).abs() <= 1e-12 for loss in DIVERGENCES)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    lengths=st.tuples(st.integers(1, 5), st.integers(0, 5)),
    is_causal=st.booleans(),
    size=st.sampled_from([1.0, 1e3]),
)
def test_content_of_padding_does_not_matter(seed, lengths, is_causal, size):
    student, teacher, valid = drawn(seed, is_causal=is_causal), drawn(seed + 1, is_causal=is_causal), valid_of(lengths)
    other = [replace(layer, **repadded(layer, valid, seed, size)) for layer in (student, teacher)]
    for loss in LOSSES:
        torch.testing.assert_close(loss(*other, valid), loss(student, teacher, valid), rtol=1e-9, atol=1e-12)


def repadded(layer, valid, seed, size):
    random = torch.Generator().manual_seed(seed)
    return {
        name: torch.where(
            valid[:, None, :, None],
            getattr(layer, name),
            size * torch.randn(layer.queries.shape, generator=random, dtype=torch.float64),
        )
        for name in ("queries", "keys", "values")
    }


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_finite_and_right_also_beside_padding(loss):
    """Left padding: the first queries of a causal layer see no key that counts."""
    valid = torch.tensor([[True] * 5, [False, False, True, True, True]])
    student, teacher = drawn(0), drawn(1)
    names = ["values"] if loss is value_relation_transfer else ["queries", "keys"]
    leaves = [getattr(student, name).requires_grad_() for name in names]

    def of(*tensors):
        return loss(replace(student, **dict(zip(names, tensors, strict=True))), teacher, valid)

    assert torch.autograd.gradcheck(of, leaves)
    for gradient in torch.autograd.grad(of(*leaves), leaves):
        assert gradient[1, :, 2:].abs().max() > 0
        assert (gradient[1, :, :2] == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_keys_count_that_both_see(loss):
    """A causal layer and one that sees both ways are compared where both see."""
    student, teacher, valid = drawn(0), drawn(1), valid_of([5, 3])
    expected = loss(student, teacher, valid)

    assert loss(replace(student, is_causal=False), teacher, valid) == expected
    assert loss(student, replace(teacher, is_causal=False), valid) == expected
    assert loss(replace(student, is_causal=False), replace(teacher, is_causal=False), valid) != expected


# Heads


def test_relation_heads_divide_the_values_of_all_heads_side_by_side():
    student, teacher, valid = drawn(0, heads=2, width=3), drawn(1, heads=4, width=2), valid_of([5, 3])
    merged = [
        replace(layer, values=torch.cat(layer.values.unbind(1), -1)[:, None], queries=layer.queries[:, :1])
        for layer in (student, teacher)
    ]
    one_head = value_relation_transfer(*merged, valid)

    torch.testing.assert_close(value_relation_transfer(student, teacher, valid, relation_heads=1), one_head)
    same_heads = [drawn(2), drawn(3)]
    own = value_relation_transfer(*same_heads, valid)
    torch.testing.assert_close(value_relation_transfer(*same_heads, valid, relation_heads=2), own)
    assert value_relation_transfer(student, teacher, valid, relation_heads=2) != one_head


@pytest.mark.parametrize("loss", LOSSES)
def test_different_heads_are_refused_with_both_numbers(loss):
    with pytest.raises(ValueError, match="as many heads, got 2 and 4"):
        loss(drawn(0), drawn(1, heads=4), valid_of([5, 5]))


@pytest.mark.parametrize("heads", [0, 4, -1])
def test_relation_heads_that_do_not_divide_the_width_are_refused(heads):
    with pytest.raises(ValueError, match=f"must divide the width 6 of all heads' values, got {heads}"):
        value_relation_transfer(drawn(0), drawn(1), valid_of([5, 5]), relation_heads=heads)


@pytest.mark.parametrize("loss", LOSSES)
def test_positions_of_another_shape_are_refused(loss):
    with pytest.raises(ValueError, match=r"got \(2, 5\), \(2, 5\), \(1, 5\)"):
        loss(drawn(0), drawn(1), valid_of([5]))


# Real models

TOKENS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def model_of(family, seed):
    model = build_recommender(family, 29, 8, Shape(2, 16, 24, 2), seed).model.eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=random)
    return model


def batch_of(family):
    batch = {"input_ids": TOKENS, "attention_mask": MASK}
    return batch | ({"decoder_input_ids": TOKENS, "decoder_attention_mask": MASK} if family == "t5" else {})


def eager_maps(model, batch):
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    output = twin(**batch, output_attentions=True)
    if "encoder_attentions" in output:
        return output.encoder_attentions + output.decoder_attentions
    return output.attentions


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_transfer_is_the_divergence_of_the_models_own_maps(family):
    student, teacher, batch = model_of(family, 0), model_of(family, 1), batch_of(family)
    with torch.no_grad(), recorded_attention(student) as told, recorded_attention(teacher) as wanted:
        student(**batch)
        teacher(**batch)
        maps = zip(eager_maps(student, batch), eager_maps(teacher, batch), strict=True)

    for layer, (q, p) in enumerate(maps):
        by_query = (torch.special.entr(p).neg() - torch.xlogy(p, q)).sum(-1)  # batch x heads x queries
        expected = torch.cat([by_query[0].flatten(), by_query[1, :, :4].flatten()]).mean()
        torch.testing.assert_close(attention_transfer(told[layer], wanted[layer], MASK.bool()), expected)
        assert expected > 1e-3
        assert attention_transfer(wanted[layer], wanted[layer], MASK.bool()) == 0


@pytest.mark.parametrize(
    ("loss", "reached"),
    [
        (score_loss, {"self_attn.q_proj", "self_attn.k_proj"}),
        (attention_transfer, {"self_attn.q_proj", "self_attn.k_proj"}),
        (value_relation_transfer, {"self_attn.v_proj"}),
    ],
)
def test_gradient_reaches_what_the_loss_reads_in_the_student_and_never_the_teacher(loss, reached):
    """The loss of the first layer also reaches the embedding and the norm before attention, and nothing later."""
    student, teacher = model_of("llama", 0), model_of("llama", 1)
    with recorded_attention(student) as told, recorded_attention(teacher) as wanted:
        student(**batch_of("llama"))
        teacher(**batch_of("llama"))
    loss(told[0], wanted[0], MASK.bool()).backward()

    touched = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    before = {"model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"}
    assert touched == before | {f"model.layers.0.{path}.weight" for path in reached}
    assert all(student.get_parameter(name).grad.abs().max() > 0 for name in touched)
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("loss", LOSSES)
def test_descent_brings_the_student_to_the_teacher(loss):
    student, teacher = model_of("gpt2", 0), model_of("gpt2", 1)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    with torch.no_grad(), recorded_attention(teacher) as wanted:
        teacher(**batch_of("gpt2"))
    course = []
    for _ in range(60):
        with recorded_attention(student) as told:
            student(**batch_of("gpt2"))
        course.append(loss(told[1], wanted[1], MASK.bool()))
        optimizer.zero_grad()
        course[-1].backward()
        optimizer.step()

    assert course[-1] < course[0] / 5


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_compared_in_single(loss):
    """A divergence of 1e-3 nats would drown in bfloat16, whose step near 1 is 2 ** -7."""
    student = drawn(0)
    teacher = replace(student, values=student.values * 1.02, queries=student.queries * 1.02)
    halves = [cast(layer, torch.bfloat16) for layer in (student, teacher)]
    exact = [cast(layer, torch.float64) for layer in halves]

    found, wanted = loss(*halves, valid_of([5, 4])), loss(*exact, valid_of([5, 4]))
    assert found.isfinite()
    assert found.item() == pytest.approx(wanted.item(), rel=0.5)


def cast(layer, dtype):
    return replace(layer, **{name: getattr(layer, name).to(dtype) for name in PARTS})
