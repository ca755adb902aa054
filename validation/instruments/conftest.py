"""Projects on which tests run pytest from outside: a small written one, and the real claims on a tiny subject."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from layerwise.compression.distill import Distillation
from layerwise.evaluation import timing
from layerwise.lab import engine, spot_checks
from layerwise.lab.experiments import (
    FLOOR,
    FloorQuality,
    LayerPortrait,
    LayerScores,
    ModelQuality,
    RemovalDamage,
    closure,
)
from layerwise.lab.lab import Lab
from layerwise.lab.manifest import MANIFEST, write_manifest
from layerwise.lab.store import Store, read_arrays, write_arrays
from layerwise.lab.study import Study
from layerwise.lab.tiers import TIERS, Subject, Tier
from layerwise.models.families import Shape
from layerwise.models.training import Recipe
from reports import publish

REPOSITORY = Path(__file__).parents[2]
VALIDATION = REPOSITORY / "validation"
HEAD = """
import os, sys
import numpy as np
import pytest
from layerwise.statistics import Exact, MeanDifference

UNCERTAIN = MeanDifference(np.array([[-1.0, 1.0] * 8]), "points")
"""
PLAIN = '''
@pytest.mark.claim("score")
@pytest.mark.parametrize("value", [3.0, 1.0], ids="v{:.0f}".format)
def test_score(claim, value):
    """The score is above 2."""
    claim.require(True, "one check")
    claim.judge(Exact(value, "points"))

def test_instrument():
    pass
'''


def declared(claim, cases, bound="above = 2", effect="exact", on_inconclusive="fail", tiers=("quick",)):
    head = f'[claims.{claim}]\nstatement = "{claim} is above 2"\nsource = "Table 1"\nrefuted_if = "it is not"\n'
    head += f'effect = "{effect}"\nalpha = 0.01\non_inconclusive = "{on_inconclusive}"\n'
    body = f'tiers = {list(tiers)}\n{bound}\nreason = "two"\n'
    return head + "".join(f'[claims.{claim}.cases."{case}"]\n{body}' for case in cases)


@pytest.fixture
def project(pytester, monkeypatch):
    """A small project with claims; `run` runs pytest on it and `twin` reads what it wrote."""
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # a fresh home would build its font list anew
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # plugins of other projects take seconds to import
    return Project(pytester)


class Project:
    plain = PLAIN
    declared = staticmethod(declared)

    def __init__(self, pytester):
        self.pytester, self.path = pytester, pytester.path
        pytester.makeini("[pytest]\ntestpaths = validation\naddopts = --import-mode=importlib --strict-markers\n")
        pytester.makeconftest('pytest_plugins = ["fixtures.claim", "reports.plugin"]')
        (self.path / "validation").mkdir()

    def write(self, tests=PLAIN, cases=("v3", "v1"), **claims):
        """The claim "score", which says "above 2" for every case, further claims with their cases, and tests."""
        (self.path / "validation" / "test_score.py").write_text(HEAD + tests)
        text = "".join(declared(claim, names) for claim, names in {"score": cases, **claims}.items() if names)
        (self.path / "validation" / "claims.toml").write_text(text)

    def run(self, *arguments, apart=False):
        run = self.pytester.runpytest_subprocess if apart else self.pytester.runpytest_inprocess
        return run("-p", "no:cacheprovider", "-p", "xdist.plugin", *arguments)

    def twin(self, tier="quick"):
        return json.loads((self.path / "reports" / "generated" / tier / publish.TWIN).read_text())

    def verdicts(self, tier="quick"):
        return {d["case"]: d["verdict"] for d in self.twin(tier)["decisions"]}

    def gates(self):
        return {d["case"]: d["gate"] for d in self.twin()["decisions"]}

    def commit(self):
        (self.path / ".gitignore").write_text("__pycache__/\nreports/generated/\n")
        person = ["-c", "user.email=ada@example.org"]
        for command in (["init", "-q"], ["config", "user.name", "Ada"], ["add", "-A"], [*person, "commit", "-qm", "x"]):
            subprocess.run(["git", *command], cwd=self.path, check=True)

    @property
    def accepted(self):
        return self.path / "reports" / "accepted.toml"


# -- the real claims on a subject that is trained in a second

CLAIMS = {
    "quality-retention": (
        "test_quality_retention.py::test_healed_compact_model_keeps_the_claimed_share",
        "llama-keep25%-ndcg@5",
    ),
    "parameters-removed": (
        "test_parameters_removed.py::test_three_quarters_of_the_layer_parameters_are_gone",
        "llama-keep25%",
    ),
    "speedup": ("test_speedup.py::test_compact_model_scores_several_times_faster", "llama-keep25%-batch64"),
    "attention-trend": (
        "test_h1_attention.py::test_deeper_layers_attend_more_selectively_and_farther_back",
        "llama-focus",
    ),
    "fisher-rank": (
        "test_h2_fisher_rank.py::test_fisher_information_ranks_layers_by_removal_damage",
        "llama-empirical-fisher",
    ),
    "fisher-agreement": (
        "test_h2_fisher_agreement.py::test_three_fisher_methods_put_the_layers_into_one_order",
        "llama",
    ),
    "noise-robustness": (
        "test_noise.py::test_noise_in_histories_costs_the_compact_model_no_more_than_the_full_one",
        "llama-history20%",
    ),
    "scenario-retention": (
        "test_scenarios.py::test_healed_compact_model_keeps_the_claimed_share_in_every_scenario",
        "llama-main",
    ),
}
"""Claim -> its test, and the case that is run."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A study of one-second models in a store of their own, with everything that the claims above ask for."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe = Recipe(12, learning_rate=1e-2, batch_size=64, dropout=0.0, weight_decay=0.01, evaluate_every=4)
    dataset, shape = str(write_orbits(folder / "orbits.csv")), Shape(4, 16, 32, 2)
    subject = Subject(dataset, 3, "llama", shape, 10, 0.0, recipe, replace(recipe, epochs=4), Distillation())
    tier = Tier("quick", subject, seeds=(0, 1, 2, 3, 4), kept=0.25, selected_by="empirical-fisher")
    lab = Lab(Store(folder / "store"))
    study = Study(tier, lab, partial(build_here, lab))
    models = (*study.full(), *study.shallow(), *study.healed())
    study.prepare([*map(ModelQuality, models), *study.compact(), *(FloorQuality(subject, name) for name in FLOOR)])
    study.prepare([kind(full) for kind in (RemovalDamage, LayerPortrait) for full in study.full()])
    study.prepare([LayerScores(full, method) for method in tier.importances for full in study.full()])
    return study


