"""What items are called, from the item file beside the events."""

from pathlib import Path

import pandas as pd

from layerwise.data.arrays import StrArray
from layerwise.data.categories import _item_file, _read

_TITLES = ("title", "movie_title")
_IDS = ("item_id", "movieid", "itemid")


def item_titles(source: str | Path, item_ids: StrArray) -> list[str]:
    """Title of every item, in the order of `item_ids`; an empty text for an item that has none.

    A year in a column of its own (RecBole's `release_year`) is put behind the title, as MovieLens writes it.

    Args:
        source: What `load_interactions` was given; the item file lies beside the events: RecBole `.item`, or
            `items` or `movies` as CSV or Parquet, with an id and a title.
        item_ids: Original ids as text, *num_items*.

    Raises:
        FileNotFoundError: If there is no item file.
        ValueError: If the item file has no column of ids or of titles, or titles none of the items.
    """
    path = _item_file(source)
    if path is None:
        raise FileNotFoundError(f"no titles for {source!r}: expected an item file beside its events, such as items.csv")
    frame = _read(path)
    plain = {column.lower().partition(":")[0]: column for column in frame.columns}
    key = next((plain[name] for name in _IDS if name in plain), None)
    column = next((plain[name] for name in _TITLES if name in plain), None)
    if key is None or column is None:
        raise ValueError(f"{path} needs a column of ids and one of titles, its columns are {list(frame.columns)}")
    titles = frame[column].fillna("").astype(str).str.strip()
    if "release_year" in plain:
        year = frame[plain["release_year"]].fillna("").astype(str)
        titles = titles.where((year == "") | (titles == ""), titles + " (" + year + ")")
    by_id = pd.Series(titles.to_numpy(), index=frame[key].astype(str))
    found = [str(by_id.get(str(item), "")) for item in item_ids]
    if not any(found):
        raise ValueError(f"{path} titles none of the {len(found)} items of the events; do the ids agree?")
    return found
