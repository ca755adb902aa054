"""The plugin as a guest in somebody's pytest: options, selections, interrupts and outputs behave as a user expects."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from xml.etree import ElementTree

import pytest

SLEEPER = """
@pytest.mark.claim("score")
@pytest.mark.parametrize("value", [3, 4, 5], ids="v{}".format)
def test_score(claim, value):
    if value == 4:
        open("reached", "w").close()
        __import__("time").sleep(60)
    claim.judge(Exact(float(value), "points"))
"""


def said(result):
    return result.stdout.str() + result.stderr.str()


# -- choosing tests


def test_a_marker_expression_is_a_selection(project):
    project.write(project.plain.replace("def test_instrument", "@pytest.mark.skipif(False, reason='-')\ndef test_i"))
    others = project.run("-m", "skipif")
    assert others.ret == 0
    assert "claims, quick tier" not in said(others)
    claims = project.run("-m", "claim", "--deselect", "validation/test_score.py::test_score[v1]")
    assert claims.ret == 0
    assert project.twin()["context"]["narrowed"] == [
        "-m 'claim'",
        "--deselect validation/test_score.py::test_score[v1]",
    ]
    assert "gate PARTIAL" in said(claims)


def test_last_failed_runs_the_refuted_case_alone_and_is_partial(project):
    project.write()
    run = project.pytester.runpytest_inprocess
    assert run().ret == pytest.ExitCode.TESTS_FAILED
    again = run("--lf")
    again.assert_outcomes(failed=1)
    assert project.verdicts() == {"v1": "refuted"}
    assert "partial: 1 of 2 cases judged" in said(again)
    project.write(project.plain.replace("[3.0, 1.0]", "[3.0]"), cases=("v3",))
    cured = run("--lf")  # nothing that failed is left: pytest runs everything
    assert cured.ret == 0
    assert "gate PASS · quick tier · 1 supported · complete" in said(cured)


def test_collecting_only_lists_the_tests_and_nothing_else(project):
    project.write()
    listed = project.run("--collect-only", "-q")
    assert listed.ret == 0
    assert listed.outlines[:3] == [
        "validation/test_score.py::test_score[v3]",
        "validation/test_score.py::test_score[v1]",
        "validation/test_score.py::test_instrument",
    ]
    assert "claims, quick tier" not in said(listed)


def test_stopping_at_the_first_failure_of_two_workers_is_said(project):
    project.write(project.plain.replace("[3.0, 1.0]", "[1.0, 3.0]"))
    result = project.run("-x", "-n", "2")
    assert result.ret != 0
    assert "the run ended early: stopping after 1 failures" in said(result)
    assert "score[v1] refuted: 1 points, needs more than 2" in said(result)


# -- an interrupt


@pytest.mark.parametrize("workers", [(), ("-p", "xdist.plugin", "-n", "1")], ids=["alone", "worker"])
def test_an_interrupted_run_reports_what_was_finished_fails_and_accepts_nothing(project, workers):
    project.write(SLEEPER, cases=("v3", "v4", "v5"))
    project.commit()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *workers, "--accept-verdicts"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # A run in the background ignores interrupts, and so would what it starts.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=project.path, start_new_session=True, preexec_fn=heed, **pipes) as running:
        wait_for(project.path / "reached", running)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does, which interrupts workers, too
        output, _ = running.communicate(timeout=60)
    assert running.returncode == pytest.ExitCode.INTERRUPTED
    assert project.verdicts() == {"v3": "supported", "v4": "missing", "v5": "missing"}
    assert "the run ended early: interrupted" in output
    assert "gate FAIL" in output
    assert "2 cases were not reached: score[v4], score[v5]" in output
    assert "nothing was accepted: " in output
    assert not project.accepted.exists()
    assert "Traceback" not in output
    assert "INTERNALERROR" not in output


def wait_for(path, running):
    for _ in range(600):
        if path.exists():
            return
        assert running.poll() is None
        time.sleep(0.1)
    running.kill()
    raise AssertionError(f"{path.name} was not reached within a minute")


def test_an_interrupt_fails_a_selection_too(project):
    stop = "value == 1 and (_ for _ in ()).throw(KeyboardInterrupt); claim.judge"
    project.write(project.plain.replace("claim.judge", stop), cases=("v3", "v1", "v9"))
    result = project.run("-k", "v3 or v1", apart=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "gate FAIL" in said(result)
    assert project.verdicts() == {"v3": "supported"}


# -- what is printed


def test_help_has_words_for_every_option(project):
    project.pytester.makeconftest('pytest_plugins = ["fixtures.claim", "fixtures.lab", "reports.plugin"]')
    shown = said(project.run("--help")).partition("\nclaims about compressed recommenders:\n")[2].partition("\n\n")[0]
    helped = re.findall(r"^  (--[a-z-]+)\S*(?:  +|\n {24})\w", shown, re.MULTILINE)
    expected = {"--tier", "--accept-verdicts", "--report-dir", "--store", "--dataset", "--device", "--workers"}
    assert set(helped) >= expected
    assert helped == re.findall(r"^  (--[a-z-]+)", shown, re.MULTILINE)


@pytest.mark.parametrize("quiet", [("-q",), ("-qq",), ("--tb=no",), ("--color=no", "-rN")])
def test_a_quiet_run_still_shows_the_decision(project, quiet):
    project.write()
    result = project.run(*quiet)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "gate FAIL · quick tier · 1 supported, 1 refuted · complete" in said(result)


@pytest.mark.parametrize("style", ["no", "line", "native", "short", "long"])
def test_the_reason_of_a_failure_does_not_depend_on_how_tracebacks_are_shown(project, style):
    project.write(project.plain.replace("claim.judge", "raise OSError('disk\\nfull'); claim.judge"))
    project.run(f"--tb={style}")
    why = project.twin()["decisions"][0]["ruling"]["why"]
    assert why == "its test failed before a verdict: OSError: disk"


def test_without_a_terminal_the_gate_still_fails_and_the_report_is_written(project):
    project.write(cases=("v3", "v1", "v5"))
    result = project.run("-p", "no:terminal")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert said(result).strip() == ""
    assert project.verdicts() == {"v3": "supported", "v1": "refuted", "v5": "missing"}


def test_without_junit_xdist_and_cache_it_works_as_well(project):
    project.write()
    result = project.pytester.runpytest_inprocess("-p", "no:junitxml", "-p", "no:xdist", "-p", "no:cacheprovider")
    assert "gate FAIL" in said(result)


def test_a_name_can_neither_begin_a_line_of_the_log_nor_colour_it(project):
    sentence = r"'8 ran\n::error::owned\x1b[31m'"
    project.write(project.plain.replace('True, "one check"', f"False, {sentence}"))
    result = project.run("--tb=no", "-rN")
    assert "8 ran ::error::owned\\x1b[31m" in said(result)
    assert not [line for line in result.outlines if line.startswith("::")]
    assert "\x1b" not in said(result)


def test_started_from_a_subfolder_with_a_path_the_whole_folder_still_counts(project, monkeypatch):
    project.write()
    (project.path / "elsewhere").mkdir()
    monkeypatch.chdir(project.path / "elsewhere")
    result = project.run("../validation")
    assert "complete" in said(result)
    assert "report ../reports/generated/quick/REPORT.md" in said(result)


@pytest.mark.parametrize(
    ("option", "source", "words"),
    [
        ("--dataset", "no-such-data", "neither a known data set"),
        ("--dataset", "empty", "must hold one interactions file"),
        ("--text-model", "./empty", "config.json"),
        ("--text-model", "./strange", "model type 'resnet' is not supported"),
        ("--text-model", "./fit", "the quick tier has no claim on a text model"),
        ("--store", "./a-file", "File exists"),
        ("--store", "s3://bucket", "object storage is not supported"),
    ],
)
def test_what_a_user_brings_and_cannot_be_read_is_said_once_and_before_anything_runs(project, option, source, words):
    project.pytester.makeconftest('pytest_plugins = ["fixtures.claim", "fixtures.lab", "reports.plugin"]')
    project.write()
    (project.path / "empty").mkdir()
    (project.path / "a-file").write_text("no folder")
    for name, kind in (("strange", "resnet"), ("fit", "bert")):
        (project.path / name).mkdir()
        (project.path / name / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    result = project.run(option, source)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said(result).count(words) == 1
    assert not (project.path / "reports" / "generated").exists()


# -- files and lines for other programs


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_junit_has_short_properties_that_survive_hostile_names(project, workers):
    case = 'a|b`c<img src=x>@team & "q"'
    test = f"""
