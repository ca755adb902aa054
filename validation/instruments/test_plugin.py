"""The plugin from outside: pytest runs on small written projects, with and without parallel workers."""

import pytest

from reports.accepted import Accepted, write_accepted
from reports.declarations import declared as declared_in


def said(result):
    return result.stdout.str() + result.stderr.str()


# -- what is recorded and shown


def test_run_with_workers_records_the_same_as_one_without(project):
    project.write()
    alone = project.run(apart=True)
    first = project.twin()
    together = project.run("-n", "2", apart=True)
    second = project.twin()
    assert alone.ret == together.ret == pytest.ExitCode.TESTS_FAILED
    for twin in (first, second):
        twin["context"] = {key: value for key, value in twin["context"].items() if key not in ("started", "seconds")}
        for decision in twin["decisions"]:
            del decision["record"]["seconds"]
    assert first == second
    assert project.verdicts() == {"v3": "supported", "v1": "refuted"}
    for result in (alone, together):
        assert "gate FAIL · quick tier · 1 supported, 1 refuted · complete" in said(result)
        assert "score[v1] refuted: 1 points, needs more than 2; accepted: nothing yet" in said(result)
        assert "report reports/generated/quick/REPORT.md" in said(result)


def test_gate_of_the_fixture_follows_verdict_accepted_and_declaration(project):
    """The sixteen ways in which a verdict, an accepted one and the declaration meet, in one run."""
    effects = {"good": "Exact(3.0, 'points')", "open": "UNCERTAIN", "bad": "Exact(1.0, 'points')"}
    fails = {"good": (), "open": ("none", "supported"), "bad": ("none", "supported", "inconclusive")}
    names = {
        f"{found}-{before}": "" for found in effects for before in ("none", "supported", "inconclusive", "refuted")
    }
    test = """
@pytest.mark.claim("{claim}")
@pytest.mark.parametrize("name", {names})
def test_{claim}(claim, name):
    claim.judge({effect})
"""
    claims, tests = "", ""
    for found, effect in effects.items():
        for mode in ("fail", "warn"):
            cases = [name for name in names if name.startswith(found)]
            kind, bound = ("mean-difference", "above = 0") if found == "open" else ("exact", "above = 2")
            claims += project.declared(f"{found}_{mode}", cases, bound, kind, mode)
            tests += test.format(claim=f"{found}_{mode}", names=cases, effect=effect)
    project.write(tests)
    (project.path / "validation" / "claims.toml").write_text(claims)
    accept_as_named(project)
    result = project.run("-v")
    for name in names:
        found, before = name.split("-")
        word = "FAILED" if before in fails[found] else "PASSED"
        assert f"test_{found}_fail[{name}] {word}" in said(result)
        forgiven = "PASSED" if found == "open" else word
        assert f"test_{found}_warn[{name}] {forgiven}" in said(result)


def accept_as_named(project):
    cases = declared_in(project.path / "validation" / "claims.toml", "quick")
    verdicts = {key: key[1].split("-")[1] for key in cases}
    entries = {
        key: Accepted(verdict, cases[key].digest, "Ada", "c0ffee", "2026-01-31", "cpu")
        for key, verdict in verdicts.items()
        if verdict != "none"
    }
    write_accepted(project.accepted, {"quick": entries})


def test_nothing_is_said_or_written_where_no_claim_is_involved(project):
    project.write("def test_instrument(): pass", cases=())
    result = project.run()
    assert result.ret == 0
    assert "claims" not in said(result)
    assert not (project.path / "reports").exists()
    project.write(project.plain)
    (project.path / "validation" / "instruments").mkdir()
    (project.path / "validation" / "instruments" / "test_metric.py").write_text("def test_metric(): pass")
    result = project.run("validation/instruments")
    assert result.ret == 0
    assert "claims" not in said(result)
    result = project.run("--collect-only")
    assert result.ret == 0
    assert not (project.path / "reports").exists()


def test_it_works_from_another_folder_and_writes_where_told(project, monkeypatch, tmp_path):
    project.write()
    monkeypatch.chdir(project.path / "validation")
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    result = project.run("--report-dir", "../out")
    assert "report ../out/REPORT.md" in said(result)
    assert "complete" in said(result)
    assert (project.path / "out" / "records.json").exists()
    assert summary.read_text().startswith("# Layerwise, quick tier")
    assert "figures/" not in summary.read_text()


def test_a_heatmap_of_a_claim_reaches_its_page(project):
    rows = "[{'label': 'fisher', 'x': ['0', '1'], 'y': [None, 0.5]}]"
    drawn = f"claim.figure('h', 'heatmap', 'Importance', 'layer', 'share', {rows}, series_label='method')"
    project.write(project.plain.replace("claim.require", f"{drawn}\n    claim.require"))
    project.run("-k", "v3")
    (figure,) = project.twin()["decisions"][0]["record"]["figures"]
    assert (figure["series_label"], figure["series"][0]["y"]) == ("method", [None, 0.5])
    folder = project.path / "reports" / "generated" / "quick"
    assert 'alt="Importance" src="../figures/score-v3-h-' in (folder / "claims" / "score.md").read_text()


