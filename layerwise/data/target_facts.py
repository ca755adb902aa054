"""What is known of every test target and of the moment at which it is asked: the facts that scenarios are made of.

Each fact is one value per target. Facts of the target itself are what the model has to guess: they divide results for
an analysis, and could not tell beforehand which case is at hand. A fact that the data do not give is nan.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.data.interactions import Interactions
from layerwise.data.splits import Split

BoolArray = NDArray[np.bool_]
RECENT = 20  # events that stand for what a user does lately
HOUR, DAY = 3600.0, 86400.0  # in seconds, as are the times of all sets that have a clock
NEAR = 3  # events of a streak


@dataclass(frozen=True, eq=False)
class TargetFacts:
    """One value per test target, float64 unless said otherwise; times in seconds, of day in UTC.

    Attributes:
        history: Events of the user before the target.
        taste: Mean logarithm of 1 + training events of the user's last `RECENT` items.
        previous_popularity: Training events of the item before the target.
        diversity: Entropy, in nats, of the genres of the last `RECENT` items.
        gap: Time since the event before.
        visit: Events of the same visit before the target; a visit ends where an hour passes without an event.
        pace: Time that the last `RECENT` events took.
        span: Time from the user's first event to the one before the target.
        moment: Time of the target.
        position: 1 for the first of the user's targets, and so on.
        mean_rating: Mean rating that the user gave before.
        previous_rating: Rating of the event before the target.
        popularity: Training events of the target's item.
        age: Time since anybody's first event with the target's item.
        rating: Rating of the target.
        num_genres: Genres of the target.
        familiarity: Share of the history that has the target's most familiar genre.
        lately: Last `RECENT` events that share a genre with the target.
        shared: 1 where target and event before share a genre, else 0.
        favourite: 1 where the target has the most frequent genre of the history, else 0.
        streak: 1 where the `NEAR` events before and the target have one genre in common, else 0.
        known_step: Training sequences in which the target's item follows the item before it.
        genres: Name of a genre -> whether the target has it, bool.
    """

    history: FloatArray
    taste: FloatArray
    previous_popularity: FloatArray
    diversity: FloatArray
    gap: FloatArray
    visit: FloatArray
    pace: FloatArray
    span: FloatArray
    moment: FloatArray
    position: FloatArray
    mean_rating: FloatArray
    previous_rating: FloatArray
    popularity: FloatArray
    age: FloatArray
    rating: FloatArray
    num_genres: FloatArray
    familiarity: FloatArray
    lately: FloatArray
    shared: FloatArray
    favourite: FloatArray
    streak: FloatArray
    known_step: FloatArray
    genres: dict[str, BoolArray]

    def __len__(self) -> int:
        return len(self.history)


def target_facts(split: Split, categories: Sequence[Sequence[str]] | None) -> TargetFacts:
    """Facts of every test target, in the order of the split's targets.

    Args:
        split: Events and targets; every target needs an event before it.
        categories: Genres of every item, *num_items*, or None where they are unknown.
    """
    at, start = split.test.positions, split.table.offsets[split.test.users]
    popularity = np.bincount(np.concatenate(split.train_sequences()), minlength=split.table.num_items)
    by_event = popularity[split.table.items].astype(np.float64)
    facts_of_genres, genres = _genres(split.table, at, start, categories)
    return TargetFacts(
        history=(at - start).astype(np.float64),
        taste=_mean_before(np.log1p(by_event), np.maximum(start, at - RECENT), at),
        previous_popularity=by_event[at - 1],
        popularity=by_event[at],
        position=1.0 + np.arange(len(at)) - np.searchsorted(split.test.users, split.test.users),
        known_step=_known_steps(split),
        **_times(split.table, at, start),
        **_ratings(split.table, at, start),
        **facts_of_genres,
        genres=genres,
    )


def _times(table: Interactions, at: IntArray, start: IntArray) -> dict[str, FloatArray]:
    """Facts of time; without a clock, positions are no times and nothing is known."""
    times = np.asarray(table.timestamps, dtype=np.float64)
    if not table.has_clock:
        times = np.full(len(times), np.nan)
    first = np.full(table.num_items, np.inf)
    np.fmin.at(first, table.items, times)  # unlike minimum, silent about nan
    return {
        "gap": times[at] - times[at - 1],
        "visit": at - _visit_starts(times, table)[at] + 0 * times[at],
        "pace": times[at - 1] - times[np.maximum(start, at - RECENT)],
        "span": times[at - 1] - times[start],
        "moment": times[at],
        "age": times[at] - first[table.items[at]],
    }


def _visit_starts(times: FloatArray, table: Interactions) -> IntArray:
    """Index of the first event of each event's visit."""
    begins = np.ones(len(times), dtype=bool)
    begins[1:] = (np.diff(times) >= HOUR) | (np.diff(table.users) != 0)
    return np.maximum.accumulate(np.where(begins, np.arange(len(times)), 0))


