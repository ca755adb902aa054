"""What items are called, from the item file beside the events."""

from pathlib import Path

import pandas as pd

from layerwise.data.arrays import StrArray
from layerwise.data.items import COLUMNS, item_file, read_items


def item_titles(source: str | Path, item_ids: StrArray) -> list[str]:
    """Title of every item, in the order of `item_ids`; an empty text for an item that has none.

    Args:
        source: What `load_interactions` was given; see `item_file`.
        item_ids: Original ids as text, *num_items*.

    Raises:
        FileNotFoundError: If there is no item file.
        ValueError: If the item file has no column of ids or of titles, or titles none of the items.
    """
    path = item_file(source)
    if path is None:
        raise FileNotFoundError(f"no titles for {source!r}: expected an item file beside its events, such as items.csv")
    items = read_items(path)
    if "title" not in items:
        names = ", ".join(COLUMNS["title"])
        raise ValueError(f"{path} needs a column of titles, one of {names}; of the columns known it has {list(items)}")
    by_id = dict(zip(items["item_id"], titles_of(items), strict=True))
    found = [by_id.get(str(item), "") for item in item_ids]
    if not any(found):
        raise ValueError(f"{path} titles none of the {len(found)} items of the events; do the ids agree?")
    return found


def titles_of(items: pd.DataFrame) -> list[str]:
    """Title of every row of `read_items`, empty where there is none.

    A year in a column of its own (RecBole's `release_year`) is put behind the title, as MovieLens writes it.
    """
    if "title" not in items:
        return [""] * len(items)
    titles = items["title"].fillna("").astype(str).str.strip()
    if "year" in items:
        year = items["year"].fillna("").astype(str)
        titles = titles.where((year == "") | (titles == ""), titles + " (" + year + ")")
    return [str(title) for title in titles]
