"""The list in docs/robustness.md is that of the code, and its numbers are those of the code and the claims."""

import tomllib
from pathlib import Path

from layerwise.data.scenarios import SCENARIOS
from layerwise.lab.robustness import CLAIMED, LEAST_USERS, MAIN_SHARE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "robustness.md").read_text()
CLAIMS = tomllib.loads((ROOT / "validation" / "claims.toml").read_text())["claims"]


def rows():
    table = PAGE.partition("| scenario | who belongs to it | looks at the target |\n")[2].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table if line.startswith("|")]


def test_every_scenario_stands_in_the_list_as_it_is_defined():
    expected = [[one.name, one.definition, "×" if one.uses_target else ""] for one in SCENARIOS]

    assert rows() == expected


def test_margins_and_sizes_are_those_that_are_declared():
    margins = {case["at_least"] for case in CLAIMS["noise-robustness"]["cases"].values()}
    (training,) = (case["at_least"] for case in CLAIMS["training-noise-robustness"]["cases"].values())

    assert (margins, training) == ({-0.005}, -0.01)
    assert "its margin of -.005 was declared" in PAGE
    assert "Its margin is .01:" in PAGE
    assert (CLAIMED, LEAST_USERS, MAIN_SHARE) == (0.88, 30, 0.25)
    assert "88 % of NDCG@10, the lower end" in PAGE
    assert "all with at least 30 users" in PAGE
    assert "hold a quarter of the targets" in PAGE
