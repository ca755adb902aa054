"""Magnitude pruning: the smallest weights become zero, wherever they stand; the rival of removing whole layers.

The matrices keep their size, so nothing becomes faster by itself: what shrinks is a file that stores only what is left.
"""

import copy
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.utils import prune
from transformers.pytorch_utils import Conv1D

from layerwise.models.recommender import Recommender


class _PrunedRecommender(Recommender):
    """A recommender whose linear maps carry the masks of `torch.nn.utils.prune`; made by `magnitude_pruned` alone."""

    def save(self, folder: Path) -> None:
        """Writes the plain checkpoint of `finished`: masks are not standard."""
        finished(self).save(folder)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy holds: after a forward pass a masked weight hangs on its graph, and could not be copied."""
        for module in _linear_maps(self):
            module.weight = cast(Tensor, module.weight).detach()  # made anew in the next pass
        return self.__dict__


def magnitude_pruned(recommender: Recommender, share_removed: float) -> Recommender:
    """A copy whose smallest weights are zero, and stay zero when `train` or `heal` trains it.

    The weights of all linear maps inside the layers compete with one another; biases, normalisations, position tables
    and the item matrix are not touched. What is zero already is among the smallest, so that pruning may go in steps.

    Args:
        recommender: Left as it was.
        share_removed: Share of the layers' matrix entries that become zero, in [0, 1); rounded to whole entries.

    Returns:
        A recommender that carries masks, in the same mode; `finished` makes it plain, and `save` writes it so.

    Raises:
        ValueError: If the share is out of range, adapters are not yet merged, or as for `finished`.

    References:
        Han et al. 2015 (Learning both Weights and Connections), section 3: weights below a threshold go, the others
        are trained on. There each layer has a threshold of its own; here one serves all layers.
    """
    if not 0 <= share_removed < 1:
        raise ValueError(f"the share of removed weights must lie in [0, 1), got {share_removed}")
    if any(hasattr(module, "lora_A") for module in recommender.modules()):
        raise ValueError("the model carries LoRA adapters, which would compete with its weights; merge them first")
    pruned = _PrunedRecommender(finished(recommender).model, recommender.num_items, recommender.max_length)
    pruned.training = recommender.training  # its own mode alone; `train` would set every module's
    maps = [(module, "weight") for module in _linear_maps(pruned)]
    prune.global_unstructured(maps, prune.L1Unstructured, amount=float(share_removed))  # a whole number is a count
    for module, name in maps:
        mask = module.get_buffer(f"{name}_mask")
        prune.remove(module, name)  # so that what the optimiser sees is zero, too,
        prune.custom_from_mask(module, name, mask)  # and has no gradient
    return pruned


def finished(recommender: Recommender) -> Recommender:
    """A copy without masks whose weights hold exact zeros: a plain recommender, which training would fill again.

    Raises:
        ValueError: If the recommender is of another kind, with adapters at gaps, which would be lost.
    """
    if type(recommender) not in (Recommender, _PrunedRecommender):
        raise ValueError(
            f"a {type(recommender).__name__} would lose what it adds; prune the Recommender that it was made from"
        )
    masked = copy.deepcopy(recommender)
    for module in _linear_maps(masked):
        if prune.is_pruned(module):
            prune.remove(module, "weight")
    plain = Recommender(masked.model, recommender.num_items, recommender.max_length)
    plain.training = recommender.training
    return plain


def sparse_bytes(recommender: Recommender) -> int:
    """Bytes of a checkpoint that stores the layers' matrices without their zeros.

    A matrix takes the size of an element for each entry that is not zero, and a bitmap of one bit per entry, in whole
    bytes; or its dense size, where that is less. Everything else is dense. Tied weights count once; the file's header
    and the configuration do not.

    Args:
        recommender: Pruned, finished, or neither, which gives the dense size; left as it was.

    Raises:
        ValueError: As for `finished`.
    """
    plain = finished(recommender)
    matrices = {module.get_parameter("weight").data_ptr() for module in _linear_maps(plain)}
    stored = {tensor.data_ptr(): tensor for tensor in plain.model.state_dict().values()}
    return sum(_sparse_size(tensor) if place in matrices else tensor.nbytes for place, tensor in stored.items())


def _linear_maps(recommender: Recommender) -> list[nn.Module]:
    """The linear maps inside the layers, in order."""
    return [
        module for layer in recommender.layers for module in layer.modules() if isinstance(module, nn.Linear | Conv1D)
    ]


def _sparse_size(matrix: Tensor) -> int:
    """Bytes of a matrix, sparse or dense, whichever is less."""
    bitmap = -(-matrix.numel() // 8)
    return min(matrix.nbytes, int(matrix.count_nonzero()) * matrix.element_size() + bitmap)
