"""Numbers and names as words: units, intervals, regions, and names that cannot break Markdown."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass

from reports.declarations import Declaration
from reports.records import Record

MARKS = {"supported": "●", "inconclusive": "◆", "refuted": "✕", "invalid": "■", "not-run": "–", "missing": "?"}
SPECIAL = re.compile(r"([\\`*_\[\]{}|#~$])")
MENTION = re.compile(r"(?<![A-Za-z0-9])@(?=\w)")  # the one in NDCG@10 mentions nobody


@dataclass(frozen=True)
class Scale:
    """How values of a unit are shown: multiplied by `factor`, followed by `suffix`; `axis` names them in a plot."""

    factor: float
    suffix: str
    axis: str

    def number(self, value: float, decimals: int) -> str:
        """The value without its suffix; a minus sign that reads well."""
        return f"{self.factor * value:.{decimals}f}".replace("-", "−")


def scale_of(unit: str) -> Scale:
    """Shares as per cent, factors with a multiplication sign, everything else as it is."""
    if unit.startswith("share of "):
        return Scale(100.0, " %", "% of " + unit.removeprefix("share of "))
    if unit.startswith("times"):
        return Scale(1.0, "×", unit)
    return Scale(1.0, " %" if unit.startswith("%") else "", unit)


def decimals_for(scale: Scale, values: list[float]) -> int:
    """Decimals that show two digits of the spread of `values`, or three of a single one; 0 to 6."""
    shown = [scale.factor * value for value in values]
    spread = max(shown) - min(shown)
    size = spread or max(abs(value) for value in shown) / 10
    return 0 if size == 0 or all(value.is_integer() for value in shown) else _clip(1 - math.floor(math.log10(size)))


def _clip(decimals: int) -> int:
    return min(max(decimals, 0), 6)


def estimate_of(record: Record) -> str:
    """The estimate with its suffix, rounded as its interval asks for; a dash without one."""
    if record.estimate is None:
        return "–"
    scale = scale_of(record.unit)
    return scale.number(record.estimate, decimals_for(scale, _ends(record))) + scale.suffix


def unit_of(record: Record) -> str:
    """The unit where the estimate does not show it by its suffix; empty otherwise."""
    return "" if scale_of(record.unit).suffix else record.unit


def interval_of(record: Record) -> str:
    """The 95 % interval; a dash without one, "exact" where it is a point, a word for an open side."""
    if record.estimate is None:
        return "–"
    if record.low == record.high == record.estimate:
        return "exact"
    scale = scale_of(record.unit)
    decimals = decimals_for(scale, _ends(record))
    low = "−∞" if record.low is None else scale.number(record.low, decimals)
    high = "∞" if record.high is None else scale.number(record.high, decimals)
    return f"{low} to {high}"


def detectable_of(record: Record) -> str:
    """The smallest difference that the sample finds in 80 of 100 runs; a dash where nothing was sampled."""
    if not record.detectable:
        return "–"
    scale = scale_of(record.unit)
    return scale.number(record.detectable, decimals_for(scale, [record.detectable])) + scale.suffix


def needs(declaration: Declaration, unit: str) -> str:
    """The claimed region in a few signs, such as "≥ 88 %"; `unit` is the measured effect's, or empty."""
    scale = scale_of(unit)
    low, high = (_bound(scale, bound) for bound in (declaration.low, declaration.high))
    if declaration.low is not None and declaration.high is not None:
        return f"{low} to {high}{scale.suffix}"
    if declaration.low is not None:
        return f"{'>' if declaration.open_low else '≥'} {low}{scale.suffix}"
    return f"{'<' if declaration.open_high else '≤'} {high}{scale.suffix}"


def undecided(declaration: Declaration) -> str:
    """What an inconclusive verdict does to the gate, as the end of a sentence."""
    words = {"fail": "fails", "warn": "warns", "fail-outside": "fails where its estimate lies outside, else warns"}
    return words[declaration.on_inconclusive]


def _bound(scale: Scale, bound: float | None) -> str:
    return "" if bound is None else f"{scale.factor * bound:.10g}".replace("-", "−")


def _ends(record: Record) -> list[float]:
    return [value for value in (record.estimate, record.low, record.high) if value is not None]


def sample_of(record: Record) -> str:
    """Seeds x users, seeds alone, or the number of blocks where there is one seed; a dash where nothing was sampled."""
    if record.num_units <= 1:
        return f"{record.num_seeds} seeds" if record.num_seeds > 1 and record.low != record.high else "–"
    return f"{record.num_seeds} × {record.num_units}" if record.num_seeds > 1 else str(record.num_units)


def escape(text: object) -> str:
    """Text that Markdown shows letter by letter, in a table cell too: no markup, HTML, mention or line break."""
    plain = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MENTION.sub("&#64;", SPECIAL.sub(r"\\\1", plain))


def attribute(text: object) -> str:
    """Text between the double quotes of an HTML attribute within Markdown; every sign that could act is a reference."""
    return re.sub(r"[^\w ,.;:()%+-]", lambda sign: f"&#{ord(sign[0])};", " ".join(str(text).split()))


def one_line(text: object) -> str:
    """Text on one line of a terminal: it can neither begin a line, which might be read as a command, nor colour one.

    Line breaks become spaces; other signs that do not print are written as Python writes them.
    """
    words = " ".join(str(text).split())
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in words)


def slug(*names: str) -> str:
    """A file name out of names; different names give different slugs."""
    words = "-".join(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in names if name)
    return f"{words[:80].strip('-')}-{hashlib.sha256(repr(names).encode()).hexdigest()[:6]}"


def duration(seconds: float) -> str:
    """Seconds as people say them: "0.4 s", "41 s", "12 min 30 s", "2 h 5 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
