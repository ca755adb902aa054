"""The model card beside an exported checkpoint: what it is, what was shown of it, how it is loaded."""

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version

import numpy as np
import transformers

from layerwise.commands.compress import Compressed
from layerwise.commands.recipe import recipe
from layerwise.data.arrays import FloatArray
from layerwise.data.audit import audit
from layerwise.data.splits import Split
from layerwise.evaluation.memory import count_parameters, stored_bytes
from layerwise.models.recommender import Recommender
from layerwise.statistics import MeanDifference

LEVEL = 0.95
SHOWN = ("ndcg@5", "ndcg@10", "hr@10", "mrr")


def model_card(made: Compressed, full: Recommender, compact: Recommender, split: Split, command: str) -> str:
    """The card as Markdown.

    Args:
        made: What was measured.
        full: The original.
        compact: What was exported.
        split: The data.
        command: What a person typed.
    """
    sections = {
        "Verdicts": _verdicts(made),
        "Quality": _quality(made),
        "Speed and size": _speed(made, full, compact),
        "Layers": _layers(made),
        "Data": "\n".join(f"- {sentence}" for sentence in audit(split).sentences()),
        "How to load it": f"Nothing but `transformers` is needed.\n\n```python\n{recipe(compact, '.')}```",
        "How it was made": _origin(made, command),
    }
    title = (
        f"# {made.job.subject.data_name}: a recommender of {len(compact.layers)} layers instead of {len(full.layers)}"
    )
    body = (f"## {name}\n\n{text}" for name, text in sections.items())
    return "\n\n".join(["---\nlibrary_name: transformers\ntags: [recommender, layerwise]\n---", title, *body]) + "\n"


def _verdicts(made: Compressed) -> str:
    lines = [f"- **Mind this:** {made.straw_man}."] if made.straw_man else []
    lines += [f"- **{name}**: {verdict.sentence}" for name, verdict in made.verdicts.items()]
    lines += [f"- *The speedup does not count:* {flaw}" for flaw in made.flaws]
    if made.job.order.seeds < 5:
        lines.append(
            f"- Of {made.job.order.seeds} training(s): the intervals say what these models are worth on other users, "
            "not what the method gives in another training. Ask for five with `--seeds 5`."
        )
    return "\n".join(lines)


def _quality(made: Compressed) -> str:
    rows = [[arm, *(_mean(values[name]) for name in SHOWN)] for arm, values in made.quality.items()]
    floor = made.floor[made.best_floor]
    rows.append([f"{made.best_floor} (no training)", *(_mean(floor[name][None]) for name in SHOWN)])
    full = made.quality["full"]["ndcg@10"]
    text = [
        markdown_table(["model", *(name.upper() for name in SHOWN)], rows),
        f"Means with {LEVEL:.0%} intervals, {full.shape[0]} training(s) x {full.shape[1]} users. Every item of the "
        "catalogue is ranked but those that the user has; a user's last "
        f"{made.job.subject.test_targets} event(s) judge, none of them was trained on.",
    ]
    if "from scratch" in made.quality:
        ahead = MeanDifference(made.quality["compact"]["ndcg@10"] - made.quality["from scratch"]["ndcg@10"], "NDCG@10")
        interval = ahead.interval(LEVEL)
        text.append(
            "Compact minus a model of its size that was trained from scratch by the full model's recipe: "
            f"{ahead.describe()} ({interval.low:+.4f} to {interval.high:+.4f}). Where that reaches zero, the full "
            "model was not shown to be needed."
        )
    return "\n\n".join(text)


def _speed(made: Compressed, full: Recommender, compact: Recommender) -> str:
    timed, rows = made.timed, []
    for name, model, ms in (("full", full, timed.full_ms), ("compact", compact, timed.compact_ms)):
        count, mean = count_parameters(model), float(ms.mean())
        speed = f"{1000 * timed.batch_size / mean:.0f}"
        rows.append([name, len(model.layers), count.total, count.in_layers, stored_bytes(model), f"{mean:.2f}", speed])
    columns = ["model", "layers", "parameters", "in the layers", "checkpoint, bytes", "ms per batch", "histories/s"]
    return "\n\n".join(
        [
            markdown_table(columns, rows),
            f"**{timed.speedup:.2f} times as fast**, where the number of layers allows {timed.bound:.2f}: the ten best "
            f"items of {timed.batch_size} histories, {timed.threads} thread(s), {timed.dtype}, {timed.device}; "
            f"{timed.clock}, both models in turn.",
        ]
    )


def _layers(made: Compressed) -> str:
    kept = ", ".join(map(str, made.kept_layers))
    text = f"Kept: {kept} (counted from 0, an encoder before its decoder), by {made.job.order.by}."
    if made.importance is None:
        return text
    rows = [
        [layer, f"{score:.3g}", "kept" if layer in made.kept_layers else ""]
        for layer, score in enumerate(made.importance)
    ]
    return f"{text}\n\n{markdown_table(['layer', made.job.order.by, ''], rows)}"


def _origin(made: Compressed, command: str) -> str:
    training = made.job.subject.training
    return (
        f"```\n{command}\n```\n\n"
        f"{made.seconds / 60:.1f} minutes, beside what was in the store before. The full model had at most "
        f"{training.epochs} epochs at a learning rate of {training.learning_rate:g}, the compact one "
        f"{made.job.compact[0].epochs} while it listened to it. layerwise {version('layerwise')}, torch "
        f"{made.timed.torch_version}, transformers {transformers.__version__}, Python {platform.python_version()}."
    )


def _mean(values: FloatArray) -> str:
    """A mean with its interval; of one row, over users alone."""
    interval = MeanDifference(np.asarray(values, dtype=np.float64), "").interval(LEVEL)
    return f"{float(values.mean()):.4f} ({interval.low:.4f} to {interval.high:.4f})"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; pipes inside cells are escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
