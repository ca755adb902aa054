"""LoRA adapters become part of the weights: what is cut afterwards is a plain model."""

import copy
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from layerwise.models.layers import layer_prefixes, stacks_of

try:
    import peft
except ImportError:  # the extra layerwise[lora]
    peft = None

Model = TypeVar("Model", bound=PreTrainedModel)
_PREFIX = "base_model.model."  # of every name in an adapter that peft saved


def merge_lora(model: Model, adapter_folder: str | Path) -> Model:
    """A plain model of the same class whose weights include a LoRA adapter.

    Adapters are merged before a cut, since their keys name layers by position; one that was trained on the compact
    model itself is merged into that. An adapter of another depth is refused where its names show it. They cannot
    where it was trained on chosen layers only (`layers_to_transform`): keeping to the order is up to the caller then.

    Args:
        model: A supported `transformers` model, the one that the adapter was trained on; it is left as it was.
        adapter_folder: What peft's `save_pretrained` wrote: `adapter_config.json` and `adapter_model.safetensors`.

    Returns:
        A model with the same names of weights, configuration, precision, device, modes and gradient flags.

    Raises:
        ImportError: If peft is not installed.
        FileNotFoundError: If the folder is missing or holds no such adapter.
        TypeError: If the model is no plain `transformers` model.
        UnsupportedArchitectureError: If the architecture is unknown.
        ValueError: If the adapter is no LoRA, names layers or modules that the model lacks, lacks some that it should
            have, has other shapes, or changes a tied weight; or if the model carries adapters already.
    """
    if peft is None:
        raise ImportError("merging a LoRA adapter needs peft; install it with: pip install 'layerwise[lora]'")
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"expected a plain transformers model, got {type(model).__name__}")
    if any(hasattr(module, "lora_A") for module in model.modules()):
        raise ValueError("the model carries LoRA adapters already; merge them first (merge_and_unload of peft)")
    config, saved = _read(Path(adapter_folder))
    _check_layers(model, saved, adapter_folder)
    _check_ties(model, saved, adapter_folder)
    wrapped = _wrapped(model, config, adapter_folder)
    _check_fit(wrapped, saved, adapter_folder)
    peft.set_peft_model_state_dict(wrapped, saved)
    merged: Model = wrapped.merge_and_unload(safe_merge=True)
    if merged.state_dict().keys() != model.state_dict().keys() or _ties(merged) != _ties(model):
        raise ValueError(f"the adapter in {adapter_folder} changes more than weights, such as a tie or the layers")
    _restore(merged, model)
    return merged


def _read(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """Configuration and weights of an adapter."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            what = f"has no {name}" if folder.is_dir() else "is not a folder"
            raise FileNotFoundError(f"{folder} {what}; expected a LoRA adapter written by peft's save_pretrained")
    config = peft.PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, peft.LoraConfig):
        raise ValueError(f"{folder} holds an adapter of kind {config.peft_type}; only LORA can be merged here")
    return config, load_file(folder / "adapter_model.safetensors")


def _check_layers(model: PreTrainedModel, saved: dict[str, Tensor], folder: str | Path) -> None:
    """Refuses an adapter of a deeper model."""
    layers = stacks_of(model)
    for stack, prefix in layer_prefixes(model).items():
        start = f"{_PREFIX}{prefix}"
        named = [int(name.removeprefix(start).partition(".")[0]) for name in saved if name.startswith(start)]
        if named and max(named) >= (depth := len(layers[stack])):
            raise ValueError(
                f"adapters are merged before a cut, since their keys name layers by position: the adapter in {folder} "
                f"names layer {max(named)} of the {stack.name}, the model has {depth}; merge into the full model, "
                "then cut"
            )


def _check_ties(model: PreTrainedModel, saved: dict[str, Tensor], folder: str | Path) -> None:
    """Refuses low-rank changes of a weight that two modules share: one would take the other with it."""
    shared = {name for group in _ties(model) for name in group}
    targets = {name.removeprefix(_PREFIX).partition(".lora_")[0] for name in saved if ".lora_" in name}
    if tied := sorted(target for target in targets if f"{target}.weight" in shared):
        raise ValueError(f"the adapter in {folder} changes {tied}, tied to another module; untie the model first")


def _ties(model: PreTrainedModel) -> set[frozenset[str]]:
    """Groups of names that stand for one and the same weight."""
    groups: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(name)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def _wrapped(model: PreTrainedModel, config: Any, folder: str | Path) -> Any:
    """A copy of the model with the adapter's modules in place, their weights still to come."""
    try:
        with torch.random.fork_rng(devices=[]):  # peft draws them at random first
            return peft.PeftModel(copy.deepcopy(model), config)
    except ValueError as error:
        raise ValueError(f"the adapter in {folder} fits nothing in this {type(model).__name__}: {error}") from error


def _check_fit(wrapped: Any, saved: dict[str, Tensor], folder: str | Path) -> None:
    """Refuses an adapter whose names or shapes are not those that its configuration gives on this model."""
    needed = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    missing = sorted(needed.keys() - saved.keys())
    unknown = sorted(saved.keys() - needed.keys() - wrapped.state_dict().keys())  # peft may save embeddings as well
    shapes = [
        f"{name} {tuple(saved[name].shape)} instead of {tuple(needed[name].shape)}"
        for name in sorted(needed.keys() & saved.keys())
        if saved[name].shape != needed[name].shape
    ]
    if missing or unknown or shapes:
        raise ValueError(
            f"the adapter in {folder} was trained on another model: it lacks {len(missing)} weights {missing[:2]}, "
            f"{len(unknown)} fit nothing {unknown[:2]}, {len(shapes)} have another shape {shapes[:2]}"
        )


def _restore(merged: PreTrainedModel, model: PreTrainedModel) -> None:
    """Gives the merged model back what peft changes besides weights: a configuration field, flags and modes."""
    vars(merged.config).update(copy.deepcopy(vars(model.config)))
    flags, modes = dict(model.named_parameters()), dict(model.named_modules())
    for name, parameter in merged.named_parameters():
        parameter.requires_grad_(flags[name].requires_grad)
    for name, module in merged.named_modules():
        module.training = modes[name].training
