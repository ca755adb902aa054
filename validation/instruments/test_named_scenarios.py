"""A hundred named scenarios: all different, all by their definition, and only those that say so look at the target."""

from dataclasses import replace

import numpy as np
import pytest

from layerwise.data.interactions import Interactions
from layerwise.data.scenarios import SCENARIOS, scenario_masks
from layerwise.data.splits import leave_one_out
from layerwise.data.target_facts import TargetFacts, target_facts

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
THIRDS = (
    ("niche taste", "mixed taste", "mainstream taste"),
    ("focused", "balanced", "diverse"),
    ("fast", "steady", "slow"),
    ("early in the data", "amid the data", "late in the data"),
    ("critical", "fair", "generous"),
    ("rare target", "known target", "popular target"),
    ("new item", "settled item", "old item"),
    ("unfamiliar genre", "familiar genre", "home genre"),
)
PARTITIONS = (
    ("cold history", "short history", "medium history", "long history", "very long history"),
    ("night", "morning", "afternoon", "evening"),
    ("working day", "weekend"),
    ("same second", "within a minute", "within an hour", "within a day", "after a break"),
    ("active for minutes", "active for hours", "active for days", "active for months"),
    ("one genre", "two genres", "many genres"),
    ("like the last", "unlike the last"),
    ("known step", "new step"),
)
# One value inside and one outside of a scenario, at the edge where there is one: the numbers of the definitions.
EDGES = (
    ("cold history", "history", 24, 25),
    ("short history", "history", 25, 50),
    ("medium history", "history", 99, 100),
    ("long history", "history", 199, 200),
    ("very long history", "history", 200, 199),
    ("first of the asked", "position", 1, 2),
    ("fifth of the asked", "position", 5, 4),
    ("night", "moment", 6 * 3600 - 1, 6 * 3600),
    ("evening", "moment", 86400 + 18 * 3600, 86400 + 18 * 3600 - 1),
    ("weekend", "moment", 880_761_600, 880_761_599),  # Saturday, 29 November 1997, 0:00 UTC
    ("working day", "moment", 880_934_400, 880_934_399),  # the Monday after
    ("same second", "gap", 0, 1),
    ("within a minute", "gap", 59, 60),
    ("within an hour", "gap", 60, 3600),
    ("within a day", "gap", 3600, 86400),
    ("after a break", "gap", 86400, 86399),
    ("early in a visit", "visit", 1, 0),
    ("well into a visit", "visit", 49, 50),
    ("late in a visit", "visit", 50, 49),
    ("active for minutes", "span", 3599, 3600),
    ("active for months", "span", 30 * 86400, 30 * 86400 - 1),
    ("after a like", "previous_rating", 4, 3.5),
    ("after a dislike", "previous_rating", 2.5, 3),
    ("liked target", "rating", 4, 3.5),
    ("disliked target", "rating", 2, 3),
    ("two genres", "num_genres", 2, 3),
    ("many genres", "num_genres", 3, 2),
    ("new genre", "lately", 0, 1),
    ("like the last", "shared", 1, 0),
    ("favourite genre", "favourite", 1, 0),
    ("streak", "streak", 1, 0),
    ("known step", "known_step", 1, 0),
)


TOPS = {
    "history": 300,
    "visit": 80,
    "position": 6,
    "rating": 6,
    "previous_rating": 6,
    "lately": 20,
    "shared": 2,
    "favourite": 2,
    "streak": 2,
    "known_step": 3,
}


def random_facts(size=600):
    """Values that fall into every band; those of which thirds are made differ from each other."""
    rng = np.random.default_rng(0)
    values = {name: rng.permutation(size) for name in TargetFacts.__dataclass_fields__ if name != "genres"}
    values |= {name: rng.integers(top, size=size) for name, top in TOPS.items()}
    values |= {"gap": np.floor(10 ** rng.uniform(-1, 6, size)), "num_genres": rng.integers(1, 5, size=size)}
    values |= {"moment": rng.permutation(size) * 5_000, "span": 10 ** rng.uniform(3, 7, size)}
    genres = {name: rng.random(size) < 0.3 for name in ("Drama", "War")}
    return TargetFacts(**{name: value.astype(np.float64) for name, value in values.items()}, genres=genres)


