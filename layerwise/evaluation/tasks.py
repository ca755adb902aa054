"""Five questions about a user's next event, to be asked of the same backbone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerwise.data.arrays import IntArray
from layerwise.data.categories import UNKNOWN, rarest_category
from layerwise.data.splits import Split, Targets

LIKED = 4.0  # ratings of four stars and more
BUCKETS = 5


@dataclass(frozen=True, eq=False)
class Task:
    """A classification of an event from what its user did before.

    Attributes:
        name: Short name used in claims and reports.
        labels: Class of every event of the table, -1 where it has none. Shape ``[num_events]``.
        classes: Names of the classes, in the order of their codes.
        shows_item: Whether the model is shown the event's item as the newest event (how will it be liked?), or
            only what came before it (what comes next?).
    """

    name: str
    labels: IntArray
    classes: tuple[str, ...]
    shows_item: bool

    def histories(self, split: Split, targets: Targets) -> list[IntArray]:
        """What the model reads for each target, oldest first."""
        starts = split.table.offsets[targets.users]
        ends = targets.positions + self.shows_item
        return [split.table.items[start:end] for start, end in zip(starts, ends, strict=True)]


def next_event_tasks(split: Split, categories: Sequence[Sequence[str]] | None) -> dict[str, Task]:
    """Next item, like, rating, next genre and popularity of the next item; those that the data allow.

    - *next-item*: which item comes next.
    - *like*: whether the shown item gets four stars or more.
    - *rating*: how many stars the shown item gets.
    - *genre*: the rarest category of the next item, its most specific one.
    - *popularity*: which fifth of all training events the next item belongs to, items in order of their events; items
      that training never saw belong to the least popular fifth.

    Args:
        split: Its table gives the events, its training part the popularity.
        categories: Categories of each item, or None without any; then there is no *genre*.

    Returns:
        Name -> task. Without ratings there are no *like* and *rating*.
    """
    table = split.table
    tasks = [Task("next-item", table.items, tuple(map(str, table.item_ids)), shows_item=False)]
    if table.ratings is not None and np.isfinite(table.ratings).all():
        stars, codes = np.unique(table.ratings, return_inverse=True)
        like = (table.ratings >= LIKED).astype(np.int64)
        tasks.append(Task("like", like, ("no", "yes"), shows_item=True))
        tasks.append(Task("rating", codes.astype(np.int64), tuple(f"{star:g}" for star in stars), shows_item=True))
    if categories is not None:
        genres, names = rarest_category(categories)
        tasks.append(Task("genre", genres[table.items], tuple(names), shows_item=False))
    buckets = popularity_buckets(split)[table.items]
    tasks.append(Task("popularity", buckets, tuple(f"fifth {n + 1}" for n in range(BUCKETS)), shows_item=False))
    return {task.name: task for task in tasks}


def popularity_buckets(split: Split, buckets: int = BUCKETS) -> IntArray:
    """Bucket of each item, 0 the least popular; all hold about as many training events. Shape ``[num_items]``."""
    events = np.concatenate([np.empty(0, dtype=np.int64), *split.train_sequences()])
    counts = np.bincount(events, minlength=split.table.num_items)
    order = np.argsort(counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    found = np.empty(len(counts), dtype=np.int64)
    found[order] = np.minimum(before * buckets // max(counts.sum(), 1), buckets - 1)
    return found


def training_targets(split: Split, per_user: int) -> Targets:
    """The last training events of each user as targets, each with at least one event before it.

    Args:
        split: Only its training part is looked at.
        per_user: Targets per user at most; users with one training event have none.
    """
    starts = split.table.offsets[:-1]
    positions = [
        np.arange(start + max(1, length - per_user), start + length)
        for start, length in zip(starts, split.train_lengths, strict=True)
    ]
    chosen = np.concatenate([np.empty(0, dtype=np.int64), *positions])
    return Targets(users=split.table.users[chosen], positions=chosen, items=split.table.items[chosen])


def labelled(task: Task, targets: Targets) -> Targets:
    """The targets that have a label in the task."""
    known = task.labels[targets.positions] != UNKNOWN
    return Targets(users=targets.users[known], positions=targets.positions[known], items=targets.items[known])


def newest_targets(targets: Targets, per_user: int) -> Targets:
    """The last targets of each user, at most so many; the targets are in order of users and time."""
    ends = np.searchsorted(targets.users, targets.users, side="right")
    newest = ends - np.arange(len(targets)) <= per_user
    return Targets(users=targets.users[newest], positions=targets.positions[newest], items=targets.items[newest])