def test_a_report_that_cannot_be_written_fails_but_still_shows_the_verdicts(project):
    project.write(project.plain.replace("[3.0, 1.0]", "[3.0]"), cases=("v3",))
    (project.path / "out").write_text("a file where the folder should be")
    result = project.run("--report-dir", "out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "the report could not be written: " in said(result)
    assert "invalid: evidence must be stored, so that it can be judged again: " in said(result)
    assert "(measured: supported: 3 points, needs more than 2)" in said(result)


def test_stopping_at_the_first_failure_names_what_was_not_reached(project):
    project.write(project.plain.replace("[3.0, 1.0]", "[1.0, 3.0]"))
    result = project.run("-x")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.twin()["context"]["stopped"] == "stopping after 1 failures"
    assert "score[v3]: no record arrived" in said(result)


def test_cases_of_other_tiers_are_left_out(project):
    project.write(project.plain, cases=("v3",))
    other_tier = '[claims.score.cases.v1]\ntiers = ["full"]\nabove = 2\nreason = "two"\n'
    with (project.path / "validation" / "claims.toml").open("a") as claims:
        claims.write(other_tier)
    result = project.run()
    assert result.ret == 0
    result.assert_outcomes(passed=2, deselected=1)
    result = project.run("--tier", "full")
    result.assert_outcomes(passed=1, failed=1, deselected=1)
    assert project.verdicts("full") == {"v1": "refuted"}


# -- fail closed


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_a_declared_case_without_a_test_fails_a_whole_run(project, workers):
    project.write(project.plain.replace("1.0", "4.0"), cases=("v3", "v4", "v5"))
    result = project.run(*workers)
    result.assert_outcomes(passed=3)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "score[v5]: no record arrived" in said(result)


def test_a_selection_is_partial_and_says_so(project):
    project.write(cases=("v3", "v1", "v5"))
    result = project.run("-k", "v3")
    assert result.ret == 0
    assert "gate PARTIAL · quick tier · 1 supported · partial: 1 of 3 cases judged" in said(result)
    assert project.twin()["context"]["narrowed"] == ["-k 'v3'"]
    result = project.run("validation/test_score.py::test_score[v3]")
    assert result.ret == 0
    assert "gate PARTIAL" in said(result)


def test_an_explicit_tier_demands_its_cases_whatever_is_selected(project):
    project.write()
    result = project.run("--tier", "quick", "-k", "v3")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "score[v1]: no record arrived" in said(result)
    result = project.run("--tier", "full")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "claims.toml declares no case for the full tier" in said(result)


def test_a_dead_worker_is_named(project):
    project.write(project.plain.replace("claim.judge", "value < 2 and os._exit(3); claim.judge"))
    result = project.run("-n", "2")
    assert result.ret != 0
    assert project.verdicts() == {"v3": "supported", "v1": "missing"}
    assert "score[v1]: its test failed before a verdict" in said(result)
    assert "crashed while running" in said(result)


def test_a_dead_process_without_workers_is_no_success(project):
    project.write(project.plain.replace("claim.judge", "os._exit(3); claim.judge"))
    assert project.run(apart=True).ret == 3


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            "claim.judge(Exact(3.0, 'points'), notes={'a': np.float64(1)})",
            "notes.a must be plain JSON, got numpy.float64",
        ),
        ("claim.table('T', ['x'], [[np.int64(1)]])", "table 'T'.rows[0][0] must be plain JSON, got numpy.int64"),
        ("claim.judge(UNCERTAIN)", "declares the effect 'exact', got 'mean-difference'"),
        ("claim.judge(Exact(3.0, 'p')); claim.judge(Exact(3.0, 'p'))", "score[default] was judged before"),
        ("pass", "its test passed without a verdict; it must call claim.judge"),
    ],
    ids=["numpy-note", "numpy-cell", "other-effect", "twice", "never"],
)
def test_a_claim_test_with_a_mistake_fails_with_a_sentence(project, body, sentence):
    project.write(f'@pytest.mark.claim("score")\ndef test_score(claim):\n    {body}\n', cases=("default",))
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert sentence in said(result)
    assert project.gates() == {"default": "fail"}


