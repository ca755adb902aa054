"""Reports are pure functions of a run: same bytes, readable numbers, names that cannot break out, sizes that fit."""

import io
import json
import re
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from reports.accepted import Accepted
from reports.annotations import commands
from reports.ctrf import ctrf
from reports.declarations import Declaration
from reports.figures import make_figure
from reports.ledger import Decision, TestOutcome, settle
from reports.looks import DARK, LIGHT, png
from reports.markdown import format_table, front, pages, summary
from reports.overview import overview, verdicts
from reports.plots import draw
from reports.publish import files_of, publish
from reports.records import Record, make_table
from reports.run import Context, Run
from reports.sections import sections
from reports.terminal import format_summary
from reports.text import attribute, duration, escape, one_line, slug

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


def test_a_name_in_a_terminal_stays_on_its_line_and_without_colour():
    assert one_line("two\n::error::x\r\nlines\t\x85here") == "two ::error::x lines here"
    assert one_line("\x1b[31mred\u202e") == r"\x1b[31mred\u202e"
    assert one_line("−0.5 ● 75 % §") == "−0.5 ● 75 % §"


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
    assert f"| ● supported {row}" in front(run_of("supported", **changes), {})


# -- the report


def test_report_begins_with_decision_and_changes():
    tests = [TestOutcome("t", "quality", "case-3", "skipped", "needs CUDA")]
    run = run_of("supported", "refuted", "invalid", None, accepted="inconclusive", tests=tests)
    head = front(run, {}).split("## Claims")[0]
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


def test_a_test_that_failed_beside_its_accepted_verdict_is_no_silence():
    tests = [TestOutcome("t", "quality", "case-0", "failed", "teardown broke")]
    run = run_of("supported", accepted="supported", tests=tests)
    assert run.gate == "fail"
    head = front(run, {}).split("## Claims")[0]
    sentence = r"- **As accepted, fails:** quality\[case-0\]: its test failed beside the verdict: teardown broke"
    assert sentence in head


def test_a_run_that_ended_early_fails_and_says_so_first():
    run = run_of("supported", accepted="supported", context=replace(CONTEXT, stopped="interrupted"))
    assert run.gate == "fail"
    assert "**the run ended early: interrupted**" in front(run, {}).split("## Changes")[0]


def test_a_run_as_accepted_says_so():
    run = run_of("refuted", accepted="refuted")
    assert run.gate == "pass"
    assert "None: every verdict is the accepted one." in front(run, {})


def test_a_partial_run_says_what_it_left_out():
    declared = {("quality", "a"): declaration("a"), ("quality", "b|c"): declaration("b|c")}
    judgement = settle(declared, [record(declared["quality", "a"])], {}, [], demanded=False)
    text = front(Run(replace(CONTEXT, narrowed=["-k 'a'"]), judgement), {})
    assert "gate PARTIAL · quick tier · 1 supported · partial: 1 of 2 cases judged" in text
    assert "This run is partial (-k 'a')" in text
    assert r"- quality\[b\|c\]: left out of this run" in text


def test_every_table_row_has_as_many_cells_as_its_head():
    for run in (run_of("supported", "refuted", "invalid", None), hostile_run()):
        width = 0
        for line in "\n".join([front(run, {}), *pages(run, {}).values(), summary(run)]).splitlines():
            cells = line.replace(r"\|", "").count("|")
            assert not (width and line.startswith("|")) or cells == width
            width = cells if line.startswith("|") else 0


@pytest.mark.parametrize("of", [lambda run: front(run, {}), lambda run: "".join(pages(run, {}).values()), summary])
def test_hostile_names_stay_words(of):
    text = of(hostile_run())
    assert "<img" not in text
    assert " @team" not in text
    assert "`" not in text.replace(r"\`", "")
    assert "\n# h" not in text
    assert "](z)" not in text.replace(r"\](z)", "")
    tags = {part.split(">")[0] for part in text.split("<")[1:]}
    assert tags <= {"details", "/details", "summary", "/summary"}


