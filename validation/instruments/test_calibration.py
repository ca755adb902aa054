"""The calibration finds the error rates that theory gives; an instrument that errs more often exceeds its limits."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from layerwise.statistics import MeanDifference, judge, retained
from reports import calibration, error_rates
from reports.calibration_page import Calibration, Left, page, picture
from reports.declarations import read_declarations
from reports.error_rates import CaseRates, Planted, Rate, TimingRates, by_claim, case_rates, timing_rates
from reports.evidence import write_evidence
from reports.judged import judged
from reports.ledger import settle
from reports.publish import publish
from reports.records import Record
from reports.replay import read_part
from reports.run import Context, Run

CLAIMS = """
[claims.quality]
statement = "It keeps 88 % of NDCG@10."
source = "Table 2"
refuted_if = "the interval lies below 88 %"
effect = "retention"
alpha = 0.01
on_inconclusive = "fail"
cases.a = {tiers = ["quick"], at_least = 0.88, reason = "as claimed"}
cases.tie = {tiers = ["quick"], at_least = 0.88, reason = "as claimed"}

[claims.bands]
statement = "The top matters more."
source = "H1"
refuted_if = "the interval lies below 0"
effect = "mean-difference"
alpha = 0.1
on_inconclusive = "warn"
cases.a = {tiers = ["quick"], above = 0.0, reason = "a direction"}
"""


def pairs(noise):
    """Five seeds of 300 users; the compact models keep 90 %."""
    full = np.random.default_rng(0).random((5, 300))
    return 0.9 * full + noise * np.random.default_rng(1).standard_normal((5, 300)), full


@pytest.fixture
def root(tmp_path):
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "claims.toml").write_text(CLAIMS, encoding="utf-8")
    return tmp_path


@pytest.fixture
def declared(root):
    return read_declarations(root / "validation" / "claims.toml").declared("quick")


@pytest.fixture
def report(root, declared):
    """A published report with evidence for each of the three cases."""
    compact, full = pairs(noise=0.3)
    effects = {
        ("quality", "a"): retained(compact, full, "NDCG@10"),
        ("quality", "tie"): retained(np.ones((5, 300)), np.ones((5, 300)), "NDCG@10"),
        ("bands", "a"): MeanDifference(np.random.default_rng(2).standard_normal((1, 300)), "NDCG@10"),
    }
    folder, records = root / "report", []
    for key, effect in effects.items():
        of = declared[key]
        blank = Record(*key, "quick", "supported", "", "", "", of.alpha, of.digest)
        blank.evidence.update(write_evidence(folder, effect))
        records.append(judged(blank, effect, of))
    context = Context("quick", "c0ffee", False, "2026-01-31 10:00:00+00:00", 1.0)
    publish(Run(context, settle(declared, records, {}, [], demanded=True)), folder)
    return folder


@pytest.fixture
def few_worlds(monkeypatch):
    monkeypatch.setattr(calibration, "WORLDS", 200)
    monkeypatch.setattr(calibration, "LEAST", 200)
    monkeypatch.setattr(error_rates, "PLANTED_WORLDS", 20)


def twin_of(root):
    return json.loads((root / "reports" / "generated" / "calibration" / "calibration.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("events", "trials"), [(0, 1000), (10, 1000), (3, 4)])
def test_upper_limit_is_the_rate_at_which_so_few_events_have_a_chance_of_5_percent(events, trials):
    assert stats.binom.cdf(events, trials, Rate(events, trials).upper) == pytest.approx(0.05)


def test_upper_limit_of_no_event_is_known_in_closed_form_and_of_nothing_else_is_1():
    assert Rate(0, 1000).upper == pytest.approx(1 - 0.05 ** (1 / 1000))
    assert Rate(7, 7).upper == 1
    assert Rate(0, 0).upper == 1


def test_one_normal_sample_has_the_rates_of_the_t_test_at_both_alphas(declared):
    """One seed and normal values: the test is exact, so that false verdicts come at alpha, above and below."""
    effect = MeanDifference(np.random.default_rng(0).standard_normal((1, 800)), "x")

    rates = case_rates("quick", declared["bands", "a"], effect, alpha=0.2, worlds=4000)

    for count, alpha in ((rates.supported.events, 0.2), (rates.refuted.events, 0.2), (sum(rates.split_supported), 0.1)):
        assert abs(count - 4000 * alpha) < 4 * np.sqrt(4000 * alpha * (1 - alpha))


def test_planted_loss_of_one_and_a_half_margins_leaves_82_percent_and_is_found_where_noise_is_small(declared):
    compact, full = pairs(noise=0.02)

    planted = case_rates("quick", declared["quality", "a"], retained(compact, full, "x"), 0.01, worlds=1).planted

    assert (planted.unsupported.share, planted.red.share, planted.refuted.share) == (1, 1, 1)
    assert planted.more < 0.1


def test_planted_loss_in_large_noise_turns_the_gate_red_undecided_and_asks_for_a_larger_sample(declared):
    """By hand: a standard error of 1.5 / sqrt(1500) / .5 = .077 finds (2.58 + .84) * .077 at best, and .06 is asked."""
    compact, full = pairs(noise=1.5)

    planted = case_rates("quick", declared["quality", "a"], retained(compact, full, "x"), 0.01, worlds=1).planted

    assert planted.red.share > 0.95
    assert planted.refuted.share < 0.5
    assert ((2.58 + 0.84) * 0.077 / 0.06) ** 2 < planted.more < 100


def test_without_a_loss_a_claim_that_fails_outside_raises_no_alarm_where_one_that_fails_undecided_does(declared):
    """By hand: with a standard error of .07 (noise 1.5) a deciding interval reaches below 88 %, an estimate rarely."""
    compact, full = pairs(noise=1.5)
    strict, outside = declared["quality", "a"], replace(declared["quality", "a"], on_inconclusive="fail-outside")

    alarms = [case_rates("quick", of, retained(compact, full, "x"), 0.01, 1).planted.alarm for of in (strict, outside)]

    assert alarms[0].share > 0.5
    assert alarms[1].share < 0.2


def test_a_direction_has_no_margin_and_no_planted_loss(declared):
    effect = MeanDifference(np.random.default_rng(0).standard_normal((2, 30)), "x")

    assert case_rates("quick", declared["bands", "a"], effect, 0.1, worlds=1).planted is None


def test_a_claim_that_another_tier_judges_by_now_is_calibrated_still_at_that_tiers_alpha(root, report, few_worlds):
    claims = root / "validation" / "claims.toml"
    before, _ = calibration.planned([read_part(report)], claims)
    quality, bands = CLAIMS.split("[claims.bands]")
    more = "".join(f'cases.{case} = {{tiers = ["full"], above = 0.0, reason = "a direction"}}\n' for case in "bcd")
    claims.write_text(f"{quality}[claims.bands]{bands.replace('quick', 'layers')}{more}", encoding="utf-8")

    work, _ = calibration.planned([read_part(report)], claims)

    assert [(w.declaration, w.alpha) for w in work] == [(w.declaration, w.alpha) for w in before]


def test_a_declaration_that_changed_after_the_run_is_calibrated_as_it_is_now(root, report, few_worlds):
    claims = root / "validation" / "claims.toml"
    claims.write_text(CLAIMS.replace('on_inconclusive = "warn"', 'on_inconclusive = "fail"'), encoding="utf-8")

    work, _ = calibration.planned([read_part(report)], claims)

    assert [w.declaration.on_inconclusive for w in work if w.declaration.claim == "bands"] == ["fail"]


def test_a_case_that_is_no_longer_declared_is_named_as_left_out(root, report):
    claims = root / "validation" / "claims.toml"
    claims.write_text(CLAIMS.replace("cases.tie =", "cases.other ="), encoding="utf-8")

    _, left = calibration.planned([read_part(report)], claims)

    assert Left("quick", "quality", "tie", "no longer declared in claims.toml") in left


def rates(case, false, worlds=4000, red=200, claim="quality"):
    supported = tuple(index < false for index in range(worlds))
    planted = Planted(Rate(200, 200), Rate(red, 200), Rate(10, 200), Rate(0, 200), 3.0)
    none = Rate(0, worlds)
    return CaseRates("quick", claim, case, Rate(false, worlds), none, supported, (False,) * worlds, planted)


def test_claim_pools_the_tests_of_its_cases_and_is_wrong_in_runs_where_any_case_is():
    (claim,) = by_claim([rates("a", false=30), rates("b", false=50)], [])

    assert claim.supported == Rate(80, 8000)
    assert claim.any_supported == Rate(50, 4000)  # the same worlds are wrong in both
    assert claim.planted.red == Rate(400, 400)


@pytest.mark.parametrize(
    ("cases", "timing", "complaint"),
    [
        ([rates("a", false=40)], None, None),
        ([rates("a", false=60)], None, "gives false support in 1.50 % of 4,000"),
        ([rates("a", false=0, worlds=100)], None, "may be up to 2.95 %"),
        ([rates("a", false=0, red=150)], None, "turns the gate red in 75 %"),
        ([rates("a", false=0)], TimingRates(Rate(30, 1000), Rate(0, 1000), 1.02, 10, 4, {}), "faster than its copy"),
    ],
    ids=["kept", "too-often", "too-few-worlds", "loss-not-found", "timing"],
)
def test_exceeded_limits_are_named(cases, timing, complaint):
    problems = Calibration(by_claim(cases, {("quick", "quality")}), [], timing).problems()

    assert len(problems) == bool(complaint)
    assert complaint is None or complaint in problems[0]


def test_a_claim_that_only_warns_when_undecided_need_not_turn_the_gate_red():
    assert not Calibration(by_claim([rates("a", false=0, red=20)], []), [], None).problems()


def test_page_shows_rates_limits_timing_and_what_is_left_out():
    timing = TimingRates(Rate(5, 1000), Rate(4, 1000), 1.0012, 10, 4, {"device": "cpu"})
    left = [Left("quick", "agreement", case, "five numbers") for case in ("a", "b")]

    text = page(Calibration(by_claim([rates("a", false=40)], []), left, timing, {"code": "c0ffee (clean)"}))

    assert "| code | c0ffee (clean) |" in text
    assert "Every rate keeps its limit." in text
    assert "| quality | quick | 1 | 4,000 | 1.00 % | 1.30 % |" in text
    assert "faster in 0.50 % of 1,000 runs" in text
    assert "| agreement | quick | 2 | five numbers |" in text


def test_picture_has_a_row_per_claim_from_rate_to_limit():
    (series,) = picture(Calibration(by_claim([rates("a", false=40)], []), [], None))["series"]

    assert series["x"] == ["quality, quick"]
    assert series["y"] == series["low"] == [1.0]
    assert series["high"] == [pytest.approx(100 * Rate(40, 4000).upper)]


def test_report_is_calibrated_from_its_evidence_with_what_is_exact_left_out(root, report, few_worlds, capsys):
    code = calibration.main([str(report), "--root", str(root)])

    twin = twin_of(root)
    assert code == 1  # bands is declared at alpha .1, ten times what is allowed
    assert [claim["claim"] for claim in twin["claims"]] == ["quality", "bands"]
    assert [entry["case"] for entry in twin["not calibrated"]] == ["tie"]
    assert {"code", "evidence of the quick tier", "numpy", "scipy"} <= twin["made"].keys()
    assert "bands (quick)" in capsys.readouterr().out


def test_same_evidence_gives_the_same_bytes_and_a_second_report_with_it_adds_nothing(root, report, few_worlds):
    calibration.main([str(report), "--root", str(root)])
    first = twin_of(root)
    calibration.main([str(report), str(report), "--root", str(root)])

    assert twin_of(root) == first


def test_verdicts_that_come_too_easily_exceed_the_limit(root, report, few_worlds, monkeypatch):
    monkeypatch.setattr(error_rates, "judge", lambda effect, region, alpha: judge(effect, region, 4 * alpha))
    calibration.main([str(report), "--root", str(root)])

    assert any("quality (quick): a test" in problem for problem in twin_of(root)["problems"])


def test_without_a_report_nothing_is_calibrated(root, capsys):
    assert calibration.main(["--root", str(root)]) == 2
    assert "holds no report" in capsys.readouterr().err


def test_damaged_evidence_is_refused(root, report, capsys):
    for path in (report / "evidence").iterdir():
        path.write_bytes(b"")

    assert calibration.main([str(report), "--root", str(root)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_timing_rates_count_runs_whose_interval_leaves_1(tmp_path):
    noise = np.array([[1.0, 1.01, 0.99, 1.02], [1.0, 1.01, 0.99, 1.02], [1.0, 1.01, 0.99, 1.02]])
    times = {"full_ms": [[2.0], [1.0], [0.5]] * noise, "compact_ms": np.ones((3, 4)), "calls": np.array(4)}
    np.savez(tmp_path / "t.npz", **times, setting=np.array('{"clock": "wall"}'))

    found = timing_rates(tmp_path / "t.npz")

    assert (found.faster, found.slower, found.setting) == (Rate(1, 3), Rate(1, 3), {"clock": "wall"})
    assert found.factor == pytest.approx(np.exp(np.log(noise).mean()))