def test_a_numpy_scalar_in_a_worker_fails_instead_of_vanishing(project):
    project.write(project.plain.replace('"points")', '"points"), notes={"seed": np.int64(value)}'))
    result = project.run("-n", "1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "notes.seed must be plain JSON, got numpy.int64" in said(result)


def test_a_failed_check_makes_the_verdict_invalid_even_before_there_is_one(project):
    project.write(
        """
@pytest.mark.claim("score")
@pytest.mark.parametrize("judged", [True, False], ids=["v3", "v1"])
def test_score(claim, judged):
    claim.require(np.bool_(False), "8 layers ran, 2 expected")
    assert judged
    claim.judge(Exact(3.0, "points"))
"""
    )
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.verdicts() == {"v3": "invalid", "v1": "invalid"}
    assert "score[v3] invalid: 8 layers ran, 2 expected (measured: supported: 3 points" in said(result)


def test_a_skipped_case_is_said_and_not_counted(project):
    project.write(
        "@pytest.mark.skipif(True, reason='needs CUDA')\n" + project.plain.replace("[3.0, 1.0]", "[3.0]").lstrip(),
        ("v3",),
    )
    result = project.run()
    assert result.ret == 0
    assert "score[v3]: not run: needs CUDA" in said(result)
    assert "1 not-run" in said(result)


@pytest.mark.parametrize(
    ("cases", "sentence"),
    [
        (("v3",), "claim 'score' declares no case 'v1' in claims.toml; declared: v3"),
        ((), "claim 'score' is not declared"),
    ],
    ids=["case", "claim"],
)
def test_an_undeclared_test_fails_before_it_costs_anything(project, cases, sentence):
    project.write(cases=cases)
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert sentence in said(result)
    assert "is not declared for this tier" in said(result)


def test_two_tests_of_one_case_make_it_invalid(project):
    project.write(
        project.plain.replace("[3.0, 1.0]", "[3.0]")
        + project.plain.replace("1.0", "5.0").replace("test_score", "test_again"),
        ("v3", "v5"),
    )
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "score[v3]: recorded 2 times" in said(result)


def test_claims_do_not_count_when_an_instrument_fails(project):
    project.write(project.plain.replace("[3.0, 1.0]", "[3.0]").replace("pass", "assert 0"), cases=("v3",))
    result = project.run()
    assert project.twin()["gate"] == "fail"
    assert "claims count only when all other tests pass: validation/test_score.py::test_instrument failed" in said(
        result
    )


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_a_claims_file_with_a_mistake_stops_the_run(project, workers):
    project.write()
    claims = project.path / "validation" / "claims.toml"
    claims.write_text(claims.read_text().replace("source", "sauce"))
    result = project.run(*workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "claims.toml: claims.score has unknown keys: sauce; known keys: statement, source" in said(result)


# -- accepting


def test_accepting_lets_a_refutation_stand_until_its_declaration_changes(project):
    project.write()
    project.commit()
    result = project.run("--accept-verdicts")
    assert result.ret == 0
    assert "accepted score[v1]: refuted" in said(result)
    assert 'by = "Ada"' in project.accepted.read_text()
    assert 'device = "cpu"' in project.accepted.read_text()
    result = project.run()
    assert result.ret == 0
    assert "gate PASS" in said(result)

    before = project.accepted.read_text()
    project.write(project.plain.replace("judge(Exact(value", "judge(Exact(value + 1"))
    project.commit()
    result = project.run()
    assert "score[v1]: refuted" not in said(result)
    assert result.ret == 0

    claims = project.path / "validation" / "claims.toml"
    claims.write_text(claims.read_text().replace("above = 2", "above = 2.5"))
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "score[v1]: refuted, its declaration changed since it was accepted" in said(result)
    assert project.accepted.read_text() == before


def test_an_improvement_passes_loudly_and_a_regression_fails(project):
    project.write(project.plain.replace("[3.0, 1.0]", "[3.0]"), cases=("v3",))
    project.commit()
    assert project.run("--accept-verdicts").ret == 0
    project.write(project.plain.replace("[3.0, 1.0]", "[3.0]").replace("value, ", "value - 2, "), cases=("v3",))
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "score[v3] refuted: 1 points, needs more than 2; accepted: supported" in said(result)
    project.commit()
    assert project.run("--accept-verdicts").ret == 0
    project.write(project.plain.replace("[3.0, 1.0]", "[3.0]"), cases=("v3",))
    result = project.run()
    assert result.ret == 0
    assert "score[v3]: supported, accepted as refuted; accept it with --accept-verdicts" in said(result)


def rewrite(project, old, new):
    project.write(project.plain.replace(old, new))
    project.commit()


@pytest.mark.parametrize(
    ("spoil", "arguments", "reason"),
    [
        (lambda project: (project.path / "new.txt").write_text("x"), (), "changes that are not committed"),
        (lambda project: None, ("-k", "v3"), "the run is partial (-k 'v3')"),
        (lambda project: rewrite(project, "True,", "False,"), (), "invalid whatever"),
        (lambda project: rewrite(project, "pass", "assert 0"), (), "tests outside the"),
    ],
    ids=["dirty", "partial", "invalid", "instrument"],
)
def test_accepting_is_refused_with_the_reason(project, spoil, arguments, reason):
    project.write()
    project.commit()
    spoil(project)
    result = project.run("--accept-verdicts", *arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "nothing was accepted: " in said(result)
    assert reason in said(result)
    assert not project.accepted.exists()


def test_accepting_is_refused_without_git(project, monkeypatch):
    project.write()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.path.parent))
    result = project.run("--accept-verdicts")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "git cannot tell which commit this is" in said(result)
