"""Facts of test targets against what a plain loop over each user's events finds, and nan where the data say nothing."""

from collections import Counter
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest

from layerwise.data.interactions import Interactions
from layerwise.data.splits import leave_last_out
from layerwise.data.target_facts import NEAR, RECENT, TargetFacts, target_facts

GENRES = ("a", "b", "c", "d")
TIMED = {"gap", "visit", "pace", "span", "moment", "age"}
RATED = {"mean_rating", "previous_rating", "rating"}
OF_GENRES = {"diversity", "num_genres", "familiarity", "lately", "shared", "favourite", "streak"}
NUMBERS = [field.name for field in fields(TargetFacts) if field.name != "genres"]


def random_split(has_clock=True, rated=True):
    rng = np.random.default_rng(0)
    rows = []
    for user in range(25):
        time = float(rng.integers(10**6))
        for item in rng.permutation(60)[: rng.integers(8, 40)]:
            time += float(rng.choice([0, 5, 300, 3599, 3600, 90_000]))
            rating = float(rng.integers(1, 6)) if rng.random() < 0.8 else np.nan
            rows.append((user, int(item), time, rating))
    users, items, times, ratings = zip(*rows, strict=True)
    table = Interactions.from_columns("random", users, items, times, ratings if rated else None, has_clock=has_clock)
    return leave_last_out(table, 3)


def random_categories(split):
    rng = np.random.default_rng(1)
    return [tuple(name for name in GENRES if rng.random() < 0.35) for _ in range(split.table.num_items)]


def entropy(counts):
    shares = np.array(counts) / sum(counts)
    return -(shares * np.log(shares)).sum()


def counted(split, categories):
    """The facts by the definitions, one target after the other."""
    table, trained = split.table, [sequence.tolist() for sequence in split.train_sequences()]
    popular = Counter(item for sequence in trained for item in sequence)
    steps = Counter(step for sequence in trained for step in pairwise(sequence))
    rows = []
    for user, at in zip(split.test.users, split.test.positions, strict=True):
        start = int(table.offsets[user])
        items, times = table.items[start : at + 1].tolist(), table.timestamps[start : at + 1]
        ratings = table.ratings[start : at + 1]
        target, before = items[-1], items[:-1]
        recent, own = before[-RECENT:], set(categories[items[-1]])
        visit = 0
        while visit < len(before) and times[-1 - visit] - times[-2 - visit] < 3600:
            visit += 1
        ever = Counter(name for item in before for name in categories[item])
        lately = list(Counter(name for item in recent for name in categories[item]).values())
        rows.append(
            {
                "history": len(before),
                "taste": np.mean([np.log(1 + popular[item]) for item in recent]),
                "previous_popularity": popular[before[-1]],
                "diversity": entropy(lately) if lately else np.nan,
                "gap": times[-1] - times[-2],
                "visit": visit,
                "pace": times[-2] - times[:-1][-RECENT:][0],
                "span": times[-2] - times[0],
                "moment": times[-1],
                "position": int((split.test.positions[split.test.users == user] <= at).sum()),
                "mean_rating": np.nanmean(ratings[:-1]),
                "previous_rating": ratings[-2],
                "popularity": popular[target],
                "age": times[-1] - table.timestamps[table.items == target].min(),
                "rating": ratings[-1],
                "known_step": steps[before[-1], target],
            }
        )
        of_genres = {
            "num_genres": len(own),
            "familiarity": max((ever[name] for name in own), default=0) / len(before),
            "lately": sum(bool(own & set(categories[item])) for item in recent),
            "shared": bool(own & set(categories[before[-1]])),
            "favourite": any(ever[name] == max(ever.values()) for name in own),
            "streak": any(all(name in categories[item] for item in before[-NEAR:]) for name in own),
        }
        rows[-1] |= of_genres if own else dict.fromkeys(of_genres, np.nan)
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}


@pytest.fixture(scope="module")
def case():
    split = random_split()
    categories = random_categories(split)
    return split, categories, target_facts(split, categories), counted(split, categories)


@pytest.mark.parametrize("name", NUMBERS)
def test_fact_is_what_a_plain_loop_finds(case, name):
    _, _, facts, expected = case

    np.testing.assert_allclose(getattr(facts, name), expected[name], atol=1e-9)
    assert len(np.unique(expected[name])) > 1


def test_genres_of_the_targets_are_those_of_their_items(case):
    split, categories, facts, _ = case

    assert set(facts.genres) == set(GENRES)
    for name, flags in facts.genres.items():
        assert flags.tolist() == [name in categories[item] for item in split.test.items]


def unknown(facts):
    return {name for name in NUMBERS if np.isnan(getattr(facts, name)).all()}


def test_without_a_clock_no_fact_of_time_is_known():
    split = random_split(has_clock=False)
    assert unknown(target_facts(split, random_categories(split))) == TIMED


def test_without_ratings_no_fact_of_ratings_is_known():
    split = random_split(rated=False)
    assert unknown(target_facts(split, random_categories(split))) == RATED


@pytest.mark.parametrize("categories", ["none", "empty"])
def test_without_categories_no_fact_of_genres_is_known(categories):
    split = random_split()
    facts = target_facts(split, None if categories == "none" else [()] * split.table.num_items)

    assert unknown(facts) == OF_GENRES
    assert facts.genres == {}


def test_facts_do_not_depend_on_the_other_targets(case):
    """Asking for one target of each user only changes its position among the asked, and what counts as training."""
    split, categories, facts, _ = case
    alone = replace(split, test=leave_last_out(split.table, 1).test)
    last = np.flatnonzero(facts.position == 3)

    for name in set(NUMBERS) - {"position"}:
        np.testing.assert_array_equal(getattr(target_facts(alone, categories), name), getattr(facts, name)[last])
