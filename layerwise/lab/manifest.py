"""What an artefact says about itself: its specification, the address that follows, a digest of every file."""

import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT = 1
PACKAGES = ("layerwise", "numpy", "pandas", "safetensors", "scipy", "torch", "transformers")


class DamagedArtefactError(Exception):
    """A folder of the store is not what its manifest says; the message names the file and the difference."""


def plain(value: object, where: str = "spec") -> Any:
    """A copy of a value in plain JSON kinds; tuples become lists, since JSON cannot tell them apart.

    Raises:
        TypeError: anything else than None, bool, int, float, str, list, tuple or a mapping with text keys.
        ValueError: a number that is not finite.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} must hold finite numbers, got {value}")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} must have text keys, got {key!r} of type {type(key).__name__}")
        return {key: plain(part, f"{where}[{key!r}]") for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part, f"{where}[{index}]") for index, part in enumerate(value)]
    raise TypeError(
        f"{where} must be plain JSON (None, bool, int, float, str, list, mapping), "
        f"got {type(value).__name__}; convert it first, for example with int(), str() or .tolist()"
    )


def canonical(value: object) -> str:
    """The JSON text of a value: sorted keys, no spaces, ASCII. Different values have different texts."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(value: object) -> str:
    """sha256, as 64 hexadecimal digits, of the canonical JSON of a value."""
    return hashlib.sha256(canonical(value).encode("ascii")).hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder except its manifest, by path with forward slashes, in sorted order.

    Raises:
        ValueError: a link or something that is neither file nor folder; its contents could change unnoticed.
    """
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"an artefact holds files and folders only, {path} is something else; copy it instead")
        if path.is_file() and path != folder / MANIFEST:
            with path.open("rb") as stream:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of the installed packages among those named, read without an import."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # absent means not installed: nothing was made with it
    return found


def write_manifest(folder: Path, spec: Mapping[str, Any], describe: str, seconds: float) -> None:
    """Seals a folder: writes manifest.json (spec, digests, seconds, versions) and forces all to the disk.

    Raises:
        ValueError: the folder holds no file, or a manifest.json of its own.
    """
    if (folder / MANIFEST).exists():
        raise ValueError(f"make wrote {MANIFEST}, which belongs to the store; give that file another name")
    files = file_digests(folder)
    if not files:
        raise ValueError(f"make wrote no file for {describe or canonical(spec)}; an artefact has at least one")
    body: dict[str, Any] = {
        "format": FORMAT,
        "spec": plain(spec),
        "describe": describe,
        "files": files,
        "seconds": seconds,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    sealed = body | {"seal": digest_of(body)}  # so that a change in the manifest itself is found as well
    (folder / MANIFEST).write_text(json.dumps(sealed, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for path in [*folder.rglob("*"), folder]:
        synchronise(path)


def synchronise(path: Path) -> None:
    """Forces a file, or the list of names in a folder, to the disk, so that it survives a loss of power."""
    if os.name == "nt":
        return  # Windows opens no folders and flushes no file that was opened for reading
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_manifest(folder: Path, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a finished artefact, after every file was compared with it.

    Raises:
        DamagedArtefactError: unreadable manifest, another spec, or a missing, changed or surplus file.
    """
    try:
        body = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        seal = body.pop("seal")
        sealed = digest_of(body) == seal and body["format"] == FORMAT
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedArtefactError(f"{MANIFEST} cannot be read ({type(error).__name__}: {error})") from error
    if not sealed:
        raise DamagedArtefactError(f"{MANIFEST} has changed since it was written")
    if canonical(body["spec"]) != canonical(spec):
        raise DamagedArtefactError(f"{MANIFEST} belongs to another specification")
    _compare(body["files"], folder)
    return dict(body)


def _compare(expected: Mapping[str, str], folder: Path) -> None:
    try:
        found = file_digests(folder)
    except (OSError, ValueError) as error:
        raise DamagedArtefactError(str(error)) from error
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise DamagedArtefactError(f"{name} is missing")
        if name not in expected:
            raise DamagedArtefactError(f"{name} was added after the artefact was finished")
        if found[name] != expected[name]:
            raise DamagedArtefactError(f"{name} has changed since it was written")
