"""Four ways to rank all users on the same scores; run as a program, one of them in a process of its own.

`python -m validation.benchmarks.ranking_ways WAY NUM_USERS` prints the metrics, the seconds of each part and the peak
memory of its process as JSON. Only what a way needs is imported. Scores are made block by block, off the clock: no way
ever has all of them (4 GB for 100,000 users). The peers take tables of the best items, so they begin with a mask and a
top-k, in place and by the fastest we know of; then each is used as its documentation says for such tables.
"""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

NUM_ITEMS, RANK, BLOCK, SEEN, PLANTED, K = 10_000, 32, 2_000, (20, 80), 2.0, 10


# The same world for all


@dataclass(frozen=True, eq=False)
class Block:
    """Some users in a row: scores *n x num_items* in fp32, one target each, and what they have seen."""

    first: int
    scores: np.ndarray
    targets: np.ndarray
    seen: list[np.ndarray]


def blocks(num_users: int) -> Iterator[Block]:
    """Scores of fixed random factors, unit variance; targets lie `PLANTED` standard deviations higher, without ties."""
    items = np.random.default_rng(0).standard_normal((RANK, NUM_ITEMS), dtype=np.float32) / np.sqrt(np.float32(RANK))
    for first in range(0, num_users, BLOCK):
        random, size = np.random.default_rng([1, first]), min(BLOCK, num_users - first)
        scores = random.standard_normal((size, RANK), dtype=np.float32) @ items
        targets = random.integers(0, NUM_ITEMS, size)
        plant(scores, targets)
        histories = random.integers(0, NUM_ITEMS, (size, SEEN[1]))
        histories = np.where(histories == targets[:, None], (histories + 1) % NUM_ITEMS, histories)
        lengths = random.integers(*SEEN, size, endpoint=True)
        yield Block(first, scores, targets, [row[:n] for row, n in zip(histories, lengths, strict=True)])


def plant(scores: np.ndarray, targets: np.ndarray) -> None:
    """Raise each row's target, in place, and on to the next number for as long as another item has the same score."""
    rows = np.arange(len(scores))
    scores[rows, targets] += np.float32(PLANTED)
    while len(rows := rows[(scores[rows] == scores[rows, targets[rows]][:, None]).sum(axis=1) > 1]):
        scores[rows, targets[rows]] = np.nextafter(scores[rows, targets[rows]], np.float32(np.inf))


class Clock:
    """Adds up wall and processor seconds by part."""

    def __init__(self) -> None:
        self.wall, self.cpu = defaultdict(float), defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] += time.perf_counter() - wall
        self.cpu[name] += time.process_time() - cpu


# Ways: from users to HR@10, NDCG@10 and MRR@10 (tables of ten items know no further rank)


def layerwise(num_users: int, clock: Clock) -> dict[str, float]:
    ranking_metrics = import_module("layerwise.evaluation.ranking").ranking_metrics
    found = defaultdict(list)
    for block in blocks(num_users):
        with clock.part("metrics"):
            for name, values in ranking_metrics(block.scores, block.targets, block.seen, ks=(K,)).items():
                found[name].append(values)
    with clock.part("metrics"):
        hits, gains, reciprocal = (np.concatenate(found[name]) for name in (f"hr@{K}", f"ndcg@{K}", "mrr"))
        return {"hr": hits.mean(), "ndcg": gains.mean(), "mrr": (reciprocal * hits).mean()}


def best_items(num_users: int, clock: Clock) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `K` best unseen items of each user, best first, their scores, and the targets."""
    torch = import_module("torch")
    parts = []
    for block in blocks(num_users):
        with clock.part("top k"):
            rows = np.repeat(np.arange(len(block.targets)), [len(history) for history in block.seen])
            block.scores[rows, np.concatenate(block.seen)] = -np.inf
            best = torch.topk(torch.from_numpy(block.scores), K)
            parts.append((best.indices.numpy(), best.values.numpy(), block.targets))
    with clock.part("top k"):
        items, scores, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
    return items, scores, targets


def rectools(num_users: int, clock: Clock) -> dict[str, float]:
    pandas, library = import_module("pandas"), import_module("rectools.metrics")
    items, _, targets = best_items(num_users, clock)
    with clock.part("convert"):
        users = np.arange(num_users)
        ranks = np.tile(np.arange(1, K + 1), num_users)
        table = pandas.DataFrame({"user_id": np.repeat(users, K), "item_id": items.ravel(), "rank": ranks})
        truth = pandas.DataFrame({"user_id": users, "item_id": targets})
    with clock.part("metrics"):
        gain = library.NDCG(k=K, divide_by_achievable=True)  # by default the ideal has k hits
        metrics = {"hr": library.HitRate(k=K), "ndcg": gain, "mrr": library.MRR(k=K)}
        return library.calc_metrics(metrics, table, truth)


def nested(items: np.ndarray, scores: np.ndarray, targets: np.ndarray) -> tuple[dict, dict]:
    """Relevance and scores by query and document, which are strings."""
    names = [str(item) for item in range(NUM_ITEMS)]
    truth = {str(user): {names[target]: 1} for user, target in enumerate(targets.tolist())}
    run = {
        str(user): {names[item]: score for item, score in zip(*pair, strict=True)}
        for user, pair in enumerate(zip(items.tolist(), scores.tolist(), strict=True))
    }
    return truth, run


def ranx(num_users: int, clock: Clock) -> dict[str, float]:
    library = import_module("ranx")
    import_module("numba").set_num_threads(1)
    items, scores, targets = best_items(num_users, clock)
    with clock.part("convert"):
        truth, run = nested(items, scores, targets)
        truth, run = library.Qrels(truth), library.Run(run)
    with clock.part("metrics"):
        found = library.evaluate(truth, run, [f"hit_rate@{K}", f"ndcg@{K}", f"mrr@{K}"])
        return {"hr": found[f"hit_rate@{K}"], "ndcg": found[f"ndcg@{K}"], "mrr": found[f"mrr@{K}"]}


def ir_measures(num_users: int, clock: Clock) -> dict[str, float]:
    library = import_module("ir_measures")
    items, scores, targets = best_items(num_users, clock)
    with clock.part("convert"):
        truth, run = nested(items, scores, targets)
    with clock.part("metrics"):
        measures = {"hr": library.Success @ K, "ndcg": library.nDCG @ K, "mrr": library.RR @ K}
        found = library.calc_aggregate(list(measures.values()), truth, run)
        return {name: found[measure] for name, measure in measures.items()}


WAYS = {"layerwise": layerwise, "rectools": rectools, "ranx": ranx, "ir_measures": ir_measures}


def peak_bytes() -> int:
    """Most memory that this process had resident (VmHWM), libraries included; see `layerwise.evaluation.resident`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def main(way: str, num_users: int) -> None:
    WAYS[way](BLOCK, Clock())  # what is imported, compiled or allocated at first use
    clock = Clock()
    metrics = {name: float(value) for name, value in WAYS[way](num_users, clock).items()}
    print(json.dumps({"metrics": metrics, "cpu": clock.cpu, "wall": clock.wall, "peak": peak_bytes()}))


if __name__ == "__main__":
    os.environ["NUMBA_NUM_THREADS"] = "1"
    main(sys.argv[1], int(sys.argv[2]))
