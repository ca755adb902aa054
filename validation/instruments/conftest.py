"""A small written project with claims, on which tests of the plugin run pytest from outside."""

import json
import subprocess
from pathlib import Path

import matplotlib
import pytest

from reports import publish

REPOSITORY = Path(__file__).parents[2]
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