def write_orbits(path):
    """Users who follow one of three orders of the items, which the last event alone does not tell."""
    rng = np.random.default_rng(0)
    orbits = [rng.permutation(40) for _ in range(3)]
    rows = ["user_id,item_id,timestamp"]
    for user in range(200):
        start = rng.integers(40)
        rows += [f"{user},{orbits[user % 3][(start + step) % 40]},{step}" for step in range(13)]
    path.write_text("\n".join(rows))
    return path


def build_here(lab, experiments, *_):
    for experiment in closure(experiments):
        lab.build(experiment)


@pytest.fixture
def suite(tiny, project, monkeypatch):
    """The real modules of some claims, as a project of their own, on a copy of the tiny study's store."""
    monkeypatch.setitem(TIERS, "quick", tiny.tier)
    monkeypatch.setattr(engine, "run", build_here)
    monkeypatch.setattr(timing, "MIN_ARM_SECONDS", 0.002)
    monkeypatch.setattr(spot_checks, "SEQUENCES", 200)
    return Suite(tiny, project)


class Suite:
    def __init__(self, study, project):
        self.project = project
        shutil.copytree(study.lab.store.root, project.path / "store")
        self.lab = Lab(Store(project.path / "store"))
        self.study = Study(study.tier, self.lab, partial(build_here, self.lab))
        project.pytester.makeconftest('pytest_plugins = ["fixtures.claim", "fixtures.lab", "reports.plugin"]')
        for test, _ in CLAIMS.values():
            shutil.copy(VALIDATION / test.partition("::")[0], project.path / "validation")
        (project.path / "validation" / "claims.toml").write_text(declarations_of_one_family())

    def drop(self, *kinds):
        """Forget what is stored of these kinds, so that it is made again by the code as it is now."""
        for kind in kinds:
            shutil.rmtree(self.lab.store.root / kind)

    def replace(self, experiment, source, **course):
        """Put what is stored of another experiment in the place of this one, well sealed; `course` is what it says."""
        target, spec = self.lab.build(experiment).path, self.lab.spec(experiment)
        shutil.rmtree(target)
        shutil.copytree(self.lab.build(source).path, target, ignore=shutil.ignore_patterns(MANIFEST))
        if course:
            (target / "course.json").write_text(json.dumps(course))
        write_manifest(target, spec, experiment.describe(), 1.0)

    def rewrite(self, experiment, change):
        """Change stored arrays in place and seal them again."""
        folder = self.lab.build(experiment).path
        (path,) = folder.glob("*.safetensors")
        arrays = read_arrays(path)
        change(arrays)
        write_arrays(path, arrays)
        (folder / MANIFEST).unlink()
        write_manifest(folder, self.lab.spec(experiment), experiment.describe(), 1.0)

    def run(self, claim):
        """The decision on the claim's case."""
        test, case = CLAIMS[claim]
        store = ("--store", str(self.lab.store.root))
        self.result = self.project.run("-p", "pytest_benchmark.plugin", *store, f"validation/{test}[{case}]")
        (decision,) = (one for one in self.project.twin()["decisions"] if (one["claim"], one["case"]) == (claim, case))
        return decision

    @property
    def said(self):
        return self.result.stdout.str() + self.result.stderr.str()


def declarations_of_one_family():
    """The declarations of `CLAIMS`, with the cases of other tiers' Llama in the quick tier."""
    blocks = (VALIDATION / "claims.toml").read_text().split("\n\n")
    wanted = [f"[claims.{claim}]\n" for claim in CLAIMS] + [f'[claims.{claim}.cases."llama' for claim in CLAIMS]
    chosen = [block for block in blocks if block.startswith(tuple(wanted)) and "latest" not in block.partition("\n")[0]]
    return re.sub(r'tiers = \["(standard|layers|ablation|rivals)"', r'tiers = ["quick", "\1"', "\n\n".join(chosen))
