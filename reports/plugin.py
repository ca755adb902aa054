"""Pytest hooks: collect the records of claim tests on the controller, let the ledger decide, have the report written.

Without xdist there is one process; with it every worker is a pytest of its own, and only the controller sees all
reports. Workers therefore know the options, the marker and the selection of cases, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from pathlib import Path

import pytest

from reports.accepted import Accepted, read_accepted, write_accepted
from reports.annotations import commands
from reports.cases import CASE, MARKER, RECORD, accepted_path, case_of, claims_path, report_folder, tier_of
from reports.declarations import TIERS, CaseKey, Declaration, Declarations, read_declarations
from reports.junit import describe_suite, tidy
from reports.ledger import Decision, Judgement, TestOutcome, accept, settle
from reports.provenance import Provenance, provenance, who
from reports.records import Record
from reports.run import Context, Run, refusals
from reports.selection import narrowed_by, runs_tests
from reports.terminal import print_summary

WORKER = re.compile(r"\[gw\d+\] ")  # the line with which xdist says where a test ran
ENDED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
DECLARATIONS = pytest.StashKey[Declarations]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the claims."""
    group = parser.getgroup("layerwise", "claims about compressed recommenders")
    group.addoption(
        "--tier",
        choices=TIERS,
        help="judge every declared case of this tier; a case without a verdict fails the run (default: quick, and only "
        "the whole of validation/ is held to completeness)",
    )
    group.addoption(
        "--accept-verdicts",
        action="store_true",
        default=False,
        help="let the verdicts of this run stand: write reports/accepted.toml (clean, complete, valid runs only)",
    )
    group.addoption(
        "--report-dir",
        type=Path,
        metavar="DIR",
        help="where the report goes (default: reports/generated/<tier> of the project)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, read the claims file, and start collecting, unless this is a worker."""
    config.addinivalue_line("markers", f"{MARKER}(name): the test judges cases of this claim in validation/claims.toml")
    try:
        config.stash[DECLARATIONS] = read_declarations(claims_path(config))
        read_accepted(accepted_path(config))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Reporter(config), "layerwise-reporter")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Name the case on every claim test, and leave out the cases that only other tiers declare."""
    declarations, tier = config.stash[DECLARATIONS], tier_of(config)
    other_tiers = []
    for item in items:
        key = case_of(item)
        if key is None:
            continue
        item.user_properties.append((CASE, json.dumps(key)))
        tiers = declarations.tiers_of(*key)
        if tiers and tier not in tiers:
            other_tiers.append(item)
    if other_tiers:
        config.hook.pytest_deselected(items=other_tiers)
        items[:] = [item for item in items if item not in other_tiers]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test whose claim or case is not declared, before it costs anything."""
    key = case_of(item)
    declarations = item.config.stash[DECLARATIONS]
    if key is not None and not declarations.tiers_of(*key):
        pytest.fail(declarations.why_undeclared(*key), pytrace=False)


