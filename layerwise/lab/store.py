"""A folder of finished artefacts, each stored under the sha256 of the specification that made it.

An artefact is there in full or not at all: it is made in a temporary folder on the same file system, sealed
with a digest of every file, and renamed. One lock file per artefact lets many processes share a store: the
first makes, the others wait, and the system frees the lock of a process that dies. Nothing is pickled.
"""

import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from platformdirs import user_cache_dir
from safetensors.numpy import load_file, save_file

from layerwise.lab.manifest import (
    DamagedArtefactError,
    digest_of,
    plain,
    read_manifest,
    synchronise,
    write_manifest,
)

STORE_VARIABLE = "LAYERWISE_STORE"
_LOCKS, _TEMPORARY = "locks", "temporary"
_STORABLE = frozenset(
    {"bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"}
    | {"float16", "float32", "float64", "complex64"}
)


@dataclass(frozen=True)
class Artefact:
    """A finished, verified folder of the store, to be read and never written.

    Args:
        path: folder that holds the files.
        key: sha256 of the specification, which is also the folder's name.
        digest: sha256 over the names and digests of all files; equal contents have equal digests.
        seconds: wall-clock time it took to make.
        fresh: whether this very call made it.
    """

    path: Path
    key: str
    digest: str
    seconds: float
    fresh: bool


