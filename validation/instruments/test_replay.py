"""Verdicts are computed again from stored evidence alone; what was edited, lost or does not fit together is found."""

import json
import re
import shutil

import pytest

from reports.replay import main

TESTS = '''
@pytest.mark.claim("score")
@pytest.mark.parametrize("value", [3.0, 1.0], ids="v{:.0f}".format)
def test_score(claim, value):
    """The score is above 2."""
    claim.require(True, "one check")
    claim.judge(MeanDifference(value + np.random.default_rng(0).normal(size=(5, 40)) / 9, "points"))
'''


@pytest.fixture
def report(project, monkeypatch, capsys):
    """A run whose two verdicts were accepted, and what judges it again: `judge(*folders)` gives status and words."""
    project.write(TESTS)
    claims = project.path / "validation" / "claims.toml"
    claims.write_text(claims.read_text().replace('"exact"', '"mean-difference"'))
    project.commit()
    project.run("--tier", "quick", "--accept-verdicts")
    monkeypatch.chdir(project.path)
    capsys.readouterr()

    class Report:
        folder = project.path / "reports" / "generated" / "quick"
        written = project.path / "reports" / "generated" / "verdicts"
        rerun = staticmethod(project.run)

        @staticmethod
        def judge(*folders):
            status = main([str(folder) for folder in folders or (Report.folder,)])
            return status, "".join(capsys.readouterr())

        @staticmethod
        def edit(change, folder=None):
            path = (folder or Report.folder) / "records.json"
            twin = json.loads(path.read_text())
            change(twin)
            path.write_text(json.dumps(twin))

    return Report


def records_of(folder):
    return [decision["record"] for decision in json.loads((folder / "records.json").read_text())["decisions"]]


def test_the_same_evidence_gives_the_same_records_and_the_same_gate(report):
    status, said = report.judge()

    assert status == 0
    assert "gate PASS · quick tier · 1 supported, 1 refuted · complete" in said
    assert records_of(report.written) == records_of(report.folder)


def test_a_judged_report_can_be_judged_again(report):
    report.judge()
    shutil.copytree(report.written, report.written.with_name("moved"))
    shutil.rmtree(report.folder)

    assert report.judge(report.written.with_name("moved"))[0] == 0


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("outcome", "supported", r"recorded with another outcome 'supported', now 'refuted'"),
        ("estimate", 2.5, r"recorded with another estimate 2\.5, now "),
        ("low", 2.1, r"recorded with another low 2\.1, now "),
        ("sentence", "supported: fine", r"recorded with another sentence 'supported: fine', now 'refuted: "),
    ],
)
def test_a_verdict_that_was_edited_is_found(report, field, value, sentence):
    report.edit(lambda twin: twin["decisions"][1]["record"].update({field: value}))
    status, said = report.judge()

    assert status == 1
    assert re.search(r"score\[v1\] was " + sentence, said)


def test_evidence_that_was_exchanged_is_found(report):
    first, second = (record["evidence"]["values"] for record in records_of(report.folder))
    report.edit(lambda twin: twin["decisions"][1]["record"].update(evidence={"values": first}))
    status, said = report.judge()

    assert first != second
    assert status == 1
    assert "score[v1] was recorded with another outcome 'refuted', now 'supported'" in said


def test_evidence_that_was_lost_or_changed_makes_the_verdict_invalid(report):
    first, second = sorted((report.folder / "evidence").iterdir())
    first.unlink()
    second.write_bytes(b"something else")
    status, said = report.judge()

    assert status == 1
    assert re.search(r"cannot be judged again: its evidence evidence/\w+\.npy\.gz is missing", said)
    assert re.search(r"cannot be judged again: its evidence evidence/\w+\.npy\.gz cannot be read", said)
    assert "2 invalid" in said


def test_a_region_that_was_changed_after_the_evidence_is_found(report, project):
    claims = project.path / "validation" / "claims.toml"
    claims.write_text(claims.read_text().replace("above = 2", "above = 0"))
    status, said = report.judge()

    assert status == 1
    assert "judged under another declaration than the one in claims.toml; run it again" in said


def test_parts_of_a_run_make_a_whole_and_one_alone_does_not(report):
    for value in ("v1", "v3"):
        report.rerun("-k", value, "--report-dir", f"part-{value}")
    parts = [report.folder.parents[2] / f"part-{value}" for value in ("v1", "v3")]

    status, said = report.judge(parts[0])
    assert status == 1
    assert "score[v3]: no record arrived" in said
    status, said = report.judge(*parts)
    assert status == 0
    assert "gate PASS · quick tier · 1 supported, 1 refuted · complete" in said


def test_a_case_that_two_parts_judged_is_invalid(report):
    status, said = report.judge(report.folder, report.folder)

    assert status == 1
    assert "recorded 2 times; a case is judged once" in said


def test_parts_of_different_commits_do_not_belong_together(report):
    other = shutil.copytree(report.folder, report.folder.with_name("other"))
    report.edit(lambda twin: twin["context"].update(commit="c0ffee"), other)
    status, said = report.judge(report.folder, other)

    assert status == 1
    assert re.search(r"the parts are of different commits: \w{40}, c0ffee", said)


def test_what_failed_in_a_part_fails_the_whole(report):
    report.edit(lambda twin: twin["context"].update(other_failures=["test_metric.py::test_ndcg"]))
    status, said = report.judge()

    assert status == 1
    assert "claims count only when all other tests pass: test_metric.py::test_ndcg failed" in said


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "holds no report: records.json cannot be read (No such file or directory)"),
        ("{}", "is not a report of this version"),
        ("not json", "is not a report of this version"),
    ],
)
def test_a_folder_without_a_report_is_an_error_of_use(report, tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "records.json").write_text(content)
    status, said = report.judge(tmp_path)

    assert status == 2
    assert said.startswith("error: ")
    assert sentence in said
