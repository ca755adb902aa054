"""The item file beside the events: where it lies, its columns by role, and what it says of each item."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pandas as pd

from layerwise.data.readers import RECBOLE_FILES

FILES = ("*.item", "items.parquet", "items.csv", "movies.csv")
# Role -> column names that publishers use, in lower case, the preferred name first.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "item_id": ("item_id", "movieid", "itemid"),
    "title": ("title", "movie_title"),
    "year": ("release_year",),
    "categories": ("categories", "genres", "class", "category"),
}


def item_file(source: str | Path) -> Path | None:
    """The item file of a data set, None where there is none.

    Args:
        source: What `load_interactions` was given; the file lies beside the events: RecBole `.item`, or `items` or
            `movies` as CSV or Parquet.
    """
    if str(source) in RECBOLE_FILES:
        events = RECBOLE_FILES[str(source)]
        try:
            path = Path(str(distribution("recbole").locate_file(events))).with_suffix(".item")
        except PackageNotFoundError:
            return None
        return path if path.is_file() else None
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    return next((path for pattern in FILES for path in sorted(folder.glob(pattern))), None)


def read_items(path: Path) -> pd.DataFrame:
    """The columns of an item file that are known, named by role (see `COLUMNS`); ids as text.

    Raises:
        ValueError: If the file cannot be read, or has no column of ids.
    """
    frame = _read(path)
    plain = {column.lower().partition(":")[0]: column for column in frame.columns}
    found = {
        role: frame[next(plain[name] for name in names if name in plain)]
        for role, names in COLUMNS.items()
        if not plain.keys().isdisjoint(names)
    }
    if "item_id" not in found:
        ids = ", ".join(COLUMNS["item_id"])
        raise ValueError(f"{path} needs a column of ids, one of {ids}; it has {list(frame.columns)}")
    return pd.DataFrame(found).assign(item_id=found["item_id"].astype(str))


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        separator = "\t" if path.suffix == ".item" else ","
        return pd.read_csv(path, sep=separator, dtype=str, encoding="utf-8-sig", quotechar='"', keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix}: {error}") from error
