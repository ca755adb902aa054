"""How much faster a workload can become: by its layers, by its arithmetic, by the memory that it moves.

Counted on a real forward pass of the actual models, operation by operation, on any device; also on `meta`, where a
model of any size takes no memory. Three ratios of full over compact:

- *layers*: what CLAIMS calls the bound and what "share of the bound" divides by. Nothing beats it at equal batch, since
  the rest is not cut; a measured ratio above 1.03 times it is an artefact.
- *flops*: where arithmetic takes the time (large batches, long histories).
- *bytes*: where moving memory takes the time (small batches, decoding).

On a machine that reaches its peak arithmetic or its peak bandwidth, the speedup lies between the last two, whatever the
peaks are. An operation that is launched and does little counts for nothing here; `depth_cost` measures that.

References:
    Williams, Waterman & Patterson 2009 (Roofline).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from layerwise.models.layers import layers_of
from layerwise.models.modes import evaluating

_aten = torch.ops.aten
_GATHERS = {_aten.embedding, _aten.index, _aten.index_select, _aten.gather}  # read of a table what they take out
_SCATTERS = {_aten.index_copy_}  # write to a table what they put in


@dataclass(frozen=True)
class Work:
    """What one call computes and moves.

    Attributes:
        flops: Floating-point operations of matrix products and attention, two per multiplication with addition.
        bytes: Bytes that the operations read and write, each operation its inputs and outputs once; of a table that
            is looked up only the rows that are taken. Views move nothing. Caches between operations are not considered.
    """

    flops: int
    bytes: int


@dataclass(frozen=True)
class Bound:
    """How many times faster the compact model can be in one workload.

    Attributes:
        layers: Ratio of the numbers of layers, of all stacks together.
        flops: Ratio of floating-point operations.
        bytes: Ratio of bytes moved.
    """

    layers: float
    flops: float
    bytes: float

    @property
    def regimes(self) -> tuple[float, float]:
        """The smaller and the larger of the ratios of flops and bytes, between which a saturated machine lies."""
        return min(self.flops, self.bytes), max(self.flops, self.bytes)


def bound_of(full: nn.Module, compact: nn.Module, inputs: Mapping[str, Tensor]) -> Bound:
    """The bounds of a workload on these inputs.

    Args:
        full: Workload with the full model, called as `full(**inputs)`; supported by `layers_of`.
        compact: The same with the compact model.
        inputs: Arguments of one call.

    Raises:
        UnsupportedArchitectureError: If an architecture is unknown.
    """
    large, small = work_of(full, inputs), work_of(compact, inputs)
    return Bound(
        layers=len(layers_of(full)) / len(layers_of(compact)),
        flops=large.flops / small.flops,
        bytes=large.bytes / small.bytes,
    )


def work_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> Work:
    """Arithmetic and memory traffic of `model(**inputs)`, in evaluation mode and without gradients."""
    # Outside of inference mode, where compound operations reach a dispatch mode in one piece.
    arithmetic, traffic = FlopCounterMode(display=False, custom_mapping=_ATTENTION), _Traffic()
    with torch.inference_mode(False), torch.no_grad(), evaluating(model), arithmetic, traffic:
        model(**inputs)
    return Work(arithmetic.get_total_flops(), traffic.bytes)


class _Traffic(TorchDispatchMode):
    """Adds up the bytes that the operations inside the block read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.bytes += _traffic(func, _tensors((args, kwargs)), _tensors(result))
        return result


def _traffic(func: Any, read: list[Tensor], written: list[Tensor]) -> int:
    """Bytes that one operation moves."""
    if func.overloadpacket in _GATHERS:
        read = [*written, *read[1:]]
    elif func.overloadpacket in _SCATTERS:
        read, written = read[1:], read[-1:]
    elif not func._schema.is_mutable:
        sources = {tensor.untyped_storage()._cdata for tensor in read}
        written = [tensor for tensor in written if tensor.untyped_storage()._cdata not in sources]
        read = read if written or not sources else []
    return sum(map(_bytes, (*read, *written)))


def _bytes(tensor: Tensor) -> int:
    """Bytes of the distinct elements: an expanded tensor holds fewer than its shape says."""
    held = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return int(torch.Size(held).numel()) * tensor.element_size()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """Operations of attention over all pairs of positions, masked ones included: two matrix products."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[2] * (width + value[3])


# torch's own table lacks the kind for a CPU, and refuses fewer heads of keys than of queries on a CUDA device.
_ATTENTION = dict.fromkeys(
    (
        _aten._scaled_dot_product_flash_attention_for_cpu,
        _aten._scaled_dot_product_flash_attention,
        _aten._scaled_dot_product_efficient_attention,
        _aten._scaled_dot_product_cudnn_attention,
    ),
    _attention,
)
