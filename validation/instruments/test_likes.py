"""Likes and dislikes of three users, by hand: who trains, what is history, what is asked."""

import numpy as np
import pytest
from transformers import BertTokenizer

from layerwise.data.interactions import Interactions
from layerwise.data.likes import likes_by_time
from layerwise.lab.lab import Lab
from layerwise.lab.store import Store
from layerwise.lab.tiers import TIERS
from layerwise.models.like_prompts import like_prompts

# user, item, time, rating; 12 events at times 1 to 12: shares of a quarter end training at 6 and validation at 9
ROWS = [
    ("u", "a", 1, 5), ("v", "b", 2, 1), ("u", "b", 3, 2), ("v", "a", 4, 4), ("u", "c", 5, 3), ("v", "c", 6, 5),
    ("u", "d", 7, 4), ("w", "a", 8, 2), ("w", "b", 9, 4), ("u", "e", 10, 1), ("w", "c", 11, 5), ("w", "d", 12, 1),
]  # fmt: skip


def table(rows=ROWS, **changes):
    users, items, times, ratings = zip(*rows, strict=True)
    return Interactions.from_columns("tiny", users, items, times, ratings, **changes)


def split(rows=ROWS, per_user=(9, 9, 9)):
    return likes_by_time(table(rows), 4.0, per_user, shares=(0.25, 0.25))


def asked(likes, examples):
    """Times of the examples."""
    return sorted(likes.table.timestamps[examples.positions].tolist())


def test_training_ends_before_validation_and_validation_before_test():
    likes = split()

    found = [asked(likes, part) for part in (likes.train, likes.validation, likes.test)]

    assert found == [[1, 2, 3, 4, 5, 6], [7, 8, 9], [10, 11, 12]]
    assert likes.train.balance == 3 / 6
    assert likes.validation.balance == 2 / 3


def test_the_newest_examples_of_each_user_count():
    likes = split(per_user=(2, 2, 2))

    found = [asked(likes, part) for part in (likes.train, likes.test)]

    assert found == [[3, 4, 5, 6], [10, 11, 12]]  # of u's 1, 3 and 5 the last two; of v all


def test_a_history_is_what_the_user_rated_before_also_in_earlier_periods():
    likes = split()
    position = int(likes.test.positions[likes.test.items == list(likes.table.item_ids).index("e")][0])

    items, liked = likes.history(position)

    assert [likes.table.item_ids[item] for item in items] == ["a", "b", "c", "d"]
    assert liked.tolist() == [True, False, False, True]


def test_what_carries_the_time_of_the_example_is_no_history():
    likes = split([*ROWS[:-1], ("w", "d", 11, 1)])

    for position in likes.test.positions[likes.table.timestamps[likes.test.positions] == 11]:
        assert [likes.table.item_ids[item] for item in likes.history(int(position))[0]] == ["a", "b"]


def test_no_example_of_movielens_sees_its_own_time_or_later_and_none_trains_and_tests():
    task = TIERS["text"].likes
    events = Lab(Store.at(None)).split(task.subject).table
    likes = likes_by_time(events, task.liked_from, task.per_user)

    for part in (likes.train, likes.validation, likes.test):
        for position in part.positions[::50]:
            items, _ = likes.history(int(position))
            first = events.offsets[events.users[position]]
            assert (events.timestamps[first : first + len(items)] < events.timestamps[position]).all()
    latest = [events.timestamps[part.positions].max() for part in (likes.train, likes.validation)]
    assert latest[0] < likes.starts[0] <= latest[1] < likes.starts[1] <= events.timestamps[likes.test.positions].min()


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda: likes_by_time(table([(*row[:3], float("nan")) for row in ROWS]), 4, (1, 1, 1)), "a rating of every"),
        (lambda: likes_by_time(table(has_clock=False), 4, (1, 1, 1)), "nothing divides all by time"),
        (lambda: likes_by_time(table([(*row[:3], 5.0) for row in ROWS]), 4, (1, 1, 1)), "a share of 1.0 liked"),
    ],
)
def test_data_that_cannot_be_asked_are_refused(bad, error):
    with pytest.raises(ValueError, match=error):
        bad()


def test_a_prompt_marks_what_was_liked_and_ends_with_the_candidate(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "e", ",", ":", "next", "good", "bad"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer, likes = BertTokenizer(vocab=str(tmp_path / "vocab.txt")), split()

    rows = like_prompts(tokenizer, list(likes.table.item_ids), 30, likes, likes.test)

    texts = [" ".join(words[token] for token in row) for row in rows]
    assert texts[0] == "[CLS] good a , bad b , bad c , good d , next : e [SEP]"
    assert np.array_equal(likes.test.labels, [False, True, False])
