"""The joint verdict of several effects: every one of them lies above its edge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar, Self, TypeVar

import numpy as np

from layerwise.statistics.base import Effect, Interval, check_level, detectable_distance
from layerwise.statistics.measured import MEASURED
from layerwise.statistics.tables import FloatArray
from layerwise.statistics.two_way import TwoWay

CERTAIN = 1000.0  # standard errors; farther is shown as this, and so is an effect without error that is off its edge

Field = TypeVar("Field")


@dataclass(frozen=True, eq=False)
class AllOf(Effect):
    """Distance of the weakest of several effects from its edge, in standard errors; to be judged against "above 0".

    The parts may share models and users. Each is seen through its linear form at its edge (`against`): mean m,
    standard error e, degrees of freedom of t. At a one-sided alpha and with k parts,

    - *supported* when every part's own test at alpha says that it lies above its edge. Nothing is corrected for
      the number of parts: a false "supported" needs a false verdict on the part that is not above.
    - *refuted* when at least one part's test at alpha / k says that it lies below: any of k parts may do this by
      chance, so that each gets its share of alpha (Bonferroni).

    Both inherit the parts' error rates. Far out in the tails, where alpha / k looks, degrees of freedom that were
    estimated from five seeds are too many (see `two_way`): where the noise of the seeds dominates, three unrelated
    parts that all sit on their edges are refuted in 7 % at a nominal 5 % and in 2.5 % at 1 %.

    Where a part has no error, only its side counts: m / e is +-`CERTAIN`, or 0 on the edge, and nothing is taken
    off or added. A part with an infinite error says nothing and leaves the whole inconclusive, unless another
    part is refuted; an undefined part makes it invalid. A retention is tested at its edge even where its own
    interval is unbounded.

    Args:
        parts: name of a part, as in a sentence -> effect; at least one, each measured by itself.
        edges: name -> the value that the part must exceed, on its displayed scale; 0 for parts not named.

    Raises:
        TypeError: a part that is itself a joint verdict; name its parts instead.
        ValueError: no parts, an edge for an unknown part, or one that is not finite.

    References:
        Berger (1982), "Multiparameter hypothesis testing and acceptance sampling": the intersection-union test.
    """

    parts: Mapping[str, Effect]
    edges: Mapping[str, float] = field(default_factory=dict)
    unit: str = field(init=False, default="standard errors above the edge of the weakest part")
    kind: ClassVar[str] = "all-of"

    def __post_init__(self) -> None:
        if not self.parts or not set(self.edges) <= set(self.parts):
            raise ValueError(f"edges must name some of the parts {list(self.parts)}, at least one, got {self.edges}")
        for name, part in self.parts.items():
            if part.kind not in MEASURED:
                raise TypeError(f"part {name!r} must be one of {', '.join(MEASURED)}, got {part.kind!r}")
        edges = {name: float(self.edges.get(name, 0.0)) for name in self.parts}
        if not all(map(math.isfinite, edges.values())):
            raise ValueError(f"edges must be finite, got {edges}")
        object.__setattr__(self, "parts", MappingProxyType(dict(self.parts)))
        object.__setattr__(self, "edges", MappingProxyType(edges))

    @cached_property
    def forms(self) -> Mapping[str, TwoWay]:
        """Name of a part -> its distance from its edge in standard errors, with error 1, or 0 where it has none.

        Seeds may agree by chance so well that a part has no error of its own; its unit is then the error of chance.
        """
        return {name: _standardised(part, self.edges[name]) for name, part in self.parts.items()}

    @cached_property
    def weakest(self) -> str:
        """Name of the part that is the least far above its edge, the first of equals; an undefined one comes first."""
        return list(self.forms)[int(np.argmin([form.mean for form in self.forms.values()]))]

    @property
    def estimate(self) -> float:
        """Distance of the weakest part from its edge, in standard errors; nan where a part is undefined."""
        return _bounded([self.forms[self.weakest].mean])

    @property
    def num_seeds(self) -> int:
        """Number of seeds of the weakest part."""
        return self.parts[self.weakest].num_seeds

    @property
    def num_units(self) -> int:
        """Number of users or timing blocks of the weakest part."""
        return self.parts[self.weakest].num_units

    def against(self, edge: float) -> TwoWay:
        """The weakest part's distance minus the edge, both in standard errors."""
        return replace(self.forms[self.weakest], mean=self.estimate - edge)

    def interval(self, level: float) -> Interval:
        """What decides: above 0 when all parts lie above their edges, below when one does not.

        Args:
            level: 1 - 2 alpha, between 0 and 1.

        Returns:
            From the smallest m / e - t(1 - alpha) to the smallest m / e + t(1 - alpha / parts), cut to +-`CERTAIN`;
            not symmetric around the estimate, because its two ends answer different questions.
        """
        alpha = (1 - check_level(level)) / 2
        low = _bounded([form.mean - form.margin(1 - alpha) for form in self.forms.values()])
        high = _bounded([form.mean + form.margin(1 - alpha / len(self.forms)) for form in self.forms.values()])
        return Interval(low, high, level)

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """Distance, in standard errors, at which each part by itself is found with at least that power."""
        return float(np.max([detectable_distance(form, alpha, power) for form in self.forms.values()]))

    def growth(self, edge: float, alpha: float) -> float:
        """Factor by which all samples must grow until every part is found above, or the first one below."""
        forms = [form.minus(edge) for form in self.forms.values()]
        below = [_growth(form, alpha / len(forms)) for form in forms if form.mean <= 0]
        return min(below) if below else max(_growth(form, alpha) for form in forms)

    def evidence(self) -> dict[str, FloatArray]:
        """The parts' evidence, as "0.values" for the first part's "values", and their edges, shape [parts]."""
        arrays = {"edges": np.array(list(self.edges.values()))}
        for index, part in enumerate(self.parts.values()):
            arrays |= _numbered(index, part.evidence())
        return arrays

    def text(self) -> dict[str, str]:
        """The parts' text, as "0.unit" for the first part's "unit", with "name 0" and "kind 0"."""
        text: dict[str, str] = {}
        for index, (name, part) in enumerate(self.parts.items()):
            text |= {f"name {index}": name, f"kind {index}": part.kind, **_numbered(index, part.text())}
        return text

    @classmethod
    def from_evidence(cls, arrays: Mapping[str, FloatArray], text: Mapping[str, str]) -> Self:
        """The effect from its parts' evidence."""
        names = [text[f"name {index}"] for index in range(len(arrays["edges"]))]
        kinds = [MEASURED[text[f"kind {index}"]] for index in range(len(names))]
        parts = [kind.from_evidence(_of(index, arrays), _of(index, text)) for index, kind in enumerate(kinds)]
        edges = map(float, arrays["edges"])
        return cls(dict(zip(names, parts, strict=True)), dict(zip(names, edges, strict=True)))

    def sample(self) -> str:
        """Parts may have different samples."""
        return f"of each of {len(self.parts)} parts"

    def sentence(self, interval: Interval | None = None) -> str:
        """The estimate in plain English; with an interval, the weakest part's own at the same level follows it."""
        if interval is None:
            return self.describe()
        weakest = self.parts[self.weakest]
        return self._told(weakest.sentence(weakest.interval(interval.level)))

    def describe(self) -> str:
        """For example "3 of 5 parts above their edges; weakest: band removal, -0.0441 NDCG@10 against 0 NDCG@10"."""
        return self._told(self.parts[self.weakest].describe())

    def _told(self, weakest: str) -> str:
        name, above = self.weakest, sum(form.mean > 0 for form in self.forms.values())
        edge = self.parts[name].edge(self.edges[name])
        return f"{above} of {len(self.forms)} parts above their edges; weakest: {name}, {weakest} against {edge}"

    def number(self, value: float) -> str:
        """Two decimals with sign."""
        return f"{value:+.2f}"

    def edge(self, value: float) -> str:
        """The bound as it holds for every part."""
        return f"{value:g} standard errors in every part"


