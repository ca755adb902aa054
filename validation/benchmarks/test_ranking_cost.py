"""What ranking 100,000 users among 10,000 items costs, beside three libraries on the same scores.

Aims: in at most 2 GB of resident memory, and faster than RecTools, ranx and ir_measures. Memory decides the test; times
on a shared processor are printed, not judged. Each round takes every way once, in a fresh process of its own (so the
peak is its own, too); the times are those of one thread's processor, with the wall clock beside. All ways must agree on
HR@10, NDCG@10 and MRR@10; ours knows the rank of every target, the tables of the others end at the tenth item.

What a peer needs first, a mask and the ten best items, is counted, and shown apart: who has such a table anyway pays
only for what follows. Where the scores come from is nobody's cost.
"""

import json
import os
import statistics
import subprocess
import sys
from importlib.util import find_spec

import pytest
from rich.console import Console
from rich.table import Table

from layerwise.evaluation.ranking import ranking_metrics
from validation.benchmarks.ranking_ways import NUM_ITEMS, WAYS, K, blocks

ROUNDS, NUM_USERS, LIMIT = 3, 100_000, 2 * 10**9
PARTS = ("top k", "convert", "metrics")


def run(way):
    """What the way found and took, by a process that does nothing else."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "validation.benchmarks.ranking_ways", way, str(NUM_USERS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def median(rounds, of):
    return statistics.median(of(found) for found in rounds)


def total(found):
    return sum(found["cpu"].values())


def part_of(rounds, part):
    return f"{median(rounds, lambda found: found['cpu'][part]):.2f}" if part in rounds[0]["cpu"] else "-"


def table(rounds):
    title = f"{NUM_USERS:,} users x {NUM_ITEMS:,} items, top {K}; processor seconds, median of {ROUNDS} rounds"
    shown = Table("way", *PARTS, "in all", "of ours", "wall", "users / s", "peak MB", title=title)
    for way in rounds:
        parts = [part_of(rounds[way], part) for part in PARTS]
        ratio = statistics.median(
            total(theirs) / total(ours) for theirs, ours in zip(rounds[way], rounds["layerwise"], strict=True)
        )
        seconds = median(rounds[way], total)
        wall = median(rounds[way], lambda found: sum(found["wall"].values()))
        peak = max(found["peak"] for found in rounds[way]) / 1e6
        figures = [f"{seconds:.2f}", f"{ratio:.2f} x", f"{wall:.2f}", f"{NUM_USERS / seconds:,.0f}", f"{peak:,.0f}"]
        shown.add_row(way, *parts, *figures)
    if absent := WAYS.keys() - rounds.keys():
        shown.caption = f"not installed: {', '.join(absent)}; RecTools has its own: tox run -e benchmarks-rectools"
    return shown


def test_ranking_against_libraries(benchmark, capsys):
    here = [way for way in WAYS if find_spec(way)]
    rounds = {way: [] for way in here}
    for _ in range(ROUNDS):
        for way in here:
            rounds[way].append(run(way))
    expected = rounds["layerwise"][0]["metrics"]
    for way in here:
        for found in rounds[way]:
            assert found["metrics"] == pytest.approx(expected, rel=0, abs=1e-9), way
    benchmark.group = "ranking"
    benchmark.extra_info |= {"users": NUM_USERS, "items": NUM_ITEMS, "rounds": rounds}
    block = next(blocks(NUM_USERS))
    benchmark(ranking_metrics, block.scores, block.targets, block.seen, ks=(K,))

    with capsys.disabled():
        Console(width=130).print("\n", table(rounds))
    assert max(found["peak"] for found in rounds["layerwise"]) <= LIMIT