@pytest.mark.claim("score")
@pytest.mark.parametrize("value", [3.0, 1.0], ids=[{case!r}, "v1"])
def test_score(claim, value, record_property):
    record_property("mine", "kept")
    claim.judge(Exact(value, "points <b>\\x1b"))

def test_instrument():
    pass
"""
    project.write(test, cases=(case.replace('"', '\\"'), "v1"))
    project.run("--junit-xml=out.xml", *workers)
    suite = ElementTree.parse(project.path / "out.xml").getroot()[0]
    assert properties(suite) == {
        "tier": "quick",
        "commit": "unknown",
        "gate": "gate FAIL · quick tier · 1 supported, 1 refuted · complete",
    }
    tests = {test.get("name"): properties(test) for test in suite.iter("testcase")}
    assert tests == {
        f"test_score[{case}]": measured(case, "supported", "3.0"),
        "test_score[v1]": measured("v1", "refuted", "1.0"),
        "test_instrument": {},
    }


def properties(element):
    return {each.get("name"): each.get("value") for each in element.findall("properties/property")}


def measured(case, verdict, value):
    numbers = {"unit": "points <b>#x1B", "estimate": value, "low": value, "high": value}
    return {"claim": "score", "case": case, "verdict": verdict, **numbers, "mine": "kept"}


def test_annotations_are_printed_on_github_only_and_name_file_and_line(project, monkeypatch):
    project.write()
    source = (project.path / "validation" / "test_score.py").read_text().splitlines()
    line = 1 + source.index('@pytest.mark.claim("score")')
    expected = (
        f"::error title=score[v1],file=validation/test_score.py,line={line}::"
        "refuted: 1 points, needs more than 2 (refuted, not accepted yet)"
    )
    assert "::error" not in said(project.run())
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.chdir(project.path / "validation")
    for workers in ((), ("-n", "2")):
        assert expected in project.run(*workers).outlines


def test_the_file_for_programs_names_file_and_line_of_a_case(project):
    project.write(cases=("v3", "v1", "v5"))
    project.run()
    report = json.loads((project.path / "reports" / "generated" / "quick" / "ctrf.json").read_text())
    tested, untested = {"filePath": "validation/test_score.py", "line": 9}, {}
    assert (project.path / "validation" / "test_score.py").read_text().splitlines()[8].startswith("@pytest.mark.claim")
    places = [{key: test[key] for key in tested if key in test} for test in report["results"]["tests"]]
    assert places == [tested, tested, untested]
