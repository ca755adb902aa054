"""Pretrained models from the Hugging Face hub or from a folder: safetensors only, no remote code, nothing random."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from layerwise.models.families import Family, UnsupportedArchitectureError, family_of

Head = Literal["backbone", "causal-lm", "masked-lm", "seq2seq-lm", "sequence-classification"]

_AUTO: dict[str, Any] = {
    "backbone": AutoModel,
    "causal-lm": AutoModelForCausalLM,
    "masked-lm": AutoModelForMaskedLM,
    "seq2seq-lm": AutoModelForSeq2SeqLM,
    "sequence-classification": AutoModelForSequenceClassification,
}
_CONFIG_FILES = ["config.json", "generation_config.json", "adapter_config.json", "model.safetensors.index.json"]
_WEIGHT_FILES = ["model.safetensors", "model-*.safetensors"]
_SAFE, _PICKLE = (".safetensors", ".safetensors.index.json"), (".bin", ".ckpt", ".pkl", ".pt", ".pth")


def load_pretrained(
    name_or_folder: str | Path,
    head: Head = "backbone",
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    new_head: bool = False,
    seed: int = 0,
) -> PreTrainedModel:
    """A pretrained model of a supported family, in evaluation mode, whose every weight comes from the checkpoint.

    A checkpoint's other heads are left out. A BERT backbone from a checkpoint without a pooler, such as a masked
    language model's, gets none (`model.pooler is None`): `transformers` would make up a random one.

    Args:
        name_or_folder: Name on the hub, such as `"org/model"`, or a folder that `save_pretrained` wrote.
        head: What stands on the backbone; a language model's head must be the one of its family.
        dtype: Precision of the weights, None for the checkpoint's own. T5 keeps some in fp32 where fp16 is asked for.
        device: Where the model is put.
        revision: Branch, tag or commit on the hub.
        new_head: Whether a head that the checkpoint lacks may be a random one, to be trained; for a BERT classifier
            the pooler is part of it.
        seed: Decides the weights of a new head; the global generator is left as it was.

    Raises:
        FileNotFoundError: If there is no such folder, it holds no configuration or no safetensors, or the hub is
            out of reach and its cache does not hold the model.
        UnsupportedArchitectureError: If the architecture is unknown; no weights are read or downloaded then.
        ValueError: If the head is not one of the family's, the checkpoint holds no such trained head, weights are
            missing, left over or of another shape, the folder carries an adapter, or the device is absent.
    """
    device = _present(torch.device(device))
    local, folder = _folder_of(name_or_folder, revision)
    config = _config(folder)
    auto = _auto_class(head, family_of(config))
    if not local:
        _fetched(str(name_or_folder), folder.name, _WEIGHT_FILES)  # of the commit that the configuration is from
    _check_weight_files(folder, config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model, report = auto.from_pretrained(
            folder,
            config=config,
            dtype=dtype or "auto",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # reported below, with the shapes
            output_loading_info=True,
        )
    _check_keys(model, report, head, new_head, folder)
    return model.eval().to(device)


def load_config(name_or_folder: str | Path, revision: str | None = None) -> PretrainedConfig:
    """The configuration of a pretrained model of a supported family; no weights are read or downloaded.

    Args:
        name_or_folder: As for `load_pretrained`.
        revision: Branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: If there is no such folder, it holds no configuration, or the hub is out of reach.
        UnsupportedArchitectureError: If the architecture is unknown.
        ValueError: If the folder carries an adapter, or a revision was given for a folder.
    """
    return _config(_folder_of(name_or_folder, revision)[1])


def _folder_of(name_or_folder: str | Path, revision: str | None) -> tuple[bool, Path]:
    """Whether the model is a folder here, and where its configuration lies."""
    local = isinstance(name_or_folder, Path) or Path(name_or_folder).expanduser().exists()
    if local and revision is not None:
        raise ValueError(f"revision {revision!r} was given for the folder {name_or_folder}; only a hub name has one")
    if local:
        return True, Path(name_or_folder).expanduser()
    return False, _fetched(str(name_or_folder), revision, _CONFIG_FILES)


def _present(device: torch.device) -> torch.device:
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(f"device {device} was asked for, but there are {count} CUDA devices; pass device='cpu'")
    return device


def _fetched(name: str, revision: str | None, patterns: list[str]) -> Path:
    """The folder in the hub's cache, after the files that fit the patterns were downloaded to it."""
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise FileNotFoundError(f"{name!r} is no folder here and can be no name on the hub: {error}") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{name!r} is no folder here and not in the local cache of the Hugging Face hub, which cannot be reached "
            "(no network, or HF_HUB_OFFLINE is set); go online once to download it, or pass the folder of a model "
            "written by save_pretrained"
        ) from error


