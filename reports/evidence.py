"""Stored evidence: the measured arrays behind a verdict, one file per array, named by its content.

With them every verdict can be computed again without a model. A file is a gzip of the array's `.npy` bytes; arrays that
several cases share, such as the full models' values, are stored once.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from layerwise.statistics import Effect, effect_from_evidence
from reports.records import Record

FOLDER = "evidence"  # below the report's folder

Array = np.ndarray[Any, Any]


class EvidenceError(ValueError):
    """Evidence is missing, damaged, or does not belong to the record that names it."""


def array_digest(array: Array) -> str:
    """sha256 over type, shape and content, whatever the layout in memory."""
    plain = np.ascontiguousarray(array)
    return hashlib.sha256(f"{plain.dtype.str} {plain.shape}\n".encode() + plain.tobytes()).hexdigest()


def write_evidence(folder: Path, effect: Effect) -> dict[str, str]:
    """Stores the effect's arrays where they are not stored yet; several processes may write the same.

    Args:
        folder: The report's folder.
        effect: What was measured.

    Returns:
        Name of an array -> its digest.
    """
    digests = {}
    for name, array in sorted(effect.evidence().items()):
        digests[name] = digest = array_digest(array)
        path = path_of(folder, digest)
        if not path.exists():
            _write(path, array)
    return digests


def read_evidence(folder: Path, evidence: Mapping[str, str], text: Mapping[str, str], kind: str) -> Effect:
    """The effect that `write_evidence` stored.

    Args:
        folder: The report's folder.
        evidence: Name of an array -> its digest, as the record has it.
        text: The effect's text fields, as the record has them.
        kind: The effect's kind, as declared.

    Raises:
        EvidenceError: A file is missing, cannot be read, or holds another array than its name says.
    """
    if not evidence:
        raise EvidenceError("no evidence was stored for it")
    arrays = {name: _read(path_of(folder, digest), digest) for name, digest in evidence.items()}
    try:
        return effect_from_evidence(kind, arrays, text)
    except (KeyError, TypeError, ValueError) as error:
        raise EvidenceError(f"its evidence does not make an effect of the kind {kind!r}: {error}") from error


def remove_unnamed(folder: Path, records: Iterable[Record]) -> None:
    """Removes stored arrays that none of the records names: those of an earlier report in the same folder."""
    named = {path_of(folder, digest) for record in records for digest in record.evidence.values()}
    for path in (folder / FOLDER).glob("*.npy.gz"):
        if path not in named:
            path.unlink(missing_ok=True)


def path_of(folder: Path, digest: str) -> Path:
    """The file of an array below the report's folder."""
    return folder / FOLDER / f"{digest}.npy.gz"


def _write(path: Path, array: Array) -> None:
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(array), allow_pickle=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(gzip.compress(content.getvalue(), mtime=0))  # without a time, the same array is the same file
    temporary.replace(path)


def _read(path: Path, digest: str) -> Array:
    try:
        array: Array = np.load(io.BytesIO(gzip.decompress(path.read_bytes())), allow_pickle=False)
    except FileNotFoundError as error:
        raise EvidenceError(f"its evidence {FOLDER}/{path.name} is missing") from error
    except (OSError, EOFError, ValueError) as error:
        raise EvidenceError(f"its evidence {FOLDER}/{path.name} cannot be read: {error}") from error
    if array_digest(array) != digest:
        raise EvidenceError(f"its evidence {FOLDER}/{path.name} holds another array than its name says")
    return array
