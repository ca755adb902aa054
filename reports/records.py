"""What a claim test hands over: one record per case, in plain finite JSON.

Records travel from xdist workers to the controller as one JSON string. Workers cannot send numpy scalars or enums
(execnet refuses them and the worker dies), and NaN is not JSON; so everything that is not plain is refused here, with
the name of the field, inside the test that made it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypedDict

SCHEMA = 1
OUTCOMES = ("supported", "refuted", "inconclusive", "invalid")  # a case that did not run leaves no record
FIGURE_KINDS = ("intervals", "points", "scatter", "bars")
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class Table(TypedDict):
    """Numbers or words in columns; every row is as long as `columns`."""

    title: str
    columns: list[str]
    rows: list[list[str | int | float]]


class Series(TypedDict):
    """Values `y` at places `x`, with intervals from `low` to `high` or None."""

    label: str
    x: list[str | int | float]
    y: list[float]
    low: list[float] | None
    high: list[float] | None


class Reference(TypedDict):
    """A value to compare with, drawn as a line."""

    label: str
    value: float


class Figure(TypedDict):
    """A picture as data: `x` says where (category or number), `y` what was found there, in the unit of `y_label`."""

    name: str
    kind: str
    title: str
    x_label: str
    y_label: str
    series: list[Series]
    reference: Reference | None


@dataclass(frozen=True)
class Record:
    """The verdict on one case of a claim with the numbers behind it.

    Attributes:
        low: Lower end of the 95 % interval in `unit`; None where the interval is unbounded.
        deciding_low: Lower end of the interval that decided, at level 1 - 2 * `alpha`; likewise `deciding_high`.
        region_low: Lower end of the claimed region; None where the claim sets no such bound.
        detectable: Smallest difference this sample finds with 80 % power; None where undefined.
        declaration: Digest of the declaration that was judged.
        evidence: Digest of the arrays that `estimate` and the intervals follow from.
        checks: Instrument checks as [ok, sentence]; one that failed makes the outcome "invalid".
        remarks: Sentences without which the verdict would mislead; they open the report.
        seconds: Time from asking for the `claim` fixture to the verdict.
    """

    claim: str
    case: str
    tier: str
    outcome: str
    sentence: str
    reason: str
    unit: str
    alpha: float
    declaration: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    deciding_low: float | None = None
    deciding_high: float | None = None
    region_low: float | None = None
    region_high: float | None = None
    detectable: float | None = None
    num_seeds: int = 0
    num_units: int = 0
    evidence: str = ""
    checks: list[list[bool | str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The record as one line of JSON with sorted keys.

        Raises:
            TypeError: A value is not plain (a numpy scalar, an enum, a tuple); names the field.
            ValueError: A number is not finite, or the outcome is unknown.
        """
        plain = self.as_dict()
        require_plain(plain, "record")
        if self.outcome not in OUTCOMES:
            raise ValueError(f"record.outcome must be one of {', '.join(OUTCOMES)}, got {self.outcome!r}")
        return json.dumps(plain, sort_keys=True, ensure_ascii=False, allow_nan=False)

    def as_dict(self) -> dict[str, Any]:
        """Field name -> value, nested values included."""
        return asdict(self)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """The record that `to_json` wrote.

        Raises:
            ValueError: Not JSON, another schema, or keys that are missing or unknown.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"expected a record of schema {SCHEMA}, got {text[:60]!r}")
        names = {entry.name for entry in fields(cls)}
        if content.keys() != names:
            wrong = sorted(content.keys() ^ names)
            raise ValueError(f"record has missing or unknown keys: {', '.join(wrong)}")
        return cls(**content)


def require_plain(value: object, name: str) -> None:
    """Refuse what strict JSON cannot hold; exact types, because numpy.float64 is a float and an enum may be a str.

    Raises:
        TypeError: `value` or something inside it is not a plain str, int, float, bool, None, list or dict.
        ValueError: A number is NaN or infinite.
    """
    kind = type(value)
    if kind is dict:
        for key, inner in value.items():  # type: ignore[attr-defined]
            if type(key) is not str:
                raise TypeError(f"{name}: keys must be str, got {type(key).__name__} {key!r}")
            require_plain(inner, f"{name}.{key}")
    elif kind is list:
        for index, inner in enumerate(value):  # type: ignore[arg-type]
            require_plain(inner, f"{name}[{index}]")
    elif kind is float:
        if not math.isfinite(value):  # type: ignore[arg-type]
            raise ValueError(f"{name} must be finite, got {value}; leave out what is undefined or say it in words")
    elif kind not in (str, int, bool, type(None)):
        origin = f"{kind.__module__}.{kind.__qualname__}"
        raise TypeError(
            f"{name} must be plain JSON, got {origin} {value!r}; convert it with float(), int(), str() or list()"
        )


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str | int | float]]) -> Table:
    """A table for a record.

    Raises:
        ValueError: A row is not as long as `columns`, or a number is not finite.
        TypeError: A cell is not a plain str, int or float.
    """
    table = Table(title=title, columns=list(columns), rows=[list(row) for row in rows])
    for index, row in enumerate(table["rows"]):
        if len(row) != len(columns):
            raise ValueError(f"table {title!r}: row {index} has {len(row)} cells, expected {len(columns)}: {columns}")
    require_plain(dict(table), f"table {title!r}")
    return table


def make_figure(
    name: str,
    kind: str,
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Mapping[str, Any]],
    reference: Mapping[str, Any] | None = None,
) -> Figure:
    """A figure for a record; a series is {"label", "x", "y"} with "low" and "high" where there are intervals.

    Args:
        name: Lower-case words joined by hyphens; part of the file name.
        kind: "intervals" (one line per category), "points" (a course over x), "scatter" (single marks) or "bars".
        title: Shown above the picture, and its alternative text.
        x_label: What `x` is, with its unit.
        y_label: What `y` is, with its unit.
        series: One or several; drawn in this order.
        reference: {"label", "value"}: a line at this value of `y`.

    Raises:
        ValueError: Unknown kind, a name that is no slug, or lists of unequal length.
        TypeError: Something is not plain JSON.
    """
    if kind not in FIGURE_KINDS:
        raise ValueError(f"figure {name!r}: kind must be one of {', '.join(FIGURE_KINDS)}, got {kind!r}")
    if not SLUG.fullmatch(name):
        raise ValueError(f"figure name must be lower-case words joined by hyphens, got {name!r}")
    figure = Figure(
        name=name,
        kind=kind,
        title=title,
        x_label=x_label,
        y_label=y_label,
        series=[_series(name, entry) for entry in series],
        reference=None if reference is None else Reference(label=reference["label"], value=reference["value"]),
    )
    require_plain(dict(figure), f"figure {name!r}")
    return figure


def _series(figure: str, entry: Mapping[str, Any]) -> Series:
    low, high = entry.get("low"), entry.get("high")
    series = Series(
        label=entry["label"],
        x=list(entry["x"]),
        y=list(entry["y"]),
        low=None if low is None else list(low),
        high=None if high is None else list(high),
    )
    lengths = {key: len(value) for key, value in series.items() if isinstance(value, list)}
    if len(set(lengths.values())) != 1 or (low is None) != (high is None):
        raise ValueError(f"figure {figure!r}: x, y, low and high of a series must be equally long, got {lengths}")
    return series
