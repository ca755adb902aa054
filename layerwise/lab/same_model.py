"""A model timed against its own copy, again and again: `python -m layerwise.lab.same_model FILE`.

Whatever the instrument calls a speedup here is a false one. Each run is the real instrument on real forward passes,
with few and short blocks, so that a thousand of them take minutes. Short turns are the hard case: what the first call
of a turn costs beyond the others weighs most in them.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from layerwise.evaluation.latency import LatencyComparison, compare_latency
from layerwise.models.families import Shape
from layerwise.models.recommender import build_recommender

RUNS, BLOCKS, CALLS = 1000, 10, 4  # calls per turn; a block has two turns of each model
ITEMS, LENGTH, BATCH, INPUTS = 300, 16, 4, 4
SHAPE = Shape(num_layers=1, hidden=16, intermediate=32, num_heads=2)


def same_model_runs(runs: int, blocks: int = BLOCKS, calls: int = CALLS) -> Iterator[LatencyComparison]:
    """Comparisons of a small Llama recommender with its deep copy, on one thread.

    Args:
        runs: How many.
        blocks: Blocks of each.
        calls: Calls per turn.
    """
    torch.set_num_threads(1)
    model = build_recommender("llama", ITEMS, LENGTH, SHAPE, seed=0).eval()
    twin = copy.deepcopy(model)
    histories = np.random.default_rng(0).integers(ITEMS, size=(INPUTS, BATCH, LENGTH))
    inputs = [model.batch(list(batch)) for batch in histories]
    for _ in range(runs):
        yield compare_latency(model, twin, inputs, blocks=blocks, warmup=2, calls=calls)


def main(arguments: Sequence[str] | None = None) -> None:
    """Times, shows progress, and writes the times of all blocks, arrays of *runs x blocks* in milliseconds."""
    parser = argparse.ArgumentParser(prog="python -m layerwise.lab.same_model", description=main.__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="where the times go (.npz)")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"number of comparisons (default: {RUNS})")
    options = parser.parse_args(arguments)
    found = list(track(same_model_runs(options.runs), "timing a model against its copy", options.runs))
    options.file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        options.file,
        full_ms=np.stack([run.full_ms for run in found]),
        compact_ms=np.stack([run.compact_ms for run in found]),
        calls=np.array(CALLS),
        setting=np.array(json.dumps(found[0].setting())),
    )


if __name__ == "__main__":
    main()
