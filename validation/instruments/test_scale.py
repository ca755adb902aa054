"""Stages at scale on a small data set: what is measured is what was done; tables and exponents by hand."""

import json
import subprocess
import sys

import numpy as np
import pytest

from layerwise.lab import scale
from layerwise.lab.scale import STAGES, measured
from reports.scale import DRAWN, NUMBERS, fitted_exponent, publish, tables

pytestmark = pytest.mark.skipif(not scale.CLEAR.exists(), reason="peak memory is read from /proc, which only Linux has")


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{user},{item},{time}" for user in range(40) for time, item in enumerate(rng.permutation(30)[:8])]
    rows += [f"short,{item},0" for item in range(2)]
    path = tmp_path / "toy.csv"
    path.write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    return str(path)


def test_every_stage_runs_in_order_and_costs_something(source):
    found = measured(source)

    assert list(found["stages"]) == list(STAGES)
    assert (found["users"], found["items"], found["events"]) == (40, 30, 320)
    assert 0 <= found["ndcg@10"] <= 1
    for cost in found["stages"].values():
        assert cost["cpu"] > 0
        assert cost["peak"] > 10**7


def test_a_stage_that_fails_ends_the_measurement(tmp_path):
    with pytest.raises(RuntimeError, match="the stage read failed"):
        measured(str(tmp_path / "nothing.csv"), ["read"])


@pytest.fixture(scope="module")
def peaks():
    """Peaks as a fresh process measures them: a child of this one would use the memory that it has freed.

    The first is of a stage that takes 1.2 GB, the second of one after it that takes nothing.
    """
    code = """
import json
import numpy as np
from layerwise.lab import scale
stages = [lambda: np.ones(15 * 10**7).sum(), lambda: None]
peaks = [scale._in_a_fork(stage, [], None)[1]["peak"] for stage in stages]
print(json.dumps([*peaks, *(cost["peak"] for cost in scale.losses(8_000).values())]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_peak_is_that_of_the_stage_and_not_of_earlier_ones(peaks):
    large, small, *_ = peaks

    assert large - small == pytest.approx(1.2e9, rel=0.1)


def test_losses_differ_in_memory_where_the_catalogue_is_large(peaks):
    _, _, full, chunked, sampled = peaks

    assert full > chunked > sampled


def test_exponent_of_a_power_is_its_power():
    sizes = [1.0, 2.0, 4.0, 8.0]

    assert fitted_exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx((1.5, 0.0))


def test_exponent_and_its_error_are_those_of_scipy():
    from scipy.stats import linregress

    sizes, costs = [10.0, 20.0, 40.0, 80.0], [1.0, 2.3, 3.9, 9.0]
    expected = linregress(np.log(sizes), np.log(costs))

    assert fitted_exponent(sizes, costs) == pytest.approx((expected.slope, expected.stderr))


def test_tables_and_picture_come_from_the_numbers_alone(tmp_path):
    cost = {"cpu": 1.5, "wall": 2.0, "peak": 3 * 10**9}
    whole = [
        {"source": "x", "users": users, "items": 5, "events": 9, "stages": dict.fromkeys([*DRAWN, "cut"], cost)}
        for users in (10, 20, 40)
    ]
    data = [{**whole[0], "stages": dict.fromkeys(scale.DATA, cost)}]
    numbers = {"whole": whole, "data": data, "losses": {"7": {"full": cost}}}

    publish(numbers, tmp_path)

    assert json.loads((tmp_path / NUMBERS).read_text()) == numbers
    assert (tmp_path / "scale.png").stat().st_size > 10**3
    assert "| train | 1.50 | 1.50 | 1.50 | 0.00 ± 0.00 | 2.00 | 3.00 |" in tables(numbers)
    assert "| cut | 1.50 | 1.50 | 1.50 | - | 2.00 | 3.00 |" in tables(numbers)
    assert "| full | 7 | 1.50 | 3.00 |" in tables(numbers)
