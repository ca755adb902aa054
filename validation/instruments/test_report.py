"""Reports are pure functions of a run: same bytes, readable numbers, names that cannot break out, sizes that fit."""

import io
import json
import struct
import zlib
from dataclasses import replace

import pytest

from reports.accepted import Accepted
from reports.declarations import Declaration
from reports.ledger import Decision, TestOutcome, settle
from reports.markdown import format_table, render, summary
from reports.plots import draw, overview, png
from reports.publish import files_of, publish
from reports.records import Record, make_figure, make_table
from reports.run import Context, Run
from reports.terminal import format_summary
from reports.text import duration, escape, slug

HOSTILE = "a|b`c<img src=x>@team *x* [y](z) $1$\n# h"
CONTEXT = Context("quick", "c0ffee1234567890", False, "2026-01-31 10:00:00+00:00", 754.0)


def declaration(case, **changes):
    content = {
        "claim": "quality",
        "statement": "It keeps 88 % of NDCG@10.",
        "source": "Table 2",
        "refuted_if": "the interval lies below 88 %",
        "effect": "retention",
        "low": 0.88,
        "high": None,
        "open_low": False,
        "open_high": False,
        "reason": "lower end of 88 to 92 %",
        "alpha": 0.005,
        "on_inconclusive": "fail",
    }
    return Declaration(case=case, **content | changes)


def record(of, outcome="supported", **changes):
    content = {
        "sentence": f"{outcome}: keeps 93.1 % of NDCG@10",
        "reason": "the deciding interval lies inside",
        "unit": "share of NDCG@10",
        "estimate": 0.9312,
        "low": 0.9121,
        "high": 0.9503,
        "deciding_low": 0.90,
        "deciding_high": 0.96,
        "region_low": of.low,
        "detectable": 0.0291,
        "num_seeds": 5,
        "num_units": 943,
        "checks": [[outcome != "invalid", "compact equals masked twin"]],
        "tables": [make_table("Rivals", ["model", "layers", "NDCG@10"], [["full", 8, 0.10132], ["EASE", 0, 0.0721]])],
        "figures": [figure()],
        "environment": {"device": "cpu", "processor": "A processor", "python": "3.12.1"},
    }
    identity = {"claim": of.claim, "case": of.case, "tier": "quick", "alpha": of.alpha, "declaration": of.digest}
    return Record(outcome=outcome, **identity | content | changes)


def figure(kind="intervals", x=("full", "EASE"), reference=None):
    series = [{"label": "mean", "x": list(x), "y": [0.1, 0.07], "low": [0.09, 0.06], "high": [0.11, 0.08]}]
    return make_figure("rivals", kind, "Rivals", "model", "NDCG@10", series, reference)


def run_of(*outcomes, context=CONTEXT, accepted=None, tests=(), **changes):
    declared = {("quality", f"case-{i}"): declaration(f"case-{i}") for i in range(len(outcomes))}
    records = [
        record(of, outcome, **changes) for of, outcome in zip(declared.values(), outcomes, strict=True) if outcome
    ]
    before = {key: Accepted(accepted, declared[key].digest, "Ada", "c0", "d", "cpu") for key in declared if accepted}
    return Run(context, settle(declared, records, before, list(tests), demanded=True))


def hostile_run():
    of = declaration(HOSTILE, claim=HOSTILE, statement=HOSTILE, source=HOSTILE, refuted_if=HOSTILE, reason=HOSTILE)
    table = make_table(HOSTILE, [HOSTILE, "n"], [[HOSTILE, 1.5]])
    picture = replace_title(figure(), HOSTILE)
    words = {"sentence": HOSTILE, "reason": HOSTILE, "unit": HOSTILE, "checks": [[True, HOSTILE]], "remarks": [HOSTILE]}
    names = {"notes": {HOSTILE: HOSTILE}, "environment": {HOSTILE: HOSTILE}}
    made = record(of, "refuted", tables=[table], figures=[picture], **words, **names)
    context = replace(CONTEXT, narrowed=[HOSTILE], other_failures=[HOSTILE], defects=[HOSTILE])
    return Run(context, settle({(HOSTILE, HOSTILE): of}, [made], {}, [], demanded=True))


def replace_title(made, title):
    return {
        **made,
        "title": title,
        "x_label": title,
        "y_label": title,
        "series": [{**made["series"][0], "label": title}],
    }


# -- words


def test_names_are_shown_letter_by_letter():
    assert escape("a|b`c`") == r"a\|b\`c\`"
    assert escape("<b>&amp;") == "&lt;b&gt;&amp;amp;"
    assert escape("@team, x@team, -@team") == "&#64;team, x@team, -&#64;team"
    assert escape("two\nlines\t here") == "two lines here"
    assert escape("[a](b) ![c] *d* _e_ ~f~ $g$ #h") == r"\[a\](b) !\[c\] \*d\* \_e\_ \~f\~ \$g\$ \#h"


