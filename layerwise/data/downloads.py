"""Published files: found where the user put them, or downloaded once, resumably, and checked by hash."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pooch
import requests
from filelock import FileLock
from platformdirs import user_cache_dir
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from urllib3.exceptions import HTTPError

from layerwise.data.folders import VARIABLE, own_folder
from layerwise.data.releases import RemoteFile

_CHUNK = 2**18  # bytes
_TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
_NETWORK = (requests.RequestException, HTTPError)


def cache_folder() -> Path:
    """Where downloads are kept: beside the default store, in the user's cache folder."""
    return Path(user_cache_dir("layerwise-data"))


def obtain(file: RemoteFile, under: str) -> Path:
    """The file on this machine, checked; downloaded into the cache where it is nowhere yet.

    It is looked for as ``<folder>/<under>/<name>``, first in the folder that LAYERWISE_DATA names, then in the
    cache. A download that was cut off goes on where it stopped, provided that the server still has the same file.
    Where nobody published a hash, that of the first download is kept beside the file and holds from then on.

    Args:
        file: What to get.
        under: Name of the release, which is also the folder.

    Raises:
        FileNotFoundError: If it is not here and cannot be downloaded; the message says what to put where.
        ValueError: If its hash is not the published one, or not that of the first download.
    """
    folder = own_folder(under)
    if folder and (own := folder / file.name).is_file():
        return _checked(own, file)
    path = cache_folder() / under / file.name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # of many workers one downloads
            if not path.is_file():
                _download(file, path)
                return path
    return _checked(path, file)


def _checked(path: Path, file: RemoteFile) -> Path:
    noted = _note(path)
    expected = file.digest or (f"sha256:{noted.read_text().split()[0]}" if noted.is_file() else None)
    if expected is None:
        return path
    kind, _, digest = expected.rpartition(":")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, kind).hexdigest()
    if found != digest:
        source = file.digest_source or f"the first download ({noted})"
        raise ValueError(
            f"{path} has {kind} {found}, but {digest} by {source}: it is damaged or another edition; delete it and "
            f"get it again from {file.url}"
        )
    return path


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _download(file: RemoteFile, path: Path) -> None:
    console = Console(stderr=True)
    console.print(f"{file.url}\n  -> {path}")
    try:
        with _without_log(pooch.get_logger()):
            pooch.retrieve(
                file.url, file.digest, path.name, path.parent, downloader=Resumable(path, file.size, console)
            )
    except _NETWORK as error:
        raise FileNotFoundError(_what_to_put_where(file, path, error)) from error
    except ValueError as error:
        raise ValueError(f"{file.url} did not give the file that was published: {error}; try again later") from error
    if file.digest is None:
        digest = pooch.file_hash(str(path))
        _note(path).write_text(f"{digest}  {path.name}\n")
        console.print(f"nobody published a hash of {path.name}; from now on it must have sha256 {digest}")


@contextmanager
def _without_log(logger: logging.Logger) -> Iterator[None]:
    """Only warnings of a logger; pooch would advise to copy a hash by hand, which is done here."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _what_to_put_where(file: RemoteFile, path: Path, error: Exception) -> str:
    size = f"{file.size:,} bytes" if file.size else "its size is not published"
    part = Resumable.part_of(path)
    rest = f"; {part.stat().st_size:,} bytes are here already for the next try" if part.is_file() else ""
    under = path.parent.relative_to(cache_folder())
    return (
        f"{path.name} could not be downloaded ({type(error).__name__}: {error}){rest}. Without a network, get "
        f"{file.url} ({size}) elsewhere and put it to {path}, or to {under / path.name} in the folder that "
        f"{VARIABLE} names"
    )


class Resumable:
    """A downloader for pooch that keeps what came of a download that was cut off, and goes on there.

    pooch deletes its own temporary file after any failure. So the bytes go to ``<name>.part`` first; beside it,
    ``<name>.part.version`` keeps what the server called that version of the file (its strong ETag, or the time of
    its last change), without which the two halves might be of two files.
    """

    def __init__(self, path: Path, size: int | None, console: Console) -> None:
        self._part = self.part_of(path)
        self._version = self._part.with_name(f"{self._part.name}.version")
        self._size = size
        self._console = console

    @staticmethod
    def part_of(path: Path) -> Path:
        """Where the bytes of a download are kept until it is complete."""
        return path.with_name(f"{path.name}.part")

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Downloads a file to where pooch wants it.

        Raises:
            requests.RequestException, urllib3.exceptions.HTTPError: If the server cannot be reached, refuses, or
                stops before the end.
            ValueError: If a web page came, or a file of another size than the published one.
        """
        # Not unpacked on the way: some servers take .gz for an encoding of what is inside.
        headers = {"Accept-Encoding": "identity"}
        if self._part.is_file() and self._version.is_file():
            headers |= {"Range": f"bytes={self._part.stat().st_size}-", "If-Range": self._version.read_text()}
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                self._forget()  # all of it was here, or more: what it is cannot be told
                self(url, output_file, pooch)
                return
            response.raise_for_status()
            if "html" in response.headers.get("Content-Type", ""):
                raise ValueError("the server sent a web page instead of data")
            self._receive(response)
        if self._size is not None and self._part.stat().st_size != self._size:
            found = self._part.stat().st_size
            self._forget()
            raise ValueError(f"it has {found:,} bytes, {self._size:,} were published")
        self._part.replace(output_file)
        self._forget()

    def _receive(self, response: requests.Response) -> None:
        continues = response.status_code == requests.codes.partial_content
        have = self._part.stat().st_size if continues else 0
        if not continues:
            self._note_version(response)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else self._size
        with self._progress() as progress, self._part.open("ab" if continues else "wb") as stream:
            task: Any = progress.add_task(self._part.stem, total=total, completed=have)
            for piece in response.raw.stream(_CHUNK, decode_content=False):
                stream.write(piece)
                progress.advance(task, len(piece))

    def _note_version(self, response: requests.Response) -> None:
        self._forget()
        tag = response.headers.get("ETag", "W/")
        version = response.headers.get("Last-Modified", "") if tag.startswith("W/") else tag
        if version:
            self._version.write_text(version)

    def _forget(self) -> None:
        for file in (self._part, self._version):
            with suppress(FileNotFoundError):
                file.unlink()

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        return Progress(*columns, TimeRemainingColumn(), console=self._console)
