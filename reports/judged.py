"""From an effect and a declaration to the numbers and words of a record; nothing else enters a verdict."""

from __future__ import annotations

import math
from dataclasses import replace

from layerwise.statistics import Effect, Region, judge
from reports.declarations import Declaration
from reports.records import Record

DIGITS = 12  # significant ones that are kept: the last few bits of a sum differ from processor to processor


def judged(blank: Record, effect: Effect, declaration: Declaration) -> Record:
    """The record of an effect as declared, made from one that holds the circumstances.

    The same evidence gives the same record, wherever and whenever it is judged.

    Args:
        blank: Checks, tables, environment and what else does not follow from the effect.
        effect: What was measured, of the declared kind.
        declaration: Region and alpha.

    Returns:
        A record that is "invalid" where a check failed, whatever the numbers say.
    """
    verdict = judge(effect, region_of(declaration), declaration.alpha)
    record = replace(
        blank,
        outcome=verdict.outcome.value,
        sentence=verdict.sentence,
        reason=verdict.reason,
        unit=effect.unit,
        estimate=_plain(verdict.estimate),
        low=_plain(verdict.interval.low),
        high=_plain(verdict.interval.high),
        deciding_low=_plain(verdict.deciding.low),
        deciding_high=_plain(verdict.deciding.high),
        detectable=_plain(verdict.detectable),
        num_seeds=int(effect.num_seeds),
        num_units=int(effect.num_units),
        text=effect.text(),
    )
    return spoiled(record) if failed_checks(record) else record


def spoiled(record: Record) -> Record:
    """The record as invalid, with the checks that failed as its reason."""
    reason = "; ".join(failed_checks(record))
    measured = f" (measured: {record.sentence})" if record.sentence else ""
    return replace(record, outcome="invalid", reason=reason, sentence=f"invalid: {reason}{measured}")


def failed_checks(record: Record) -> list[str]:
    """The sentences of the instrument checks that failed."""
    return [str(sentence) for ok, sentence in record.checks if not ok]


def region_of(declaration: Declaration) -> Region:
    """The declared region; a side without a bound is open to infinity."""
    low = -math.inf if declaration.low is None else declaration.low
    high = math.inf if declaration.high is None else declaration.high
    return Region(low, high, declaration.open_low, declaration.open_high)


def _plain(value: float | None) -> float | None:
    return float(f"{value:.{DIGITS}g}") if value is not None and math.isfinite(value) else None
