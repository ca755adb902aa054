"""Two arms of a LoRA comparison that differ in their features only: the frozen base and the tuned one, with one head.

Arm A is the base with the head that LoRA training produced (`unload()` of peft), arm B the base with the adapter merged
(`merge_and_unload()`) and the same head. `disable_adapter()` is no arm A: it also switches the trained head off and
puts the untrained one in its place, so that a comparison with it measures a head that never learned.
"""

import hashlib

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Check = tuple[bool, str]


def arm_checks(base: PreTrainedModel, frozen: nn.Module, tuned: nn.Module) -> list[Check]:
    """What must hold before B - A says what LoRA did to the features, to be handed to `claim.require`.

    Args:
        base: The classifier before training: pretrained features, a fresh head.
        frozen: Arm A.
        tuned: Arm B.

    Returns:
        One check per condition; where an arm still carries adapters, that is the only one.
    """
    carrying = [name for name, arm in (("A", frozen), ("B", tuned)) if carries_adapters(arm)]
    plain = (
        not carrying,
        "both arms must be plain models, made by unload() and merge_and_unload(), not by disable_adapter(): "
        f"{_listed(carrying)} with adapters",
    )
    if carrying:
        return [plain]
    heads = [head_digest(model) for model in (base, frozen, tuned)]
    before, kept, changed = (features_digest(model) for model in (base, frozen, tuned))
    return [
        plain,
        (heads[1] == heads[2], f"both arms must have the same head, bit for bit: sha256 {_short(heads[1:])}"),
        (heads[0] != heads[1], f"arm A's head must be trained, not the fresh one: sha256 {_short(heads[:2])}"),
        (heads[0] != heads[2], f"arm B's head must be trained, not the fresh one: sha256 {_short(heads[::2])}"),
        (kept == before, f"arm A's features must be the frozen base's, bit for bit: sha256 {_short([kept, before])}"),
        (changed != before, f"arm B's features must be tuned: sha256 {_short([changed, before])}"),
    ]


def carries_adapters(model: nn.Module) -> bool:
    """Whether a model still holds what peft puts beside its weights: low-rank factors, or a second copy of a head."""
    return any(hasattr(module, "lora_A") or hasattr(module, "modules_to_save") for module in model.modules())


def head_digest(model: nn.Module) -> str:
    """sha256 of the weights outside the backbone, with their names, kinds and shapes.

    Raises:
        ValueError: If the model has no backbone with a head on top.
    """
    return _digest(_parts(model, head=True))


def features_digest(model: nn.Module) -> str:
    """The same of the backbone's weights."""
    return _digest(_parts(model, head=False))


def _parts(model: nn.Module, head: bool) -> list[tuple[str, Tensor]]:
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    weights = list(model.state_dict().items())
    found = [(name, tensor) for name, tensor in weights if name.startswith(prefix) != head]
    if not found or len(found) == len(weights):
        raise ValueError(f"expected a backbone {prefix!r} and a head beside it, got {type(model).__name__}")
    return found


def _digest(parts: list[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(parts, key=lambda part: part[0]):
        plain = tensor.detach().cpu().contiguous()
        digest.update(repr((name, str(plain.dtype), tuple(plain.shape))).encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _short(digests: list[str]) -> str:
    return " and ".join(digest[:8] for digest in digests)


def _listed(arms: list[str]) -> str:
    return f"arm {' and '.join(arms)}" if arms else "none"
