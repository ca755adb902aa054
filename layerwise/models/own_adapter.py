"""Does an adapter that somebody brings belong to a base, and does it bring a trained head? Asked without its weights.

The comparison of a LoRA-tuned classifier with its frozen base means something only for a sequence classifier whose head
was saved with the adapter: with a random head both arms answer at random.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from layerwise.models.lora_classifier import head_name

try:
    import peft
except ImportError:  # the extra layerwise[lora]
    peft = None

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
CLASSES = 2  # dislike and like
_PREFIX = "base_model.model."  # of every name in an adapter that peft saved

Shapes = dict[str, tuple[int, ...]]


def adapter_fields(folder: str | Path) -> dict[str, Any]:
    """What an adapter's configuration says, once it is one of LoRA for a sequence classifier.

    Args:
        folder: What peft's `save_pretrained` wrote: `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        FileNotFoundError: If the folder or one of the two files is missing.
        ValueError: If the configuration cannot be read, or is of another kind or for another task.
    """
    folder = Path(folder).expanduser()
    _check_files(folder)
    try:
        fields: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind, task = fields.get("peft_type"), fields.get("task_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} cannot be read as a JSON object: {error}") from error
    if kind != "LORA":
        raise ValueError(f"expected a LoRA adapter (peft_type LORA) in {folder}, got peft_type {kind}")
    if task != "SEQ_CLS":
        raise ValueError(
            f"expected an adapter of a sequence classifier (task_type SEQ_CLS) in {folder}, got task_type {task}; "
            "train it with LoraConfig(task_type='SEQ_CLS'), which also saves the head"
        )
    return fields


def check_belongs(config: PretrainedConfig, folder: str | Path, base: str) -> None:
    """Refuses an adapter whose weights do not fit a base, or that brings no trained head for two classes.

    The classifier is built without memory for its weights, and of the adapter's file only names and shapes are read.

    Args:
        config: Of the base.
        folder: The adapter, see `adapter_fields`.
        base: What the base is called.

    Raises:
        ImportError: If peft is not installed.
        ValueError: As said above; the first parameter that does not fit is named, with both shapes.
    """
    if peft is None:
        raise ImportError("reading an adapter needs peft; install it with: pip install 'layerwise[lora]'")
    folder = Path(folder).expanduser()
    saved = _saved_shapes(folder)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    _check_head(model, saved, folder)
    needed, all_shapes = _shapes_on(model, folder, base)
    _check_shapes(needed, all_shapes, saved, folder, base)


def name_remark(fields: Mapping[str, Any], *names: str) -> str | None:
    """A sentence where an adapter names another base than the one it is put on; weights may fit by accident.

    Args:
        fields: The adapter's configuration.
        names: What the base is called: as it was given, and where it was found.
    """
    named = str(fields.get("base_model_name_or_path") or "")
    if not named or _last(named) in map(_last, names):
        return None
    return (
        f"the adapter was trained on {named!r} and is compared on {names[0]!r}: all shapes fit, but only the same "
        "weights make the comparison fair"
    )


def load_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a base.

    Raises:
        FileNotFoundError: If there is none.
    """
    advice = "put the base's tokenizer files (tokenizer.save_pretrained) into its folder"
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:  # whatever a broken folder provokes
        why = str(error).partition("\n")[0]
        raise FileNotFoundError(f"{base} has no tokenizer that can be read ({why:.120}); {advice}") from error
    if not tokenizer("good", add_special_tokens=False)["input_ids"]:  # transformers makes up one without any word
        raise FileNotFoundError(f"{base} has no tokenizer that can be read (it knows no words); {advice}")
    return tokenizer


