"""What the whole path takes at the size of a real catalogue; every stage in a process of its own.

    python -m layerwise.lab.scale --whole SOURCE ... --data SOURCE ... --losses ITEMS ...

prints seconds and peak memory of each stage as JSON: of the whole path; of reading, splitting and auditing alone; of
a training step among so many items. Libraries are imported once; each stage then runs in a fork that reads what earlier
ones left, resets its peak and works. Its time is that of its one thread's processor, with the wall clock beside; its
peak is all that it had resident, libraries and inputs included.
"""

import argparse
import json
import multiprocessing
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from layerwise.compression.compact import compact_model
from layerwise.compression.distill import Distillation, distillation_loss
from layerwise.data.arrays import FloatArray
from layerwise.data.audit import Audit, audit
from layerwise.data.interactions import Interactions
from layerwise.data.sources import load_interactions
from layerwise.data.splits import Split, leave_one_out
from layerwise.evaluation.quality import target_metrics
from layerwise.evaluation.resident import CLEAR, RESET_PEAK, STATUS
from layerwise.importance.scores import layer_scores
from layerwise.models.catalogue_loss import chunked_loss, sampled_loss
from layerwise.models.families import Shape
from layerwise.models.recommender import Recommender, build_recommender
from layerwise.models.training import Loss, Recipe, next_item_loss, train

SHAPE, LENGTH, BATCH = Shape(num_layers=2, hidden=64, intermediate=172, num_heads=2), 20, 128
NEGATIVES = 256
SCORED, HEALED = 256, 4 * BATCH  # users that score the layers, and that heal: 4 steps
EPOCH = Recipe(epochs=1, learning_rate=1e-3, batch_size=BATCH, evaluate_every=1)


@dataclass(frozen=True)
class Stage:
    """A step of the path: what it reads of the results of others, and what it does with them."""

    needs: tuple[str, ...]
    run: Callable[..., Any]


def _split(table: Interactions) -> Split:
    return leave_one_out(table.without_repeats().without_short_users(3))


def _sampled(split: Split) -> Loss:
    """The loss of the epoch: negatives drawn by the square root of how often items are read."""
    counts = np.bincount(np.concatenate(split.train_sequences()), minlength=split.table.num_items)
    return sampled_loss(torch.from_numpy(np.sqrt(counts + 1.0)), NEGATIVES, torch.Generator().manual_seed(0))


def _train(split: Split) -> Recommender:
    fresh = build_recommender("llama", split.table.num_items, LENGTH, SHAPE, seed=0)
    return train(fresh, split.train_sequences(), lambda _: 0.0, EPOCH, 0, _sampled(split)).recommender


def _score(split: Split, full: Recommender) -> FloatArray:
    return layer_scores(full, full.labelled_batches(split.train_sequences()[:SCORED]), "empirical-fisher")


def _cut(full: Recommender, scores: FloatArray) -> Recommender:
    return compact_model(full, (int(scores.argmax()),))


def _heal(split: Split, full: Recommender, compact: Recommender) -> Recommender:
    loss, few = distillation_loss(full, Distillation()), split.train_sequences()[:HEALED]
    return train(compact, few, lambda _: 0.0, EPOCH, 0, loss).recommender


def _rank(split: Split, healed: Recommender) -> float:
    return float(target_metrics(healed, split, split.test, ks=(10,))["ndcg@10"].mean())


STAGES = {
    "read": Stage((), load_interactions),
    "split": Stage(("read",), _split),
    "audit": Stage(("split",), audit),
    "train": Stage(("split",), _train),
    "score": Stage(("split", "train"), _score),
    "cut": Stage(("train", "score"), _cut),
    "heal": Stage(("split", "train", "cut"), _heal),
    "rank": Stage(("split", "heal"), _rank),
}

DATA = ("read", "split", "audit")