def test_file_names_are_harmless_and_never_shared():
    names = {
        slug("a b", "c"),
        slug("a", "b c"),
        slug("a-b", "c"),
        slug("../../x", "c"),
        slug("A b", "c"),
        slug("é" * 300),
    }
    assert len(names) == 6
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and len(name) <= 90 for name in names)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.44, "0.4 s"), (41.2, "41 s"), (754, "12 min 34 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({}, "| 93.1 % | 91.2 to 95.0 | ≥ 88 % | 5 × 943 | 2.91 % | – |"),
        ({"low": None, "high": None}, "| 93.1 % | −∞ to ∞ | ≥ 88 % | 5 × 943 | 2.91 % | – |"),
        (
            {"unit": "times as fast", "estimate": 3.7134, "low": 3.61, "high": 3.82, "num_seeds": 1, "num_units": 12},
            "| 3.71× | 3.61 to 3.82 | ≥ 0.88× | 12 | 0.0291× | – |",
        ),
        (
            {"unit": "NDCG@10", "estimate": -0.01804, "low": -0.0225, "high": -0.0135},
            "| −0.0180 NDCG@10 | −0.0225 to −0.0135 | ≥ 0.88 | 5 × 943 | 0.0291 | – |",
        ),
        (
            {"unit": "% removed", "estimate": 75.0, "low": 75.0, "high": 75.0, "num_units": 1, "detectable": 0.0},
            "| 75 % | exact | ≥ 0.88 % | – | – | – |",
        ),
        ({"estimate": None, "low": None, "high": None, "detectable": None}, "| – | – | ≥ 88 % | 5 × 943 | – | – |"),
    ],
)
def test_numbers_have_units_and_the_digits_their_interval_allows(changes, row):
    assert f"| ● supported {row}" in render(run_of("supported", **changes), {})


# -- the report


def test_report_begins_with_decision_and_changes():
    tests = [TestOutcome("t", "quality", "case-3", "skipped", "needs CUDA")]
    run = run_of("supported", "refuted", "invalid", None, accepted="inconclusive", tests=tests)
    head = render(run, {}).split("## Claims")[0]
    assert head.splitlines()[2] == (
        "**gate FAIL · quick tier · 1 supported, 1 refuted, 1 invalid, 1 not-run · complete** "
        "· commit c0ffee1234 (clean) · cpu, A processor · 12 min 34 s"
    )
    lines = [line for line in head.splitlines() if line.startswith("- ")]
    assert [line.split(":")[0] for line in lines] == [
        "- **Invalid, fails",
        "- **Worse, fails",
        "- **Not run, fails",
        "- Improved",
    ]
    assert "refuted, accepted as inconclusive" in head
    assert "accept it with --accept-verdicts" in head


def test_a_run_as_accepted_says_so():
    run = run_of("refuted", accepted="refuted")
    assert run.gate == "pass"
    assert "None: every verdict is the accepted one." in render(run, {})


def test_a_partial_run_says_what_it_left_out():
    declared = {("quality", "a"): declaration("a"), ("quality", "b|c"): declaration("b|c")}
    judgement = settle(declared, [record(declared["quality", "a"])], {}, [], demanded=False)
    text = render(Run(replace(CONTEXT, narrowed=["-k 'a'"]), judgement), {})
    assert "gate PARTIAL · quick tier · 1 supported · partial: 1 of 2 cases judged" in text
    assert "This run is partial (-k 'a')" in text
    assert r"- quality\[b\|c\]: left out of this run" in text


def test_every_table_row_has_as_many_cells_as_its_head():
    for run in (run_of("supported", "refuted", "invalid", None), hostile_run()):
        width = 0
        for line in render(run, {}).splitlines():
            cells = line.replace(r"\|", "").count("|")
            assert not (width and line.startswith("|")) or cells == width
            width = cells if line.startswith("|") else 0


def test_hostile_names_stay_words():
    text = render(hostile_run(), {})
    assert "<img" not in text
    assert " @team" not in text
    assert "`" not in text.replace(r"\`", "")
    assert "\n# h" not in text
    assert "](z)" not in text.replace(r"\](z)", "")
    tags = {part.split(">")[0] for part in text.split("<")[1:]}
    assert tags == {"details", "/details", "summary", "/summary"}


def test_numbers_of_a_table_are_aligned_and_short():
    table = make_table("T", ["model", "users", "NDCG"], [["full", 12345, 0.101325], ["EASE", 7, 0.07]])
    assert format_table(table).splitlines() == [
        "| model | users | NDCG |",
        "|---|---:|---:|",
        "| full | 12,345 | 0.1013 |",
        "| EASE | 7 | 0.07 |",
    ]


