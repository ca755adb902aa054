"""The tables of a comparison of an own adapter with its base, and the report that keeps them."""

import platform
from importlib.metadata import version

import numpy as np
import torch
import transformers

from layerwise.commands.adapter import LEVEL, Brought, Compared, gain, level
from layerwise.commands.card import markdown_table
from layerwise.evaluation.classification import METRICS, classification_metrics
from layerwise.statistics import ClassificationGain

NAMES = {"A": "A: frozen base, the adapter's head", "B": "B: LoRA, merged", "C": "C: frozen base, own head"}
LIMITS = (
    "one adapter was judged: the intervals say what it is worth for other users, not what another training would give",
    "the prompts are this suite's (good Toy Story (1995), bad Congo (1995), Next: Heat (1995)); an adapter that "
    "learned from another kind of prompt is judged on foreign ones, C is trained on these",
    "models were timed one after another, so that memory for one is enough; a difference within the range of the "
    "blocks may be drift of a busy machine",
)
TableOf = tuple[str, list[str], list[list[str]]]


def tables_of(made: Compared) -> list[TableOf]:
    """Quality, speed and data as (title, columns, rows)."""
    return [_quality(made), _speed(made), _data(made)]


def report_of(made: Compared, brought: Brought, command: str) -> str:
    """The report as Markdown.

    Args:
        made: What was measured.
        brought: Base, adapter and data.
        command: What a person typed.
    """
    verdicts = [f"- **{name}**: {verdict.sentence}" for name, verdict in made.verdicts.items()]
    verdicts += [f"- *Nothing of this counts:* {flaw}." for flaw in made.flaws]
    verdicts += [f"- Mind this: {remark}." for remark in (*made.remarks, *LIMITS)]
    checks = [f"- {'holds' if holds else '**fails**'}: {sentence}" for holds, sentence in made.checks]
    versions = f"layerwise {version('layerwise')}, peft {version('peft')}, torch {torch.__version__}"
    parts = [
        f"# {brought.adapter} on {brought.model}: what LoRA did",
        "## Verdicts",
        "\n".join(verdicts),
        *(f"## {title}\n\n{markdown_table(columns, rows)}" for title, columns, rows in tables_of(made)),
        "## Checks",
        "\n".join(checks),
        "## How it was made",
        f"```\n{command}\n```",
        f"{versions}, transformers {transformers.__version__}, Python {platform.python_version()}.",
    ]
    return "\n\n".join(parts) + "\n"


def _quality(made: Compared) -> TableOf:
    labels = made.labels
    majority = classification_metrics(np.ones_like(labels), labels)
    rows = []
    for metric in METRICS:
        arms = [_told(level(made, arm, metric), "{:.1f}") for arm in NAMES]
        gains = [_told(gain(made, metric, over), "{:+.1f}") for over in ("A", "C")]
        rows.append([metric, *arms, *gains, f"{100 * majority[metric]:.1f}"])
    columns = ["metric, %", *NAMES.values(), "B - A, points", "B - C, points", "all called likes"]
    users = len(np.unique(made.users))
    return f"Like or dislike: {len(labels):,} examples of {users} users, 95 % intervals over users", columns, rows


def _speed(made: Compared) -> TableOf:
    times = {"A: frozen base": made.frozen.noted["times"]["A"]}
    times |= {f"B: LoRA, {name}": made.tuned.noted["times"][name] for name in ("merged", "unmerged")}
    base, rows = float(np.mean(times["A: frozen base"]["ms"])), []
    for name, timed in times.items():
        ms = float(np.mean(timed["ms"]))
        spread = f"{min(timed['ms']):.1f} to {max(timed['ms']):.1f}"
        rows.append([name, f"{1000 * timed['rows'] / ms:.1f}", f"{ms:.1f} ({spread})", f"{base / ms:.3f}"])
    timed = times["A: frozen base"]
    title = f"Speed: batches of {timed['rows']} prompts, {len(timed['ms'])} blocks, {timed['clock']}"
    return title, ["model", "queries/s", "ms per batch (blocks)", "times the base's speed"], rows


def _data(made: Compared) -> TableOf:
    noted = made.frozen.noted
    rows = [[part, f"{count:,}", f"{100 * liked:.1f} %"] for part, (count, liked) in noted["parts"].items()]
    rate = f"{noted['head_rate']:g}"
    return f"Data (arm C's head learned at a rate of {rate}, by validation)", ["part", "examples", "liked"], rows


def _told(points: ClassificationGain, form: str) -> str:
    if np.isnan(points.estimate):
        return "undefined"
    interval = points.interval(LEVEL)
    return f"{form.format(points.estimate)} ({form.format(interval.low)} to {form.format(interval.high)})"
