"""What a model costs in memory: parameters, bytes on disk, keys and values, and the peak while it works.

Everything is read off the real thing: the file that is written, the cache object that `transformers` fills, the
allocator of an accelerator; `resident` has the peak on a CPU.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerwise.evaluation.workloads import filled_cache, random_tokens
from layerwise.models.families import family_of
from layerwise.models.layers import layers_of, pretrained_of
from layerwise.models.modes import evaluating


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters, tied ones counted once.

    Attributes:
        total: Of the whole model.
        in_layers: Of its layers.
        shared: Those of them that stand in the first layer of a stack and serve all its layers (T5's table of relative
            positions): a stack has them once at any depth.
    """

    total: int
    in_layers: int
    shared: int

    @property
    def of_layers(self) -> int:
        """Those that go when layers go."""
        return self.in_layers - self.shared


def count_parameters(model: nn.Module) -> Parameters:
    """Parameters of a supported `transformers` model or a `Recommender`.

    Raises:
        UnsupportedArchitectureError: If the architecture is unknown.
    """
    once = family_of(pretrained_of(model).config).owned_by_first
    named = [(name, parameter) for layer in layers_of(model) for name, parameter in layer.named_parameters()]
    return Parameters(
        total=sum(parameter.numel() for parameter in model.parameters()),
        in_layers=sum(parameter.numel() for _, parameter in named),
        shared=sum(parameter.numel() for name, parameter in named if once and name.startswith(once)),
    )


def stored_bytes(model: nn.Module) -> int:
    """Bytes of the safetensors files of a checkpoint, headers included, as `save_pretrained` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        pretrained_of(model).save_pretrained(folder)
        return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def cache_bytes(model: PreTrainedModel, batch: int, length: int) -> int:
    """Bytes of the keys and values of all layers after that many tokens per row, of the cache that decoding uses.

    Args:
        model: A causal language model of a supported family.
        batch: Rows.
        length: Tokens per row, prompt and new ones together.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    prompt = random_tokens(1, vocabulary, (batch, length), seed=0)[0].to(model.device)
    with torch.inference_mode(), evaluating(model):
        cache = filled_cache(model, prompt, room=0)
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def peak_allocated(model: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """Most bytes of a CUDA device that `model(**inputs)` needs: its weights, the inputs, and what the call allocates.

    What else lies on the device does not count, such as another model, also where it lends this one its weights.

    Raises:
        ValueError: If the model does not lie on a CUDA device.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        raise ValueError(f"the peak is read from CUDA's allocator, the model lies on {device}; see peak_resident")
    with torch.inference_mode(), evaluating(model):
        model(**inputs)  # what libraries allocate on first use is not the model's
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        model(**inputs)
        torch.cuda.synchronize(device)
    own = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers(), *inputs.values()))
    return own + int(torch.cuda.max_memory_allocated(device)) - before
