"""Makes a recommender a few times faster, and measures what that costs."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layerwise.commands.order import Job, Order, job_of
from layerwise.data.arrays import FloatArray
from layerwise.evaluation.latency import LatencyComparison, compare_latency
from layerwise.evaluation.workloads import Scoring
from layerwise.lab import engine
from layerwise.lab.experiments import FLOOR, FloorQuality, LayerScores, Model, ModelQuality
from layerwise.lab.lab import Lab
from layerwise.models.recommender import Recommender
from layerwise.statistics import Effect, MeanDifference, Region, Verdict, judge, retained, speedup

ALPHA = 0.01  # chance of a false "supported", over all conditions of a run
OWN_BAR = {"ndcg@5": 0.95, "ndcg@10": 0.95, "mrr": 0.94}  # what is judged where nothing is asked for
BATCH, BATCHES, BLOCKS = 64, 8, 12  # of the timing: rows, different inputs, blocks
ITEMS = "items.json"


@dataclass(frozen=True)
class Compressed:
    """A compact recommender and what was measured of it.

    Attributes:
        job: What was made.
        quality: Test metrics by arm ("full", "compact", "from scratch") and name, *seeds x users*.
        floor: Test metrics of the recommenders without training, by their name, *users*.
        kept_layers: Of the exported model.
        importance: Score of each layer, where an importance chose them.
        timed: Full against compact model, finding the ten best items for 64 histories.
        verdicts: On each condition, by its name.
        seconds: What it took, results of earlier runs not counted.
    """

    job: Job
    quality: dict[str, dict[str, FloatArray]]
    floor: dict[str, dict[str, FloatArray]]
    kept_layers: tuple[int, ...]
    importance: FloatArray | None
    timed: LatencyComparison
    verdicts: Mapping[str, Verdict]
    seconds: float

    @property
    def best_floor(self) -> str:
        """Name of the recommender without training that has the most NDCG@10."""
        return max(self.floor, key=lambda name: float(self.floor[name]["ndcg@10"].mean()))

    @property
    def straw_man(self) -> str | None:
        """A sentence where the full model is not shown to beat a recommender without training: little is kept then."""
        full, floor = self.quality["full"]["ndcg@10"], self.floor[self.best_floor]["ndcg@10"]
        if MeanDifference(full - floor, "NDCG@10").interval(0.95).low > 0:
            return None
        return (
            f"the full model ({float(full.mean()):.4f} NDCG@10) is not shown to beat {self.best_floor} "
            f"({float(floor.mean()):.4f}), which needs no training: to keep its quality is no achievement"
        )

    @property
    def flaws(self) -> list[str]:
        """What is wrong with the timing, in sentences: then its number says nothing."""
        return [sentence for holds, sentence in self.timed.checks() if not holds]


def compressed(
    order: Order, lab: Lab, out: Path, at_least: Mapping[str, float] | None = None, workers: int | None = None
) -> Compressed:
    """A compact model in a folder, as a plain checkpoint, and what was measured of it.

    Whatever was finished stays in the lab's store when the run is killed: the next run goes on there.

    Args:
        order: What is to be compressed, and how.
        lab: Where results are kept and models run.
        out: Folder for the checkpoint and `items.json`, the ids of its tokens; it must not hold anything yet.
        at_least: Metric, or "speedup", -> the share of the full model's, or the factor, that must be shown.
        workers: Processes; by default one per core.

    Raises:
        FileExistsError: If the folder holds something.
        ValueError: If a condition names no metric, or for what `job_of` raises.
    """
    began = time.monotonic()
    refuse_used(out)
    job = job_of(order)
    conditions = checked(at_least or OWN_BAR)
    engine.run(lab, job.experiments(), workers)
    quality = {"full": _quality(lab, job.full), "compact": _quality(lab, job.compact)}
    quality |= {"from scratch": _quality(lab, job.shallow)} if job.shallow else {}
    full, compact = lab.get(job.full[0]), lab.get(job.compact[0])
    timed = _timed(lab, job, full, compact)
    verdicts = {
        name: judge(_effect(name, quality, timed), Region(low=bound), ALPHA / len(conditions))
        for name, bound in conditions.items()
    }
    export(lab, job, compact, out)
    return Compressed(
        job,
        quality,
        {name: lab.get(FloorQuality(job.subject, name)) for name in FLOOR},
        tuple(lab.course(job.compact[0])["kept_layers"]),
        _importance(lab, job),
        timed,
        verdicts,
        time.monotonic() - began,
    )


def export(lab: Lab, job: Job, compact: Recommender, out: Path) -> None:
    """Writes a plain checkpoint, and the ids of the items in the order of their tokens."""
    compact.save(out)
    ids = [str(item) for item in lab.split(job.subject).table.item_ids]
    (out / ITEMS).write_text(json.dumps(ids) + "\n", encoding="utf-8")


def refuse_used(out: Path) -> None:
    """Raises FileExistsError where a folder holds something: nothing is overwritten."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not empty; name a folder that is empty or not there yet")


def checked(conditions: Mapping[str, float]) -> dict[str, float]:
    """The conditions, once all of them name something that is measured.

    Raises:
        ValueError: If one does not, or its bound is not above 0.
    """
    known = (*METRICS, "speedup")
    for name, bound in conditions.items():
        if name not in known or not bound > 0:
            raise ValueError(f"a condition is one of {', '.join(known)} and a bound above 0, got {name}={bound:g}")
    return dict(conditions)


METRICS = ("ndcg@5", "ndcg@10", "hr@5", "hr@10", "mrr")


def _quality(lab: Lab, models: Sequence[Model]) -> dict[str, FloatArray]:
    by_seed = [lab.get(ModelQuality(model)) for model in models]
    return {name: np.stack([values[name] for values in by_seed]) for name in by_seed[0]}


def _effect(name: str, quality: Mapping[str, Mapping[str, FloatArray]], timed: LatencyComparison) -> Effect:
    if name == "speedup":
        return speedup(timed.full_ms, timed.compact_ms)
    return retained(quality["compact"][name], quality["full"][name], name.upper())


def _timed(lab: Lab, job: Job, full: Recommender, compact: Recommender) -> LatencyComparison:
    split = lab.split(job.subject)
    histories = split.histories(split.test)
    rows = min(BATCH, len(histories) // 2)
    starts = range(0, min(BATCHES, len(histories) // rows) * rows, rows)
    inputs = [full.batch(histories[start : start + rows]) for start in starts]
    best = min(10, full.num_items)
    return compare_latency(Scoring(full, best).eval(), Scoring(compact, best).eval(), inputs, BLOCKS)


def _importance(lab: Lab, job: Job) -> FloatArray | None:
    needed = [LayerScores(job.full[0], job.order.by)]
    return lab.get(needed[0]) if needed[0] in job.compact[0].needs() else None
