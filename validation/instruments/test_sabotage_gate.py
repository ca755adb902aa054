"""What a run may not do to its own verdicts, and what may not be offered as one; see docs/sabotage.md."""

from pathlib import Path

import numpy as np
import pytest

from layerwise.statistics import MeanDifference, retained
from reports.accepted import Accepted, write_accepted
from reports.declarations import declared, read_declarations
from reports.metrics import why_another_metric


def said(result):
    return result.stdout.str() + result.stderr.str()


def accept(project, **verdicts):
    cases = declared(project.path / "validation" / "claims.toml", "quick")
    entries = {
        ("score", case): Accepted(verdict, cases["score", case].digest, "Ada", "c0ffee", "2026-01-31", "cpu")
        for case, verdict in verdicts.items()
    }
    write_accepted(project.accepted, {"quick": entries})


EDITING = """
from pathlib import Path

@pytest.mark.claim("score")
def test_score(claim, pytestconfig):
    path = pytestconfig.rootpath / {file!r}
    path.write_text(path.read_text().replace({old!r}, {new!r}))
    claim.judge(Exact(1.0, "points"))
"""


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "worker"])
def test_a_run_that_edits_accepted_verdicts_fails(project, workers):
    edit = EDITING.format(file="reports/accepted.toml", old='"supported"', new='"refuted"')
    project.write(edit, cases=("default",))
    accept(project, default="supported")
    result = project.run(*workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "reports/accepted.toml was changed while the tests ran; only --accept-verdicts writes it" in said(result)


def test_a_run_that_edits_its_margins_is_invalid(project):
    """The fixture would otherwise have judged by the edited file."""
    edit = EDITING.format(file="validation/claims.toml", old="above = 2", new="above = 0").replace(
        "test_score", "test_a"
    )
    other = '\n@pytest.mark.claim("score")\n@pytest.mark.parametrize("v", [1.0], ids=["v1"])\ndef test_b(claim, v):\n'
    project.write(edit + other + '    claim.judge(Exact(v, "points"))\n', cases=("default", "v1"))
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.verdicts()["v1"] == "invalid"
    assert "score[v1]: judged under another declaration than the one in claims.toml" in said(result)


def test_a_skipped_case_fails_where_it_had_a_verdict(project):
    project.write('@pytest.mark.skip("later")\n' + project.plain.replace("[3.0, 1.0]", "[3.0]").lstrip(), ("v3",))
    accept(project, v3="supported")
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "score[v3]: not run: later" in said(result)


def test_a_crashed_claim_fails_with_its_error(project):
    project.write(project.plain.replace("claim.judge(", "{}['no such']; claim.judge("), cases=("v3", "v1"))
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.verdicts() == {"v3": "missing", "v1": "missing"}
    assert "score[v3]: its test failed before a verdict: KeyError: 'no such'" in said(result)


# -- another quantity than the declared metric

CLAIMS = Path(__file__).parents[1] / "claims.toml"
VALUES = np.array([[0.2, 0.4], [0.3, 0.3]])
WORDS = """
from layerwise.statistics import retained

@pytest.mark.claim("score")
@pytest.mark.parametrize("case", ["keep25%-ndcg@10"])
def test_score(claim, case):
    claim.judge(retained([[0.2, 0.4]], [[0.3, 0.3]], "word overlap"))
"""


def test_word_overlap_is_no_ndcg(project):
    project.write(WORDS, cases=())
    text = project.declared("score", ["keep25%-ndcg@10"], "at_least = 0.5", "retention")
    (project.path / "validation" / "claims.toml").write_text(text)
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "score[keep25%-ndcg@10] is about ndcg@10, got an effect in 'share of word overlap'" in said(result)


@pytest.mark.parametrize(
    ("claim", "case", "effect", "answered"),
    [
        ("quality-retention", "llama-keep25%-ndcg@5", retained(VALUES, VALUES, "NDCG@5"), True),
        ("quality-retention", "llama-keep25%-ndcg@5", retained(VALUES, VALUES, "NDCG@10"), False),
        ("quality-retention", "llama-keep25%-mrr", retained(VALUES, VALUES, "MRR@10"), False),
        ("beyond-scratch", "llama-keep25%", MeanDifference(VALUES, "NDCG@10"), True),
        ("beyond-scratch", "llama-keep25%", MeanDifference(VALUES, "BLEU"), False),
        ("adaptation", "llama", MeanDifference(VALUES, "nats"), True),
    ],
)
def test_the_metric_is_the_one_of_the_case_or_else_of_the_statement(claim, case, effect, answered):
    declared = read_declarations(CLAIMS)
    declaration = {**declared.declared("layers"), **declared.declared("standard")}[claim, case]
    assert (why_another_metric(declaration, effect) == "") == answered
