"""Files as publishers pack them: plain, gzipped or in a zip archive. What is wrong in one is said with its line."""

import csv
import gzip
import io
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
import pandas as pd

_BROKEN = (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error)
_KINDS = {"str": "an id", "int64": "a whole number", "float64": "a finite number"}
# A time between 1973 and 2286 has 9 or 10 digits in seconds and 12 or 13 in milliseconds.
_RANGES = {"s": (10**8, 10**10), "ms": (10**11, 10**13)}
Unit = Literal["s", "ms"]


@dataclass(frozen=True)
class Packed:
    """A file on disk, or a member of a zip archive on disk.

    Attributes:
        path: The file or archive; a name that ends in ``.gz`` is unpacked while it is read.
        member: Full name within the archive.
    """

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The unpacked bytes.

        Raises:
            ValueError: If the packing is broken, as after a download that was cut off, or is not what the name says.
        """
        try:
            if self.member:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                    yield stream
            elif self.path.suffix == ".gz":
                with gzip.open(self.path) as unpacked:
                    yield cast(IO[bytes], unpacked)
            else:
                with self.path.open("rb") as stream:
                    yield stream
        except _BROKEN as error:
            raise ValueError(broken(self.path, error)) from error

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Number of each line, from 1, and the line."""
        with self.open() as stream:
            yield from enumerate(stream, 1)


def broken(path: Path, error: Exception) -> str:
    """What to say of a file whose packing cannot be read, and what to do."""
    with path.open("rb") as stream:
        begin = stream.read(40)
    if begin.lstrip()[:1] == b"<":
        return f"{path} is a web page ({begin!r}...), not data: delete it and get the file again"
    return f"{path} is cut off or damaged ({error}): delete it and get the file again"


def read_columns(file: Packed, columns: Mapping[str, str], separator: str, header: str = "") -> pd.DataFrame:
    """Rows of a file whose fields are divided by a separator and never quoted.

    Args:
        file: What to read.
        columns: Name -> kind (``str``, ``int64``, ``float64``), in the order of the file.
        separator: One or two characters.
        header: What the first line must be; empty for a file that has none.

    Raises:
        ValueError: If the header is another one, or a field is missing, surplus or of another kind: with its line.
    """
    with file.open() as stream:
        if header and (first := stream.readline().decode("utf-8", "replace").strip()) != header:
            raise ValueError(f"{file}, line 1: expected the header {header!r}, got {first[:80]!r}; is it another file?")
        frame = _parsed(stream, columns, separator)
    if frame is None or frame.empty or not _complete(frame):
        raise ValueError(f"{file}, {_first_wrong(file, columns, separator, bool(header))}")
    return frame


def _parsed(stream: IO[bytes], columns: Mapping[str, str], separator: str) -> pd.DataFrame | None:
    """The rows as pandas reads them, None where it cannot."""
    if len(separator) > 1:  # pandas' fast parser divides at one byte only
        stream, separator = io.BytesIO(stream.read().replace(separator.encode(), b"\t")), "\t"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows that are too long would be cut
            return pd.read_csv(
                stream,
                sep=separator,
                names=list(columns),
                dtype=dict(columns),
                index_col=False,
                header=None,
                quoting=csv.QUOTE_NONE,
                keep_default_na=False,
                na_values=[""],
                skip_blank_lines=False,
            )
    except (ValueError, OverflowError, pd.errors.ParserWarning):  # its errors name no line of the file
        return None


def _complete(frame: pd.DataFrame) -> bool:
    return bool(frame.notna().all(axis=None) and np.isfinite(frame.select_dtypes("float64")).all(axis=None))


def _first_wrong(file: Packed, columns: Mapping[str, str], separator: str, has_header: bool) -> str:
    number = 0
    for number, line in file.lines():
        if has_header and number == 1:
            continue
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        cells = text.split(separator)
        if len(cells) != len(columns):
            fields = f"{len(columns)} fields ({', '.join(columns)}) divided by {separator!r}"
            return f"line {number}: expected {fields}, got {text[:80]!r}; is it another file, or cut off?"
        for (name, kind), cell in zip(columns.items(), cells, strict=True):
            if not _fits(cell, kind):
                return f"line {number}: {name} must be {_KINDS[kind]}, got {cell[:80]!r}; is it another file?"
    return f"line {number}: there are no events; is the file cut off?"


def _fits(cell: str, kind: str) -> bool:
    if kind == "str":
        return cell != ""
    if kind == "int64":
        return re.fullmatch(r"[+-]?\d{1,18}", cell.strip()) is not None
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def check_times(file: Packed, times: pd.Series, unit: Unit, first_line: int = 1) -> None:
    """Refuses times that cannot be in the unit that the release is known to use.

    Args:
        file: Where they stand, for the message.
        times: Time of each row.
        unit: Seconds or milliseconds since 1970.
        first_line: Line of the first row.

    Raises:
        ValueError: With the first line that is outside 1973 to 2286.
    """
    low, high = _RANGES[unit]
    wrong = np.flatnonzero((times < low) | (times >= high))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{file}, line {row + first_line}: {times.iloc[row]} is no time in {unit} since 1970 "
            f"({len(wrong)} of {len(times)} rows); another release counts in another unit: name the one it is"
        )
