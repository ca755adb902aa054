"""What kind of thing an item is: its categories, such as the genres of a film, from the item file beside the events."""

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pandas as pd

from layerwise.data.arrays import IntArray, StrArray
from layerwise.data.readers import RECBOLE_FILES

UNKNOWN = -1
COLUMNS = ("categories", "genres", "class", "category")
ITEM_FILES = ("*.item", "items.parquet", "items.csv", "movies.csv")
NOTHING = {"", "(no genres listed)", "unknown", "nan", "None", "<NA>"}


def item_categories(source: str | Path, item_ids: StrArray) -> list[tuple[str, ...]] | None:
    """Categories of every item, in the order of `item_ids`; empty for an item that has none.

    Args:
        source: What `load_interactions` was given; the item file lies beside the events: RecBole `.item`, or
            `items` or `movies` as CSV or Parquet, with an id and a column of categories.
        item_ids: Original ids as text, *num_items*.

    Returns:
        One tuple per item, or None where there is no item file, no such column in it, or nothing in the column.

    Raises:
        ValueError: If the item file cannot be read, or its ids are none of `item_ids`.
    """
    path = _item_file(source)
    if path is None:
        return None
    frame = _read(path)
    plain = {column.lower().partition(":")[0]: column for column in frame.columns}
    column = next((plain[name] for name in COLUMNS if name in plain), None)
    key = next((plain[name] for name in ("item_id", "movieid", "itemid") if name in plain), None)
    if column is None or key is None:
        return None
    marks = " " if path.suffix == ".item" else "|;,"
    by_id = {str(item): _parts(value, marks) for item, value in zip(frame[key], frame[column], strict=True)}
    if not any(by_id.values()):
        return None
    if not any(str(item) in by_id for item in item_ids):
        raise ValueError(f"no item of {path} is among the {len(item_ids)} items of the events; do the ids agree?")
    return [by_id.get(str(item), ()) for item in item_ids]


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


def _item_file(source: str | Path) -> Path | None:
    if str(source) in RECBOLE_FILES:
        events = RECBOLE_FILES[str(source)]
        try:
            path = Path(str(distribution("recbole").locate_file(events))).with_suffix(".item")
        except PackageNotFoundError:
            return None
        return path if path.is_file() else None
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    return next((path for pattern in ITEM_FILES for path in sorted(folder.glob(pattern))), None)


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        separator = "\t" if path.suffix == ".item" else ","
        return pd.read_csv(path, sep=separator, dtype=str, encoding="utf-8-sig", quotechar='"', keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix}: {error}") from error


def _parts(value: object, marks: str) -> tuple[str, ...]:
    """Categories in a cell: a list, or text that the first of the marks found in it divides."""
    if isinstance(value, str):
        mark = next((mark for mark in marks if mark in value), None)
        value = value.split(mark) if mark else [value]
    parts = value if isinstance(value, (list, tuple, np.ndarray)) else ()
    return tuple(part for part in (str(part).strip() for part in parts) if part not in NOTHING)