def test_a_short_run_shows_every_case_on_its_first_page_and_a_long_one_every_claim():
    row = "| case-0 | ● supported | 93.1 % |"
    short, long = run_of(*["supported"] * 30), run_of(*["supported"] * 30, "refuted")
    assert f"| [quality](claims/quality.md) {row}" in front(short, {})
    assert "case-0" not in front(long, {}).split("## Claims")[1]
    counts = "| [quality](claims/quality.md) | It keeps 88 % of NDCG@10. | ● 30 supported, ✕ 1 refuted |"
    assert counts in front(long, {})
    for run in (short, long):
        assert row in pages(run, {})["claims/quality.md"]
        assert summary(run).count(row) == 1


def test_checks_that_cases_share_are_said_once_and_own_ones_under_their_case():
    of = [declaration(f"case-{i}") for i in range(3)]
    checks = [
        [[True, "data"], [True, "full beats EASE"]],
        [[True, "data"], [True, "full beats EASE"]],
        [[True, "data"]],
    ]
    checks[2].append([True, "only here"])
    made = [record(each, checks=said) for each, said in zip(of, checks, strict=True)]
    page = page_of_run(Run(CONTEXT, settle({("quality", each.case): each for each in of}, made, {}, [], True)))
    assert [page.count(f"- ok: {words}\n") for words in ("data", "full beats EASE", "only here")] == [1, 1, 1]
    places = [page.index(words) for words in ("All cases:", "ok: data", "case-0, case-1:", "beats EASE", "**case-2:**")]
    assert places == sorted(places)
    assert page.index("**case-2:**") < page.index("only here")


def test_a_failed_check_is_never_said_for_several_cases_at_once():
    page = page_of_run(run_of("invalid", "invalid"))
    assert page.count("- **failed check:** compact equals masked twin") == 2
    assert "several cases share" not in page


def page_of_run(run):
    (page,) = pages(run, {}).values()
    return page


def test_a_page_says_why_a_case_fails():
    page = page_of_run(run_of("refuted", "supported", accepted="supported"))
    assert page.count("**fails:**") == 1
    assert "- **fails:** refuted, accepted as supported" in page


def test_a_case_that_is_no_longer_declared_stands_on_the_page_of_its_claim():
    of, gone = declaration("a"), declaration("gone")
    before = {("quality", "gone"): Accepted("supported", gone.digest, "Ada", "c0", "d", "cpu")}
    run = Run(CONTEXT, settle({("quality", "a"): of}, [record(of)], before, [], True))
    assert [section.claim for section in sections(run)] == ["quality"]
    assert "| gone | **? missing** |" in page_of_run(run)
    only_gone = Run(CONTEXT, settle({}, [], before, [], True))
    assert pages(only_gone, {}) == {}
    assert "| quality | no longer declared | ? 1 missing |" in front(only_gone, {})


def test_many_failures_are_counted_by_claim_and_few_are_named():
    assert front(run_of(*["refuted"] * 12), {}).count("- **New, fails:** quality\\[case-") == 12
    head = front(run_of(*["refuted"] * 13), {}).split("## Claims")[0]
    assert "- **New, fails:** [quality](claims/quality.md): 13 cases (✕ 13 refuted)" in head
    assert "case-" not in head


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
    assert not re.search(r"figures/|claims/|<picture|records\.json", full)
    shorter = summary(run, len(full.encode()) - 1)
    assert "<details>" not in shorter
    assert "## Environment" in shorter
    cut = summary(run, 1500)
    assert len(cut.encode()) <= 1500
    assert cut.endswith("(cut here; the full report is among the files of the run)\n")
    assert summary(run, 0) == ""


