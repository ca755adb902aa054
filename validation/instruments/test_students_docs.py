"""What docs/students.md shows works as it stands there, and its tables are those of the code."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from layerwise.compression.methods import METHODS
from layerwise.compression.objective import Objective

PAGE = Path(__file__).parents[2] / "docs" / "students.md"


def first_cells(heading):
    """First cells of the table under a heading of the page, without its head."""
    section = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [line.strip("| ").split(" | ")[0] for line in section.splitlines() if line.startswith("|")][2:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def names(folder):
    """What is defined once all code of the page has run, in a folder of its own."""
    defined = {}
    with pytest.MonkeyPatch.context() as inside:
        inside.chdir(folder)
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), defined)
    return defined


def test_the_student_of_the_page_has_the_kept_layers_and_loads_without_the_library(names, folder):
    loaded, report = AutoModelForCausalLM.from_pretrained(folder / "my-student", output_loading_info=True)

    assert len(names["made"].recommender.layers) == loaded.config.num_hidden_layers == 2
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_every_method_but_variants_of_ours_stands_in_the_table():
    named = set()
    for cell in first_cells("The methods"):
        start, _, _ = cell.rpartition(" layers")
        named |= {f"{rule} layers" for rule in start.split(", ")} if start else {cell}

    assert named == {name for name in METHODS if not name.startswith("ours ") and not name.startswith("ours,")}


def test_every_term_of_an_objective_stands_in_the_table():
    settings = {"temperature", "distance"}

    assert {cell.strip("`") for cell in first_cells("The terms")} == {f.name for f in fields(Objective)} - settings
