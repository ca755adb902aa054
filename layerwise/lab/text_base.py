"""A pretrained text model as this suite reads it: one plain folder, whose tokenizer and configuration can pad."""

import json
import os
import shutil
import tempfile
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer

from layerwise.lab.manifest import digest_of, file_digests
from layerwise.models.assets import pretrained_folder
from layerwise.models.loading import load_config

WEIGHTS = ".safetensors"
SMALL = (".json", ".txt", ".model")  # configuration and tokenizer


def text_base(name_or_folder: str, below: Path) -> str:
    """The folder of a copy of a pretrained model that pads with its end token where it had no padding token.

    Llama and GPT-2 come without one, and a classifier of `transformers` needs it to find the last word of a prompt. The
    hub's cache consists of links, whose targets may change unnoticed; the copy has files only. Its name tells its
    contents: the same model is copied once, a changed one is another. Weights share the disk space of the original
    where the file system can do that.

    Args:
        name_or_folder: Anything that `load_pretrained` takes.
        below: Where such copies lie.

    Raises:
        FileNotFoundError: If there is no such folder, or the hub does not answer and its cache lacks the model.
        UnsupportedArchitectureError: If the architecture is unknown; no weights are downloaded then.
        ValueError: If there is neither a padding nor an end token.
    """
    given = pretrained_folder(name_or_folder)
    load_config(given)
    source = Path(given).expanduser()
    if not source.is_dir():
        source = Path(snapshot_download(given, allow_patterns=[f"*{suffix}" for suffix in (WEIGHTS, *SMALL)]))
    below.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=below))
    try:
        for file in source.iterdir():
            if file.suffix == WEIGHTS:
                _shared(file.resolve(), made / file.name)
            elif file.suffix in SMALL:
                shutil.copyfile(file, made / file.name)
        _pad(made)
        target = below / f"{Path(given).name}-{digest_of(file_digests(made))[:12]}"
        if not target.exists():
            made.rename(target)
        return str(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _shared(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _pad(folder: Path) -> None:
    """Give tokenizer and configuration a padding token where they have none."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError("the tokenizer has neither a padding nor an end token; set tokenizer.pad_token")
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    if fields.get("pad_token_id") is None:
        path.write_text(json.dumps(fields | {"pad_token_id": tokenizer.pad_token_id}, indent=2), encoding="utf-8")
