"""The layers of a model: finding them, bypassing them, starting from the middle, watching what passes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from layerwise.models.families import Stack, UnsupportedArchitectureError, family_of


def pretrained_of(model: nn.Module) -> PreTrainedModel:
    """The `transformers` model itself, also when it stands inside a `Recommender`.

    Raises:
        UnsupportedArchitectureError: If there is none.
    """
    inner = model if isinstance(model, PreTrainedModel) else getattr(model, "model", None)
    if not isinstance(inner, PreTrainedModel):
        raise UnsupportedArchitectureError(
            f"expected a transformers model or a Recommender, got {type(model).__name__}"
        )
    return inner


def stacks_of(model: nn.Module) -> dict[Stack, nn.ModuleList]:
    """The runs of layers of a model, in the order of computation; one, or the encoder's and the decoder's.

    Raises:
        UnsupportedArchitectureError: If the architecture is unknown.
    """
    pretrained = pretrained_of(model)
    found = {}
    for stack in family_of(pretrained.config).stacks:
        head, _, rest = stack.path.partition(".")
        holder = getattr(pretrained.base_model, head, None)  # T5EncoderModel has no decoder
        if holder is not None:
            found[stack] = holder.get_submodule(rest) if rest else holder
    return found


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a model, first to last; those of an encoder stand before those of its decoder.

    Raises:
        UnsupportedArchitectureError: If the architecture is unknown.
    """
    return [layer for layers in stacks_of(model).values() for layer in layers]


def layer_prefixes(model: PreTrainedModel) -> dict[Stack, str]:
    """Prefix of the layers' names in the state dict of `model` by stack, such as `model.layers.`."""
    names = {module: name for name, module in model.named_modules()}
    return {stack: f"{names[layers]}." for stack, layers in stacks_of(model).items()}


def cut_config(config: PretrainedConfig, kept_layers: Mapping[Stack, Sequence[int]]) -> PretrainedConfig:
    """A copy of the configuration that describes only the kept layers; per-layer lists are selected by index."""
    family = family_of(config)
    fields = config.to_dict()
    for stack, kept in kept_layers.items():
        fields[stack.depth] = len(kept)
        for name in family.per_layer:
            if fields.get(name) is not None:
                fields[name] = [fields[name][index] for index in kept]
    return type(config).from_dict(fields, attn_implementation=config._attn_implementation)


def shifts_labels(model: PreTrainedModel) -> bool:
    """Whether the state at a position predicts the label of the next one, as causal language models do."""
    return type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def forward_inputs(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Arguments of a forward pass without a loss: labels left out, a decoder's tokens made from them where absent."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if hasattr(model, "prepare_decoder_input_ids_from_labels") and "decoder_input_ids" not in inputs:
        inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    return inputs


def run_layers(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> None:
    """Runs all layers on a batch, and not the head where it can be left out: at all positions it may cost more."""
    inputs = forward_inputs(model, batch)
    fed = (
        not model.config.is_encoder_decoder or "decoder_input_ids" in inputs
    )  # T5's classifier feeds its decoder itself
    (model.base_model if fed else model)(**inputs)


def state_of(output: Any) -> Tensor:
    """The state in what a layer returns: T5 adds position biases to it."""
    state: Tensor = output[0] if isinstance(output, tuple) else output
    return state


@contextmanager
def bypassed(model: nn.Module, removed_layers: Sequence[int]) -> Iterator[None]:
    """Inside the block, the removed layers of `model` hand their input on unchanged (the masked twin).

    For passes without a cache: a bypassed layer keeps no keys and values.

    Args:
        model: A supported `transformers` model or a `Recommender`; restored on leaving, also after an error.
        removed_layers: Indices into `layers_of(model)`.

    Raises:
        ValueError: If one is out of range.
    """
    with _replaced(model, dict.fromkeys(removed_layers)):
        yield


@dataclass
class Trace:
    """States of one forward pass, by layer: what entered, and what left; each *batch x length x hidden*."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)


@contextmanager
def traced(model: nn.Module) -> Iterator[Trace]:
    """Collects what enters and leaves each layer during one forward pass inside the block."""
    trace = Trace()

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        trace.inputs.append(inputs[0])
        trace.outputs.append(state_of(output))

    with ExitStack() as hooks:
        for layer in layers_of(model):
            hooks.callback(layer.register_forward_hook(hook).remove)
        yield trace


@contextmanager
def resumed(model: nn.Module, index: int, trace: Trace) -> Iterator[None]:
    """Inside the block, `model` bypasses layer `index` and computes only what comes after it.

    The layers before it are not computed, so removing each layer in turn costs about half as much as running the
    model once per layer.

    Args:
        model: A supported `transformers` model or a `Recommender`; restored on leaving, also after an error.
        index: The removed layer, an index into `layers_of(model)`.
        trace: Of the whole model on the same batch.
    """
    states: dict[int, Tensor | None] = dict.fromkeys(range(index + 1))
    states[index] = trace.inputs[index]
    end = 0
    for layers in stacks_of(model).values():
        end += len(layers)
        if end <= index:
            states[end - 1] = trace.outputs[end - 1]  # a decoder that is resumed still reads what was encoded
    with _replaced(model, states):
        yield


@contextmanager
def _replaced(model: nn.Module, states: Mapping[int, Tensor | None]) -> Iterator[None]:
    """Inside the block, these layers return the given state, or their input where it is None."""
    layers, hand_on = layers_of(model), family_of(pretrained_of(model).config).hand_on
    if outside := [index for index in states if not 0 <= index < len(layers)]:
        raise ValueError(f"layers to bypass must lie within [0, {len(layers)}), got {outside}")
    replaced = [layers[index] for index in states]
    before = [vars(layer).get("forward") for layer in replaced]  # set where bypasses nest or a tool wraps layers

    def forward_of(layer: nn.Module, state: Tensor | None) -> Any:
        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            return hand_on(layer, hidden_states if state is None else state, args, kwargs)

        return forward

    for layer, state in zip(replaced, states.values(), strict=True):
        layer.forward = forward_of(layer, state)  # an instance attribute hides the class's method until it is deleted
    try:
        yield
    finally:
        for layer, forward in zip(replaced, before, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
