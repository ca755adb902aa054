"""Fisher information per layer, from exact per-example gradients and without a loop over examples.

The gradient of a linear map on one example is the sum over positions of output gradient times input. Its squared
norm follows from the two, without any weight gradient: either formed per example, or through the two Gram matrices
over positions, whichever is cheaper for the shape.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from layerwise.models.families import normalised
from layerwise.models.inputs import IGNORED
from layerwise.models.layers import forward_inputs, layers_of, pretrained_of, shifts_labels, stacks_of
from layerwise.models.modes import evaluating

Batches = Iterable[Mapping[str, Tensor]]


def fisher_information(
    model: nn.Module,
    batches: Batches,
    labels: Literal["model", "data"],
    generator: torch.Generator | None = None,
) -> NDArray[np.float64]:
    """Trace of the Fisher information of each layer's parameters: mean squared norm of per-example gradients.

    An example is one row of a batch; its loss is the sum of the negative log-likelihoods, in nats, of its labelled
    positions. Dropout is off. The model's mode and gradient flags are the same afterwards. Position tables that
    all layers of a stack share (T5) belong to no layer and are left out.

    Args:
        model: A supported language model or sequence classifier, or a `Recommender`.
        batches: Keyword dictionaries for the model's forward, with `labels` as `transformers` expects them: *batch x
            length*, -100 where there is none, aligned with `input_ids` (causal models shift them themselves) or with
            the decoder's output; *batch* for a classifier.
        labels: `"model"` draws the labels from the model's own distribution, which gives the (true) Fisher;
            `"data"` takes those of the batch, which gives the empirical Fisher.
        generator: Draws the labels where `labels="model"`; seeded with 0 by default.

    Returns:
        One value per layer, *num_layers*, in squared nats; `nan` if there is no batch.

    Raises:
        ValueError: If a batch has no labels, or `labels` is neither of the two.
        UnsupportedArchitectureError: If a layer holds parameters of an unknown kind.

    References:
        Kunstner, Balles and Hennig 2019 (true against empirical); Goodfellow 2015, arXiv 1510.01799, and Bu et al.
        2022, arXiv 2210.00038 (norms without per-example gradients).
    """
    if labels not in ("model", "data"):
        raise ValueError(f'labels must be "model" or "data", got {labels!r}')
    pretrained = pretrained_of(model)
    generator = generator or torch.Generator(pretrained.device).manual_seed(0)
    layers = layers_of(pretrained)
    totals, examples = torch.zeros(len(layers), dtype=torch.float64), 0
    with evaluating(pretrained), _frozen(pretrained), _squared_norms(pretrained, totals):
        for batch in batches:
            if "labels" not in batch:
                raise ValueError(f"Fisher information needs labels in every batch, got only {sorted(batch)}")
            logits, targets = _predictions(pretrained, batch)
            if labels == "model":
                targets = _drawn(logits.detach(), targets, generator)
            loss = nn.functional.cross_entropy(
                logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            loss.backward()
            examples += len(targets)
    return (totals / examples).numpy() if examples else np.full(len(layers), np.nan)


def _predictions(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits in fp32 and the labels that stand at the same places."""
    logits, labels = model(**forward_inputs(model, batch), use_cache=False).logits.float(), batch["labels"]
    return (logits[:, :-1], labels[:, 1:]) if shifts_labels(model) else (logits, labels)


def _drawn(logits: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """Labels drawn from the model at the positions that have one."""
    labelled = targets != IGNORED
    drawn = targets.clone()
    drawn[labelled] = torch.multinomial(logits[labelled].softmax(-1), 1, generator=generator)[:, 0]
    return drawn


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
def _squared_norms(model: PreTrainedModel, totals: Tensor) -> Iterator[None]:
    """Each backward pass inside the block adds to `totals` the squared gradient norms of its examples."""
    with ExitStack() as hooks:
        for stack in stacks_of(model).values():
            hooks.callback(stack[0].register_forward_pre_hook(_require_grad).remove)
        for index, layer in enumerate(layers_of(model)):
            for module in layer.modules():
                if next(module.parameters(recurse=False), None) is not None and not isinstance(module, nn.Embedding):
                    hooks.callback(module.register_forward_hook(_watch(index, totals)).remove)
        yield


def _require_grad(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The graph begins at the first layer of a stack: nothing below it is differentiated."""
    return (inputs[0].detach().requires_grad_(), *inputs[1:])


def _watch(index: int, totals: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        states = inputs[0].detach()

        def add(gradient: Tensor) -> None:
            totals[index] += _squared_norm(module, states, gradient).double().cpu()

        output.register_hook(add)

    return hook


def _squared_norm(module: nn.Module, states: Tensor, gradient: Tensor) -> Tensor:
    """Squared norm of the gradient of one module's parameters, summed over the examples of the batch."""
    bias = getattr(module, "bias", None)
    of_bias = gradient.flatten(1, -2).sum(1).square().sum() if bias is not None else gradient.new_zeros(())
    if not isinstance(module, nn.Linear | Conv1D):
        return (gradient * normalised(module, states)).flatten(1, -2).sum(1).square().sum() + of_bias
    length, inputs, outputs = states.shape[1], states.shape[2], gradient.shape[2]
    if length * (inputs + outputs) < inputs * outputs:
        gram = (states @ states.mT) * (gradient @ gradient.mT)  # batch x length x length
        return gram.sum() + of_bias
    return (gradient.mT @ states).square().sum() + of_bias  # batch x out x in