def _config(folder: Path) -> PretrainedConfig:
    """The configuration, of a supported family; code that comes with a checkpoint is never run."""
    if not (folder / "config.json").is_file():
        what = "exists but has no config.json" if folder.is_dir() else "is not a folder"
        hint = " (an adapter: load its base model, then merge_lora)" if _has_adapter(folder) else ""
        raise FileNotFoundError(f"{folder} {what}{hint}; expected a model written by save_pretrained")
    if _has_adapter(folder):
        raise ValueError(
            f"{folder} holds an adapter beside its model, which transformers would load unmerged; move adapter_* to "
            "a folder of their own, load the model, then merge_lora"
        )
    fields, _ = PretrainedConfig.get_config_dict(folder)
    try:
        family_of(SimpleNamespace(model_type=fields.get("model_type")))
    except UnsupportedArchitectureError as error:
        if "auto_map" not in fields:
            raise
        code = f"{folder}/config.json asks for code of its own (auto_map), which is never run; "
        raise UnsupportedArchitectureError(f"{code}{error}") from None
    return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _has_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").exists()


def _auto_class(head: str, family: Family) -> Any:
    if head not in _AUTO:
        raise ValueError(f"head must be one of {', '.join(_AUTO)}, got {head!r}")
    own = next(name for name, auto in _AUTO.items() if auto is family.auto)
    if head.endswith("-lm") and head != own:
        raise ValueError(f"a {family.name} model has no {head} head; its language model is {own!r}")
    return _AUTO[head]


def _check_weight_files(folder: Path, config: PretrainedConfig) -> None:
    named = getattr(config, "transformers_weights", None)
    if named is not None and not str(named).endswith(_SAFE):  # transformers would read it whatever use_safetensors says
        raise ValueError(f"{folder}/config.json names {named!r} as weights; expected safetensors")
    for index in folder.glob("*.safetensors.index.json"):  # where the first part is a pickle, it would read that, too
        parts = set(json.loads(index.read_text())["weight_map"].values())
        if odd := sorted(part for part in parts if not part.endswith(".safetensors")):
            raise ValueError(f"{index} names {odd} as parts of the weights; expected safetensors")
    if not any((folder / name).is_file() for name in (named or "model.safetensors", "model.safetensors.index.json")):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLE)
        found = f"only {', '.join(pickles)}, which may run code when read" if pickles else "no weights"
        raise FileNotFoundError(
            f"{folder} holds {found}; expected model.safetensors, alone or in parts with an index. Where the "
            "source is trusted, load it with transformers and call save_pretrained"
        )


def _check_keys(model: PreTrainedModel, report: Mapping[str, Any], head: str, new_head: bool, folder: Path) -> None:
    """Refuses weights that do not fit; leaves out a pooler that the checkpoint lacks."""
    missing, left_over = report["missing_keys"], report["unexpected_keys"]
    own, absent, others = (_of_head(model, names) for names in (model.state_dict(), missing, left_over))
    if head == "backbone":
        if absent and absent == own:  # "pooler" is all that a backbone has of a head
            model.pooler, absent = None, set()
    else:
        stored = own - absent - set(model.all_tied_weights_keys)
        if (absent or (others and not stored)) and not new_head:  # nothing of a tied head is stored; another one tells
            raise ValueError(
                f"{folder} holds no trained {head} head: missing {_some(absent)}, it has {_some(others)}; ask for "
                "another head, or pass new_head=True for a random one that is to be trained"
            )
        absent = set()
    missing, left_over = missing - _of_head(model, missing) | absent, left_over - others
    other = [f"{name} {tuple(found)} instead of {tuple(asked)}" for name, found, asked in report["mismatched_keys"]]
    if missing or left_over or other:
        raise ValueError(
            f"{folder} does not fit its configuration: missing {_some(missing)}, left over {_some(left_over)}, "
            f"of another shape {_some(other)}; was config.json changed, or a layer taken out by hand?"
        )


def _of_head(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """Those of the names that belong to no part of the backbone; BERT's pooler counts as part of a head."""
    parts = {name for name, _ in model.base_model.named_children()} - {"pooler"}
    prefix = f"{model.base_model_prefix}."
    return {name for name in names if name.removeprefix(prefix).partition(".")[0] not in parts}


def _some(names: Collection[str]) -> str:
    """The first few of these names and how many more there are."""
    first = ", ".join(sorted(names)[:4]) or "nothing"
    return f"{first} and {len(names) - 4} more" if len(names) > 4 else first
