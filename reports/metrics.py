"""Which metric of ranking a case is about, in its own words, so that no other quantity is offered in its place."""

from __future__ import annotations

import re

from layerwise.statistics import Effect
from reports.declarations import Declaration

METRICS = re.compile(r"\b(?:ndcg@\d+|hr@\d+|precision@\d+|mrr)(?![\w@])", re.IGNORECASE)
OF_A_METRIC = ("retention", "mean-difference")  # kinds whose unit is the metric itself


def why_another_metric(declaration: Declaration, effect: Effect) -> str:
    """Why an effect does not answer a case: its unit names none of the case's metrics; empty where it does.

    A case that names a metric in its own name is about that one; else its statement decides, if it names any.
    """
    said = metrics_in(declaration.case) or metrics_in(declaration.statement)
    if effect.kind not in OF_A_METRIC or not said or metrics_in(effect.unit) & said:
        return ""
    return f"is about {' or '.join(sorted(said))}, got an effect in {effect.unit!r}"


def metrics_in(text: str) -> set[str]:
    """Names of ranking metrics in a text, in lower case."""
    return {name.lower() for name in METRICS.findall(text)}
