"""Noise in a log: as much as was asked for, drawn as training events are, never what a user has, never a target."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.data.interactions import Interactions
from layerwise.data.noise import replaced_share, with_noisy_events, with_noisy_training
from layerwise.data.splits import leave_last_out

SHARES = st.floats(0, 1)


def random_split(seed, users=12, items=40, targets=2):
    rng = np.random.default_rng(seed)
    rows = [(user, item) for user in range(users) for item in rng.permutation(items)[: rng.integers(6, 12)]]
    table = Interactions.from_columns("random", *zip(*rows, strict=True), range(len(rows)))
    return leave_last_out(table, targets)


def split_of(*sequences):
    rows = [(user, item) for user, sequence in enumerate(sequences) for item in sequence]
    return leave_last_out(Interactions.from_columns("given", *zip(*rows, strict=True), range(len(rows))), 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 20), SHARES, st.integers(0, 3))
def test_a_replacement_is_an_item_that_its_user_has_nowhere_and_comes_once(data, share, seed):
    split = random_split(data)
    noisy = with_noisy_events(split, share, seed)

    for user in range(split.table.num_users):
        true, read = split.table.items_of(user), noisy.table.items_of(user)
        assert not np.isin(read[read != true], true).any()
        assert len(np.unique(read)) == len(read)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 20), SHARES, SHARES, st.integers(0, 3))
def test_a_larger_share_replaces_the_same_events_by_the_same_items_and_more(data, one, other, seed):
    split = random_split(data)
    few, many = (with_noisy_events(split, share, seed).table.items for share in sorted((one, other)))
    replaced = few != split.table.items

    np.testing.assert_array_equal(few[replaced], many[replaced])


def test_targets_users_and_times_stay():
    split = random_split(0)
    noisy = with_noisy_events(split, 1.0, 0)

    assert (noisy.table.items != split.table.items).all()
    assert noisy.test is split.test
    assert noisy.validation is split.validation
    assert noisy.table.users is split.table.users
    assert noisy.table.timestamps is split.table.timestamps


def test_no_noise_changes_nothing_and_leaves_its_source_alone():
    split = random_split(0)
    before = split.digest()

    assert with_noisy_events(split, 0.0, 0).digest() == before
    assert with_noisy_events(split, 0.5, 0).digest() != before
    assert split.digest() == before


def test_the_seed_decides_which_events_and_by_what():
    split = random_split(0)
    one, same, other = (with_noisy_events(split, 0.5, seed).table.items for seed in (0, 0, 1))

    np.testing.assert_array_equal(one, same)
    assert ((one != split.table.items) != (other != split.table.items)).any()
    both = (one != split.table.items) & (other != split.table.items)
    assert (one[both] != other[both]).any()


def test_about_the_share_of_all_events_is_replaced():
    split = random_split(0, users=400)
    events = split.table.num_events
    found = int((with_noisy_events(split, 0.2, 0).table.items != split.table.items).sum())

    assert abs(found - 0.2 * events) < 4 * np.sqrt(0.2 * 0.8 * events)


def test_items_come_as_often_as_in_training_and_never_from_outside_it():
    """Of what user 0 does not have, item 4 is in nine training sequences, item 5 in one, and item 9 in none."""
    split = split_of((0, 1, 2), *[(4, 2, 9)] * 9, (5, 2, 9), (6, 2, 9), (7, 2, 9))
    drawn = [with_noisy_events(split, 0.4, seed).table.items_of(0) for seed in range(500)]
    single = [int(split.table.item_ids[read[read > 2]][0]) for read in drawn if (read > 2).sum() == 1]

    assert set(single) == {4, 5, 6, 7}
    assert abs(np.mean(np.array(single) == 4) - 9 / 12) < 4 * np.sqrt(0.75 * 0.25 / len(single))


def test_noise_in_training_leaves_validation_and_test_events_alone():
    split = random_split(3)
    noisy = with_noisy_training(split, 1.0, 0)

    for true, read in zip(split.train_sequences(), noisy.train_sequences(), strict=True):
        assert (true != read).all()
    for asked in (split.validation, split.test):
        np.testing.assert_array_equal(noisy.table.items[asked.positions], asked.items)


def test_both_kinds_of_noise_agree_on_the_training_events():
    split = random_split(3)
    anywhere, training = with_noisy_events(split, 0.5, 1), with_noisy_training(split, 0.5, 1)

    for one, other in zip(anywhere.train_sequences(), training.train_sequences(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_replaced_share_counts_the_last_events_of_all_histories_together():
    true = [np.array([1, 2, 3, 4]), np.array([5])]
    read = [np.array([9, 2, 9, 9]), np.array([5])]

    assert replaced_share(read, true, last=2) == 2 / 3
    assert replaced_share(read, true, last=10) == 3 / 5


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        with_noisy_events(random_split(0), share, 0)


def test_a_user_who_has_nearly_everything_is_named():
    with pytest.raises(ValueError, match="user '0' needs 3 items that they do not have, and training knows 0"):
        with_noisy_events(split_of((0, 1, 2), (0, 1, 2)), 1.0, 0)
