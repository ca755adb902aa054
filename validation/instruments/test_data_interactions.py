"""The table of interactions: order, codes, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.data.interactions import Interactions


def table_of(*events, name="made"):
    """Table of (user, item, time) triples in the order of a file."""
    users, items, times = zip(*events, strict=True)
    return Interactions.from_columns(name, users, items, times)


def ids_of(table, user):
    return [str(item) for item in table.item_ids[table.items_of(user)]]


def tied_table(num_users=20, events=10):
    """Every user has events 0..9, two at each time, in ascending item id."""
    triples = [(user, item, item // 2) for user in range(num_users) for item in range(events)]
    return table_of(*triples)


def test_events_are_sorted_by_user_then_time_and_equal_times_keep_file_order():
    table = table_of(("b", 7, 2), ("a", 9, 5), ("b", 3, 1), ("a", 8, 5), ("a", 1, 4))

    assert [ids_of(table, user) for user in range(2)] == [["1", "9", "8"], ["3", "7"]]
    assert table.users.tolist() == [0, 0, 0, 1, 1]
    assert table.offsets.tolist() == [0, 3, 5]


def test_codes_follow_ids_as_numbers():
    table = table_of((10, 100, 0), (9, 20, 0), (2, 3, 0))

    assert table.user_ids.tolist() == ["2", "9", "10"]
    assert table.item_ids.tolist() == ["3", "20", "100"]


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(12)))
def test_order_of_the_file_does_not_matter_without_equal_times(order):
    events = [(row % 3, (row * 5) % 7, row) for row in range(12)]

    assert table_of(*(events[row] for row in order)).digest() == table_of(*events).digest()


def test_whole_times_beyond_double_precision_stay_distinct():
    start = 2**60
    table = table_of((1, 5, start + 1), (1, 6, start))

    assert ids_of(table, 0) == ["6", "5"]


def test_codes_of_inverts_item_ids():
    table = table_of((1, 30, 0), (1, 20, 1), (2, 10, 0))

    assert table.item_ids[table.codes_of([20, "30"])].tolist() == ["20", "30"]
    assert table.codes_of([]).shape == (0,)


def test_unknown_item_is_refused_by_name():
    with pytest.raises(ValueError, match=r"1 of 2 item ids are not among the 1 items of 'made': \['99'\]"):
        table_of((1, 30, 0)).codes_of([30, 99])


def test_short_users_are_left_out_and_counted():
    table = table_of((1, 30, 0), (1, 20, 1), (2, 10, 0), (3, 30, 0), (3, 20, 2)).without_short_users(2)

    assert table.user_ids.tolist() == ["1", "3"]
    assert table.item_ids.tolist() == ["20", "30"]
    assert dict(table.dropped) == {"events of users with fewer than 2 events": 1}
    assert table.without_short_users(2) is table


def test_leaving_out_everybody_is_an_error():
    with pytest.raises(ValueError, match="no event of 'made' would remain"):
        table_of((1, 30, 0)).without_short_users(2)


def test_first_of_repeated_items_remains():
    table = table_of((1, 30, 0), (1, 20, 1), (1, 30, 2), (1, 30, 3), (2, 30, 0)).without_repeats()

    assert [ids_of(table, user) for user in range(2)] == [["30", "20"], ["30"]]
    assert dict(table.dropped) == {"repeats of a user's earlier item": 2}


def test_shuffled_ties_move_events_only_within_equal_times():
    table = tied_table()
    shuffled = table.shuffled_ties(seed=1)

    pairs = [np.reshape(ids_of(shuffled, user), (5, 2)) for user in range(20)]
    assert all(sorted(pair) == [str(2 * time), str(2 * time + 1)] for user in pairs for time, pair in enumerate(user))
    ascending = np.mean([int(first) < int(second) for user in pairs for first, second in user])
    assert 0.3 < ascending < 0.7  # 100 pairs: four standard errors


def test_shuffled_ties_permute_the_codes_but_not_the_ids():
    table = tied_table()
    shuffled = table.shuffled_ties(seed=1)

    assert sorted(shuffled.item_ids) == sorted(table.item_ids)
    assert shuffled.item_ids.tolist() != table.item_ids.tolist()
    assert shuffled.name == "made+ties-shuffled-1"


def test_seed_of_shuffled_ties_matters_and_repeats():
    table = tied_table()

    assert table.shuffled_ties(1).digest() == table.shuffled_ties(1).digest()
    assert table.shuffled_ties(1).digest() != table.shuffled_ties(2).digest()


def test_selecting_events_keeps_permuted_codes():
    events = [(1, item, item // 2) for item in range(10)]
    shuffled = table_of(*events, (2, 4, 0)).shuffled_ties(seed=1)

    assert shuffled.item_ids.tolist() != sorted(shuffled.item_ids)
    assert shuffled.without_short_users(2).item_ids.tolist() == shuffled.item_ids.tolist()


def test_ratings_move_with_their_events():
    table = Interactions.from_columns("made", [1, 1, 1], [5, 6, 5], [3, 2, 4], ratings=[0.5, np.nan, 4.0])

    np.testing.assert_array_equal(table.ratings, [np.nan, 0.5, 4.0])
    np.testing.assert_array_equal(table.without_repeats().ratings, [np.nan, 0.5])


@pytest.mark.parametrize("change", ["user", "item", "time", "rating"])
def test_digest_sees_every_column(change):
    columns = {"users": [1, 1], "items": [5, 6], "timestamps": [1, 2], "ratings": [1.0, 2.0]}
    changed = (
        columns
        | {
            "user": {"users": [1, 2]},
            "item": {"items": [5, 7]},
            "time": {"timestamps": [1, 3]},
            "rating": {"ratings": [1.0, 3.0]},
        }[change]
    )

    assert Interactions.from_columns("a", **columns).digest() != Interactions.from_columns("a", **changed).digest()


def test_digest_does_not_see_the_name():
    assert table_of((1, 2, 3), name="a").digest() == table_of((1, 2, 3), name="b").digest()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([], [], []), "'made' has no events"),
        (([1, 1], [1], [1]), r"equally long, got lengths \[1, 2\]"),
        (([1, None], [1, 2], [1, 2]), "every event needs the id of its user, row 1 has none"),
        (([1, 1], [1, np.nan], [1, 2]), "every event needs the id of its item, row 1 has none"),
        (([1, 1], [1, 2], [1, np.nan]), "must be finite, got nan in row 1"),
        (([1, "1"], [1, 2], [1, 2]), "user ids must differ as text"),
    ],
)
def test_broken_columns_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        Interactions.from_columns("made", *columns)


def test_times_written_as_text_are_refused():
    with pytest.raises(TypeError, match="must be numbers"):
        Interactions.from_columns("made", [1], [1], ["yesterday"])
