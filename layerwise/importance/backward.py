"""The backward pass that all kinds of Fisher information share: what enters a module meets the gradient at its output.

Parameters ask for no gradients and the graph begins at the first layer, so that a pass costs what its activations
cost; a listener at each module turns the two into squared gradients of single examples.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain, pairwise
from typing import Any, TypedDict, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerwise.importance.likelihood import Batches, Example, Labels, Predict, predictions, scores
from layerwise.models.layers import pretrained_of, stacks_of, state_of
from layerwise.models.modes import evaluating

Listen = Callable[[Tensor, Tensor], Callable[[Tensor], None]]
"""From what enters and leaves a module, *batch x length x width*, to what takes the gradient there in each pass.

What it holds on to lives as long as the graph.
"""


class Options(TypedDict, total=False):
    """What may be varied in every kind of Fisher information.

    Attributes:
        example: What one example is. By default a sequence: one row of a batch, one user, whose loss is the sum of
            the negative log-likelihoods, in nats, of its labelled positions; also a row without a label is one, with
            gradient zero. With `"token"` every labelled position is an example of its own, and as many backward
            passes are needed as the row with the most labels has.
        draws: How often labels are drawn where `labels="model"`; the forward pass is shared. 1 by default.
        predict: From a batch to logits, *batch x ... x num_classes*, and integer labels at the same places, -100
            where there is none: the loss of another task on the same layers. It runs the model, and whatever head it
            has. By default the model's own head and the labels of the batch.
    """

    example: Example
    draws: int
    predict: Predict | None


def backpropagated(
    model: nn.Module,
    batches: Batches,
    labels: Labels,
    generator: torch.Generator | None,
    listeners: Mapping[nn.Module, Listen],
    *,
    example: Example = "sequence",
    draws: int = 1,
    predict: Predict | None = None,
) -> int:
    """Runs the backward passes of all batches past the listeners, and returns the number of examples.

    Dropout is off. The model's mode, gradient flags and gradients are the same afterwards.

    Args:
        model: A supported `transformers` model or a `Recommender`.
        batches: Keyword dictionaries for its forward.
        labels: Where the labels come from; see `likelihood`.
        generator: Draws labels; seeded with 0 by default.
        listeners: Who listens, by module; modules are layers or stand inside them.
        example: See `Options`.
        draws: See there.
        predict: See there.

    Raises:
        ValueError: If a batch has no labels, or `labels`, `example` or `draws` is none of the possible ones.
    """
    for name, value, known in (("labels", labels, Labels), ("example", example, Example)):
        if value not in get_args(known):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(known)))}, got {value!r}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    pretrained, examples = pretrained_of(model), 0
    generator = generator or torch.Generator(pretrained.device).manual_seed(0)
    with evaluating(pretrained), _frozen(pretrained), _heard(listeners), _entries(pretrained) as entries:
        for batch in batches:
            entries.clear()
            found = predictions(pretrained, batch, predict)
            for score, is_last in _marked(scores(found, labels, generator, draws, example)):
                torch.autograd.grad(found.logits, entries, score, retain_graph=not is_last, allow_unused=True)
            examples += found.num_rows if example == "sequence" else len(found.targets)
    return examples


def _marked(passes: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Each with whether it is the last one."""
    for current, following in pairwise(chain(passes, (None,))):
        if current is not None:
            yield current, following is None


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """No parameter asks for a gradient inside the block: activations carry all that is needed."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def _heard(listeners: Mapping[nn.Module, Listen]) -> Iterator[None]:
    """Inside the block, every forward pass puts the listeners at the outputs of their modules."""

    def at(listen: Listen) -> Callable[[nn.Module, tuple[Tensor, ...], Any], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            state = state_of(output)
            state.register_hook(listen(inputs[0].detach(), state.detach()))

        return hook

    with ExitStack() as hooks:
        for module, listen in listeners.items():
            hooks.callback(module.register_forward_hook(at(listen)).remove)
        yield


@contextmanager
def _entries(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """The states that enter the first layer of each stack: the graph begins there, nothing below is differentiated."""
    entries: list[Tensor] = []

    def cut(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        entries.append(inputs[0].detach().requires_grad_())
        return (entries[-1], *inputs[1:])

    with ExitStack() as hooks:
        for layers in stacks_of(model).values():
            hooks.callback(layers[0].register_forward_pre_hook(cut).remove)
        yield entries
