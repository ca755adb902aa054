"""Data sets that a user keeps in folders, by name."""

import os
from pathlib import Path

from layerwise.data.readers import PATTERNS

FOLDERS = (
    "ml-latest-small",
    *("amazon14-beauty", "amazon14-books-s1m", "amazon14-clothing", "amazon14-grocery-trainpart"),
    *("amazon14-sports", "amazon14-toys", "amazon14-union6-derived"),
    *("amazon18-electronics-s1m", "amazon18-games", "amazon18-instruments-order", "amazon18-office-recent"),
    "globo-news-100k-derived",
)
VARIABLE = "LAYERWISE_DATA"


def located(source: str) -> str:
    """Where a data set lies: for one of `FOLDERS` its folder, for anything else the source itself.

    Args:
        source: As for `load_interactions`, or one of `FOLDERS`: a folder of this name below the one that the
            environment variable LAYERWISE_DATA names.

    Raises:
        FileNotFoundError: If the folder is not there.
    """
    if source not in FOLDERS:
        return source
    if folder := own_folder(source):
        return str(folder)
    place = os.environ.get(VARIABLE)
    where = f"there is no folder {Path(place) / source}" if place else f"{VARIABLE} is not set"
    raise FileNotFoundError(
        f"{source!r} is read from a folder of this name below the one that {VARIABLE} names, with one of "
        f"{', '.join(PATTERNS)} in it, but {where}"
    )


def own_folder(name: str) -> Path | None:
    """The folder of this name below the one that LAYERWISE_DATA names, None where there is none."""
    place = os.environ.get(VARIABLE)
    folder = Path(place) / name if place else None
    return folder if folder and folder.is_dir() else None


def is_here(source: str) -> bool:
    """Whether `located` finds a data set; what is not one of `FOLDERS` is taken to be there."""
    try:
        located(source)
    except FileNotFoundError:
        return False
    return True
