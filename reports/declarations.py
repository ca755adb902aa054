"""Reads validation/claims.toml: what is claimed, where it is refuted, and for which cases, fixed before the run."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TIERS = ("quick", "standard", "matrix", "layers", "ablation", "rivals", "models", "robustness", "text", "gpu", "full")
CLAIM_KEYS = ("statement", "source", "refuted_if", "effect", "alpha", "on_inconclusive", "cases")
OPTIONAL_CLAIM_KEYS = ("control",)
CASE_KEYS = ("tiers", "reason", "needs", "at_least", "above", "at_most", "below")
LOWER_BOUNDS = ("at_least", "above")
UPPER_BOUNDS = ("at_most", "below")
ON_INCONCLUSIVE = ("fail", "fail-outside", "warn")
CONTROLS = ("supported", "refuted")

CaseKey = tuple[str, str]  # (claim, case)


@dataclass(frozen=True)
class Declaration:
    """One case of a claim as it was declared.

    Attributes:
        effect: Kind of effect that the test must measure, such as "retention".
        low: Lower bound of the claimed region in the effect's unit, None without one; `high` likewise.
        open_low: Whether the bound itself is left out ("above" instead of "at_least"); `open_high` likewise.
        reason: Why the bounds stand where they stand.
        alpha: Share of the claim's error rate for this case: the claim's alpha over its number of cases in the tier.
        on_inconclusive: "fail"; "warn"; or "fail-outside", where an undecided verdict fails if its estimate lies
            outside the region, and warns otherwise.
        needs: What a machine must have that not every one has, such as a data set; empty without. Where it is absent,
            the case is not run, and fails no gate.
        control: The verdict that is known beforehand, for a control; empty for a claim. Where another one comes out,
            the instruments are broken and no verdict of the run counts.
        digest: sha256 over everything above but `needs`, and over `control` where there is one; an accepted verdict
            holds for this digest only.
    """

    claim: str
    case: str
    statement: str
    source: str
    refuted_if: str
    effect: str
    low: float | None
    high: float | None
    open_low: bool
    open_high: bool
    reason: str
    alpha: float
    on_inconclusive: str
    needs: str = ""
    control: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        left_out = ("needs", "digest") if self.control else ("needs", "control", "digest")
        content = {key: value for key, value in asdict(self).items() if key not in left_out}
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        object.__setattr__(self, "digest", hashlib.sha256(text.encode()).hexdigest())

    def allows(self, value: float | None) -> bool:
        """Whether a value lies in the claimed region; None and nan do not."""
        if value is None or math.isnan(value):
            return False
        above = self.low is None or value > self.low or (value == self.low and not self.open_low)
        below = self.high is None or value < self.high or (value == self.high and not self.open_high)
        return above and below


@dataclass(frozen=True)
class Declarations:
    """Everything a claims file declares.

    Attributes:
        by_tier: Tier -> (claim, case) -> declaration, in the order of the file.
    """

    by_tier: Mapping[str, Mapping[CaseKey, Declaration]]

    def declared(self, tier: str) -> Mapping[CaseKey, Declaration]:
        """The cases of one tier, in the order of the file."""
        return self.by_tier[tier]

    def tiers_of(self, claim: str, case: str) -> list[str]:
        """The tiers that hold this case; empty for an undeclared one."""
        return [tier for tier in TIERS if (claim, case) in self.by_tier[tier]]

    def why_undeclared(self, claim: str, case: str) -> str:
        """A sentence for a test whose case stands in no tier: what it asked for and what there is."""
        claims = sorted({key[0] for cases in self.by_tier.values() for key in cases})
        if claim not in claims:
            return f"claim {claim!r} is not declared in claims.toml; declared: {', '.join(claims) or 'none'}"
        cases = sorted({key[1] for cases in self.by_tier.values() for key in cases if key[0] == claim})
        return f"claim {claim!r} declares no case {case!r} in claims.toml; declared: {', '.join(cases)}"


def read_declarations(path: Path) -> Declarations:
    """Everything that `path` declares; a file that does not exist declares nothing.

    Raises:
        ValueError: The file is not TOML or breaks the schema; names file, claim, case and key.
    """
    if not path.exists():
        return Declarations({tier: {} for tier in TIERS})
    try:
        return parse_declarations(tomllib.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path.name}: {error}") from error


def declared(path: Path, tier: str) -> dict[CaseKey, Declaration]:
    """(claim, case) -> declaration for one tier of the claims file at `path`, in the order of the file."""
    return dict(read_declarations(path).declared(tier))


def parse_declarations(content: Mapping[str, Any]) -> Declarations:
    """Declarations from parsed TOML.

    Raises:
        ValueError: Unknown or missing keys, an alpha outside (0, 0.5), a case without bounds or tiers.
    """
    _require_keys("the file", content, required=(), known=("claims",))
    claims = content.get("claims", {})
    for name, claim in claims.items():
        _check_claim(name, claim)
    return Declarations({tier: _cases_of(claims, tier) for tier in TIERS})


def _cases_of(claims: Mapping[str, Any], tier: str) -> dict[CaseKey, Declaration]:
    found = {}
    for name, claim in claims.items():
        cases = {case: entry for case, entry in claim["cases"].items() if tier in entry["tiers"]}
        for case, entry in cases.items():
            found[name, case] = Declaration(
                claim=name,
                case=case,
                statement=claim["statement"],
                source=claim["source"],
                refuted_if=claim["refuted_if"],
                effect=claim["effect"],
                low=_bound(entry, LOWER_BOUNDS),
                high=_bound(entry, UPPER_BOUNDS),
                open_low="above" in entry,
                open_high="below" in entry,
                reason=entry["reason"],
                alpha=claim["alpha"] / len(cases),
                on_inconclusive=claim["on_inconclusive"],
                needs=entry.get("needs", ""),
                control=claim.get("control", ""),
            )
    return found


def _check_claim(name: str, claim: Any) -> None:
    where = f"claims.{name}"
    _require_keys(where, claim, required=CLAIM_KEYS, known=CLAIM_KEYS + OPTIONAL_CLAIM_KEYS)
    for key in ("statement", "source", "refuted_if", "effect"):
        _require_text(f"{where}.{key}", claim[key])
    if type(claim["alpha"]) is not float or not 0 < claim["alpha"] < 0.5:
        raise ValueError(f"{where}.alpha must be a number between 0 and 0.5, got {claim['alpha']!r}")
    if claim["on_inconclusive"] not in ON_INCONCLUSIVE:
        raise ValueError(
            f"{where}.on_inconclusive must be one of {', '.join(ON_INCONCLUSIVE)}, got {claim['on_inconclusive']!r}"
        )
    if claim.get("control", "supported") not in CONTROLS:
        raise ValueError(f"{where}.control must be 'supported' or 'refuted', got {claim['control']!r}")
    if type(claim["cases"]) is not dict or not claim["cases"]:
        raise ValueError(f"{where}.cases must be tables, at least one; without parameters the case is called 'default'")
    for case, entry in claim["cases"].items():
        _check_case(f'{where}.cases."{case}"', entry)


def _check_case(where: str, entry: Any) -> None:
    _require_keys(where, entry, required=("tiers", "reason"), known=CASE_KEYS)
    for key in ("reason", "needs"):
        if key in entry:
            _require_text(f"{where}.{key}", entry[key])
    tiers = entry["tiers"]
    if type(tiers) is not list or not tiers or not set(map(str, tiers)) <= set(TIERS):
        raise ValueError(f"{where}.tiers must list some of {', '.join(TIERS)}, got {tiers!r}")
    low, high = _bound(entry, LOWER_BOUNDS), _bound(entry, UPPER_BOUNDS)
    if any(all(key in entry for key in bounds) for bounds in (LOWER_BOUNDS, UPPER_BOUNDS)):
        raise ValueError(
            f"{where} has two bounds on the same side; give one of at_least, above and one of at_most, below"
        )
    if low is None and high is None:
        raise ValueError(f"{where} needs a bound: at_least, above, at_most or below")
    if any(bound is not None and not math.isfinite(bound) for bound in (low, high)):
        raise ValueError(f"{where}: bounds must be finite; leave out the one that does not apply")
    if low is not None and high is not None and low > high:
        raise ValueError(f"{where}: the lower bound {low:g} lies above the upper bound {high:g}")


def _bound(entry: Mapping[str, Any], keys: tuple[str, ...]) -> float | None:
    for key in keys:
        if key in entry:
            if type(entry[key]) not in (int, float):
                raise ValueError(f"{key} must be a number, got {entry[key]!r}")
            return float(entry[key])
    return None


def _require_keys(where: str, table: Any, required: tuple[str, ...], known: tuple[str, ...]) -> None:
    if type(table) is not dict:
        raise ValueError(f"{where} must be a table, got {table!r}")
    unknown = [key for key in table if key not in known]
    if unknown:
        raise ValueError(f"{where} has unknown keys: {', '.join(unknown)}; known keys: {', '.join(known)}")
    missing = [key for key in required if key not in table]
    if missing:
        raise ValueError(f"{where} lacks: {', '.join(missing)}")


def _require_text(where: str, value: Any) -> None:
    if type(value) is not str or not value.strip():
        raise ValueError(f"{where} must be a sentence, got {value!r}")