def measured(source: str, stages: Sequence[str] = tuple(STAGES)) -> dict[str, Any]:
    """Seconds and bytes of each stage on a source, and what it was: users, items, events, NDCG@10 of the ranking.

    Args:
        source: As for `load_interactions`.
        stages: Names of `STAGES`, each after those that it needs.

    Returns:
        `"stages"`: name -> `cpu` and `wall` in seconds, `peak` in bytes; beside the facts that the stages tell.

    Raises:
        RuntimeError: If a stage failed.
    """
    found: dict[str, Any] = {"source": Path(source).name, "stages": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in stages:
            stage = STAGES[name]
            run = partial(stage.run, source) if not stage.needs else stage.run
            facts, found["stages"][name] = _in_a_fork(
                run, [Path(folder) / need for need in stage.needs], Path(folder) / name
            )
            found |= facts
            cost = found["stages"][name]
            words = f"{cost['cpu']:.1f} s ({cost['wall']:.1f} s by the wall clock), {cost['peak'] / 1e9:.2f} GB"
            print(f"{found['source']}, {name}: {words}", file=sys.stderr, flush=True)
    return found


def losses(num_items: int) -> dict[str, dict[str, float]]:
    """Seconds and bytes of one training step among so many items, by the way the loss is computed."""
    uniform = torch.ones(num_items)
    ways = {
        "full": lambda: next_item_loss,
        "full, chunks of 256": lambda: chunked_loss(256),
        f"{NEGATIVES} sampled": lambda: sampled_loss(uniform, NEGATIVES, torch.Generator().manual_seed(0)),
    }
    sequences = list(np.random.default_rng(0).integers(num_items, size=(BATCH, LENGTH + 1)))
    fresh = build_recommender("llama", num_items, LENGTH, SHAPE, seed=0)

    def step(loss: Callable[[], Loss]) -> None:
        train(fresh, sequences, lambda _: 0.0, EPOCH, 0, loss())

    return {way: _in_a_fork(partial(step, loss), [], None)[1] for way, loss in ways.items()}


def _in_a_fork(
    run: Callable[..., Any], inputs: Sequence[Path], output: Path | None
) -> tuple[dict[str, Any], dict[str, float]]:
    context = multiprocessing.get_context("fork")  # a child with nothing but the libraries
    answers: SimpleQueue[Any] = context.SimpleQueue()
    child = context.Process(target=_timed, args=(run, inputs, output, answers))
    child.start()
    child.join()
    if child.exitcode:
        raise RuntimeError(f"the stage {output.name if output else run} failed, see above")
    facts, cost = answers.get()
    return facts, cost


def _timed(run: Callable[..., Any], inputs: Sequence[Path], output: Path | None, answers: "SimpleQueue[Any]") -> None:
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    values = [_read(path) for path in inputs]
    CLEAR.write_text(RESET_PEAK)
    cpu, wall = time.process_time(), time.perf_counter()
    result = run(*values)
    cost = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "peak": _peak()}
    if output is not None:
        _write(result, output)
    answers.put((_facts(result), cost))


def _peak() -> int:
    """Most bytes that this process had resident since the last reset."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def _facts(result: object) -> dict[str, Any]:
    if isinstance(result, Audit):
        return {"users": result.users, "items": result.items, "events": result.events}
    return {"ndcg@10": result} if isinstance(result, float) else {}


def _write(result: object, path: Path) -> None:
    if isinstance(result, Recommender):
        result.save(path)
    else:
        path.write_bytes(pickle.dumps(result))


def _read(path: Path) -> Any:
    """What `_write` left, of this very program, in a folder of its own."""
    return Recommender.load(path) if path.is_dir() else pickle.loads(path.read_bytes())


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(prog="python -m layerwise.lab.scale")
    parser.add_argument("--whole", nargs="*", default=[], metavar="SOURCE", help="all stages")
    parser.add_argument("--data", nargs="*", default=[], metavar="SOURCE", help="read, split and audit")
    parser.add_argument("--losses", nargs="*", default=[], type=int, metavar="ITEMS", help="training steps by loss")
    options = parser.parse_args(arguments)
    found = {
        "whole": [measured(source) for source in options.whole],
        "data": [measured(source, DATA) for source in options.data],
        "losses": {items: losses(items) for items in options.losses},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