FACTS = random_facts()


def test_there_are_a_hundred_with_names_and_definitions_of_their_own():
    assert len(SCENARIOS) == 100
    assert len(BY_NAME) == 100
    assert len({scenario.definition for scenario in SCENARIOS}) == 100


def test_masks_have_one_truth_per_target_and_are_the_same_again():
    once, again = scenario_masks(FACTS), scenario_masks(FACTS)

    assert list(once) == list(BY_NAME)
    for name, mask in once.items():
        assert (mask.shape, mask.dtype) == ((len(FACTS),), np.bool_)
        np.testing.assert_array_equal(mask, again[name])


@pytest.mark.parametrize(("name", "fact", "inside", "outside"), EDGES)
def test_a_scenario_ends_where_its_definition_says(name, fact, inside, outside):
    facts = replace(FACTS, **{fact: np.resize([float(inside), float(outside)], len(FACTS))})

    assert BY_NAME[name].mask(facts)[:2].tolist() == [True, False]


@pytest.mark.parametrize("names", [*THIRDS, *PARTITIONS], ids=" ".join)
def test_bands_of_one_fact_hold_every_target_once(names):
    masks = np.stack([BY_NAME[name].mask(FACTS) for name in names])

    assert (masks.sum(axis=0) == 1).all()
    assert masks.any(axis=1).all()


@pytest.mark.parametrize("names", THIRDS, ids=" ".join)
def test_thirds_of_different_values_are_equally_large(names):
    sizes = [int(BY_NAME[name].mask(FACTS).sum()) for name in names]

    assert max(sizes) - min(sizes) <= 2


def test_the_rarest_third_holds_the_smallest_values_and_equal_ones_stay_together():
    facts = replace(FACTS, popularity=np.array([5.0, 0, 1, 1, 1, 9]))

    assert BY_NAME["rare target"].mask(facts).tolist() == [False, True, True, True, True, False]


def test_where_nothing_is_known_no_scenario_has_targets_and_none_warns():
    nothing = {name: np.full(4, np.nan) for name in TargetFacts.__dataclass_fields__ if name != "genres"}
    masks = scenario_masks(TargetFacts(**nothing, genres={}))

    assert not any(mask.any() for mask in masks.values())


def test_a_genre_has_the_targets_that_have_it_and_an_unheard_one_none():
    np.testing.assert_array_equal(BY_NAME["target: Drama"].mask(FACTS), FACTS.genres["Drama"])
    assert not BY_NAME["target: Western"].mask(FACTS).any()


def test_a_crossing_is_what_both_have_in_common():
    crossings = [scenario for scenario in SCENARIOS if scenario.crossed]

    assert crossings
    for crossing in crossings:
        one, other = (BY_NAME[name] for name in crossing.name.split(" × "))
        np.testing.assert_array_equal(crossing.mask(FACTS), one.mask(FACTS) & other.mask(FACTS))
        assert crossing.uses_target == (one.uses_target or other.uses_target)


def split_with_targets(change):
    """Users whose last event, item and rating, is one of two; nothing before it differs."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(90):
        items, start = rng.permutation(50)[: rng.integers(22, 40)].tolist(), int(rng.integers(10**6, 10**7))
        rows += [[user, item, start + 40 * place, int(rng.integers(1, 6))] for place, item in enumerate(items)]
        if change:
            rows[-1][1], rows[-1][3] = 50 + user % 3, 6 - rows[-1][3]
    rows += [[90, item, item, 3] for item in range(53)]  # so that both have the same catalogue
    return leave_one_out(Interactions.from_columns("two", *zip(*rows, strict=True)))


def test_only_scenarios_that_say_so_look_at_the_target():
    rng, names = np.random.default_rng(1), ("Drama", "War", "Crime")
    categories = [tuple(name for name in names if rng.random() < 0.5) or ("War",) for _ in range(53)]
    one, other = (scenario_masks(target_facts(split_with_targets(change), categories)) for change in (False, True))
    changed = {name for name in one if not np.array_equal(one[name], other[name])}

    assert changed <= {scenario.name for scenario in SCENARIOS if scenario.uses_target}
    assert {"rare target", "target: Drama", "liked target", "new step", "unfamiliar genre"} <= changed
