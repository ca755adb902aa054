"""MovieLens as GroupLens publishes it: the zip archive or the folder that it unpacks to, in each of three layouts."""

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from layerwise.data.packed import Packed, broken, check_times, read_columns

_COLUMNS = {"user_id": "int64", "item_id": "int64", "rating": "float64", "timestamp": "int64"}
# File of events -> separator, header, file of items.
LAYOUTS: Mapping[str, tuple[str, str, str]] = {
    "u.data": ("\t", "", "u.item"),
    "ratings.dat": ("::", "", "movies.dat"),
    "ratings.csv": (",", "userId,movieId,rating,timestamp", "movies.csv"),
}
# Flags of u.item, in its order, as in u.genre; the first says that no genre is known.
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary"),
    *("Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance"),
    *("Sci-Fi", "Thriller", "War", "Western"),
)
_NO_GENRE = {"", "unknown", "(no genres listed)"}


def is_movielens(path: Path) -> bool:
    """Whether a path is a zip archive, or a folder with a MovieLens file of events that is no CSV."""
    if path.suffix == ".zip":
        return path.is_file()
    return any((path / name).is_file() for name in ("u.data", "ratings.dat"))


def read_ratings(path: Path) -> pd.DataFrame:
    """Events in the order of the file: user_id, item_id, rating (stars), timestamp (seconds since 1970).

    Args:
        path: Zip archive or folder with one of ``u.data`` (100K), ``ratings.dat`` (1M, 10M) or ``ratings.csv``.

    Raises:
        ValueError: If there is not exactly one such file, or a line of it is broken.
    """
    events = _member(path, tuple(LAYOUTS))
    separator, header, _ = LAYOUTS[_name(events)]
    frame = read_columns(events, _COLUMNS, separator, header)
    check_times(events, frame["timestamp"], "s", first_line=2 if header else 1)
    return frame


def read_movies(path: Path) -> pd.DataFrame:
    """Movies: item_id (text), title (with the year), categories (genres, in the order of the file).

    Args:
        path: As for `read_ratings`; ``u.item``, ``movies.dat`` or ``movies.csv`` lies beside the events.

    Raises:
        ValueError: If the file is missing, or a line of it has other fields.
    """
    events = _member(path, tuple(LAYOUTS))
    movies = _member(path, (LAYOUTS[_name(events)][2],))
    name = _name(movies)
    rows = []
    for number, cells in enumerate(_cells(movies, name), 1):
        if name == "movies.csv" and number == 1:
            continue
        if len(cells) != (5 + len(_GENRES) if name == "u.item" else 3):
            raise ValueError(f"{movies}, line {number}: not the fields of {name}: {cells}; is the file damaged?")
        genres = _flagged(cells[5:]) if name == "u.item" else cells[2].split("|")
        rows.append((cells[0], cells[1].strip(), tuple(genre for genre in genres if genre not in _NO_GENRE)))
    return pd.DataFrame(rows, columns=["item_id", "title", "categories"])


def _member(path: Path, names: Sequence[str]) -> Packed:
    """The one file of these names in an archive, at any depth, or directly in a folder."""
    if path.is_dir():
        found = [Packed(path / name) for name in names if (path / name).is_file()]
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                found = [Packed(path, m) for m in archive.namelist() if m.rpartition("/")[2] in names]
        except zipfile.BadZipFile as error:
            raise ValueError(broken(path, error)) from error
    if len(found) != 1:
        listed = ", ".join(map(str, found)) or "none"
        raise ValueError(
            f"{path} must hold exactly one of {', '.join(names)}, found: {listed}; is it a MovieLens release?"
        )
    return found[0]


def _name(file: Packed) -> str:
    return (file.member or file.path.name).rpartition("/")[2]


def _cells(movies: Packed, name: str) -> list[list[str]]:
    with movies.open() as stream:
        text = _decoded(stream.read())
    if name == "movies.csv":
        return list(csv.reader(io.StringIO(text, newline="")))
    separator = "|" if name == "u.item" else "::"
    return [line.split(separator) for line in text.splitlines()]


def _decoded(content: bytes) -> str:
    """100K and 1M are Latin-1, later releases UTF-8; accented Latin-1 letters are no valid UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _flagged(flags: Sequence[str]) -> list[str]:
    return [genre for genre, flag in zip(_GENRES, flags, strict=True) if flag == "1"]