def padding_of(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, str | None]:
    """The token that fills up short prompts, and a remark where neither base nor tokenizer names one.

    A classifier on a decoder reads the last token that is no padding, so that it must know which token that is.

    Raises:
        ValueError: If there is neither a padding nor an end token, or the model has no vector for it.
    """
    remark = None
    pad = config.pad_token_id if config.pad_token_id is not None else tokenizer.pad_token_id
    if pad is None:
        pad = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else config.eos_token_id
        remark = f"neither base nor tokenizer names a padding token; the end token ({pad}) fills up short prompts"
    if not isinstance(pad, int):
        raise ValueError(
            "the tokenizer has neither a padding nor an end token, so that prompts cannot share a batch; set "
            "tokenizer.pad_token as in the adapter's training and save it beside the base"
        )
    if not 0 <= pad < config.vocab_size:
        raise ValueError(f"the padding token is {pad}, but the base has vectors for {config.vocab_size} tokens only")
    return pad, remark


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected an adapter written by peft's save_pretrained")
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}; expected an adapter written by peft's save_pretrained")
    if (folder / WEIGHTS).is_file():
        return
    if (folder / PICKLE).is_file():
        raise FileNotFoundError(
            f"{folder} holds its weights as {PICKLE}, which may run code when read; where the source is trusted, "
            f"convert it: load it with peft and call save_pretrained, which writes {WEIGHTS}"
        )
    raise FileNotFoundError(f"{folder} has no {WEIGHTS}; expected an adapter written by peft's save_pretrained")


def _saved_shapes(folder: Path) -> Shapes:
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read ({error}); was it cut off?") from error


def _check_head(model: PreTrainedModel, saved: Shapes, folder: Path) -> None:
    head = head_name(model)
    inside = {name.removeprefix(_PREFIX): shape for name, shape in saved.items() if name.startswith(_PREFIX + head)}
    if lora := [name for name in inside if ".lora_" in name]:
        raise ValueError(
            f"the adapter in {folder} changes the head by low rank ({lora[0]}), so that both arms cannot share it; "
            "train the head in full (modules_to_save)"
        )
    weights = [f"{name}.weight" for name, part in model.named_modules() if _is_head_map(name, part, head)]
    if not weights or weights[-1] not in inside:
        raise ValueError(
            f"the adapter in {folder} brings no trained head (no {head!r} among its weights): the base would get a "
            "random one, and comparing answers of a random head means nothing; train with task_type='SEQ_CLS', or "
            f"modules_to_save=[{head!r}]"
        )
    if (found := inside[weights[-1]][0]) != CLASSES:
        raise ValueError(
            f"likes have {CLASSES} classes (0 dislike, 1 like), the adapter in {folder} has a head for {found}: "
            f"{weights[-1]} {inside[weights[-1]]}"
        )


def _is_head_map(name: str, part: nn.Module, head: str) -> bool:
    return isinstance(part, nn.Linear) and (name == head or name.startswith(f"{head}."))


def _shapes_on(model: PreTrainedModel, folder: Path, base: str) -> tuple[Shapes, Shapes]:
    """Shapes that the adapter's configuration gives on a classifier: of the adapter itself, and of everything."""
    config = peft.PeftConfig.from_pretrained(str(folder))
    config.init_lora_weights = False  # weights that do not exist cannot be decomposed
    try:
        wrapped = peft.PeftModelForSequenceClassification(model, config)
    except ValueError as error:
        raise ValueError(
            f"the adapter in {folder} is for modules {_some(config.target_modules)}, and they are not all in {base} "
            f"({type(model).__name__}): {str(error).splitlines()[0]:.200}"
        ) from error
    needed = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return _shapes(needed), _shapes(wrapped.state_dict())


def _check_shapes(needed: Shapes, everything: Shapes, saved: Shapes, folder: Path, base: str) -> None:
    known = everything | needed
    for name in sorted(saved.keys() & known.keys()):
        if saved[name] != known[name]:
            raise ValueError(
                f"the adapter in {folder} was trained on another model than {base}: {name} is {saved[name]} in the "
                f"adapter, this base asks for {known[name]}"
            )
    missing, unknown = sorted(needed.keys() - saved.keys()), sorted(saved.keys() - known.keys())
    if missing or unknown:
        raise ValueError(
            f"the adapter in {folder} was trained on another model than {base}: it lacks {len(missing)} weights that "
            f"this base needs ({_some(missing)}), and {len(unknown)} of its own fit nothing ({_some(unknown)})"
        )


def _shapes(state: Mapping[str, Any]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items() if hasattr(tensor, "shape")}


def _some(names: Any) -> str:
    """The first two of some names."""
    found = [names] if isinstance(names, str) else sorted(names or [])
    return ", ".join(found[:2]) + (", ..." if len(found) > 2 else "") if found else "none"


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()