def _ratings(table: Interactions, at: IntArray, start: IntArray) -> dict[str, FloatArray]:
    ratings = np.full(table.num_events, np.nan) if table.ratings is None else table.ratings.astype(np.float64)
    return {"mean_rating": _mean_before(ratings, start, at), "previous_rating": ratings[at - 1], "rating": ratings[at]}


def _mean_before(values: FloatArray, start: IntArray, stop: IntArray) -> FloatArray:
    """Mean of the known values from start to before stop; nan where none is known."""
    known = np.isfinite(values)
    sums, counts = (
        np.concatenate([[0.0], np.cumsum(column)])
        for column in (np.where(known, values, 0.0), known.astype(np.float64))
    )
    with np.errstate(invalid="ignore"):
        return np.asarray((sums[stop] - sums[start]) / (counts[stop] - counts[start]))


def _known_steps(split: Split) -> FloatArray:
    """How many training sequences go from the item before each target to the target's item."""
    sequences, num_items = split.train_sequences(), split.table.num_items
    steps = np.concatenate([sequence[:-1] * num_items + sequence[1:] for sequence in sequences])
    known, counts = np.unique(steps, return_counts=True)
    asked = split.table.items[split.test.positions - 1] * num_items + split.test.items
    place = np.minimum(np.searchsorted(known, asked), max(len(known) - 1, 0))
    return np.where(known[place] == asked, counts[place], 0).astype(np.float64) if len(known) else np.zeros(len(asked))


def _genres(
    table: Interactions, at: IntArray, start: IntArray, categories: Sequence[Sequence[str]] | None
) -> tuple[dict[str, FloatArray], dict[str, BoolArray]]:
    """Facts of genres, and each genre's targets; where none are known, all are nan and no genre has a name."""
    unknown = np.full(len(at), np.nan)
    names = sorted({name for item in categories or () for name in item})
    if categories is None or not names:
        facts = ("diversity", "num_genres", "familiarity", "lately", "shared", "favourite", "streak")
        return dict.fromkeys(facts, unknown), {}
    by_item = np.array([[name in item for name in names] for item in categories])
    by_event = by_item[table.items]  # events x genres
    before = np.concatenate([np.zeros((1, len(names)), dtype=np.int64), np.cumsum(by_event, axis=0)])
    target, ever = by_event[at], before[at] - before[start]
    recent = before[at] - before[np.maximum(start, at - RECENT)]
    near = before[at] - before[np.maximum(start, at - NEAR)]
    told = np.where(target.any(axis=1), 0.0, np.nan)  # of a target without genres nothing is known
    sharing = _sharing(by_event, at, start)
    facts_of_genres = {
        "diversity": _entropy(recent),
        "num_genres": target.sum(axis=1) + told,
        "familiarity": (target * ever).max(axis=1) / (at - start) + told,
        "lately": sharing + told,
        "shared": (target & by_event[at - 1]).any(axis=1) + told,
        "favourite": (target & (ever == ever.max(axis=1, keepdims=True)) & (ever > 0)).any(axis=1) + told,
        "streak": (target & (near == NEAR)).any(axis=1) + told,
    }
    return facts_of_genres, {name: target[:, index] for index, name in enumerate(names)}


def _sharing(by_event: BoolArray, at: IntArray, start: IntArray) -> FloatArray:
    """Of the last `RECENT` events before each target, how many share a genre with it."""
    rows = [
        (by_event[max(first, stop - RECENT) : stop] & by_event[stop]).any(axis=1).sum()
        for first, stop in zip(start, at, strict=True)
    ]
    return np.array(rows, dtype=np.float64)


def _entropy(counts: IntArray) -> FloatArray:
    """Entropy of each row, in nats; nan for a row of zeros."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = counts / counts.sum(axis=1, keepdims=True)
        terms = np.where(counts > 0, -shares * np.log(shares), 0.0)
    return np.where(counts.any(axis=1), terms.sum(axis=1), np.nan)
