"""The audit finds what was planted, and stays quiet about what is sound."""

import json
from pathlib import Path

import numpy as np
import pytest

from layerwise.data.audit import audit
from layerwise.data.interactions import Interactions
from layerwise.data.readers import load_interactions
from layerwise.data.splits import global_time_split, leave_one_out

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def audit_of(*events, name="made", **settings):
    users, items, times = zip(*events, strict=True)
    return audit(leave_one_out(Interactions.from_columns(name, users, items, times, **settings)))


def random_table(tied, sort_ties, name="made"):
    """60 users with 10 of 40 items each, in pairs of equal time; sorted by item within a pair or not."""
    random = np.random.default_rng(0)
    rows = []
    for user in range(60):
        pairs = random.permutation(40)[:10].reshape(5, 2)
        pairs = np.sort(pairs, axis=1) if sort_ties else pairs
        rows += [
            (user, item, 2 * t + (0 if tied else i)) for t, pair in enumerate(pairs) for i, item in enumerate(pair)
        ]
    return Interactions.from_columns(name, *zip(*rows, strict=True))


def test_counts_by_hand():
    found = audit_of(
        (1, 5, 0), (1, 6, 1), (1, 7, 2), (1, 5, 3),  # the target repeats an earlier item
        (2, 6, 4), (2, 5, 4), (2, 8, 4),  # one distinct time; nobody trains on item 8
    )  # fmt: skip

    assert (found.users, found.items, found.events) == (2, 4, 7)
    assert (found.duplicates, found.seen_targets, found.test_targets) == (1, 1, 2)
    assert found.tied_events == 3 / 7
    assert (found.tied_pairs, found.ascending_ties) == (2, 1 / 2)
    assert found.single_time_users == 1
    assert found.tied_targets == 1 / 2
    assert found.unseen_target_items == 1
    assert found.expected is None


def test_sound_data_has_no_error_sentence():
    found = audit(leave_one_out(random_table(tied=False, sort_ties=False)))

    assert found.ascending_ties is None
    assert not any(sentence.startswith("error") for sentence in found.sentences())


def test_ties_sorted_by_item_are_an_error_that_names_the_remedy():
    found = audit(leave_one_out(random_table(tied=True, sort_ties=True)))

    assert found.has_sorted_ties
    assert "error: 100.0% of 300 neighbours of equal time" in found.sentences()[0]
    assert "shuffled_ties(seed)" in found.sentences()[0]


def test_ties_in_natural_order_and_shuffled_ties_are_no_error():
    sorted_ties = random_table(tied=True, sort_ties=True)

    assert not audit(leave_one_out(random_table(tied=True, sort_ties=False))).has_sorted_ties
    assert not audit(leave_one_out(sorted_ties.shuffled_ties(seed=3))).has_sorted_ties


def test_targets_in_the_history_are_an_error_that_names_the_remedy():
    sentences = audit_of((1, 5, 0), (1, 6, 1), (1, 7, 2), (1, 5, 3)).sentences()

    assert sentences[0].startswith("error: 1 of 1 test targets already occur in their history")
    assert "without_repeats()" in sentences[0]


@pytest.mark.parametrize("name", ["ml-100k", "ml-100k+ties-shuffled-1"])
def test_other_counts_under_a_known_name_are_an_error(name):
    found = audit(leave_one_out(random_table(tied=False, sort_ties=False, name=name)))

    assert not found.is_expected
    assert found.sentences()[0].startswith(f"error: {name} is known with 943 users, 1682 items, 100000 events")


def test_dropped_rows_and_users_without_a_target_are_said():
    rows = [(user, item, 10 * user + item) for user in range(5) for item in range(6)]
    table = Interactions.from_columns("made", *zip(*rows, strict=True), dropped={"rows without user_id": 4})
    split = global_time_split(Interactions.from_columns("made", [0] * 9 + [1], range(10), range(10)), 0.3, 0.6)

    assert "left out while reading: 4 rows without user_id" in audit(leave_one_out(table)).sentences()
    assert "users without a target: 1 (nothing before the test event)" in audit(split).sentences()


def test_shares_of_ties_are_unknown_where_only_the_order_is_known():
    found = audit_of((1, 5, 0), (1, 6, 1), (1, 7, 2), has_clock=False)

    assert (found.tied_events, found.tied_targets) == (None, None)
    assert any("an unknown share of events" in sentence for sentence in found.sentences())


def test_audit_is_plain_finite_json():
    found = audit(leave_one_out(random_table(tied=False, sort_ties=False)))

    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["users"] == 60


def test_ml_100k_is_the_known_variant_with_its_known_ties():
    """75.8 % of rows share (user, time), 44 % of users' last time covers more than one item: measured before."""
    try:
        found = audit(leave_one_out(load_interactions("ml-100k")))
    except FileNotFoundError as error:
        pytest.skip(str(error))

    assert found.expected == (943, 1682, 100000)
    assert found.is_expected
    assert found.tied_events == pytest.approx(0.758, abs=5e-4)
    assert found.tied_targets == pytest.approx(0.44, abs=5e-3)
    assert not any(sentence.startswith("error") for sentence in found.sentences())


def test_amazon_ties_are_found_sorted_and_cured_by_shuffling():
    folder = SHARED / "amazon14-toys"
    if not folder.is_dir():
        pytest.skip("needs the shared data set amazon14-toys beside the repository")
    table = load_interactions(folder)

    assert audit(leave_one_out(table)).ascending_ties == 1.0
    assert not audit(leave_one_out(table.shuffled_ties(seed=0))).has_sorted_ties