def test_a_step_summary_fits_by_dropping_folded_parts_first_and_lines_last():
    run = run_of(*["supported"] * 12)
    full = summary(run)
    assert "<details>" in full
    assert "figures/" not in full
    shorter = summary(run, len(full.encode()) - 1)
    assert "<details>" not in shorter
    assert "## Environment" in shorter
    cut = summary(run, 1500)
    assert len(cut.encode()) <= 1500
    assert cut.endswith("(cut here; the full report is among the files of the run)\n")
    assert summary(run, 0) == ""


# -- files


def test_the_same_run_gives_the_same_bytes():
    run = run_of("supported", "refuted", "inconclusive", "invalid", None)
    assert files_of(run) == files_of(run)


def test_pictures_hold_neither_time_nor_version():
    chunks = png_chunks(png(lambda: overview(run_of("supported").decisions)))
    assert {name for name, _ in chunks} <= {"IHDR", "pHYs", "IDAT", "IEND"}


def png_chunks(data):
    stream, found = io.BytesIO(data[8:]), []
    while head := stream.read(8):
        size, name = struct.unpack(">I4s", head)
        body = stream.read(size)
        assert zlib.crc32(name + body) == struct.unpack(">I", stream.read(4))[0]
        found.append((name.decode(), body))
    return found


def test_publishing_again_removes_only_its_own_old_pictures(tmp_path):
    publish(run_of("supported"), tmp_path)
    (tmp_path / "figures" / "mine.png").write_bytes(b"x")
    old = set(json.loads((tmp_path / "records.json").read_text())["files"])
    publish(run_of("supported", figures=[]), tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"REPORT.md", "records.json", "figures/overview.png", "figures/mine.png"}
    assert old - left == {f"figures/{slug('quality', 'case-0', 'rivals')}.png"}


def test_every_picture_of_the_report_exists_and_has_words_instead(tmp_path):
    report = publish(hostile_run(), tmp_path).read_text()
    pictures = [line for line in report.splitlines() if line.startswith("![")]
    assert len(pictures) == 2
    for line in pictures:
        words, _, path = line.removeprefix("![").rpartition("](")
        assert words
        assert (tmp_path / path.removesuffix(")")).is_file()


def test_the_twin_holds_every_record(tmp_path):
    run = run_of("supported", "refuted", None)
    publish(run, tmp_path)
    twin = json.loads((tmp_path / "records.json").read_text())
    assert twin["gate"] == "fail"
    assert [decision["verdict"] for decision in twin["decisions"]] == ["supported", "refuted", "missing"]
    assert Record.from_json(json.dumps(twin["decisions"][0]["record"])) == run.decisions[0].record


def test_what_a_reader_must_know_stands_once_in_the_first_lines():
    sentence = "two layers from scratch do as well"
    run = run_of("supported", "supported", remarks=[sentence])

    report = render(run, {})

    assert report.count(sentence) == 1
    assert report.index(sentence) < report.index("## Changes since accepted")


# -- pictures


@pytest.mark.parametrize(
    "made",
    [
        figure("intervals", reference={"label": "88 %", "value": 0.088}),
        figure("points", x=(0, 1)),
        figure("points", x=("low", "high")),
        figure("scatter", x=(0, 1)),
        figure("bars"),
        replace_title(figure("bars"), HOSTILE),
    ],
    ids=["intervals", "points", "categories", "scatter", "bars", "hostile"],
)
def test_every_kind_of_figure_is_seven_inches_wide_and_not_blank(made):
    chunks = dict(png_chunks(png(lambda: draw(made))))
    width, height = struct.unpack(">II", chunks["IHDR"][:8])
    assert width == 7 * 130
    assert 200 < height < 900
    assert len(chunks["IDAT"]) > 4000


def test_the_overview_copes_with_open_intervals_points_and_invalid_cases():
    of = declaration("a", high=0.99)
    odd = [
        record(of, "inconclusive", low=None, high=None),
        record(of, "supported", low=0.9312, high=0.9312),
        record(of, "invalid"),
    ]
    ruling = run_of("supported").decisions[0].ruling
    decisions = [Decision("quality", "a", made.outcome, ruling, of, made) for made in odd]
    assert len(png(lambda: overview(decisions))) > 4000


# -- the terminal


@pytest.mark.parametrize("colour", [False, True])
def test_the_terminal_table_fits_and_names_decision_and_path(colour):
    text = format_summary(run_of("supported", "refuted", None), "out/REPORT.md", 100, colour)
    assert ("\x1b[" in text) is colour
    table = text.split("- quality")[0]
    assert colour or max(map(len, table.splitlines())) <= 100
    for words in ("case-0", "✕ refuted", "91.2 to 95.0", "≥ 88 %", "fail, new", "report out/REPORT.md"):
        assert words in text
