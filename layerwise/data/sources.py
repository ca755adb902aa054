"""One door to all data: events, and what items are called, by name of a release or a folder, or by path."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd

from layerwise.data import amazon, grouplens, readers
from layerwise.data.categories import categories_of
from layerwise.data.downloads import obtain
from layerwise.data.folders import located, own_folder
from layerwise.data.interactions import Interactions
from layerwise.data.items import item_file, read_items
from layerwise.data.releases import RELEASES, Layout, Release
from layerwise.data.titles import titles_of

Reader = Callable[[Path], pd.DataFrame]
_EVENTS: Mapping[Layout, Reader] = {
    "grouplens": grouplens.read_ratings,
    "amazon-reviews": amazon.read_reviews,
    "amazon-2014-ratings": partial(amazon.read_ratings, order=amazon.RATINGS_2014),
    "amazon-2018-ratings": partial(amazon.read_ratings, order=amazon.RATINGS_2018),
    "amazon-2023-ratings": amazon.read_ratings_2023,
}
_JSON_LINES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


def load_interactions(source: str | Path, min_events: int = 0) -> Interactions:
    """Interactions of a named data set, a release, a folder or a file.

    Args:
        source: A name: ``"ml-100k"`` (out of an installed wheel), one of `releases.RELEASES` such as
            ``"grouplens/ml-1m"`` or ``"amazon-2018/Video_Games"`` (downloaded where it is not here yet), or one of
            `folders.FOLDERS`. Or a path: a folder with one interactions file; RecBole atomic ``.inter``, ``.csv`` or
            ``.parquet`` with columns for user, item, timestamp (or position) and optionally rating; a MovieLens
            folder or zip archive; Amazon reviews as JSON lines.
        min_events: Users with fewer events are left out and counted in ``dropped``.

    Raises:
        FileNotFoundError: If the source is neither here nor can be downloaded; the message says what to put where.
        ValueError: If a file is broken, or is not what its name says; the message names file and line.
    """
    name, path, read = str(source), Path(source), None
    if release := RELEASES.get(name):
        name, path, read = release.table_name, _events_of(release), _EVENTS[release.layout]
    elif grouplens.is_movielens(path):
        name, read = path.resolve().stem, grouplens.read_ratings
    elif path.is_file() and path.name.lower().endswith(_JSON_LINES):
        name, read = path.name.partition(".")[0], amazon.read_reviews
    if read is None:
        return readers.load_interactions(located(name), min_events)
    events = read(path)
    table = Interactions.from_columns(name, events.user_id, events.item_id, events.timestamp, events.rating)
    return table.without_short_users(min_events)


def item_table(source: str | Path) -> pd.DataFrame:
    """What items are called: item_id (text), title (empty where unknown), categories (a tuple, wide to narrow).

    One row for each item that the publisher lists, in the order of the file; some have no events.

    Args:
        source: As for `load_interactions`; the item file of a folder or file lies beside the events: RecBole
            ``.item``, or ``items`` or ``movies`` as CSV or Parquet.

    Raises:
        FileNotFoundError: If there is no item file here; for a release, if it cannot be downloaded either.
        ValueError: If a file is broken or has no column of ids; the message names it.
    """
    path = Path(source)
    if release := RELEASES.get(str(source)):
        if release.layout != "grouplens":
            return amazon.read_metadata(obtain(release.items, release.name))
        path = _events_of(release)
    return grouplens.read_movies(path) if grouplens.is_movielens(path) else _beside(located(str(source)))


def _events_of(release: Release) -> Path:
    """The file of events; for MovieLens also the unpacked archive, where the user keeps that."""
    folder = own_folder(release.name)
    if release.layout == "grouplens" and folder and any((folder / name).is_file() for name in grouplens.LAYOUTS):
        return folder
    return obtain(release.events, release.name)


def _beside(source: str) -> pd.DataFrame:
    """The item file beside the events of a folder or file."""
    path = item_file(source)
    if path is None:
        raise FileNotFoundError(f"no item file for {source!r}: expected one beside its events, such as items.csv")
    items = read_items(path)
    columns = {"item_id": items["item_id"], "title": titles_of(items), "categories": categories_of(items, path)}
    return pd.DataFrame(columns)
