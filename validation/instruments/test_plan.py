"""The plan of a run: what was made before counts as measured, the rest by its effort."""

from dataclasses import replace

import numpy as np
import pytest

from layerwise.compression.distill import Distillation
from layerwise.lab import plan
from layerwise.lab.experiments import Quality, ScratchModel
from layerwise.lab.lab import Lab
from layerwise.lab.manifest import MANIFEST, write_manifest
from layerwise.lab.store import Store
from layerwise.lab.tiers import Subject
from layerwise.models.families import Shape
from layerwise.models.training import Recipe


@pytest.fixture
def subject(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{user},{item},{time}" for user in range(6) for time, item in enumerate(rng.permutation(9))]
    (tmp_path / "toy.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    recipe = Recipe(epochs=10, learning_rate=1e-2)
    return Subject(str(tmp_path / "toy.csv"), 2, "llama", Shape(3, 16, 32, 2), 6, 0.1, recipe, recipe, Distillation())


@pytest.fixture
def lab(tmp_path):
    return Lab(Store(tmp_path / "store"))


def pretend(lab, experiment, seconds, **other):
    """Puts eight bytes in the place of a result that took so long; `other` replaces parts of its specification."""
    spec = lab.spec(experiment) | other
    folder = lab.store.path_of(spec)
    folder.mkdir(parents=True)
    (folder / "result").write_bytes(b"12345678")
    write_manifest(folder, spec, experiment.describe(), seconds)
    return 8 + (folder / MANIFEST).stat().st_size


def test_a_cell_that_was_made_counts_as_measured_and_another_by_its_effort(lab, subject):
    made, shallow = ScratchModel(subject, 0, 3), ScratchModel(subject, 0, 1)
    size = pretend(lab, made, 80.0)

    costs = plan.planned(lab, [made, shallow])

    assert costs[made] == plan.Cost(80.0, size, is_measured=True)
    assert costs[shallow] == plan.Cost(80.0 * (1 + 1) / (3 + 1), size, is_measured=False)  # layers and the item head


def test_a_cell_that_other_code_made_counts_as_measured(lab, subject):
    made = ScratchModel(subject, 0, 3)
    pretend(lab, made, 80.0, code={"model": "before"}, versions={"torch": "1"})

    assert plan.planned(lab, [made])[made].seconds == 80.0


def test_cells_on_the_same_data_decide_where_there_are_some(lab, subject, tmp_path):
    rows = [f"{user},{item},{time}" for user in range(5) for time, item in enumerate(range(9))]
    (tmp_path / "other.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    other = replace(subject, dataset=str(tmp_path / "other.csv"))
    pretend(lab, ScratchModel(subject, 0, 3), 80.0)
    pretend(lab, ScratchModel(other, 0, 3), 8.0)

    wanted = [ScratchModel(of, seed, 3) for of in (subject, other) for seed in (0, 1)]
    costs = plan.planned(lab, wanted)

    assert [costs[cell].seconds for cell in wanted] == [80.0, 80.0, 8.0, 8.0]


def test_longest_chain_adds_what_a_cell_needs(subject):
    full, other = ScratchModel(subject, 0, 3), ScratchModel(subject, 1, 3)
    costs = {full: plan.Cost(50.0, 1), Quality(full): plan.Cost(7.0, 1), other: plan.Cost(55.0, 1)}

    assert plan.longest_chain(costs) == 57.0


def test_a_store_without_a_cell_of_the_run_is_an_error(lab, subject):
    with pytest.raises(ValueError, match="no cell of this run was ever made"):
        plan.planned(lab, [ScratchModel(subject, 0, 3)])


def test_table_sums_cells_hours_and_storage(subject):
    cells = [ScratchModel(subject, seed, 3) for seed in range(4)]
    costs = {cell: plan.Cost(1800.0, 5e8, is_measured=cell.seed < 3) for cell in cells}

    footers = [column.footer for column in plan.table(costs, "toy", "core").columns]

    assert footers == ["all", "4", "3", "2.00", "2.000"]
