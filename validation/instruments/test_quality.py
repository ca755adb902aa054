"""Quality of a scorer on the targets of a split: each target from its true prefix, the user as the unit."""

import numpy as np
import pytest

from layerwise.data.interactions import Interactions
from layerwise.data.splits import leave_last_out, leave_one_out
from layerwise.evaluation import quality
from layerwise.evaluation.classic import Ease, ItemKNN, Markov, Popularity
from layerwise.evaluation.quality import target_metrics, validation_ndcg
from layerwise.evaluation.ranking import mean_by_user
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import build_recommender

NUM_USERS, NUM_ITEMS, LENGTH = 9, 15, 10


@pytest.fixture(scope="module")
def split():
    """Users with ten different items each, the last five of which are tested."""
    random = np.random.default_rng(0)
    items = np.concatenate([random.permutation(NUM_ITEMS)[:LENGTH] for _ in range(NUM_USERS)])
    users, steps = np.divmod(np.arange(NUM_USERS * LENGTH), LENGTH)
    return leave_last_out(Interactions.from_columns("made", users, items, steps), targets=5)


def scorers(split):
    sequences, num_items = split.train_sequences(), split.table.num_items
    fitted = [model.fit(sequences, num_items) for model in (Popularity(), Markov(), ItemKNN(), Ease())]
    return [*fitted, *(build_recommender(family, num_items, 6, Shape(2, 16, 24, 2), seed=0) for family in FAMILIES)]


def ndcg_by_hand(scorer, split, position, k):
    """NDCG@k of the event at one position of the table, as the mean over all orders of ties."""
    table = split.table
    user = int(table.users[position])
    history = table.items[table.offsets[user] : position]
    scores = scorer.scores([history])[0].astype(float)
    target = scores[table.items[position]]
    unseen = np.delete(scores, history)
    better, tied = int((unseen > target).sum()), int((unseen == target).sum())
    ranks = range(better + 1, better + tied + 1)
    return np.mean([1 / np.log2(rank + 1) if rank <= k else 0 for rank in ranks])


@pytest.mark.parametrize("which", range(9), ids=["popularity", "markov", "item-knn", "ease", *FAMILIES])
def test_mean_per_user_equals_a_loop_by_hand(split, which):
    scorer = scorers(split)[which]
    metrics = target_metrics(scorer, split, split.test)
    per_user = mean_by_user(metrics["ndcg@10"], split.test.users)

    ends = split.table.offsets[1:]
    expected = [np.mean([ndcg_by_hand(scorer, split, end - back, 10) for back in range(5, 0, -1)]) for end in ends]
    np.testing.assert_allclose(per_user, expected, rtol=1e-6)
    assert set(metrics) == {f"{name}@{k}" for name in ("ndcg", "hr", "precision") for k in (5, 10)} | {"mrr"}
    assert all(values.shape == (len(split.test),) for values in metrics.values())


def test_result_does_not_depend_on_how_many_rows_are_scored_at_once(split, monkeypatch):
    scorer = scorers(split)[1]
    expected = target_metrics(scorer, split, split.test)
    monkeypatch.setattr(quality, "ROWS_AT_ONCE", 4)

    for name, values in target_metrics(scorer, split, split.test).items():
        np.testing.assert_array_equal(values, expected[name])


def test_validation_is_the_mean_ndcg10_of_the_validation_targets(split):
    scorer = scorers(split)[1]
    expected = np.mean([ndcg_by_hand(scorer, split, position, 10) for position in split.validation.positions])

    assert validation_ndcg(split)(scorer) == pytest.approx(expected, rel=1e-9)


class Oracle:
    """Scores the item after the history in a given order of the catalogue highest."""

    def __init__(self, num_items):
        self.num_items = num_items

    def scores(self, histories):
        return np.eye(self.num_items)[[(history[-1] + 1) % self.num_items for history in histories]]


def test_a_scorer_that_knows_the_next_item_is_perfect_from_every_prefix():
    users, steps = np.divmod(np.arange(8 * 7), 7)
    table = Interactions.from_columns(
        "cycle", users, [f"{(u + s) % 8}" for u, s in zip(users, steps, strict=True)], steps
    )
    split = leave_one_out(table)

    for targets in (split.validation, split.test):
        assert target_metrics(Oracle(8), split, targets, ks=(1,))["ndcg@1"].tolist() == [1.0] * 8