class Reporter:
    """Sees all test reports, in both modes; judges, writes and prints at the end of the session."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.tier = tier_of(config)
        self.begun: dict[str, Callable[[pytest.TestReport], TestOutcome]] = {}
        self.records: dict[str, list[str]] = {}
        self.tests: dict[str, TestOutcome] = {}
        self.other_failures: dict[str, None] = {}  # keeps the order, names each test once
        self.run: Run | None = None
        self.report: Path | None = None

    def pytest_sessionstart(self) -> None:
        """Note time and commit before anything can change them."""
        self._began = time.monotonic()
        self._started = datetime.now(UTC)
        self._accepted = accepted_text(self.config)
        self._source = provenance(self.config.rootpath) if self._declared() else Provenance(None, None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take record, case and outcome from a report; later phases of a test repeat and extend earlier ones.

        Other reporters see the report afterwards, with short properties in place of ours.
        """
        if type(report) is not pytest.TestReport or str(report.outcome) == "rerun":
            return  # a subtest, or an attempt that a plugin repeats
        ours, report.user_properties = report.user_properties, tidy(report.user_properties)
        for name, value in ours:
            if name == CASE:
                self.begun[report.nodeid] = partial(_outcome, report.location, *json.loads(str(value)))
                self.records[report.nodeid] = [str(text) for name, text in ours if name == RECORD]
        begun = self.begun.get(report.nodeid)  # xdist reports a test whose worker died without its properties
        before = self.tests.get(report.nodeid)
        if begun is None:
            if report.failed:
                self.other_failures[report.nodeid] = None
        elif (report.when != "setup" or not report.passed) and (before is None or before.outcome == "passed"):
            self.tests[report.nodeid] = begun(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected may hold claims; it counts as a failure."""
        if report.failed:
            self.other_failures[report.nodeid] = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Decide, accept if asked to, write the report, and fail the session where the gate fails.

        First of all plugins: the JUnit file is written in this hook, too, and a fixture whose teardown was put off
        by an interrupt could stop the others.
        """
        if not runs_tests(self.config) or exitstatus in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR):
            return
        asked = self.config.getoption("tier") is not None or self.config.getoption("accept_verdicts")
        demanded = asked or (bool(self._declared()) and not narrowed_by(self.config))
        if not demanded and not self.tests:
            return
        interrupted = "" if exitstatus in ENDED else "interrupted"
        self.run = self._judge(demanded, str(session.shouldfail or session.shouldstop or interrupted))
        self.run = self._written(self.run)
        describe_suite(self.config, self.run)
        if self.run.gate == "fail" and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the verdicts, the decision and where the report is."""
        if self.run is not None:
            print_summary(self.run, self.report, self.config.invocation_params.dir, terminalreporter)
            if os.environ.get("GITHUB_ACTIONS") == "true":
                for line in commands(self.run):
                    terminalreporter.write_line(line)

    def _declared(self) -> Mapping[CaseKey, Declaration]:
        return self.config.stash[DECLARATIONS].declared(self.tier)

    def _judge(self, demanded: bool, stopped: str) -> Run:
        records, defects = self._read_records()
        if demanded and not self._declared():
            defects.append(f"claims.toml declares no case for the {self.tier} tier")
        if accepted_text(self.config) != self._accepted:
            defects.append("reports/accepted.toml was changed while the tests ran; only --accept-verdicts writes it")
        source = self._source.until(provenance(self.config.rootpath))
        context = Context(
            tier=self.tier,
            commit=source.commit,
            dirty=source.dirty,
            started=self._started.isoformat(sep=" ", timespec="seconds"),
            seconds=round(time.monotonic() - self._began, 1),
            narrowed=narrowed_by(self.config),
            stopped=stopped,
            other_failures=list(self.other_failures),
            defects=defects,
        )

        def settled(accepted: Mapping[CaseKey, Accepted]) -> Judgement:
            return settle(self._declared(), records, accepted, list(self.tests.values()), demanded)

        accepted = read_accepted(accepted_path(self.config))
        run = Run(context, settled(accepted.get(self.tier, {})), sorted(self.tests.values(), key=attrgetter("nodeid")))
        return self._accept(run, accepted, settled) if self.config.getoption("accept_verdicts") else run

    def _accept(
        self,
        run: Run,
        accepted: Mapping[str, Mapping[CaseKey, Accepted]],
        settled: Callable[[Mapping[CaseKey, Accepted]], Judgement],
    ) -> Run:
        before = accepted.get(self.tier, {})
        person, commit, today = who(self.config.rootpath), run.context.commit or "", self._started.date().isoformat()
        after = accept(self._declared(), run.decisions, before, person, commit, today)
        reasons = refusals(run, settled(after))
        if reasons:
            return replace(run, context=replace(run.context, refused=reasons))
        if after != before:
            write_accepted(accepted_path(self.config), {**accepted, self.tier: after})
        changes = [f"{decision.name}: {decision.verdict}" for decision in run.decisions if _is_accepted(decision)]
        return replace(run, context=replace(run.context, accepted=changes), judgement=settled(after))

    def _read_records(self) -> tuple[list[Record], list[str]]:
        records, defects = [], []
        for nodeid, texts in sorted(self.records.items()):
            for text in texts:
                try:
                    records.append(Record.from_json(text))
                except ValueError as error:
                    defects.append(f"the record of {nodeid} cannot be read: {error}")
        return records, defects

    def _written(self, run: Run) -> Run:
        """The run after its report was written, or with the reason why it could not be."""
        from reports.publish import publish  # matplotlib is slow to import, and only a run with claims needs it

        try:
            self.report = publish(run, report_folder(self.config), os.environ.get("GITHUB_STEP_SUMMARY"))
        except OSError as error:
            defects = [*run.context.defects, f"the report could not be written: {error}"]
            return replace(run, context=replace(run.context, defects=defects))
        return run


def accepted_text(config: pytest.Config) -> str:
    """The accepted verdicts as they are written now; empty where there are none."""
    path = accepted_path(config)
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _is_accepted(decision: Decision) -> bool:
    return decision.record is not None and decision.ruling.change != "same"


def _message(report: pytest.TestReport) -> str:
    """What pytest says about a test that was skipped or failed, in one line; empty for one that passed."""
    if report.passed:
        return ""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)  # the error itself, whatever --tb shows of the way to it
    lines = [line.strip() for line in (crash.message if crash else report.longreprtext).splitlines() if line.strip()]
    lines = [line for line in lines if not WORKER.match(line)]
    errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E  ")]
    return (errors or lines or [""])[0]


def _outcome(location: tuple[str, int | None, str], claim: str, case: str, report: pytest.TestReport) -> TestOutcome:
    file, line, _ = location
    number = None if line is None else line + 1
    return TestOutcome(report.nodeid, claim, case, report.outcome, _message(report), file, number)