class Store:
    """Artefacts below one root folder, as `<root>/<kind>/<key>`; see `build`.

    Args:
        root: folder of the store; made when it is first needed. A read-only store serves what it holds.
        on_wait: called with a sentence when another process is making what is asked for.

    Raises:
        ValueError: the root is an address, such as that of object storage.
    """

    def __init__(self, root: Path | str, on_wait: Callable[[str], None] | None = None) -> None:
        if "://" in str(root):
            raise ValueError(f"a store is a folder, object storage is not supported: mount it as one, got {root}")
        self.root = Path(root).expanduser().absolute()
        self._on_wait = on_wait

    @classmethod
    def at(cls, path: Path | str | None = None, on_wait: Callable[[str], None] | None = None) -> Self:
        """The store at a path; without one at LAYERWISE_STORE; without that in the user's cache folder."""
        return cls(path or os.environ.get(STORE_VARIABLE) or user_cache_dir("layerwise"), on_wait)

    def path_of(self, spec: Mapping[str, Any]) -> Path:
        """The folder that belongs to a specification, finished or not.

        Raises:
            TypeError: the specification is not plain JSON.
            ValueError: `spec["kind"]` is not a slug (lower case, digits, hyphens) or is a reserved name.
        """
        if not isinstance(spec, Mapping):
            raise TypeError(f"a specification is a mapping of plain JSON, got {type(spec).__name__}")
        kind = plain(spec).get("kind")
        if not isinstance(kind, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", kind):
            raise ValueError(f'spec["kind"] must be a slug such as "full-model", got {kind!r}')
        if kind in (_LOCKS, _TEMPORARY):
            raise ValueError(f'spec["kind"] must not be {kind!r}, which the store uses itself')
        return self.root / kind / digest_of(spec)

    def has(self, spec: Mapping[str, Any]) -> bool:
        """Whether the artefact is there, finished and undamaged."""
        try:
            return self._finished(spec) is not None
        except DamagedArtefactError:
            return False

    def build(self, spec: Mapping[str, Any], make: Callable[[Path], None], describe: str = "") -> Artefact:
        """The artefact of a specification: verified if it is there, made now if it is not.

        A damaged artefact is named in a warning and made again. An exception of `make` leaves nothing behind.

        Args:
            spec: everything that decides the contents, as plain JSON, with a "kind"; key order is irrelevant.
            make: writes at least one file into the empty folder it is given; may itself call `build`.
            describe: words for messages, such as "full Llama, seed 3".

        Raises:
            TypeError, ValueError: unusable specification (see `path_of`), or `make` wrote no file, a link or
                a manifest.json.
            PermissionError: the store must be written and cannot be.
        """
        try:
            finished = self._finished(spec)
        except DamagedArtefactError:
            finished = None  # said and repaired below by whoever holds the lock
        return finished or self._make_under_lock(spec, make, describe)

    def _make_under_lock(self, spec: Mapping[str, Any], make: Callable[[Path], None], describe: str) -> Artefact:
        target = self.path_of(spec)
        with self._lock(target, describe):
            self._sweep(target.name)
            try:
                if (finished := self._finished(spec)) is not None:
                    return finished
            except DamagedArtefactError as damage:
                warnings.warn(f"artefact {target} is damaged: {damage}; it is made again", stacklevel=3)
                self._discard(target)
            with self._workspace(target) as folder:
                start = time.perf_counter()
                make(folder)
                write_manifest(folder, spec, describe, time.perf_counter() - start)
                folder.replace(target)
                synchronise(target.parent)
            return self._read(spec, fresh=True)

    def _finished(self, spec: Mapping[str, Any]) -> Artefact | None:
        return self._read(spec, fresh=False) if self.path_of(spec).exists() else None

    def _read(self, spec: Mapping[str, Any], fresh: bool) -> Artefact:
        path = self.path_of(spec)
        manifest = read_manifest(path, spec)
        return Artefact(path, path.name, digest_of(manifest["files"]), manifest["seconds"], fresh)

    @contextmanager
    def _lock(self, target: Path, describe: str) -> Iterator[None]:
        self._writable(target.parent, self.root / _LOCKS, self.root / _TEMPORARY)
        lock = self._lock_of(target.name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if self._on_wait is not None:
                self._on_wait(f"waiting for another worker that makes {describe or target}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _lock_of(self, key: str) -> FileLock:
        return FileLock(self.root / _LOCKS / f"{key}.lock", poll_interval=0.1)

    def _writable(self, *folders: Path) -> None:
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(f"no permission to write in {folder}")
        except OSError as error:
            raise PermissionError(
                f"the store {self.root} cannot be written ({error}); name another folder with --store DIR, "
                f"Store.at(path) or the environment variable {STORE_VARIABLE}"
            ) from error

    @contextmanager
    def _workspace(self, target: Path) -> Iterator[Path]:
        folder = self.root / _TEMPORARY / f"{target.name}.{os.getpid()}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # gone already when it was renamed

    def _discard(self, target: Path) -> None:
        aside = self.root / _TEMPORARY / f"{target.name}.{os.getpid()}.damaged"
        target.replace(aside)  # first out of sight in one step, then deleted at leisure
        shutil.rmtree(aside)

    def _sweep(self, held: str) -> None:
        """Removes what killed processes left behind.

        A temporary folder is stale when nobody holds the lock of its artefact, or when we do. Process numbers
        would not tell: they are used again, and mean nothing to another container that shares the store.
        """
        for folder in (self.root / _TEMPORARY).iterdir():
            key = folder.name.split(".")[0]
            if key == held:
                shutil.rmtree(folder)
                continue
            try:
                with self._lock_of(key).acquire(timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)  # two sweepers may meet
            except Timeout:
                continue  # its maker is alive


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes named arrays to one safetensors file, bit for bit; the same arrays give the same bytes.

    Args:
        path: file to write.
        arrays: bool, integer, float16/32/64 or complex64 arrays of any shape and memory order.

    Raises:
        TypeError: not an array, or of a kind that the format does not hold, such as text or objects.
    """
    for name, array in arrays.items():
        kind = str(array.dtype.newbyteorder("=")) if isinstance(array, np.ndarray) else type(array).__name__
        if kind not in _STORABLE:
            raise TypeError(f"array {name!r} must be of a kind in {sorted(_STORABLE)}, got {kind}")
    # The format writes memory as it lies: without C order the values would come back shuffled.
    save_file({name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}, path)


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file made by `write_arrays`, in the order of their names."""
    arrays = load_file(path)
    return {name: arrays[name] for name in sorted(arrays)}
