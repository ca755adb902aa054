"""Post-training quantisation: the layers' weights in 8 or 4 bits; the rival of removing whole layers. And honest bytes.

Only the linear maps inside the layers are quantised (GPT-2's `Conv1D` becomes the `nn.Linear` that it equals); biases,
normalisations, position tables, what stands outside the layers, the item matrix and all activations keep their
precision. A map turns its weight back into floats at every use: the model takes less memory, not less time. What comes
out is for measuring: cut first (`compact_model` does not see that weights are quantised), and save what went in.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from layerwise.models.layers import layers_of

try:
    import torchao.quantization as torchao
except ImportError:  # the extra layerwise[quantize]
    torchao = None
try:
    import bitsandbytes
except ImportError:  # the extra layerwise[quantize]
    bitsandbytes = None

Model = TypeVar("Model", bound=nn.Module)
_INT4: torch.dtype = torch.int4  # type: ignore[attr-defined]
_BLOCK = 64  # NF4 weights that share a scale


def int8_quantized(model: Model) -> Model:
    """A copy whose layers hold 8-bit weights: one scale per output channel, symmetric, rounded to nearest.

    A weight w becomes s clip(round(w / s), -128, 127) with s = max |w| / 127.5 over its channel, found in the precision
    that the weights have.

    Args:
        model: A supported `transformers` model or a `Recommender`, cut already if it is to be cut; left as it was.

    Returns:
        A model of the same class, on the same device and in the same modes; the quantised weights cannot be trained.

    Raises:
        ImportError: If torchao is not installed.
        UnsupportedArchitectureError: If the architecture is unknown.
        ValueError: If the layers' weights are no plain ones: adapters, masks, quantised already.
    """
    _check_installed(torchao, "torchao", "INT8")
    config = torchao.Int8WeightOnlyConfig(set_inductor_config=False)
    return _with_maps(model, lambda linear: _by_torchao(linear, config))


def int4_quantized(model: Model, group_size: int = 32) -> Model:
    """A copy whose layers hold 4-bit weights: one scale per group of inputs of an output channel, symmetric.

    A weight w becomes s clip(round(w / s), -8, 7) with s = max |w| / 7.5 over its group, found and kept in the
    precision that the weights have. A channel is divided into as few groups as `group_size` allows, of one size; where
    that leaves a rest, zeros fill the last one. torchao keeps each 4-bit value in a byte of its own, so quality is that
    of INT4 and size is not: see `packed_bytes`.

    Args:
        model: As for `int8_quantized`.
        group_size: Largest number of weights that share a scale, at least 2.

    Returns:
        As `int8_quantized`.

    Raises:
        ImportError: If torchao is not installed.
        UnsupportedArchitectureError: If the architecture is unknown.
        ValueError: If the group size is below 2, or the layers' weights are no plain ones.
    """
    _check_installed(torchao, "torchao", "INT4")
    if group_size < 2:
        raise ValueError(f"group_size must be at least 2, got {group_size}")
    return _with_maps(model, lambda linear: _int4(linear, group_size))


def nf4_quantized(model: Model) -> Model:
    """A copy whose layers hold 4-bit NormalFloat weights, two to a byte, with one fp32 scale per 64 of them.

    Args:
        model: As for `int8_quantized`.

    Returns:
        As `int8_quantized`.

    Raises:
        ImportError: If bitsandbytes is not installed.
        UnsupportedArchitectureError: If the architecture is unknown.
        ValueError: If the layers' weights are no plain ones.

    References:
        Dettmers et al. 2023 (QLoRA), section 3; here without its second quantisation, of the scales.
    """
    _check_installed(bitsandbytes, "bitsandbytes", "NF4")
    return _with_maps(model, _NF4Linear)


def serialised_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights as `torch.save` writes its state dict: everything but header and padding.

    `numel() * element_size()` is no measure of quantised weights: torchao's report the precision that they stand for,
    bitsandbytes' leave out their scales. Here whatever such a weight consists of is counted. Tied weights count once.
    """
    return sum(part.nbytes for _, _, part in _parts(model))


def packed_bytes(model: nn.Module) -> int:
    """Bytes of the same weights in a file that holds two 4-bit values per byte and no zero points that are all 0.

    Scales count as they are. For what `int4_quantized` gives this is the size that INT4 is known for, and less than
    `serialised_bytes`; for NF4, packed already, and for plain models the two are equal.
    """
    return sum(_packed_size(weight, name, part) for weight, name, part in _parts(model))


