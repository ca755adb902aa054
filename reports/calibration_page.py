"""The page of a calibration: error rates by claim against their limits, in words, as a picture and for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from reports import looks
from reports.error_rates import MARGINS, ClaimRates, Rate, TimingRates
from reports.figures import make_figure
from reports.markdown import format_picture, format_table
from reports.plots import draw
from reports.records import make_table
from reports.text import escape

PAGE, TWIN = "CALIBRATION.md", "calibration.json"
NOMINAL, LIMIT, FOUND = 0.01, 0.016, 0.8
ENOUGH = 400  # worlds without which a rate of one case, or of a run, says nothing
PICTURES = ("figures/rates.png", "figures/rates-dark.png")


@dataclass(frozen=True)
class Left:
    """A case that is not calibrated, and why."""

    tier: str
    claim: str
    case: str
    reason: str


@dataclass(frozen=True)
class Calibration:
    """All rates, and what has none.

    Attributes:
        timing: None where no model was timed against its copy.
        made: Where everything comes from: commits, versions, the machine that timed.
    """

    claims: Sequence[ClaimRates]
    left: Sequence[Left]
    timing: TimingRates | None
    made: Mapping[str, str] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """One sentence for every limit that is exceeded."""
        found = []
        for claim in self.claims:
            name = f"{claim.claim} ({claim.tier})"
            found += _too_often(f"{name}: a test gives false support", claim.supported)
            planted = claim.planted
            if claim.fails_undecided and planted and planted.red.share < FOUND:
                share = _percent(planted.red.share)
                found.append(f"{name}: a loss of {MARGINS:g} margins turns the gate red in {share} of the runs only")
        if self.timing:
            found += _too_often("timing: a model is called faster than its copy", self.timing.faster)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        return {
            "limits": {"nominal": NOMINAL, "upper limit": LIMIT, "planted losses found": FOUND, "margins": MARGINS},
            "problems": self.problems(),
            "claims": [_plain(claim) for claim in self.claims],
            "timing": asdict(self.timing) if self.timing else None,
            "not calibrated": [asdict(entry) for entry in self.left],
            "made": dict(self.made),
        }


def _too_often(what: str, rate: Rate) -> list[str]:
    if rate.upper <= LIMIT:
        return []
    return [f"{what} in {_percent(rate.share)} of {rate.trials:,}, which may be up to {_percent(rate.upper)}"]


def publish(result: Calibration, folder: Path) -> Path:
    """Writes page, pictures and `calibration.json`; the same result gives the same bytes.

    Returns:
        The path of the page.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for path, look in zip(PICTURES, looks.LOOKS, strict=True):
        (folder / path).write_bytes(looks.png(partial(draw, picture(result)), look))
    twin = json.dumps(result.as_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / TWIN).write_text(f"{twin}\n", encoding="utf-8")
    (folder / PAGE).write_text(page(result), encoding="utf-8")
    return folder / PAGE


def summary(result: Calibration, page: Path) -> str:
    """What a person reads in the terminal."""
    lines = [f"exceeded: {problem}" for problem in result.problems()] or ["every rate keeps its limit"]
    return "\n".join([*lines, f"report: {page}"]) + "\n"


def picture(result: Calibration) -> Any:
    """Rate of false support of each claim, up to its 95 % limit."""
    rows = [(_row_name(claim), claim.supported) for claim in result.claims]
    rows += [("a model and its copy", result.timing.faster)] if result.timing else []
    shares = [100 * rate.share for _, rate in rows]
    series = {"x": [name for name, _ in rows], "y": shares, "low": shares, "high": [100 * r.upper for _, r in rows]}
    return make_figure(
        "rates",
        "intervals",
        "False support where the truth lies on the edge",
        "",
        "% of the tests at alpha .01, and 95 % limit",
        [{"label": "rate", **series}],
        {"label": "largest allowed limit", "value": 100 * LIMIT},
    )


