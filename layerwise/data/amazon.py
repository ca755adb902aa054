"""Amazon reviews as the McAuley lab publishes them: editions of 2014, 2018 and 2023."""

import ast
import html
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any

import pandas as pd

from layerwise.data.packed import Packed, Unit, check_times, read_columns

_KINDS = {"user_id": "str", "item_id": "str", "rating": "float64", "timestamp": "int64"}
# Neither file has a header: which column is which is known from the edition only.
RATINGS_2014 = ("user_id", "item_id", "rating", "timestamp")
RATINGS_2018 = ("item_id", "user_id", "rating", "timestamp")
HEADER_2023 = "user_id,parent_asin,rating,timestamp"


@dataclass(frozen=True)
class Fields:
    """What an edition calls the parts of a review, and its unit of time."""

    user: str
    item: str
    rating: str
    time: str
    unit: Unit


REVIEWS: tuple[Fields, ...] = (
    Fields("reviewerID", "asin", "overall", "unixReviewTime", "s"),  # 2014 and 2018
    Fields("user_id", "parent_asin", "rating", "timestamp", "ms"),  # 2023
)


def read_ratings(path: Path, order: tuple[str, ...]) -> pd.DataFrame:
    """Events of a ratings-only file of 2014 or 2018: user_id, item_id, rating (stars), timestamp (seconds).

    Args:
        path: CSV without a header.
        order: `RATINGS_2014` or `RATINGS_2018`.

    Raises:
        ValueError: If a line has other fields, or a time is not in seconds.
    """
    file = Packed(path)
    frame = read_columns(file, {name: _KINDS[name] for name in order}, ",")
    check_times(file, frame["timestamp"], "s")
    return frame[list(_KINDS)]


def read_ratings_2023(path: Path) -> pd.DataFrame:
    """Events of a 0-core or 5-core file of 2023: user_id, item_id (the parent), rating (stars), timestamp (ms).

    Raises:
        ValueError: If the header is another one, a line has other fields, or a time is not in milliseconds.
    """
    file = Packed(path)
    frame = read_columns(file, _KINDS, ",", HEADER_2023)
    check_times(file, frame["timestamp"], "ms", first_line=2)
    return frame


def read_reviews(path: Path) -> pd.DataFrame:
    """Events of a file of reviews, one JSON object a line: user_id, item_id, rating (stars), timestamp.

    The names of the fields say which edition it is: time is in seconds until 2018, and in milliseconds in 2023,
    whose items are the parents that variants share.

    Raises:
        ValueError: If a line is no review, is of another edition than the first, or has a time in another unit.
    """
    file = Packed(path)
    columns: dict[str, list[Any]] = {name: [] for name in _KINDS}
    fields = None
    for number, review in _records(file):
        fields = fields or _fields_of(review, f"{file}, line {number}")
        try:
            user, item = review[fields.user], review[fields.item]
            rating, time = review[fields.rating], review[fields.time]
        except KeyError as missing:
            raise ValueError(f"{file}, line {number}: the review has no {missing}, only {sorted(review)}") from None
        if not (isinstance(user, str) and isinstance(item, str) and user and item):
            raise ValueError(f"{file}, line {number}: ids must be texts, got user {user!r} and item {item!r}")
        if not (isinstance(rating, (int, float)) and isinstance(time, int)):
            raise ValueError(f"{file}, line {number}: rating and time must be numbers, got {rating!r} and {time!r}")
        for name, value in zip(_KINDS, (intern(user), intern(item), rating, time), strict=True):
            columns[name].append(value)
    if fields is None:
        raise ValueError(f"{file} is empty: delete it and get the file again")
    frame = pd.DataFrame(columns)
    check_times(file, frame["timestamp"], fields.unit)
    return frame


def _fields_of(review: Mapping[str, Any], where: str) -> Fields:
    found = next((fields for fields in REVIEWS if fields.user in review and fields.time in review), None)
    if found is None:
        known = " or ".join(f"{fields.user} and {fields.time}" for fields in REVIEWS)
        raise ValueError(f"{where}: a review has the fields {known}, this one has {sorted(review)}; is it metadata?")
    return found


def read_metadata(path: Path) -> pd.DataFrame:
    """Items of a metadata file: item_id, title (empty where it is none), categories (from wide to narrow).

    Of records that repeat an id the first counts. In titles, HTML entities are decoded and white space is joined;
    a title of 2018 that is a piece of a page's script is none.

    Args:
        path: One record a line: JSON (2018, 2023), or the Python dictionary that 2014 writes, which is not run.

    Raises:
        ValueError: If a line is neither, or has no id.
    """
    file = Packed(path)
    items: dict[str, tuple[str, tuple[str, ...]]] = {}
    for number, record in _records(file):
        item = record.get("parent_asin") or record.get("asin")
        if not isinstance(item, str):
            raise ValueError(f"{file}, line {number}: an item has an asin or parent_asin, this has {sorted(record)}")
        parts = _flat(record.get("categories") or record.get("category") or [])
        # Markup among the categories of 2018 is what was left of the page.
        items.setdefault(item, (_title(record.get("title")), tuple(dict.fromkeys(p for p in parts if "</" not in p))))
    rows = [(item, title, categories) for item, (title, categories) in items.items()]
    return pd.DataFrame(rows, columns=["item_id", "title", "categories"])


def _title(value: object) -> str:
    text = " ".join(html.unescape(value).split()) if isinstance(value, str) else ""
    return "" if "getTime" in text else text  # the sign that the publisher's page names for rows to leave out


def _flat(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield html.unescape(value).strip()
    elif isinstance(value, list):
        for part in value:
            yield from _flat(part)


def _records(file: Packed) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in file.lines():
        record = _parsed(line)
        if not isinstance(record, dict):
            raise ValueError(
                f"{file}, line {number}: expected one JSON object a line, got {line[:80]!r}; delete the file and "
                "get it again if it is a web page or cut off"
            )
        yield number, record


def _parsed(line: bytes) -> object:
    """The value of a line, None where it is none."""
    try:
        return json.loads(line)
    except ValueError:
        pass
    try:
        return ast.literal_eval(line.decode("utf-8"))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
