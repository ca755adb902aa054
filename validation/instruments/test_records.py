"""Records, declarations and accepted verdicts refuse what they cannot hold; the gate decides as its table says."""

import enum
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from reports.accepted import Accepted, format_accepted, read_accepted, write_accepted
from reports.declarations import Declaration, declared, parse_declarations, read_declarations
from reports.figures import make_figure
from reports.ledger import TestOutcome, accept, rule, settle
from reports.plain import require_plain
from reports.records import Record, make_table


class Word(enum.StrEnum):
    YES = "yes"


def declaration(claim="speedup", case="default", low=3.5, on_inconclusive="fail", **changes):
    content = {
        "statement": "It is faster.",
        "source": "Table 1",
        "refuted_if": "it is not",
        "effect": "speedup",
        "high": None,
        "open_low": False,
        "open_high": False,
        "reason": "claimed",
        "alpha": 0.01,
    }
    return Declaration(claim=claim, case=case, low=low, on_inconclusive=on_inconclusive, **content | changes)


def record(outcome="supported", **changes):
    content = {
        "claim": "speedup",
        "case": "default",
        "tier": "quick",
        "sentence": "3.71x",
        "reason": "inside",
        "unit": "times as fast",
        "alpha": 0.01,
        "declaration": declaration().digest,
    }
    return Record(outcome=outcome, **content | changes)


def accepted(verdict="supported", of=None):
    return Accepted(verdict, (of or declaration()).digest, "Ada", "c0ffee", "2026-01-31", "cpu")


def only_decision(**changes):
    arguments = {
        "declared": {("speedup", "default"): declaration()},
        "records": [],
        "accepted": {},
        "tests": [],
        "demanded": True,
    }
    judgement = settle(**arguments | changes)
    assert len(judgement.decisions) == 1
    return judgement.decisions[0]


def ended(outcome, message=""):
    return TestOutcome("test_speed.py::test_speed", "speedup", "default", outcome, message)


# -- records


def test_record_survives_the_way_through_json():
    figure = make_figure(
        "by-layer", "points", "Damage", "layer", "NDCG", [{"label": "a", "x": [0, 1], "y": [0.1, 0.2]}]
    )
    table = make_table("Rivals", ["model", "NDCG@10"], [["full", 0.1], ["EASE", 0.07]])
    first = record(estimate=3.7, checks=[[True, "8 and 2 layers"]], tables=[table], figures=[figure], notes={"é": [1]})
    assert Record.from_json(first.to_json()) == first