def page(result: Calibration) -> str:
    """CALIBRATION.md."""
    problems = [f"- **Exceeded**: {escape(problem)}" for problem in result.problems()]
    sections = [
        "# Calibration",
        "How often verdicts are wrong in worlds that are made of the stored evidence and in which the truth is known; "
        "docs/calibration.md says how.",
        "\n".join(problems) or "Every rate keeps its limit.",
        "## Truth on the edge of the claimed region",
        format_picture(PICTURES, "Rate of false support of each claim against its limit"),
        f"A single test runs at alpha {NOMINAL:g}; the 95 % limit of its rate must not exceed {_percent(LIMIT)}. A run "
        "of a claim splits alpha over its cases, and is wrong when one case is, with all of them on their edges.",
        _edges(result.claims),
        *_timing(result.timing),
        f"## A loss of {MARGINS:g} margins",
        f"The share kept is put at 1 minus {MARGINS:g} times the accepted loss. *Not supported*: the loss does not "
        'pass. *Gate red*: it stops a run whose accepted verdict is "supported", as it must in '
        f"{_percent(FOUND)} where the claim fails when undecided. *Refuted*: the loss is proven; for that in "
        f"{_percent(FOUND)} of the runs, the sample must grow by the last column. *False alarm*: the gate is red "
        "although nothing is lost, after trainings anew; trainings in the store give the same verdict again.",
        _losses(result.claims),
        "## Not calibrated",
        _left(result.left),
        "## Made with",
        format_table(make_table("made", ["", " "], [[fact, words] for fact, words in result.made.items()])),
    ]
    return "\n\n".join(sections) + "\n"


def _edges(claims: Sequence[ClaimRates]) -> str:
    of_tests = ["tests", "supported", "95 % limit", "worst case", "refuted"]
    of_runs = ["runs", "a case supported", "95 % limit ", "a case refuted"]
    rows: list[list[str | int | float]] = [
        [
            claim.claim,
            claim.tier,
            len(claim.cases),
            claim.supported.trials,
            _percent(claim.supported.share),
            _percent(claim.supported.upper),
            _worst(claim),
            _percent(claim.refuted.share),
            *_runs(claim),
        ]
        for claim in claims
    ]
    return format_table(make_table("edges", ["claim", "tier", "cases", *of_tests, *of_runs], rows))


def _worst(claim: ClaimRates) -> str:
    worst = max(claim.cases, key=lambda case: case.supported.share)
    return f"{_percent(worst.supported.share)}, {worst.case}" if worst.supported.trials >= ENOUGH else "–"


def _runs(claim: ClaimRates) -> list[str]:
    supported, refuted = claim.any_supported, claim.any_refuted
    if supported.trials < ENOUGH:
        return [f"{supported.trials:,}", "–", "–", "–"]
    return [f"{supported.trials:,}", *map(_percent, (supported.share, supported.upper, refuted.share))]


def _losses(claims: Sequence[ClaimRates]) -> str:
    of_losses = ["not supported", "gate red", "refuted"]
    columns = ["claim", "tier", "runs", *of_losses, "false alarm", "sample for 80 % refuted in each case"]
    rows: list[list[str | int | float]] = []
    for claim in claims:
        if found := claim.planted:
            shares = [_percent(rate.share) for rate in (found.unsupported, found.red, found.refuted, found.alarm)]
            rows.append([claim.claim, claim.tier, found.red.trials, *shares, f"{found.more:.1f} times"])
    return format_table(make_table("losses", columns, rows))


def _timing(timing: TimingRates | None) -> list[str]:
    if timing is None:
        return []
    faster = f"{_percent(timing.faster.share)} of {timing.faster.trials:,} runs"
    words = (
        f"Timed against its own copy in {timing.blocks} blocks of {2 * timing.calls} calls, a model was called faster "
        f"in {faster} (95 % limit {_percent(timing.faster.upper)}) and slower in {_percent(timing.slower.share)}; the "
        f"mean speedup was {timing.factor:.4f}."
    )
    return ["## A model timed against its own copy", words]


def _left(left: Sequence[Left]) -> str:
    counts = Counter((entry.claim, entry.tier, entry.reason) for entry in left)
    rows: list[list[str | int | float]] = [
        [claim, tier, cases, reason] for (claim, tier, reason), cases in counts.items()
    ]
    return format_table(make_table("left", ["claim", "tier", "cases", "why"], rows))


def _plain(claim: ClaimRates) -> Mapping[str, Any]:
    """The counts of a claim and of its cases; the worlds one by one would be too many."""
    cases = [
        {
            "case": case.case,
            "supported": asdict(case.supported),
            "refuted": asdict(case.refuted),
            "supported at split alpha": sum(case.split_supported),
            "refuted at split alpha": sum(case.split_refuted),
            "planted": asdict(case.planted) if case.planted else None,
        }
        for case in claim.cases
    ]
    rates = {name: asdict(getattr(claim, name)) for name in ("supported", "refuted", "any_supported", "any_refuted")}
    return {"claim": claim.claim, "tier": claim.tier, **rates, "cases": cases}


def _row_name(claim: ClaimRates) -> str:
    return claim.claim if claim.tier == "standard" else f"{claim.claim}, {claim.tier}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %" if share < 0.1 else f"{100 * share:.0f} %"
