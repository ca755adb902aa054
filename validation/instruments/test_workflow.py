"""The workflow for GitHub names what exists, asks for no more than it needs, and uploads reports of red runs, too."""

import configparser
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "claims.yml").read_text())
JOBS = WORKFLOW["jobs"]


def tox_settings():
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "tox.ini")
    return settings


def tox_environments(job):
    """The environments that a job runs, in the order of its steps."""
    calls = [re.search(r"\btox run -e (\S+)", step.get("run", "")) for step in JOBS[job]["steps"]]
    return [name for call in calls if call for name in call[1].split(",")]


def uploads(job):
    return [step for step in JOBS[job]["steps"] if step.get("uses", "").startswith("actions/upload-artifact@")]


def test_one_job_runs_on_any_machine_and_one_on_a_gpu_of_ones_own():
    assert JOBS["cpu"]["runs-on"] == "ubuntu-latest"
    assert tox_environments("cpu") == ["lint", "types", "tests", "claims"]
    assert JOBS["gpu"]["runs-on"] == ["self-hosted", "gpu"]
    assert tox_environments("gpu") == ["claims-gpu"]
    assert "pull_request" not in JOBS["gpu"]["if"]


@pytest.mark.parametrize("job", JOBS)
def test_every_environment_exists(job):
    assert {f"testenv:{name}" for name in tox_environments(job)} <= set(tox_settings().sections())


@pytest.mark.parametrize("job", JOBS)
def test_a_red_run_stays_red_and_its_report_is_uploaded(job):
    steps = JOBS[job]["steps"]
    (upload,) = uploads(job)
    assert upload["if"] == "always()"
    assert not any("continue-on-error" in part for part in [JOBS[job], *steps])
    assert steps.index(upload) > max(at for at, step in enumerate(steps) if "tox run" in step.get("run", ""))


@pytest.mark.parametrize(("job", "environment"), [("cpu", "claims"), ("gpu", "claims-gpu")])
def test_what_is_uploaded_is_where_the_report_goes(job, environment):
    command = tox_settings()[f"testenv:{environment}"]["commands"]
    tier, folder = (re.search(rf"--{option}=(\S+)", command) for option in ("tier", "report-dir"))
    written = folder[1] if folder else f"reports/generated/{tier[1]}"
    assert uploads(job)[0]["with"]["path"].rstrip("/") == written


def test_the_store_that_is_kept_is_the_one_that_is_used_and_depends_on_the_code():
    steps = JOBS["cpu"]["steps"]
    caches = {step["uses"].split("@")[0]: step for step in steps if step.get("uses", "").startswith("actions/cache/")}
    (run,) = [step for step in steps if "tox run" in step.get("run", "")]
    for step in caches.values():
        assert step["with"]["path"] == run["env"]["LAYERWISE_STORE"]
        assert "hashFiles('layerwise/**', 'pyproject.toml')" in step["with"]["key"]
    assert caches["actions/cache/save"]["if"] == "always()"
    assert steps.index(caches["actions/cache/restore"]) < steps.index(run) < steps.index(caches["actions/cache/save"])


def test_it_may_read_and_nothing_more_and_every_job_ends():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "group" in WORKFLOW["concurrency"]
    for job in JOBS.values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 360
        for step in job["steps"]:
            assert "uses" not in step or re.fullmatch(r"actions/[a-z/-]+@v\d+", step["uses"])
