"""Five questions about the next event: labels worked by hand."""

import numpy as np
import pytest

from layerwise.data.interactions import Interactions
from layerwise.data.splits import leave_last_out
from layerwise.evaluation.tasks import (
    labelled,
    newest_targets,
    next_event_tasks,
    popularity_buckets,
    training_targets,
)

CATEGORIES = [("Drama",), ("Drama", "War"), (), ("Comedy",), ("Comedy",)]


def table(ratings=True):
    """Two users with six and five events; items a to e are codes 0 to 4."""
    users = [0] * 6 + [1] * 5
    items = list("abcdea") + list("abcde")
    stars = [5, 4, 3, 1, 2, 5, 4, 4, 4, 3, 1]
    return Interactions.from_columns("hand", users, items, list(range(11)), stars if ratings else None)


@pytest.fixture
def split():
    return leave_last_out(table(), targets=2)


def test_labels_are_items_likes_stars_and_rarest_genres(split):
    tasks = next_event_tasks(split, CATEGORIES)

    assert list(tasks) == ["next-item", "like", "rating", "genre", "popularity"]
    assert tasks["next-item"].labels.tolist() == [0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4]
    assert tasks["like"].labels.tolist() == [1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    assert tasks["rating"].classes == ("1", "2", "3", "4", "5")
    assert tasks["rating"].labels.tolist() == [4, 3, 2, 0, 1, 4, 3, 3, 3, 2, 0]
    names = tasks["genre"].classes
    assert [names[label] if label >= 0 else None for label in tasks["genre"].labels[:5]] == [
        *("Drama", "War", None, "Comedy", "Comedy")
    ]


def test_tasks_that_the_data_do_not_allow_are_left_out():
    without = leave_last_out(table(ratings=False), targets=2)

    assert list(next_event_tasks(without, None)) == ["next-item", "popularity"]


def test_only_likes_and_ratings_show_the_item_itself(split):
    tasks = next_event_tasks(split, CATEGORIES)
    first = split.test.positions[0]  # user 0, events a b c d | e a

    assert first == 4
    assert tasks["genre"].histories(split, split.test)[0].tolist() == [0, 1, 2, 3]
    assert tasks["like"].histories(split, split.test)[0].tolist() == [0, 1, 2, 3, 4]


def test_popularity_counts_training_events_only_and_buckets_hold_equal_shares(split):
    # training: a b c of user 0 and a b of user 1, so a 2, b 2, c 1, d 0, e 0
    assert popularity_buckets(split, buckets=5).tolist() == [1, 3, 0, 0, 0]


def test_training_targets_have_a_history_and_lie_in_the_training_part(split):
    targets = training_targets(split, per_user=2)

    assert targets.positions.tolist() == [1, 2, 7]
    assert targets.users.tolist() == [0, 0, 1]
    assert targets.items.tolist() == [1, 2, 1]


def test_targets_without_a_label_are_left_out(split):
    genre = next_event_tasks(split, CATEGORIES)["genre"]

    assert labelled(genre, training_targets(split, per_user=2)).positions.tolist() == [1, 7]


def test_newest_targets_are_the_last_of_each_user(split):
    assert split.test.positions.tolist() == [4, 5, 9, 10]
    assert newest_targets(split.test, 1).positions.tolist() == [5, 10]
    assert newest_targets(split.test, 2).positions.tolist() == [4, 5, 9, 10]
    assert np.array_equal(newest_targets(split.test, 9).items, split.test.items)
