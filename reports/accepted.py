"""Reads and writes reports/accepted.toml: the verdicts somebody looked at and let stand."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from reports.declarations import TIERS, CaseKey

ACCEPTABLE = ("supported", "inconclusive", "refuted")
HEADER = """\
# The verdict that was accepted for each case; a run fails where it finds a worse one.
# Written by `pytest --tier <tier> --accept-verdicts` on a clean, complete and valid run. Do not edit by hand.
"""


@dataclass(frozen=True)
class Accepted:
    """An accepted verdict; it holds for the declaration with this digest only."""

    verdict: str
    declaration: str
    by: str
    commit: str
    date: str
    device: str


AcceptedByTier = Mapping[str, Mapping[CaseKey, Accepted]]


def read_accepted(path: Path) -> dict[str, dict[CaseKey, Accepted]]:
    """Tier -> (claim, case) -> accepted verdict; a file that does not exist accepts nothing.

    Raises:
        ValueError: The file is not TOML, or an entry has missing or unknown keys; names the entry.
    """
    if not path.exists():
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        unknown = [tier for tier in content if tier not in TIERS]
        if unknown:
            raise ValueError(f"unknown tier {', '.join(unknown)}; known tiers: {', '.join(TIERS)}")
        return {tier: _read_tier(tier, claims) for tier, claims in content.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path.name}: {error}") from error


def _read_tier(tier: str, claims: Mapping[str, Any]) -> dict[CaseKey, Accepted]:
    found = {}
    names = {entry.name for entry in fields(Accepted)}
    for claim, cases in claims.items():
        for case, entry in cases.items():
            if entry.keys() != names or entry["verdict"] not in ACCEPTABLE:
                raise ValueError(
                    f"{tier}.{claim}.{case} must have the keys {', '.join(sorted(names))} "
                    f"and a verdict among {', '.join(ACCEPTABLE)}, got {entry}"
                )
            found[claim, case] = Accepted(**entry)
    return found


def write_accepted(path: Path, accepted: AcceptedByTier) -> None:
    """Replace the file at `path`, all at once; entries are sorted, so that a change reads well as a difference."""
    text = format_accepted(accepted)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def format_accepted(accepted: AcceptedByTier) -> str:
    """The TOML text that `read_accepted` reads."""
    blocks = [HEADER]
    for tier in (tier for tier in TIERS if tier in accepted):
        for (claim, case), entry in sorted(accepted[tier].items()):
            lines = [f"[{tier}.{_quoted(claim)}.{_quoted(case)}]"]
            lines += [f"{key} = {_quoted(value)}" for key, value in asdict(entry).items()]
            blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _quoted(text: str) -> str:
    # A JSON string is a TOML string, but for the delete character, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