def _check_installed(module: Any, name: str, what: str) -> None:
    if module is None:
        raise ImportError(f"{what} quantisation needs {name}; install it with: pip install 'layerwise[quantize]'")


def _with_maps(model: Model, quantise: Callable[[nn.Linear], nn.Module]) -> Model:
    """A copy of the model with every linear map inside its layers quantised."""
    if any(hasattr(module, "lora_A") for module in model.modules()):
        raise ValueError("the model carries LoRA adapters; merge them first, then quantise")
    copied = copy.deepcopy(model)
    for layer in layers_of(copied):
        for path, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear | Conv1D):
                layer.set_submodule(path, quantise(_plain_linear(module, path)).train(module.training))
    return copied


def _plain_linear(module: nn.Module, path: str) -> nn.Linear:
    """The map as an `nn.Linear`, *outputs x inputs*."""
    weight = module.weight
    if type(weight) is not nn.Parameter or not weight.is_floating_point():
        raise ValueError(
            f"expected a plain weight in {path} of each layer, got {type(weight).__name__} of {weight.dtype}; quantise "
            "a model once, after its masks or other parametrisations are finished"
        )
    return _linear(nn.Linear, weight.T.contiguous() if isinstance(module, Conv1D) else weight, module.bias)


def _linear(kind: type[nn.Linear], weight: Tensor, bias: Any) -> nn.Linear:
    """A linear map made of these very tensors."""
    linear = kind(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    linear.bias = bias
    return linear


def _by_torchao(linear: nn.Linear, config: Any) -> nn.Linear:
    torchao.quantize_(linear, config)
    return linear


class _Padded(nn.Linear):
    """A linear map whose inputs are filled up with zeros."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(input, (0, self.in_features - input.shape[-1])))


def _int4(linear: nn.Linear, group_size: int) -> nn.Linear:
    num_groups = -(-linear.in_features // group_size)
    size = -(-linear.in_features // num_groups)
    if missing := num_groups * size - linear.in_features:
        linear = _linear(_Padded, nn.functional.pad(linear.weight, (0, missing)), linear.bias)
    config = torchao.IntxWeightOnlyConfig(weight_dtype=_INT4, granularity=torchao.PerGroup(size))
    return _by_torchao(linear, config)


class _NF4Linear(nn.Linear):
    """A linear map that keeps its weight as 4-bit NormalFloat codes, two to a byte, in blocks of 64.

    `bitsandbytes.nn.Linear4bit` would do, but for its CPU kernels: they read wrong scales where the inputs are a
    multiple of 16 and not of 64, refuse other widths in evaluation mode and round the scales to bf16 at the first
    pass (0.50.2, AVX-512). Blocks as rows of a matrix are safe.
    """

    scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        weight = linear.weight.detach().flatten()
        blocks = nn.functional.pad(weight, (0, -len(weight) % _BLOCK)).view(-1, _BLOCK)
        codes, state = bitsandbytes.functional.quantize_4bit(
            blocks,
            blocksize=_BLOCK,
            quant_type="nf4",
            quant_storage=torch.int8,  # T5 casts its states to any other dtype of a weight
        )
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.bias = linear.bias
        self.register_buffer("scales", state.absmax)

    def forward(self, input: Tensor) -> Tensor:
        state = bitsandbytes.functional.QuantState(
            self.scales, (len(self.scales), _BLOCK), dtype=input.dtype, blocksize=_BLOCK, quant_type="nf4"
        )
        blocks = bitsandbytes.functional.dequantize_4bit(self.weight, state)
        shape = self.out_features, self.in_features
        return nn.functional.linear(input, blocks.flatten()[: shape[0] * shape[1]].view(shape), self.bias)


def _parts(model: nn.Module) -> Iterator[tuple[Tensor, str, Tensor]]:
    """The plain tensors in a state dict, each once: the weight that it belongs to, its name in there, the tensor."""
    seen = set()
    for weight in model.state_dict().values():
        names = weight.__tensor_flatten__()[0] if hasattr(weight, "__tensor_flatten__") else []
        for name, part in [(name, getattr(weight, name)) for name in names] or [("", weight)]:
            if part.data_ptr() not in seen:  # a wrapper's own is 0
                seen.add(part.data_ptr())
                yield weight, name, part


def _packed_size(weight: Tensor, name: str, part: Tensor) -> int:
    """Bytes of a part of a weight where 4-bit values are packed and zero points of symmetric scales left out."""
    if name == "qdata" and getattr(weight, "target_dtype", None) is _INT4:
        return -(-part.numel() // 2)
    return 0 if name == "zero_point" and not part.any() else part.nbytes
