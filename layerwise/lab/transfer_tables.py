"""Tables, figures, notes and remarks that stand beside the verdicts on transfer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layerwise.lab.exhibits import LEVEL
from layerwise.lab.experiments import AGAIN
from layerwise.lab.study import Study
from layerwise.lab.transfer import (
    BAR,
    METRIC,
    at_home,
    kept_by,
    over_rules,
    overlap,
    pair,
    same_choices,
    scores_of,
    sources_of,
)
from layerwise.statistics import Retention, retained

HARDLY = 0.5  # of the full model's NDCG@10: a cut at home that keeps no more than this is a straw man


def matrix_table(studies: Mapping[str, Study], share: float) -> dict[str, Any]:
    """Who chose against whose model was cut, as arguments of `claim.table`; at home stands what is kept of the full."""
    rows = [
        [_name(studies, chooser), *(_cell(study, chooser, share) for study in studies.values())]
        for chooser in _choosers(studies)
    ]
    return {
        "title": f"NDCG@10 kept (95 % CI) with {share:.0%} of the layers, untrained and bare, of what layers chosen at "
        "home keep; at home, of what the full model has",
        "columns": ["layers chosen by", *(f"cut on {study.subject.data_name}" for study in studies.values())],
        "rows": rows,
    }


def matrix_figure(studies: Mapping[str, Study], share: float) -> dict[str, Any]:
    """The same as a heat map, as arguments of `claim.figure`; the diagonal is 100 by definition."""
    kept = {
        chooser: [100 * pair(study, chooser, share).estimate for study in studies.values()]
        for chooser in _choosers(studies)
    }
    return _heatmap(
        f"transfer-keep{round(100 * share)}",
        f"Layers chosen on one dataset, cut on another: NDCG@10 kept with {share:.0%} of the layers",
        "cut on",
        "% of what layers chosen at home keep",
        "layers chosen by",
        [study.subject.data_name for study in studies.values()],
        {_name(studies, chooser): values for chooser, values in kept.items()},
    )


def choices_table(studies: Mapping[str, Study], share: float) -> dict[str, Any]:
    """What every dataset chose for itself, what that keeps, and how far the others agree with it."""
    return {
        "title": f"What each dataset chooses for itself, with {share:.0%} of the layers",
        "columns": [
            "dataset",
            "full",
            "layers",
            "kept of full",
            "same layers chosen elsewhere",
            "overlap beyond chance",
            "of another seed at home",
        ],
        "rows": [_choice(study, share) for study in studies.values()],
    }


def scores_figure(studies: Mapping[str, Study]) -> dict[str, Any]:
    """Share of the importance that each layer has, mean over seeds, by dataset, as arguments of `claim.figure`."""
    shares = {}
    for study in studies.values():
        scores = scores_of(study)
        shares[study.subject.data_name] = (scores / scores.sum(axis=1, keepdims=True)).mean(axis=0).tolist()
    first = next(iter(studies.values()))
    return _heatmap(
        "transfer-scores",
        f"Where the importance of the layers lies, by dataset ({first.tier.selected_by})",
        "layer",
        "share of the model's importance",
        "dataset",
        [str(layer) for layer in range(first.depth)],
        shares,
    )


def transfer_notes(study: Study, share: float) -> dict[str, str]:
    """What must stand beside one case: what home keeps, how often the layers are the same, and what rules keep."""
    (same, of), sources = same_choices(study, share), len(sources_of(study))
    home = home_of_full(study, share)
    notes = {
        "the cut chosen at home": home.sentence(home.interval(LEVEL)),
        "the same layers as at home": f"{same} of {of} choices ({sources} datasets, {of // sources} seeds)",
    }
    for chooser in (AGAIN, *study.tier.rivals):
        effect = pair(study, chooser, share)
        notes[f"layers by {chooser}, instead"] = effect.sentence(effect.interval(LEVEL))
    return notes


def transfer_remarks(studies: Mapping[str, Study], share: float) -> list[str]:
    """What a reader of the retention must know: straw men, choices that are the same, rules that do as well."""
    names = {study.subject.data_name: study for study in studies.values()}
    lists = {
        f"the cut chosen at home keeps at most {HARDLY:.0%} of the full model": [
            name for name, study in names.items() if home_of_full(study, share).estimate <= HARDLY
        ],
        "every other dataset chose the layers that home chose, in every seed": [
            name for name, study in names.items() if len(set(same_choices(study, share))) == 1
        ],
        "a rule that looks at no data does at least as well as a choice from elsewhere": [
            f"{rule} on {name}"
            for name, study in names.items()
            for rule, lead in over_rules(study, share).parts.items()
            if lead.estimate <= 0
        ],
        f"a random draw per seed keeps {BAR:.0%} of what home keeps, so that the choice matters little": [
            name for name, study in names.items() if pair(study, "random", share).estimate >= BAR
        ],
    }
    said = [f"{words}: {', '.join(where)}" for words, where in lists.items() if where]
    return [f"Transfer with {share:.0%} of the layers, by estimates: {'; '.join(said)}."] if said else []


def home_of_full(study: Study, share: float) -> Retention:
    """What the cut by the study's own choice keeps of the full model."""
    return retained(at_home(study, share), study.quality(study.full())["ndcg@10"], f"the full model's {METRIC}")


def _choosers(studies: Mapping[str, Study]) -> list[str]:
    """All datasets, another training at home, and the rules."""
    return [*studies, AGAIN, *next(iter(studies.values())).tier.rivals]


def _name(studies: Mapping[str, Study], chooser: str) -> str:
    return studies[chooser].subject.data_name if chooser in studies else chooser


def _cell(study: Study, chooser: str, share: float) -> str:
    if chooser == study.subject.dataset:
        return f"of full: {_share(home_of_full(study, share))}"
    return _share(pair(study, chooser, share))


def _choice(study: Study, share: float) -> list[str | int | float]:
    kept, times = Counter(kept_by(study, study.subject.dataset, share)).most_common(1)[0]
    seeds, (same, of) = len(study.tier.seeds), same_choices(study, share)
    agreed = np.mean([overlap(study, source, share) for source in sources_of(study)])
    return [
        study.subject.data_name,
        f"{study.quality(study.full())['ndcg@10'].mean():.4f}",
        " ".join(map(str, kept)) + (f" (in {times} of {seeds} seeds)" if times < seeds else ""),
        _share(home_of_full(study, share)),
        f"{same} of {of}",
        f"{agreed:.2f}",
        f"{overlap(study, AGAIN, share):.2f}",
    ]


def _share(effect: Retention) -> str:
    interval = effect.interval(LEVEL)
    return f"{100 * effect.estimate:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def _heatmap(
    name: str,
    title: str,
    columns: str,
    unit: str,
    rows: str,
    labels: Sequence[str],
    values: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "heatmap",
        "title": title,
        "x_label": columns,
        "y_label": unit,
        "series_label": rows,
        "series": [{"label": label, "x": list(labels), "y": list(row)} for label, row in values.items()],
    }
