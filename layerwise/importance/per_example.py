"""Per-example gradients of a module's parameters, squared: from what enters it and the gradient at its output.

The gradient of a linear map on one example is the sum over positions of output gradient times input. Its squared norm
is also the inner product of two Gram matrices over positions, so that short sequences need no weight gradient at all.
Neither way is there a loop over examples, and the parameters themselves need no gradients.

References:
    Goodfellow 2015, arXiv 1510.01799 (one position); Li et al. 2022, arXiv 2110.05679, section 4, and Bu et al. 2022,
    arXiv 2205.10683 (sequences, and the cheaper of the two forms by layer).
"""

from collections.abc import Callable, Iterator
from functools import reduce

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from layerwise.models.families import normalised

_ENTRIES_AT_ONCE = 2**20  # of per-example weight gradients that are squared entry by entry: 4 MiB in fp32


def parameterised(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of everything in a layer that holds parameters of its own.

    Position tables that all layers of a stack share (T5) belong to no layer and are left out.
    """
    for path, module in layer.named_modules():
        if next(module.parameters(recurse=False), None) is not None and not isinstance(module, nn.Embedding):
            yield path, module


def gram(states: Tensor) -> Tensor:
    """Inner products of the positions of each example, *batch x length x length*."""
    return torch.bmm(states, states.mT)


class LatestGram:
    """`gram`, computed once for modules in a row that share their input, such as query, key and value."""

    def __init__(self) -> None:
        self._states, self._gram = torch.empty(0), torch.empty(0)

    def __call__(self, states: Tensor) -> Tensor:
        """Inner products of the positions of each example, *batch x length x length*."""
        if not states.is_set_to(self._states):  # the same memory, which is kept from reuse as long as it is held here
            self._states, self._gram = states, gram(states)
        return self._gram


def squared_norm(
    module: nn.Module, states: Tensor, gradient: Tensor, gram_of_states: Callable[[Tensor], Tensor] = gram
) -> Tensor:
    """Squared norm of the gradient of a module's parameters on one example, summed over the examples of a batch.

    Args:
        module: A linear map (`nn.Linear`, `Conv1D`) or a normalisation.
        states: What entered it, *batch x length x ... x inputs*.
        gradient: Gradient of the loss at its output, *batch x length x ... x outputs*.
        gram_of_states: `gram`, or one that remembers.

    Returns:
        A scalar, in the precision of the states.

    Raises:
        UnsupportedArchitectureError: If the module is of another kind.
    """
    if not isinstance(module, nn.Linear | Conv1D):
        of_weight = _sum_of_squares(_gain_gradients(module, states, gradient))
    elif _gram_is_cheaper(states, gradient):
        of_weight = torch.sum(gram_of_states(states) * gram(gradient))
    else:
        of_weight = _sum_of_squares(torch.bmm(gradient.mT, states))  # batch x outputs x inputs
    if getattr(module, "bias", None) is None:
        return of_weight
    return of_weight + _sum_of_squares(_over_positions(gradient))


def squared_gradients(module: nn.Module, states: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Square of each entry of the gradient of a module's parameters on one example, summed over the examples.

    Per-example weight gradients are formed for a few examples at a time.

    Args:
        module: As in `squared_norm`.
        states: As there.
        gradient: As there.

    Returns:
        A tensor of the shape of each parameter, by its name in the module.

    Raises:
        UnsupportedArchitectureError: If the module is of another kind.
    """
    if not isinstance(module, nn.Linear | Conv1D):
        found = {"weight": _gain_gradients(module, states, gradient).square().sum(0)}
    else:
        left, right = (states, gradient) if isinstance(module, Conv1D) else (gradient, states)  # weight is transposed
        examples = max(1, _ENTRIES_AT_ONCE // (left.shape[-1] * right.shape[-1]))
        parts = zip(left.split(examples), right.split(examples), strict=True)
        found = {"weight": reduce(torch.add, (torch.bmm(one.mT, other).square().sum(0) for one, other in parts))}
    if getattr(module, "bias", None) is not None:
        found["bias"] = _over_positions(gradient).square().sum(0)
    return found


def _gram_is_cheaper(states: Tensor, gradient: Tensor) -> bool:
    """Multiplications of the Gram form, *length^2 (inputs + outputs)*, against *length x inputs x outputs*."""
    length, inputs, outputs = states.shape[1], states.shape[2], gradient.shape[2]
    return length * (inputs + outputs) < inputs * outputs


def _gain_gradients(norm: nn.Module, states: Tensor, gradient: Tensor) -> Tensor:
    return _over_positions(gradient * normalised(norm, states))  # batch x hidden


def _over_positions(gradient: Tensor) -> Tensor:
    return gradient.flatten(1, -2).sum(1)  # qwen normalises within heads: batch x length x heads x width


def _sum_of_squares(gradients: Tensor) -> Tensor:
    return gradients.square().sum()
