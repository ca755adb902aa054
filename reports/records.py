"""What a claim test hands over: one record per case, in plain finite JSON.

Records travel from xdist workers to the controller as one JSON string. Workers cannot send numpy scalars or enums
(execnet refuses them and the worker dies), and NaN is not JSON; so everything that is not plain is refused here, with
the name of the field, inside the test that made it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypedDict

from reports.figures import Figure
from reports.plain import require_plain

SCHEMA = 2
OUTCOMES = ("supported", "refuted", "inconclusive", "invalid")  # a case that did not run leaves no record


class Table(TypedDict):
    """Numbers or words in columns; every row is as long as `columns`."""

    title: str
    columns: list[str]
    rows: list[list[str | int | float]]


@dataclass(frozen=True)
class Record:
    """The verdict on one case of a claim with the numbers behind it.

    Attributes:
        low: Lower end of the 95 % interval in `unit`; None where the interval is unbounded.
        deciding_low: Lower end of the interval that decided, at level 1 - 2 * `alpha`; likewise `deciding_high`.
        region_low: Lower end of the claimed region; None where the claim sets no such bound.
        detectable: Smallest difference this sample finds with 80 % power; None where undefined.
        declaration: Digest of the declaration that was judged.
        evidence: Name of an array that the verdict follows from -> its digest; see `reports.evidence`.
        text: Text fields that complete the evidence.
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
    evidence: dict[str, str] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
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