@pytest.mark.parametrize(("used", "appended"), [(0, True), (1000 * 1024 - 1500, True), (1000 * 1024, False)])
def test_a_step_summary_is_appended_within_the_limit_and_begins_with_decision_and_changes(tmp_path, used, appended):
    path = tmp_path / "summary.md"
    path.write_bytes(b"x" * used)
    tables = [make_table("T", ["x" * 900], [["y" * 900]] * 60)]
    publish(run_of(*["supported"] * 29, "refuted", tables=tables, figures=[]), tmp_path / "report", str(path))
    assert used <= path.stat().st_size <= 1000 * 1024
    added = path.read_bytes()[used:].decode()
    assert bool(added) is appended
    order = [
        "# Layerwise, quick tier",
        "**gate FAIL",
        "## Changes since accepted",
        r"- **New, fails:** quality\[case-29",
    ]
    places = [added.find(words) for words in order]
    assert not appended or (places[0] == 0 and places == sorted(places))


# -- files


def test_the_same_run_gives_the_same_bytes():
    run = run_of("supported", "refuted", "inconclusive", "invalid", None)
    assert files_of(run) == files_of(run)


def test_pictures_hold_neither_time_nor_version():
    chunks = png_chunks(png(lambda: overview(run_of("supported").decisions)))
    assert {name for name, _ in chunks} <= {"IHDR", "PLTE", "IDAT", "IEND"}


def png_chunks(data):
    stream, found = io.BytesIO(data[8:]), []
    while head := stream.read(8):
        size, name = struct.unpack(">I4s", head)
        body = stream.read(size)
        assert zlib.crc32(name + body) == struct.unpack(">I", stream.read(4))[0]
        found.append((name.decode(), body))
    return found


