"""A hundred named scenarios: groups of test targets, by what is known of the user, of the moment and of the target.

A scenario is a pure function from `TargetFacts` to a mask over the targets. Bands are fixed where a number means the
same on every dataset (events, minutes, stars), and equal parts of the targets at hand where it does not. Scenarios
overlap, and together are no partition.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from layerwise.data.arrays import FloatArray
from layerwise.data.target_facts import DAY, HOUR, NEAR, RECENT, BoolArray, TargetFacts

Mask = Callable[[TargetFacts], BoolArray]
MINUTE = 60.0
GENRES = (
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)  # MovieLens has Documentary, too, with 33 targets on ML-100K


@dataclass(frozen=True)
class Scenario:
    """A named group of test targets.

    Attributes:
        name: Unique.
        definition: One line that says who belongs to it.
        mask: From the facts to one truth per target; False where a fact is unknown.
        uses_target: Whether it looks at the target itself, which nobody can do beforehand.
        crossed: Whether it is what two others have in common.
    """

    name: str
    definition: str
    mask: Mask
    uses_target: bool = False
    crossed: bool = False


def scenario_masks(facts: TargetFacts) -> dict[str, BoolArray]:
    """Name of every scenario -> which targets belong to it, in the order of `SCENARIOS`."""
    return {scenario.name: scenario.mask(facts) for scenario in SCENARIOS}


def _between(fact: str, low: float, high: float = np.inf) -> Mask:
    """Targets whose fact is at least low and below high."""

    def mask(facts: TargetFacts) -> BoolArray:
        values: FloatArray = getattr(facts, fact)
        return np.asarray((values >= low) & (values < high))

    return mask


def _part(fact: str, start: float, stop: float) -> Mask:
    """Targets from one quantile of a fact, left out, to another one; the lowest part holds the smallest value, too.

    Equal values stay together: a part may be larger or smaller than its share, and even empty.
    """

    def mask(facts: TargetFacts) -> BoolArray:
        values: FloatArray = getattr(facts, fact)
        if not np.isfinite(values).any():
            return np.zeros(len(values), dtype=bool)
        low, high = np.nanquantile(values, [start, stop], method="higher")
        return np.asarray((values <= high) & ((values > low) | (start == 0)))

    return mask


def _genre(name: str) -> Mask:
    return lambda facts: facts.genres.get(name, np.zeros(len(facts), dtype=bool))


def _hours(start: int, stop: int) -> Mask:
    return lambda facts: np.asarray((facts.moment % DAY >= start * HOUR) & (facts.moment % DAY < stop * HOUR))


def _weekend(facts: TargetFacts) -> BoolArray:
    return np.asarray((facts.moment // DAY + 3) % 7 >= 5)  # 1970 began on a Thursday; Monday is 0


def _working_day(facts: TargetFacts) -> BoolArray:
    return np.asarray((facts.moment // DAY + 3) % 7 < 5)


def _unlike_the_last(facts: TargetFacts) -> BoolArray:
    return np.asarray(facts.shared == 0)


_PLAIN = (
    Scenario("cold history", "fewer than 25 events before", _between("history", 0, 25)),
    Scenario("short history", "25 to 49 events before", _between("history", 25, 50)),
    Scenario("medium history", "50 to 99 events before", _between("history", 50, 100)),
    Scenario("long history", "100 to 199 events before", _between("history", 100, 200)),
    Scenario("very long history", "200 events before, or more", _between("history", 200)),
    Scenario("niche taste", f"lowest third by popularity of the last {RECENT} items", _part("taste", 0, 1 / 3)),
    Scenario("mixed taste", f"middle third by popularity of the last {RECENT} items", _part("taste", 1 / 3, 2 / 3)),
    Scenario("mainstream taste", f"highest third by popularity of the last {RECENT} items", _part("taste", 2 / 3, 1)),
    Scenario("after a rare item", "the item before is of the rarest third", _part("previous_popularity", 0, 1 / 3)),
    Scenario("after a hit", "the item before is of the most popular third", _part("previous_popularity", 2 / 3, 1)),
    Scenario("focused", f"lowest third by entropy of genres, last {RECENT}", _part("diversity", 0, 1 / 3)),
    Scenario("balanced", f"middle third by entropy of genres, last {RECENT}", _part("diversity", 1 / 3, 2 / 3)),
    Scenario("diverse", f"highest third by entropy of genres, last {RECENT}", _part("diversity", 2 / 3, 1)),
    Scenario("first of the asked", "first of the user's targets", _between("position", 1, 2)),
    Scenario("second of the asked", "second of the user's targets", _between("position", 2, 3)),
    Scenario("third of the asked", "third of the user's targets", _between("position", 3, 4)),
    Scenario("fourth of the asked", "fourth of the user's targets", _between("position", 4, 5)),
    Scenario("fifth of the asked", "fifth of the user's targets", _between("position", 5, 6)),
    Scenario("night", "0 to 6 o'clock UTC", _hours(0, 6)),
    Scenario("morning", "6 to 12 o'clock UTC", _hours(6, 12)),
    Scenario("afternoon", "12 to 18 o'clock UTC", _hours(12, 18)),
    Scenario("evening", "18 to 24 o'clock UTC", _hours(18, 24)),
    Scenario("working day", "Monday to Friday, UTC", _working_day),
    Scenario("weekend", "Saturday and Sunday, UTC", _weekend),
    Scenario("same second", "no time since the event before", _between("gap", 0, 1)),
    Scenario("within a minute", "1 to 59 seconds since the event before", _between("gap", 1, MINUTE)),
    Scenario("within an hour", "a minute to an hour since the event before", _between("gap", MINUTE, HOUR)),
    Scenario("within a day", "an hour to a day since the event before", _between("gap", HOUR, DAY)),
    Scenario("after a break", "a day since the event before, or more", _between("gap", DAY)),
    Scenario("early in a visit", "1 to 9 events of the visit before", _between("visit", 1, 10)),
    Scenario("well into a visit", "10 to 49 events of the visit before", _between("visit", 10, 50)),
    Scenario("late in a visit", "50 events of the visit before, or more", _between("visit", 50)),
    Scenario("fast", f"third with the shortest time for the last {RECENT} events", _part("pace", 0, 1 / 3)),
    Scenario("steady", f"third with a middling time for the last {RECENT} events", _part("pace", 1 / 3, 2 / 3)),
    Scenario("slow", f"third with the longest time for the last {RECENT} events", _part("pace", 2 / 3, 1)),
    Scenario("active for minutes", "under an hour since the user's first event", _between("span", 0, HOUR)),
    Scenario("active for hours", "an hour to a day since the user's first event", _between("span", HOUR, DAY)),
    Scenario("active for days", "a day to 30 days since the user's first event", _between("span", DAY, 30 * DAY)),
    Scenario("active for months", "30 days since the user's first event, or more", _between("span", 30 * DAY)),
    Scenario("early in the data", "first third of the targets by time", _part("moment", 0, 1 / 3)),
    Scenario("amid the data", "middle third of the targets by time", _part("moment", 1 / 3, 2 / 3)),
    Scenario("late in the data", "last third of the targets by time", _part("moment", 2 / 3, 1)),
    Scenario("critical", "lowest third by the user's mean rating before", _part("mean_rating", 0, 1 / 3)),
    Scenario("fair", "middle third by the user's mean rating before", _part("mean_rating", 1 / 3, 2 / 3)),
    Scenario("generous", "highest third by the user's mean rating before", _part("mean_rating", 2 / 3, 1)),
    Scenario("after a like", "the event before has 4 stars or more", _between("previous_rating", 4)),
    Scenario("after a dislike", "the event before has fewer than 3 stars", _between("previous_rating", 0, 3)),
)

_OF_THE_TARGET = (
    *(Scenario(f"target: {name}", f"the target is of the genre {name}", _genre(name), True) for name in GENRES),
    Scenario("rare target", "rarest third of the targets by training events", _part("popularity", 0, 1 / 3), True),
    Scenario("known target", "middle third of the targets by training events", _part("popularity", 1 / 3, 2 / 3), True),
    Scenario("popular target", "most popular third by training events", _part("popularity", 2 / 3, 1), True),
    Scenario("tail target", "rarest tenth of the targets by training events", _part("popularity", 0, 0.1), True),
    Scenario("hit target", "most popular tenth by training events", _part("popularity", 0.9, 1), True),
    Scenario(
        "new item",
        "third with the shortest time since the item was first seen",
        _part("age", 0, 1 / 3),
        True,
    ),
    Scenario("settled item", "third with a middling time since then", _part("age", 1 / 3, 2 / 3), True),
    Scenario("old item", "third with the longest time since then", _part("age", 2 / 3, 1), True),
    Scenario("liked target", "the target got 4 stars or more", _between("rating", 4), True),
    Scenario("disliked target", "the target got fewer than 3 stars", _between("rating", 0, 3), True),
    Scenario("one genre", "the target has one genre", _between("num_genres", 1, 2), True),
    Scenario("two genres", "the target has two genres", _between("num_genres", 2, 3), True),
    Scenario("many genres", "the target has three genres or more", _between("num_genres", 3), True),
    Scenario("unfamiliar genre", "third with the least of its genre before", _part("familiarity", 0, 1 / 3), True),
    Scenario("familiar genre", "third with a middling share of its genre", _part("familiarity", 1 / 3, 2 / 3), True),
    Scenario("home genre", "third with the most of its genre before", _part("familiarity", 2 / 3, 1), True),
    Scenario("new genre", f"none of the last {RECENT} events shares a genre", _between("lately", 0, 1), True),
    Scenario("like the last", "shares a genre with the event before", _between("shared", 1), True),
    Scenario("unlike the last", "shares no genre with the event before", _unlike_the_last, True),
    Scenario("favourite genre", "the target has the most frequent genre before", _between("favourite", 1), True),
    Scenario("streak", f"one genre in common with the last {NEAR} events", _between("streak", 1), True),
    Scenario("known step", "training goes from the item before to the target", _between("known_step", 1), True),
    Scenario("new step", "training never goes from the item before to the target", _between("known_step", 0, 1), True),
)

_CROSSINGS = (
    ("cold history", "rare target"),
    ("cold history", "popular target"),
    ("very long history", "rare target"),
    ("very long history", "popular target"),
    ("mainstream taste", "rare target"),
    ("niche taste", "rare target"),
    ("niche taste", "popular target"),
    ("focused", "unfamiliar genre"),
    ("diverse", "unfamiliar genre"),
    ("favourite genre", "rare target"),
    ("weekend", "evening"),
    ("cold history", "active for minutes"),
    ("very long history", "active for months"),
)


def _crossing(one: Scenario, other: Scenario) -> Scenario:
    """What two scenarios have in common."""
    return Scenario(
        f"{one.name} × {other.name}",
        f"{one.definition}; {other.definition}",
        lambda facts: one.mask(facts) & other.mask(facts),
        one.uses_target or other.uses_target,
        crossed=True,
    )


_BY_NAME = {scenario.name: scenario for scenario in (*_PLAIN, *_OF_THE_TARGET)}
SCENARIOS = (*_BY_NAME.values(), *(_crossing(_BY_NAME[one], _BY_NAME[other]) for one, other in _CROSSINGS))
"""All scenarios: those that can be told beforehand first, then those of the target, then crossings."""
