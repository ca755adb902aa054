"""Splits: what trains never follows what is tested, and every target has its true prefix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.data.interactions import Interactions
from layerwise.data.readers import load_interactions
from layerwise.data.splits import global_time_split, leave_last_out, leave_one_out


def table_of(*sequences, times=None):
    """Table in which user u has the items of ``sequences[u]``, at times 0, 1, ... unless given."""
    times = times or [range(len(sequence)) for sequence in sequences]
    rows = [
        (u, item, time) for u, sequence in enumerate(sequences) for item, time in zip(sequence, times[u], strict=True)
    ]
    users, items, moments = zip(*rows, strict=True)
    return Interactions.from_columns("made", users, items, moments)


@st.composite
def tables(draw):
    """Tables of 2 to 5 users with 7 to 12 events each, many of them at equal times."""
    lengths = draw(st.lists(st.integers(7, 12), min_size=2, max_size=5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sequences = [random.permutation(12)[:length].tolist() for length in lengths]
    return table_of(*sequences, times=[random.integers(0, 20, length).tolist() for length in lengths])


def with_witness(table):
    """The table and one more user with an event at each time, who has a target in every period."""
    users = [*table.user_ids[table.users], *["witness"] * 20]
    items = [*table.item_ids[table.items], *map(str, range(20))]
    return Interactions.from_columns("made", users, items, [*table.timestamps, *range(20)])


def test_leave_one_out_tests_the_last_event_and_validates_the_one_before():
    split = leave_one_out(table_of([0, 1, 2, 3], [3, 2, 1]))

    assert [sequence.tolist() for sequence in split.train_sequences()] == [[0, 1], [3]]
    assert split.validation.items.tolist() == [2, 2]
    assert split.test.items.tolist() == [3, 1]
    assert [history.tolist() for history in split.histories(split.validation)] == [[0, 1], [3]]
    assert [history.tolist() for history in split.histories(split.test)] == [[0, 1, 2], [3, 2]]
    assert split.name == "leave-one-out"


def test_last_five_are_each_ranked_from_their_own_prefix_and_never_trained_on():
    split = leave_last_out(table_of([0, 1, 2, 3, 4, 5, 6, 7]), targets=5)

    assert [sequence.tolist() for sequence in split.train_sequences()] == [[0, 1]]
    assert split.validation.items.tolist() == [2]
    assert split.test.users.tolist() == [0] * 5
    assert split.test.items.tolist() == [3, 4, 5, 6, 7]
    assert [len(history) for history in split.histories(split.test)] == [3, 4, 5, 6, 7]


def test_equal_times_keep_file_order_in_the_split():
    split = leave_one_out(table_of([5, 3, 4, 1], times=[[0, 7, 7, 7]]))

    ids = split.table.item_ids
    assert (ids[split.validation.items[0]], ids[split.test.items[0]]) == ("4", "1")


@pytest.mark.parametrize(("targets", "needed"), [(1, 3), (5, 7)])
def test_user_with_too_few_events_is_named_with_the_remedy(targets, needed):
    table = Interactions.from_columns("made", ["ann", "ann"] + ["bob"] * 8, range(10), range(10))

    message = rf"user 'ann' of 'made' has 2 events, .* need {needed} \(1 users .*min_events={needed}\)"
    with pytest.raises(ValueError, match=message):
        leave_last_out(table, targets)


@pytest.mark.parametrize("targets", [0, -1])
def test_a_split_without_targets_is_refused(targets):
    with pytest.raises(ValueError, match="targets must be at least 1"):
        leave_last_out(table_of([0, 1, 2, 3]), targets)


def test_global_time_split_by_hand():
    """Ten events at times 0 to 9; at least 50 % lie before 5, at least 80 % before 8."""
    times = [[0, 1, 2, 5, 8], [3, 6, 9], [4], [7]]
    split = global_time_split(table_of([0, 1, 2, 3, 4], [0, 1, 2], [0], [1], times=times), validation=0.5, test=0.8)

    assert split.train_lengths.tolist() == [3, 1, 1, 0]
    assert [len(sequence) for sequence in split.train_sequences()] == [3, 1, 1, 0]
    assert split.validation.users.tolist() == [0, 1]
    assert split.validation.items.tolist() == [3, 1]
    assert split.test.users.tolist() == [0, 1]
    assert split.test.items.tolist() == [4, 2]
    assert [len(history) for history in split.histories(split.test)] == [4, 2]
    assert dict(split.left_out) == {
        "no event in the validation period": 1,  # user 2
        "nothing before the validation event": 1,  # user 3
        "no event in the test period": 2,  # users 2 and 3
        "nothing before the test event": 0,
    }


@settings(max_examples=60, deadline=None)
@given(tables())
def test_no_user_trains_on_or_after_an_own_target(table):
    for split in (leave_one_out(table), leave_last_out(table, 5)):
        trained = table.offsets[:-1] + split.train_lengths
        assert (split.validation.positions >= trained[split.validation.users]).all()
        assert (split.test.positions > split.validation.positions[split.test.users]).all()
        for targets in (split.validation, split.test):
            rebuilt = [
                table.items_of(u)[: p - table.offsets[u]] for u, p in zip(targets.users, targets.positions, strict=True)
            ]
            assert all(map(np.array_equal, split.histories(targets), rebuilt))
            assert np.array_equal(table.items[targets.positions], targets.items)


@settings(max_examples=60, deadline=None)
@given(tables())
def test_global_training_ends_before_anybody_is_tested(table):
    split = global_time_split(with_witness(table), 0.5, 0.8)
    table = split.table

    is_trained = np.arange(table.num_events) - table.offsets[table.users] < split.train_lengths[table.users]
    times = table.timestamps
    assert times[is_trained].max() < times[split.validation.positions].min()
    assert times[split.validation.positions].max() < times[split.test.positions].min()
    assert sum(split.left_out.values()) == 2 * table.num_users - len(split.validation) - len(split.test)
    assert all(len(history) for history in split.histories(split.test))


@pytest.mark.parametrize(("validation", "test"), [(0.9, 0.8), (0.5, 0.5), (0, 0.5), (0.5, 1)])
def test_quantiles_out_of_order_are_refused(validation, test):
    with pytest.raises(ValueError, match="need 0 < validation < test < 1"):
        global_time_split(table_of([0, 1, 2]), validation, test)


def test_positions_are_no_times_for_a_global_split():
    table = Interactions.from_columns("made", [1, 1, 1], [0, 1, 2], [0, 1, 2], has_clock=False)

    with pytest.raises(ValueError, match="has positions, no times"):
        global_time_split(table)


def test_global_split_without_any_target_is_refused():
    with pytest.raises(ValueError, match="no user of 'made' has a validation target with a history"):
        global_time_split(table_of([0, 1, 2], times=[[5, 5, 5]]))


def test_digest_tells_splits_and_tables_apart():
    table, other = table_of([0, 1, 2, 3, 4, 5, 6]), table_of([0, 1, 2, 3, 4, 6, 5])
    digests = [split(t).digest() for split in (leave_one_out, leave_last_out) for t in (table, other)]

    assert len(set(digests)) == 4
    assert leave_one_out(table).digest() == digests[0]


def test_ml_100k_split_is_the_one_that_reports_are_about():
    """The digest covers events, order of ties and targets; a number that moves with it is not comparable."""
    try:
        split = leave_one_out(load_interactions("ml-100k"))
    except FileNotFoundError as error:
        pytest.skip(str(error))

    assert split.table.item_ids[split.test.items[:5]].tolist() == ["102", "281", "181", "11", "395"]
    assert split.digest() == "1718c63b80a31174da06101deef6ec1d7253ef14a23f7339974f267bd140d372"