def test_publishing_again_removes_only_its_own_old_files(tmp_path):
    publish(run_of("supported"), tmp_path)
    (tmp_path / "figures" / "mine.png").write_bytes(b"x")
    (tmp_path / "claims" / "mine.md").write_bytes(b"x")
    declared = {("other", "a"): declaration("a", claim="other")}
    publish(Run(CONTEXT, settle(declared, [record(declared["other", "a"], figures=[])], {}, [], True)), tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    whole, ours = "figures/overview", f"figures/{slug('other', '', 'overview')}"
    pictures = {f"{stem}{look}.png" for stem in (whole, ours) for look in ("", "-dark")}
    assert (
        left
        == {"REPORT.md", "records.json", "ctrf.json", "claims/other.md", "claims/mine.md", "figures/mine.png"}
        | pictures
    )


class Pictures(HTMLParser):
    """The pictures of a page: (words, light path, dark path)."""

    def __init__(self, text):
        super().__init__()
        self.found, self.dark = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag == "source":
            assert named["media"] == "(prefers-color-scheme: dark)"
            self.dark = named["srcset"]
        if tag == "img":
            self.found.append((named["alt"], named["src"], self.dark))


@pytest.mark.parametrize("run", [hostile_run(), run_of(*["supported"] * 31, figures=[])], ids=["hostile", "many"])
def test_pictures_and_links_lead_somewhere_from_every_page_and_pictures_have_words(run, tmp_path):
    report = publish(run, tmp_path)
    texts, used = {path: path.read_text() for path in [report, *(tmp_path / "claims").iterdir()]}, set()
    for path, text in texts.items():
        pictures = Pictures(text).found
        assert pictures
        for words, light, dark in pictures:
            assert words
            assert (path.parent / light).is_file()
            assert (path.parent / dark).is_file()
        for target in re.findall(r"(?<!\\)\]\(([^)]+)\)", text):
            assert (path.parent / target).is_file()
    used = {
        (path.parent / name).resolve()
        for path, text in texts.items()
        for _, *two in Pictures(text).found
        for name in two
    }
    assert used == set((tmp_path / "figures").iterdir())


def test_words_of_a_picture_are_those_of_its_title():
    words = Pictures(f'<img alt="{attribute(HOSTILE)}" src="a">').found[0][0]
    assert words == " ".join(HOSTILE.split())
    assert not set('"<>`$|@*[]') & set(attribute(HOSTILE))


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

    report = front(run, {})

    assert report.count(sentence) == 1
    assert report.index(sentence) < report.index("## Changes since accepted")


# -- pictures


def heatmap(values, columns=None):
    columns = columns or [f"layer {at}" for at in range(len(values[0]))]
    rows = [{"label": f"method {at}", "x": columns, "y": row} for at, row in enumerate(values)]
    return make_figure("h", "heatmap", "Importance", "layer", "share", rows, series_label="method")


def small_multiples(panels=8, groups=6):
    series = [
        {"label": f"genre {group}", "panel": f"layer {panel}", "x": [0.0, 1.0, group], "y": [0.5, panel, -1.0]}
        for panel in range(panels)
        for group in range(groups)
    ]
    return make_figure("m", "map", "States by layer", "first axis", "second axis", series, series_label="genre")


def families():
    layers = list(range(12))
    series = [
        {"label": f"family {at}", "x": layers, "y": [at] * 12, "low": [at - 0.5] * 12, "high": [at + 1] * 12}
        for at in range(5)
    ]
    return make_figure("f", "points", "Damage", "layer", "loss", series, {"label": "none", "value": 0}, "family")


FIGURES = {
    "intervals": figure("intervals", reference={"label": "88 %", "value": 0.088}),
    "points": figure("points", x=(0, 1)),
    "categories": figure("points", x=("low", "high")),
    "families": families(),
    "scatter": figure("scatter", x=(0, 1)),
    "bars": figure("bars"),
    "heatmap": heatmap([[0.1, 0.9], [None, 0.4]]),
    "large heatmap": heatmap([[row * column / 600 for column in range(24)] for row in range(24)]),
    "undefined": heatmap([[None, None]]),
    "constant": heatmap([[1.0, 1.0]]),
    "map": small_multiples(),
    "one panel": small_multiples(1, 1),
    "hostile": replace_title(figure("bars"), HOSTILE),
}
every_kind = pytest.mark.parametrize("made", FIGURES.values(), ids=FIGURES.keys())


@every_kind
def test_every_kind_of_figure_is_five_inches_wide_and_not_blank_on_light_and_dark_pages(made):
    light, dark = (Image.open(io.BytesIO(png(lambda: draw(made), look))).convert("RGB") for look in (LIGHT, DARK))
    assert light.width == 5 * 160
    assert 200 < light.height < 1500
    assert light.size == dark.size
    for image, ground, ink in ((light, (255, 255, 255), "#1F2328"), (dark, (13, 17, 23), "#E6EDF3")):
        assert image.getpixel((0, 0)) == image.getpixel((799, image.height - 1)) == ground
        share = np.mean(np.asarray(image) != ground)
        assert 0.01 < share < 0.9
        near = np.abs(np.asarray(image, dtype=int) - [int(ink[at : at + 2], 16) for at in (1, 3, 5)]).max(axis=2)
        assert (near < 8).sum() > 200


@every_kind
def test_letters_are_nine_pixels_high_on_a_phone(made):
    sizes = []

    def drawn():
        picture = draw(made)
        sizes.extend(text.get_fontsize() for text in picture.findobj(Text) if text.get_text())
        return picture

    png(drawn)
    assert min(sizes) * 380 / (5 * 72) >= 9


def test_colours_of_a_heatmap_meet_at_zero_where_values_lie_on_both_sides():
    image = draw(heatmap([[-0.2, 0.6]])).axes[0].images[0]
    assert image.get_clim() == (-0.6, 0.6)
    assert image.get_cmap().name == "RdBu_r"
    image = draw(heatmap([[0.2, 0.6]])).axes[0].images[0]
    assert image.get_clim() == (0.2, 0.6)
    assert image.get_cmap().name == "cividis"


def test_undefined_cells_of_a_heatmap_are_left_to_the_hatched_ground_and_explained():
    picture = draw(heatmap([[0.1, None], [0.3, 0.4]]))
    assert picture.axes[0].images[0].get_array().mask.tolist() == [[False, True], [False, False]]
    assert picture.axes[0].patch.get_hatch()
    assert [text.get_text() for text in picture.legends[0].get_texts()] == ["undefined"]
    whole = draw(heatmap([[0.1, 0.2]]))
    assert not whole.legends
    assert not whole.axes[0].patch.get_hatch()


def test_few_values_stand_in_their_cells_and_many_do_not():
    written = [text.get_text() for text in draw(heatmap([[0.123, -0.004], [0.9, None]])).axes[0].texts]
    assert written == ["0.12", "0.00", "0.90"]
    assert not draw(heatmap([[at / 13 for at in range(13)]])).axes[0].texts


def test_a_map_has_a_panel_per_layer_and_names_each_group_once():
    picture = draw(small_multiples(panels=8, groups=6))
    shown = [axes for axes in picture.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == [f"layer {at}" for at in range(8)]
    assert all(len(axes.lines) == 6 for axes in shown)
    assert [text.get_text() for text in picture.legends[0].get_texts()] == [f"genre {at}" for at in range(6)]
    first, last = shown[0].lines[0], shown[-1].lines[0]
    assert (first.get_color(), first.get_marker()) == (last.get_color(), last.get_marker())
    assert last.get_ydata().tolist() == [0.5, 7, -1.0]


def test_intervals_of_several_courses_stand_side_by_side_at_a_layer():
    lines = draw(families()).axes[0].containers
    at_layer_3 = [container.lines[0].get_xdata()[3] for container in lines]
    assert at_layer_3 == sorted(set(at_layer_3))
    assert np.mean(at_layer_3) == pytest.approx(3)
    assert max(at_layer_3) - min(at_layer_3) < 0.5


def test_verdicts_at_a_glance_have_a_mark_for_each_case_best_first():
    run = run_of(*["refuted"] * 3, *["supported"] * 20, None)
    axes = verdicts(sections(run)).axes[0]
    marks = [(line.get_ydata()[0], line.get_xdata()[0], line.get_marker()) for line in axes.lines]
    expected = ["o"] * 20 + ["X"] * 3
    assert marks == [(at // 18, at % 18, mark) for at, mark in enumerate(expected)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["quality", ""]


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


def test_long_numbers_below_a_panel_of_the_overview_are_few_for_they_would_touch():
    of = declaration("llama-keep25%-batch64", low=-0.005)
    made = record(of, "supported", unit="NDCG@10", estimate=0.0041, low=0.0014, high=0.0067)
    ruling = run_of("supported").decisions[0].ruling
    axes = overview([Decision("quality", of.case, "supported", ruling, of, made)]).axes[0]
    left, right = axes.get_xlim()
    assert 3 <= sum(left <= place <= right for place in axes.get_xticks()) <= 4


# -- the terminal


@pytest.mark.parametrize("colour", [False, True])
def test_the_terminal_table_fits_and_names_decision_and_path(colour):
    text = format_summary(run_of("supported", "refuted", None), "out/REPORT.md", 100, colour)
    assert ("\x1b[" in text) is colour
    table = text.split("- quality")[0]
    assert colour or max(map(len, table.splitlines())) <= 100
    for words in ("case-0", "✕ refuted", "91.2 to 95.0", "≥ 88 %", "fail, new", "report out/REPORT.md"):
        assert words in text


@pytest.mark.parametrize("colour", [False, True])
def test_hostile_names_move_nothing_in_the_terminal(colour):
    of = declaration("\x1b[2Ja\n::error::b", claim="c\r\n::add-mask::d")
    words = {"unit": "\x1b[31m", "sentence": "s\n::error::e", "reason": "r\n##[error]r"}
    run = Run(
        replace(CONTEXT, defects=["\n::error::f"], accepted=["\n::error::g"]),
        settle({(of.claim, of.case): of}, [record(of, "invalid", **words)], {}, [], demanded=True),
    )
    shown = format_summary(run, "out/REPORT.md", 200, colour)
    assert not re.search(r"^\s*(::|##\[)", re.sub(r"\x1b\[[0-9;]*m", "", shown), re.MULTILINE)
    assert "\x1b[2J" not in shown


# -- for other programs


def every_ruling():
    """One case for each way in which the gate rules, an undeclared test, and a failed instrument."""
    cases = ["pass", "fail", "warn", "invalid", "missing", "skipped", "improved"]
    declared = {("quality", case): declaration(case) for case in cases}
    declared["quality", "warn"] = declaration("warn", on_inconclusive="warn")
    found = {
        "pass": "refuted",
        "fail": "refuted",
        "warn": "inconclusive",
        "invalid": "invalid",
        "improved": "supported",
    }
    records = [record(declared["quality", case], outcome) for case, outcome in found.items()]
    before = {"pass": "refuted", "fail": "supported", "warn": "supported", "improved": "refuted"}
    accepted = {
        ("quality", case): Accepted(verdict, declared["quality", case].digest, "Ada", "c0", "d", "cpu")
        for case, verdict in before.items()
    }
    tests = [TestOutcome(f"t[{case}]", "quality", case, "passed", "", "validation/test_q.py", 12) for case in found]
    tests.append(TestOutcome("t[skipped]", "quality", "skipped", "skipped", "needs CUDA", "validation/test_q.py", 12))
    context = replace(CONTEXT, other_failures=["validation/instruments/test_a.py::test_b"])
    return Run(context, settle(declared, records, accepted, tests, demanded=True), tests)


REQUIRED = {  # of the CTRF schema, specification 1.0.0
    "report": {"results", "reportFormat", "specVersion"},
    "results": {"tool", "summary", "tests"},
    "summary": {"tests", "passed", "failed", "skipped", "pending", "other", "start", "stop"},
    "test": {"name", "status", "duration"},
}
KNOWN = {  # keys that we use; the schema knows no others but optional ones that we leave out
    "report": REQUIRED["report"],
    "results": REQUIRED["results"] | {"environment", "extra"},
    "summary": REQUIRED["summary"],
    "test": REQUIRED["test"] | {"suite", "message", "rawStatus", "filePath", "line", "extra"},
    "environment": {"reportName", "commit", "testEnvironment", "healthy", "extra"},
}


def read_ctrf(run):
    """The parsed file of a run, held against the schema."""
    report = json.loads(ctrf(run))
    results = report["results"]
    parts = [("report", report), ("results", results), ("summary", results["summary"])]
    for name, part in parts + [("test", test) for test in results["tests"]]:
        assert REQUIRED[name] <= set(part) <= KNOWN[name]
    assert (report["reportFormat"], report["specVersion"]) == ("CTRF", "1.0.0")
    assert set(results["environment"]) <= KNOWN["environment"]
    assert results["tool"]["name"]
    assert all(type(number) is int for number in results["summary"].values())
    for test in results["tests"]:
        assert test["name"]
        assert test["status"] in ("passed", "failed", "skipped", "pending", "other")
        assert type(test["duration"]) is int
        assert type(test.get("line", 1)) is int
        assert test.get("suite", ["x"])
    statuses = [test["status"] for test in results["tests"]]
    assert results["summary"]["tests"] == len(statuses)
    assert all(results["summary"][status] == statuses.count(status) for status in set(statuses))
    return report


def test_ctrf_has_the_required_keys_and_the_status_follows_the_gate():
    results = read_ctrf(every_ruling())["results"]
    assert [(test["name"], test["status"]) for test in results["tests"]] == [
        ("the run as a whole", "failed"),
        ("quality[pass]", "passed"),
        ("quality[fail]", "failed"),
        ("quality[warn]", "other"),
        ("quality[invalid]", "failed"),
        ("quality[missing]", "failed"),
        ("quality[skipped]", "skipped"),
        ("quality[improved]", "passed"),
    ]
    summary = results["summary"]
    assert [summary[status] for status in ("passed", "failed", "skipped", "pending", "other")] == [2, 4, 1, 0, 1]
    assert (summary["start"], summary["stop"]) == (1769853600000, 1769853600000 + 754000)  # 2026-01-31 10:00 in UTC
    assert results["tests"][2]["extra"] == {
        "claim": "quality",
        "case": "fail",
        "verdict": "refuted",
        "gate": "fail",
        "accepted": "supported",
        "reason": "refuted, accepted as supported",
        "sentence": "refuted: keeps 93.1 % of NDCG@10",
        "unit": "share of NDCG@10",
        "estimate": 0.9312,
        "interval": [0.9121, 0.9503],
    }
    assert (results["tests"][2]["filePath"], results["tests"][2]["line"]) == ("validation/test_q.py", 12)
    assert "test_b failed" in results["tests"][0]["message"]
    assert results["environment"]["healthy"] is False


def test_ctrf_of_a_good_run_has_no_failure_and_names_what_was_left_out():
    declared = {("quality", "a"): declaration("a"), ("quality", "b"): declaration("b")}
    run = Run(CONTEXT, settle(declared, [record(declared["quality", "a"])], {}, [], demanded=False))
    results = read_ctrf(run)["results"]
    assert [(test["name"], test["status"]) for test in results["tests"]] == [
        ("quality[a]", "passed"),
        ("quality[b]", "skipped"),
    ]
    assert results["environment"]["healthy"] is True
    assert ctrf(run) == ctrf(run)


def test_ctrf_keeps_hostile_names_letter_by_letter():
    whole, test = read_ctrf(hostile_run())["results"]["tests"]
    assert test["extra"]["case"] == test["extra"]["claim"] == test["suite"][0] == HOSTILE
    assert HOSTILE in whole["message"]


def test_annotations_say_the_most_urgent_first_and_where():
    place = "file=validation/test_q.py,line=12"
    assert commands(every_ruling()) == [
        "::error title=claims::claims count only when all other tests pass: "
        "validation/instruments/test_a.py::test_b failed",
        f"::error title=quality[invalid],{place}::"
        "invalid: keeps 93.1 %25 of NDCG@10 (the deciding interval lies inside)",
        "::error title=quality[missing]::"
        "no record arrived: its test was renamed, removed, deselected or stopped, or its worker died",
        f"::error title=quality[fail],{place}::refuted: keeps 93.1 %25 of NDCG@10 (refuted, accepted as supported)",
        f"::warning title=quality[warn],{place}::"
        "inconclusive: keeps 93.1 %25 of NDCG@10 (inconclusive, accepted as supported; declared to warn only)",
        f"::warning title=quality[improved],{place}::"
        "supported: keeps 93.1 %25 of NDCG@10 (supported, accepted as refuted; accept it with --accept-verdicts)",
    ]


def test_the_tenth_annotation_says_how_many_more_there_are():
    ten, eleven = run_of(*["refuted"] * 10), run_of(*["refuted"] * 11)
    assert len(commands(ten)) == 10
    assert "title=quality[case-9]::" in commands(ten)[-1]
    assert len(commands(eleven)) == 10
    assert commands(eleven)[-1] == "::error title=claims::and 2 more; the report names them"
    improved = run_of(*["supported"] * 12, accepted="refuted")
    assert commands(improved)[-1] == "::warning title=claims::and 3 more; the report names them"


def test_annotations_are_escaped_as_github_does():
    of = declaration("50%,a:b", claim="q\r\n::error::x")
    words = {"sentence": "100 %, a: b\n::error::c\r", "reason": "r"}
    run = Run(CONTEXT, settle({(of.claim, of.case): of}, [record(of, "refuted", **words)], {}, [], demanded=True))
    (line,) = commands(run)
    assert line == (
        "::error title=q%0D%0A%3A%3Aerror%3A%3Ax[50%25%2Ca%3Ab]::"
        "100 %25, a: b%0A::error::c%0D (refuted, not accepted yet)"
    )
    assert all(len(command.splitlines()) == 1 for command in commands(hostile_run()))
