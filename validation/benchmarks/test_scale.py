"""What the whole path takes on 99,766 users, and how that grows; skipped where the data are not here.

Aims: reading and splitting within 30 s, at most 6 GB of resident memory at any stage, and ranking in memory that does
not grow with the users. Seconds are those of one thread's processor, since others may keep the machine busy; every
stage runs in a process of its own. The smaller sizes are random users of the same data. `LAYERWISE_SCALE` names a
folder for numbers and picture; by default reports/generated/scale.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from layerwise.data.folders import located
from layerwise.lab.manifest import versions
from reports.provenance import provenance
from reports.scale import publish, tables

ROOT = Path(__file__).parents[2]
USERS = (12_500, 25_000, 50_000)
SECONDS, PEAK, RANKING_GROWS = 30, 6 * 10**9, 10**9  # all scores of 99,766 users at once would be 4 GB
LOSSES = ("10198", "119481")


def here(name):
    try:
        return Path(located(name))
    except FileNotFoundError as error:
        pytest.skip(str(error))


def of_some_users(source, number, folder):
    """The events of so many random users, in a file of their own."""
    events = pd.read_parquet(source / "interactions.parquet")
    users = np.random.default_rng(0).choice(events.user_id.unique(), number, replace=False)
    path = folder / f"{number}" / "interactions.parquet"
    path.parent.mkdir()
    events[events.user_id.isin(users)].to_parquet(path)
    return path


def run(*arguments):
    """What `layerwise.lab.scale` prints, by a process that does nothing else."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "layerwise.lab.scale", *map(str, arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peaks(found):
    return [cost["peak"] for part in ("whole", "data") for one in found[part] for cost in one["stages"].values()]


def test_whole_path_at_scale(tmp_path, capsys):
    news, union = here("globo-news-100k-derived"), here("amazon14-union6-derived")
    sizes = [*(of_some_users(news, number, tmp_path) for number in USERS), news]
    began = time.perf_counter()

    found = run("--whole", *sizes, "--data", union, "--losses", *LOSSES)

    facts = {"minutes": (time.perf_counter() - began) / 60, "commit": provenance(ROOT).commit}
    facts |= {"versions": versions(), "cores": os.cpu_count(), "load at the end": os.getloadavg()[0]}
    publish(facts | found, Path(os.environ.get("LAYERWISE_SCALE", ROOT / "reports" / "generated" / "scale")))
    with capsys.disabled():
        print(f"\n{tables(found)}")
    for one in (found["whole"][-1], *found["data"]):
        assert one["stages"]["read"]["cpu"] + one["stages"]["split"]["cpu"] <= SECONDS, one["source"]
    assert max(peaks(found)) <= PEAK
    ranking = [one["stages"]["rank"]["peak"] for one in found["whole"]]
    assert ranking[-1] - ranking[0] <= RANKING_GROWS
