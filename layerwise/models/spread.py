"""Models that no single device holds: whole layers on several devices, by accelerate."""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from layerwise.models.layers import layers_of
from layerwise.models.loading import Head, load_pretrained

try:
    import accelerate
except ImportError:  # the extra layerwise[lora], whose peft needs it
    accelerate = None


def load_spread(
    name_or_folder: str | Path,
    head: Head = "backbone",
    dtype: torch.dtype | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | Path | None = None,
) -> PreTrainedModel:
    """A pretrained model for inference over all GPUs, a layer on one of them; what has no room stays in main memory.

    Weights are read into main memory first, so that this has to hold the model once. States travel from device to
    device on their way through the layers. Layers can be bypassed, scored without gradients and timed as ever; where
    weights are offloaded, they are read at every use, and no time of such a model is worth telling.

    Args:
        name_or_folder: As for `load_pretrained`.
        head: What stands on the backbone.
        dtype: Precision of the weights, None for the checkpoint's own.
        max_memory: Bytes, or words such as ``"20GiB"``, that each device may hold: GPUs by number, ``"cpu"``; all that
            is free by default.
        offload_folder: Where weights go that no device may hold.

    Raises:
        ImportError: If accelerate is not installed.
        ValueError: If the devices cannot hold the model and no folder is given; or as `load_pretrained`, whose other
            errors it raises, too.
    """
    if accelerate is None:
        raise ImportError("spreading a model needs accelerate: pip install layerwise[lora]")
    model = load_pretrained(name_or_folder, head, dtype)
    whole = sorted({type(layer).__name__ for layer in layers_of(model)})
    places = accelerate.infer_auto_device_map(
        model, dict(max_memory) if max_memory is not None else None, no_split_module_classes=whole
    )
    homeless = [name for name, place in places.items() if place == "disk"]
    if homeless and offload_folder is None:
        raise ValueError(
            f"the devices have no room for {', '.join(homeless[:3])}{' ...' if homeless[3:] else ''}; allow more by "
            "max_memory, load in bf16, or give an offload_folder, from which these weights are read at every use"
        )
    spread: PreTrainedModel = accelerate.dispatch_model(model, places, offload_dir=offload_folder)
    return spread