def _standardised(part: Effect, edge: float) -> TwoWay:
    if math.isnan(part.estimate):
        return TwoWay(math.nan, math.nan, math.inf, 0.0)
    form = part.against(edge)
    unit = form.standard_error or form.chance
    if unit == 0:
        return replace(form, mean=CERTAIN * float(np.sign(form.mean)))
    own = float(form.standard_error > 0)  # also where it is infinite
    return replace(
        form,
        mean=form.mean / unit,
        standard_error=own,
        chance=form.chance / unit,
        seed_error=form.seed_error / unit,
    )


def _bounded(distances: list[float]) -> float:
    """The smallest distance, cut to what is shown; nan as soon as one is."""
    return float(np.clip(np.min(distances), -CERTAIN, CERTAIN))


def _growth(form: TwoWay, alpha: float) -> float:
    return (form.margin(1 - alpha) / abs(form.mean)) ** 2 if form.mean else math.inf


def _numbered(index: int, fields: Mapping[str, Field]) -> dict[str, Field]:
    return {f"{index}.{name}": value for name, value in fields.items()}


def _of(index: int, fields: Mapping[str, Field]) -> dict[str, Field]:
    mine = f"{index}."
    return {name.removeprefix(mine): value for name, value in fields.items() if name.startswith(mine)}
