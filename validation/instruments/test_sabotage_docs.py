"""The table of sabotages in the docs is whole, and every test that it names exists."""

import ast
import re
from pathlib import Path

import pytest

INSTRUMENTS = Path(__file__).parent
PAGE = INSTRUMENTS.parents[1] / "docs" / "sabotage.md"
COLUMNS = ["sabotage", "what the suite says", "where it is caught", "test"]
SABOTAGES = [
    "the compact model is secretly the full one, quality",
    "the compact model is secretly the full one, timing",
    "the compact model is secretly the full one, memory",
    "a model skips layers only while timed",
    "cached outputs while timing",
    "timing without synchronisation",
    "batch-size change between arms",
    "Fisher replaced by random numbers",
    "one Fisher under three names",
    "attention maps not from the model",
    "constant scores",
    "NaN or infinite scores",
    "sampled candidates",
    "seen items not masked",
    "seen items masked with 0",
    "target in history",
    "test users in training",
    "ties broken in favour of the target",
    "id order leaking time",
    "word overlap offered as quality",
    "an untrained head on one LoRA arm",
    "disable_adapter as frozen base",
    "stale store entry of another model",
    "metrics computed on different users per arm",
    "a claim renamed",
    "a claim deleted",
    "a claim skipped",
    "a claim crashed",
    "a claim's worker killed",
    "a numpy scalar in a record under xdist",
    "margins edited after the run",
    "accepted verdicts edited by a failing run",
]


def table():
    """Rows of the page's table as lists of cells, the head first."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    head, rule, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert set("".join(rule)) == {"-"}
    return [head, *rows]


ROWS = table()[1:]


def functions_of(file):
    return {node.name for node in ast.parse((INSTRUMENTS / file).read_text()).body if isinstance(node, ast.FunctionDef)}


def test_the_table_has_these_columns():
    assert table()[0] == COLUMNS


def test_every_sabotage_stands_in_the_table_once():
    assert [row[0] for row in ROWS] == SABOTAGES


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_no_cell_is_empty_and_every_test_exists(row):
    assert len(row) == len(COLUMNS)
    assert all(row)
    tests = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[-1])
    assert tests
    assert row[-1] == ", ".join(f"`{file}::{name}`" for file, name in tests)
    for file, name in tests:
        assert name in functions_of(file), f"{file} has no {name}"


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_code_that_catches_it_exists(row):
    modules = re.findall(r"`([\w/]+\.py)`((?: `[\w.]+`(?:, (?=`\w+`))?)*)", row[2])
    assert modules
    for module, names in modules:
        path = INSTRUMENTS.parents[1] / ("" if module.startswith("reports") else "layerwise") / module
        source = path.read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            assert re.search(rf"^\s*(?:def|class) {name.rpartition('.')[2]}\b", source, re.MULTILINE), (module, name)
