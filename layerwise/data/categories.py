"""What kind of thing an item is: its categories, such as the genres of a film, from the item file beside the events."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from layerwise.data.arrays import IntArray, StrArray
from layerwise.data.items import item_file, read_items

UNKNOWN = -1
NOTHING = {"", "(no genres listed)", "unknown", "nan", "None", "<NA>"}


def item_categories(source: str | Path, item_ids: StrArray) -> list[tuple[str, ...]] | None:
    """Categories of every item, in the order of `item_ids`; empty for an item that has none.

    Args:
        source: What `load_interactions` was given; see `item_file`.
        item_ids: Original ids as text, *num_items*.

    Returns:
        One tuple per item, or None where there is no item file, no such column in it, or nothing in the column.

    Raises:
        ValueError: If the item file cannot be read or has no column of ids, or its ids are none of `item_ids`.
    """
    path = item_file(source)
    if path is None:
        return None
    items = read_items(path)
    by_id = dict(zip(items["item_id"], categories_of(items, path), strict=True))
    if not any(by_id.values()):
        return None
    if not any(str(item) in by_id for item in item_ids):
        raise ValueError(f"no item of {path} is among the {len(item_ids)} items of the events; do the ids agree?")
    return [by_id.get(str(item), ()) for item in item_ids]


def categories_of(items: pd.DataFrame, path: Path) -> list[tuple[str, ...]]:
    """Categories of every row of `read_items`, empty where there are none.

    Text is divided at blanks in RecBole's files, elsewhere at the first of "|", ";" and "," that the column has
    anywhere: where it has "|", a comma is part of a name.
    """
    if "categories" not in items:
        return [()] * len(items)
    cells = items["categories"].tolist()
    mark = _mark(cells, " " if path.suffix == ".item" else "|;,")
    return [_parts(cell, mark) for cell in cells]


def rarest_category(categories: Sequence[Sequence[str]]) -> tuple[IntArray, list[str]]:
    """The most specific category of each item: the one that the fewest items have.

    Args:
        categories: Categories of each item, *num_items*.

    Returns:
        Codes, *num_items*, -1 for an item without any; and the names that the codes stand for, those of the most
        items first. Of equally rare categories the first in alphabetical order is taken.
    """
    counts = Counter(category for item in categories for category in dict.fromkeys(item))
    chosen = [min(item, key=lambda category: (counts[category], category)) if item else None for item in categories]
    used = Counter(category for category in chosen if category is not None)
    names = sorted(used, key=lambda category: (-used[category], category))
    code = {name: index for index, name in enumerate(names)}
    return np.array([UNKNOWN if name is None else code[name] for name in chosen], dtype=np.int64), names


def _mark(cells: Iterable[object], marks: str) -> str | None:
    """The first of the marks that any text among the cells has."""
    texts = [cell for cell in cells if isinstance(cell, str)]
    return next((mark for mark in marks if any(mark in text for text in texts)), None)


def _parts(cell: object, mark: str | None) -> tuple[str, ...]:
    """Categories in a cell: a list, or text divided at the mark."""
    if isinstance(cell, str):
        cell = cell.split(mark) if mark else [cell]
    parts = cell if isinstance(cell, (list, tuple, np.ndarray)) else ()
    return tuple(part for part in (str(part).strip() for part in parts) if part not in NOTHING)