@pytest.mark.parametrize(
    ("value", "kind", "sentence"),
    [
        (np.float64(0.5), TypeError, r"notes\.share\[0\] must be plain JSON, got numpy\.float64 .*float\(\)"),
        (np.int64(3), TypeError, r"got numpy\.int64"),
        (np.bool_(True), TypeError, r"got numpy\.bool"),
        (np.zeros(2), TypeError, r"got numpy\.ndarray"),
        (Word.YES, TypeError, r"got .*Word"),
        ((1, 2), TypeError, r"got builtins\.tuple"),
        (math.nan, ValueError, r"notes\.share\[0\] must be finite, got nan"),
        (-math.inf, ValueError, r"must be finite, got -inf"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_place(value, kind, sentence):
    with pytest.raises(kind, match=sentence):
        require_plain({"share": [value]}, "notes")


def test_a_numpy_estimate_cannot_leave_the_test():
    with pytest.raises(TypeError, match=r"record\.estimate must be plain JSON, got numpy\.float64"):
        record(estimate=np.float64(3.7)).to_json()


def test_keys_that_are_not_text_are_refused():
    with pytest.raises(TypeError, match="keys must be str, got int 3"):
        require_plain({3: "x"}, "notes")


@pytest.mark.parametrize("text", ['{"schema": 99}', "[]", '{"schema": 1, "claim": "speedup"}'])
def test_a_foreign_record_is_refused(text):
    with pytest.raises(ValueError, match="record"):
        Record.from_json(text)


def test_a_record_knows_its_outcomes():
    with pytest.raises(ValueError, match="must be one of supported, refuted, inconclusive, invalid, got 'great'"):
        record("great").to_json()


def test_a_short_row_is_refused():
    with pytest.raises(ValueError, match="row 1 has 1 cells, expected 2"):
        make_table("Rivals", ["model", "NDCG@10"], [["full", 0.1], ["EASE"]])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "pie"}, "kind must be one of intervals, points, scatter, bars, heatmap, map, got 'pie'"),
        ({"name": "../x"}, "lower-case words joined by hyphens"),
        ({"series": [{"label": "a", "x": [1, 2], "y": [1.0]}]}, "equally long"),
        ({"series": [{"label": "a", "x": [1], "y": [1.0], "low": [0.5]}]}, "equally long"),
        ({"series": [{"label": "a", "x": [1], "y": [math.nan]}]}, "must be finite"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        figure(**changes)


def figure(**changes):
    content = {"name": "damage", "kind": "bars", "title": "Damage", "x_label": "layer", "y_label": "NDCG", "series": []}
    return make_figure(**content | changes)


def row(label="fisher", x=("0", "1"), y=(0.5, 1.0), **more):
    return {"label": label, "x": list(x), "y": list(y), **more}


def test_an_undefined_cell_of_a_heatmap_survives_the_way_through_json():
    made = figure(kind="heatmap", series=[row(y=(None, 0.5))], series_label="method")
    again = Record.from_json(record(figures=[made]).to_json()).figures[0]
    assert again == made
    assert again["series"][0]["y"] == [None, 0.5]
    assert again["series_label"] == "method"


@pytest.mark.parametrize(
    ("kind", "series", "sentence"),
    [
        ("heatmap", [], "a heatmap needs at least one value"),
        ("heatmap", [row(x=(), y=())], "a heatmap needs at least one value"),
        ("heatmap", [row(), row(x=("1", "0"))], "the rows of a heatmap must have the same columns"),
        ("heatmap", [row(low=[0, 0], high=[1, 1])], "a heatmap has no place for a reference or intervals"),
        ("heatmap", [row(panel="layer 0")], "only a map has panels, not heatmap"),
        ("heatmap", [row(y=(math.nan, 1.0))], "must be finite"),
        ("points", [row(y=(None, 1.0))], "only a heatmap shows undefined values"),
        ("map", [row(x=(0, 1))], "every series of a map needs a panel"),
        ("map", [row(x=(0, 1), panel=f"layer {i}") for i in range(13)], "at most 12 in all, got 13"),
        ("map", [row(f"genre {i}", x=(0, 1), panel="layer 0") for i in range(8)], "at most 7 groups .* got 8"),
        ("map", [row(panel="layer 0")], "places of a map must be numbers"),
    ],
)
def test_series_that_a_kind_cannot_draw_are_refused(kind, series, sentence):
    with pytest.raises(ValueError, match=sentence):
        figure(kind=kind, series=series)


def test_a_heatmap_or_map_takes_no_reference():
    with pytest.raises(ValueError, match="a heatmap has no place for a reference"):
        figure(kind="heatmap", series=[row()], reference={"label": "0", "value": 0.0})


# -- declarations


def claims(**changes):
    case = {"tiers": ["quick", "standard"], "at_least": 0.88, "reason": "lower end"}
    claim = {
        "statement": "Keeps 88 %.",
        "source": "Table 2",
        "refuted_if": "it keeps less",
        "effect": "retention",
        "alpha": 0.01,
        "on_inconclusive": "fail",
        "cases": {"a": case, "b": {**case, "tiers": ["quick"]}},
    }
    return {"claims": {"quality": claim | changes}}


def test_alpha_is_split_over_the_cases_of_the_tier():
    found = parse_declarations(claims())
    assert [entry.alpha for entry in found.declared("quick").values()] == [0.005, 0.005]
    assert [entry.alpha for entry in found.declared("standard").values()] == [0.01]
    assert found.declared("full") == {}
    assert found.tiers_of("quality", "b") == ["quick"]


def test_the_digest_follows_every_part_of_a_declaration():
    changes = {
        "low": 3.4,
        "high": 4.0,
        "open_low": True,
        "alpha": 0.02,
        "reason": "observed",
        "statement": "Faster.",
        "on_inconclusive": "warn",
        "effect": "exact",
        "source": "Table 9",
        "refuted_if": "never",
        "control": "refuted",
    }
    digests = {declaration(**{key: value}).digest for key, value in changes.items()} | {declaration().digest}
    assert len(digests) == len(changes) + 1


CASE = {"tiers": ["quick"], "at_least": 0.88, "reason": "lower end"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"claim": {}}, "the file has unknown keys: claim; known keys: claims"),
        (claims(margin=0.88), "claims.quality has unknown keys: margin; known keys: statement, source, refuted_if"),
        (
            claims(cases={"a": CASE | {"at_leats": 1}}),
            'cases."a" has unknown keys: at_leats; known keys: tiers, reason',
        ),
        (claims(cases={}), "at least one"),
        (claims(cases={"a": {"tiers": ["quick"], "reason": "x"}}), "needs a bound: at_least, above, at_most or below"),
        (claims(cases={"a": CASE | {"above": 1}}), "two bounds on the same side"),
        (claims(cases={"a": CASE | {"at_most": 0.5}}), "the lower bound 0.88 lies above the upper bound 0.5"),
        (claims(cases={"a": CASE | {"at_least": "88 %"}}), "at_least must be a number, got '88 %'"),
        (claims(cases={"a": CASE | {"at_least": math.inf}}), "bounds must be finite"),
        (
            claims(cases={"a": CASE | {"tiers": ["fast"]}}),
            r"tiers must list some of quick, standard, matrix, layers, .*, full, got \['fast'\]",
        ),
        (claims(cases={"a": CASE | {"reason": " "}}), "reason must be a sentence"),
        (claims(alpha=5), "alpha must be a number between 0 and 0.5, got 5"),
        (claims(on_inconclusive="pass"), "must be one of fail, fail-outside, warn, got 'pass'"),
        (claims(control="open"), "claims.quality.control must be 'supported' or 'refuted', got 'open'"),
        (claims(source=3), "claims.quality.source must be a sentence, got 3"),
        ({"claims": {"quality": {"statement": "x"}}}, "claims.quality lacks: source, refuted_if, effect"),
    ],
)
def test_a_claims_file_with_a_mistake_is_refused(content, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_declarations(content)


def test_the_claims_file_is_read_in_its_order_and_named_in_errors(tmp_path):
    path = tmp_path / "claims.toml"
    assert declared(path, "quick") == {}
    head = 'statement="s"\nsource="s"\nrefuted_if="r"\neffect="exact"\nalpha=0.01\non_inconclusive="fail"\n'
    case = 'tiers=["quick"]\nabove=0\nreason="r"\n'
    path.write_text(f'[claims.z]\n{head}[claims.z.cases."b@1"]\n{case}[claims.z.cases.a]\n{case}')
    found = declared(path, "quick")
    assert list(found) == [("z", "b@1"), ("z", "a")]
    assert found["z", "a"].open_low
    assert found["z", "a"].low == 0.0
    path.write_text("[claims")
    with pytest.raises(ValueError, match=r"claims\.toml: "):
        read_declarations(path)


# -- accepted verdicts


def test_accepted_verdicts_survive_the_file_with_hostile_names(tmp_path):
    path = tmp_path / "reports" / "accepted.toml"
    hostile = {("a.b", 'q"u\\o]te'): accepted(), ("é 😀", "line\nbreak\x7f\x00"): accepted("refuted")}
    content = {"quick": hostile, "full": {("a", "b"): accepted("inconclusive")}}
    write_accepted(path, content)
    assert read_accepted(path) == content
    assert format_accepted(read_accepted(path)) == path.read_text(encoding="utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["accepted.toml"]


@pytest.mark.parametrize("text", ["[slow.a.b]", "[quick.a.b]\nverdict='supported'", "[quick", "quick = 3"])
def test_an_accepted_file_with_a_mistake_is_refused(tmp_path, text):
    path = tmp_path / "accepted.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"accepted\.toml: "):
        read_accepted(path)


# -- the gate


@pytest.mark.parametrize(
    ("found", "before", "on_inconclusive", "gate", "change"),
    [
        ("supported", None, "fail", "pass", "new"),
        ("inconclusive", None, "fail", "fail", "new"),
        ("inconclusive", None, "warn", "warn", "new"),
        ("refuted", None, "fail", "fail", "new"),
        ("refuted", None, "warn", "fail", "new"),
        ("supported", "supported", "fail", "pass", "same"),
        ("inconclusive", "supported", "fail", "fail", "worse"),
        ("inconclusive", "supported", "warn", "warn", "worse"),
        ("refuted", "supported", "fail", "fail", "worse"),
        ("refuted", "supported", "warn", "fail", "worse"),
        ("supported", "inconclusive", "fail", "pass", "improved"),
        ("inconclusive", "inconclusive", "fail", "pass", "same"),
        ("refuted", "inconclusive", "fail", "fail", "worse"),
        ("refuted", "inconclusive", "warn", "fail", "worse"),
        ("supported", "refuted", "fail", "pass", "improved"),
        ("inconclusive", "refuted", "fail", "pass", "improved"),
        ("refuted", "refuted", "fail", "pass", "same"),
        ("invalid", None, "warn", "fail", "invalid"),
        ("invalid", "refuted", "warn", "fail", "invalid"),
    ],
)
def test_gate(found, before, on_inconclusive, gate, change):
    of = declaration(on_inconclusive=on_inconclusive)
    ruling = rule(found, of, accepted(before, of) if before else None)
    assert (ruling.gate, ruling.change, ruling.accepted) == (gate, change, before)


@pytest.mark.parametrize(
    ("estimate", "bounds", "gate"),
    [
        (3.6, {"low": 3.5}, "warn"),
        (3.5, {"low": 3.5}, "warn"),
        (3.4, {"low": 3.5}, "fail"),
        (0.0, {"low": 0.0, "open_low": True}, "fail"),
        (1.06, {"low": 0.95, "high": 1.05}, "fail"),
        (1.05, {"low": None, "high": 1.05}, "warn"),
        (1.05, {"low": None, "high": 1.05, "open_high": True}, "fail"),
        (float("nan"), {"low": 3.5}, "fail"),
        (None, {"low": 3.5}, "fail"),
    ],
)
def test_an_undecided_verdict_that_fails_outside_goes_by_its_estimate(estimate, bounds, gate):
    of = declaration(on_inconclusive="fail-outside", **bounds)
    ruling = rule("inconclusive", of, accepted("supported", of), estimate)
    assert (ruling.gate, ruling.change) == (gate, "worse")
    assert "the region" in ruling.why


def test_a_refutation_fails_wherever_its_estimate_lies():
    of = declaration(on_inconclusive="fail-outside")
    assert rule("refuted", of, accepted("supported", of), 9.9).gate == "fail"


def test_a_run_that_was_stopped_names_what_it_did_not_reach_in_one_sentence():
    declared = {("speedup", f"c{i}"): declaration(case=f"c{i}") for i in range(5)}
    judgement = settle(declared, [], {}, [], demanded=True)
    assert len(judgement.problems()) == 5
    assert judgement.problems(stopped=True) == [
        "5 cases were not reached: speedup[c0], speedup[c1], speedup[c2] and 2 more"
    ]


def test_a_refutation_accepted_for_another_declaration_does_not_count():
    ruling = rule("refuted", declaration(low=3.6), accepted("refuted"))
    assert (ruling.gate, ruling.change, ruling.accepted) == ("fail", "void", None)
    assert "declaration changed" in ruling.why


def test_an_improvement_says_how_to_accept_it():
    assert "accept it with --accept-verdicts" in rule("supported", declaration(), accepted("refuted")).why


@pytest.mark.parametrize(
    ("changes", "verdict", "gate", "why"),
    [
        ({"records": [record()], "tests": [ended("passed")]}, "supported", "pass", "not accepted yet"),
        ({"records": [record(), record()]}, "invalid", "fail", "recorded 2 times"),
        ({"records": [record(declaration="other")]}, "invalid", "fail", "another declaration"),
        ({"records": [record("invalid", reason="8 layers ran")]}, "invalid", "fail", "8 layers ran"),
        ({"records": [record()], "tests": [ended("failed", "KeyError")]}, "supported", "fail", "beside .* KeyError"),
        ({}, "missing", "fail", "renamed, removed, deselected or stopped, or its worker died"),
        ({"tests": [ended("passed")]}, "missing", "fail", "must call claim.judge"),
        ({"tests": [ended("failed", "worker crashed")]}, "missing", "fail", "before a verdict: worker crashed"),
        ({"tests": [ended("skipped", "no GPU")]}, "not-run", "not-run", "not run: no GPU"),
        ({"tests": [ended("passed")], "demanded": False}, "missing", "fail", "must call claim.judge"),
    ],
)
def test_case_of_a_run(changes, verdict, gate, why):
    decision = only_decision(**changes)
    assert (decision.verdict, decision.ruling.gate) == (verdict, gate)
    assert re.search(why, decision.ruling.why)


def test_a_skipped_case_with_an_accepted_verdict_fails_a_whole_run_only():
    changes = {"tests": [ended("skipped", "no GPU")], "accepted": {("speedup", "default"): accepted()}}
    assert only_decision(**changes).ruling.gate == "fail"
    assert only_decision(**changes, demanded=False).ruling.gate == "not-run"


def test_a_skipped_case_that_needs_what_not_every_machine_has_fails_no_run():
    needy = replace(declaration(), needs="the data set x")
    changes = {"tests": [ended("skipped", "no data")], "accepted": {("speedup", "default"): accepted()}}
    decision = only_decision(**changes, declared={("speedup", "default"): needy})
    assert (decision.verdict, decision.ruling.gate) == ("not-run", "not-run")
    assert needy.digest == declaration().digest


def test_cases_nobody_asked_for_are_named_and_nothing_more():
    judgement = settle({("speedup", "default"): declaration()}, [], {}, [], demanded=False)
    assert judgement.unselected == [("speedup", "default")]
    assert not judgement.complete
    assert not judgement.problems()


def test_a_record_without_a_declaration_is_an_error():
    judgement = settle({}, [record()], {}, [], demanded=False)
    assert judgement.problems() == ["speedup[default] is not declared for this tier in claims.toml"]


def test_a_claim_that_vanished_with_its_declaration_fails_until_that_is_accepted():
    gone = {("speedup", "default"): accepted()}
    judgement = settle({}, [], gone, [], demanded=True)
    assert [(d.ruling.gate, d.ruling.change) for d in judgement.decisions] == [("fail", "gone")]
    assert accept({}, judgement.decisions, gone, "Ada", "c0ffee", "2026-02-01") == {}


def test_accepting_keeps_what_says_the_same_and_replaces_the_rest():
    key, other = ("speedup", "default"), ("speedup", "other")
    known = {key: declaration(), other: declaration(case="other")}
    before = {key: accepted("supported"), other: accepted("refuted", known[other])}
    records = [
        record(),
        record("supported", case="other", declaration=known[other].digest, environment={"device": "cuda"}),
    ]
    judgement = settle(known, records, before, [], demanded=True)
    after = accept(known, judgement.decisions, before, "Bob", "beef", "2026-02-01")
    assert after[key] == before[key]
    assert after[other] == Accepted("supported", known[other].digest, "Bob", "beef", "2026-02-01", "cuda")


CONTROL = {"control": "refuted"}


@pytest.mark.parametrize(
    ("found", "gate", "change"),
    [("refuted", "pass", "same"), ("supported", "fail", "invalid"), ("inconclusive", "fail", "invalid")],
)
def test_a_control_is_held_to_its_known_verdict_whatever_is_accepted(found, gate, change):
    of = declaration(**CONTROL)
    for entry in (None, accepted(found, of)):
        ruling = rule(found, of, entry)
        assert (ruling.gate, ruling.change) == (gate, change)


def judgement_with_control(outcome, **more):
    control = declaration(claim="control", **CONTROL)
    claim = declaration()
    records = [
        replace(record(outcome, **more), claim="control", declaration=control.digest),
        replace(record(), declaration=claim.digest),
    ]
    return settle({(of.claim, of.case): of for of in (control, claim)}, records, {}, [], demanded=True)


def test_a_control_that_comes_out_wrong_makes_every_verdict_invalid():
    judgement = judgement_with_control("supported")
    assert [(d.verdict, d.ruling.gate) for d in judgement.decisions] == [("invalid", "fail")] * 2
    first, second = judgement.problems()
    assert "supported, but it must be refuted: the instruments of this run are broken" in first
    assert "the control control[default] came out wrong, so that no verdict of this run counts" in second


def test_an_invalid_control_makes_every_verdict_invalid_and_a_right_one_none():
    broken = judgement_with_control("invalid", reason="one chain was not solved")
    assert [d.verdict for d in broken.decisions] == ["invalid", "invalid"]
    assert judgement_with_control("refuted").problems() == []


def test_a_broken_control_cannot_be_accepted_and_a_right_one_need_not_be():
    key = ("control", "default")
    for outcome in ("supported", "refuted"):
        decisions = judgement_with_control(outcome).decisions
        of = {(d.claim, d.case): d.declaration for d in decisions}
        assert key not in accept(of, decisions, {}, "Ada", "c0ffee", "2026-02-01")
