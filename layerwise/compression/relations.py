"""Losses that bring a student layer's attention close to a teacher layer's: scores, distributions, value relations.

All take what `recorded_attention` collects, and average over heads and over queries that count; padding neither asks
nor is seen. Keys are those that student and teacher both see. The teacher receives no gradient.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from layerwise.models.attention import LayerAttention


def score_loss(student: LayerAttention, teacher: LayerAttention, valid: Tensor) -> Tensor:
    """Mean squared difference of the attention scores before their softmax, over heads and visible pairs.

    Args:
        student: A layer's attention.
        teacher: That of the layer to learn from, with as many heads; their width may differ.
        valid: Which positions count, bool, *batch x length*.

    Returns:
        A scalar; `nan` if no position counts.

    Raises:
        ValueError: If heads or shapes differ.

    References:
        Jiao et al. 2020 (TinyBERT), equation 7. There every query sees every key; here pairs that are hidden, by
        padding or since the key comes later, are left out of the mean: their scores do not reach the output. The
        authors' code counts pairs hidden by padding as equal, so that its mean falls with the amount of padding.
    """
    _check_heads(student, teacher)
    seen = _seen(student, teacher, valid)
    difference = student.scores() - teacher.scores().detach()
    return difference[seen.expand_as(difference)].square().mean()


def attention_transfer(student: LayerAttention, teacher: LayerAttention, valid: Tensor) -> Tensor:
    """Mean divergence KL(teacher || student) of the attention distributions, in nats, over heads and queries.

    Args:
        student: A layer's attention.
        teacher: That of the layer to learn from, with as many heads; their width may differ.
        valid: Which positions count, bool, *batch x length*.

    Returns:
        A scalar of at least 0, up to rounding; `nan` if no position counts.

    Raises:
        ValueError: If heads or shapes differ.

    References:
        Wang et al. 2020 (MiniLM), section 3.1, L_AT.
    """
    _check_heads(student, teacher)
    return _divergence(student.scores(), teacher.scores(), _seen(student, teacher, valid), valid)


def value_relation_transfer(
    student: LayerAttention, teacher: LayerAttention, valid: Tensor, relation_heads: int | None = None
) -> Tensor:
    """Mean divergence KL(teacher || student) of how values relate to one another, in nats, over heads and positions.

    A position's relation is the softmax, over the positions that it sees, of its value's products with theirs over
    the square root of the head's width.

    Args:
        student: A layer's attention.
        teacher: That of the layer to learn from; its heads may have another width.
        valid: Which positions count, bool, *batch x length*.
        relation_heads: Into how many heads the values of all heads side by side are divided anew, so that student and
            teacher may have different numbers of heads; None for the heads they have.

    Returns:
        A scalar of at least 0, up to rounding; `nan` if no position counts.

    Raises:
        ValueError: If shapes differ, heads differ without `relation_heads`, or the values cannot be so divided.

    References:
        Wang et al. 2020 (MiniLM), section 3.2, L_VR; relation heads: Wang et al. 2021 (MiniLMv2), section 3. There
        all real positions are related; here only those that attention sees, so that a causal layer is not asked about
        what comes later.
    """
    if relation_heads is None:
        _check_heads(student, teacher)
    seen = _seen(student, teacher, valid)
    told, wanted = _relations(student.values, relation_heads), _relations(teacher.values, relation_heads)
    return _divergence(told, wanted, seen, valid)


def _relations(values: Tensor, heads: int | None) -> Tensor:
    """Scaled products of the values of all pairs, *batch x heads x length x length*."""
    if heads is not None:
        width = values.shape[1] * values.shape[-1]
        if heads < 1 or width % heads:
            raise ValueError(f"relation_heads must divide the width {width} of all heads' values, got {heads}")
        values = values.transpose(1, 2).flatten(2).unflatten(2, (heads, width // heads)).transpose(1, 2)
    return values @ values.mT / math.sqrt(values.shape[-1])


def _divergence(student: Tensor, teacher: Tensor, seen: Tensor, valid: Tensor) -> Tensor:
    """KL(teacher || student) of the softmax over seen keys, mean over heads and queries that count."""
    told, wanted = _log_softmax(student, seen), _log_softmax(teacher.detach(), seen)
    divergence: Tensor = functional.kl_div(told, wanted, log_target=True, reduction="none").sum(-1)
    asked = valid[:, None].expand_as(divergence)
    return divergence[asked].mean()


def _log_softmax(scores: Tensor, seen: Tensor) -> Tensor:
    """In single precision at least. A query that sees nothing gets a finite, uniform row: `-inf` would poison it."""
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return scores.to(dtype).masked_fill(~seen, torch.finfo(dtype).min).log_softmax(-1)


def _seen(student: LayerAttention, teacher: LayerAttention, valid: Tensor) -> Tensor:
    """Pairs of queries and keys that count and are visible, broadcasts to *batch x heads x length x length*."""
    sizes = [(layer.queries.shape[0], layer.queries.shape[2]) for layer in (student, teacher)]
    if not sizes[0] == sizes[1] == tuple(valid.shape):
        raise ValueError(
            f"student, teacher and valid must agree in batch x length, got {sizes[0]}, {sizes[1]}, {tuple(valid.shape)}"
        )
    return student.visible() & teacher.visible() & valid[:, None, :, None] & valid[:, None, None, :]


def _check_heads(student: LayerAttention, teacher: LayerAttention) -> None:
    heads = student.queries.shape[1], teacher.queries.shape[1]
    if heads[0] != heads[1]:
        raise ValueError(
            f"student and teacher must have as many heads, got {heads[0]} and {heads[1]}; only relations of values can "
            "be divided anew, by relation_heads"
        )
