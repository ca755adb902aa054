"""Will a user who liked those items like this one? Examples from ratings, divided by one time for all users."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerwise.data.arrays import IntArray
from layerwise.data.columns import digest_of
from layerwise.data.interactions import Interactions

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Examples:
    """Events whose rating is asked for.

    Attributes:
        positions: Index of the event in the table, increasing, so that a user's examples stand together. Shape ``[n]``.
        users: User code. Shape ``[n]``.
        items: The candidate. Shape ``[n]``.
        labels: Whether it was liked. Shape ``[n]``.
    """

    positions: IntArray
    users: IntArray
    items: IntArray
    labels: BoolArray

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def balance(self) -> float:
        """Share of likes, 0 to 1; nan without examples."""
        return float(self.labels.mean()) if len(self) else float("nan")


@dataclass(frozen=True, eq=False)
class Likes:
    """Examples of three periods that follow one another: all training ends before validation, and that before test.

    Attributes:
        table: All events.
        liked: Whether the event's item was liked. Shape ``[num_events]``.
        starts: When validation and test begin, in the table's unit of time.
        train: Examples to learn from.
        validation: Examples for choosing a model.
        test: Examples for judging it.
    """

    table: Interactions
    liked: BoolArray
    starts: tuple[float, float]
    train: Examples
    validation: Examples
    test: Examples

    def history(self, position: int) -> tuple[IntArray, BoolArray]:
        """Items that the user of an event had rated at earlier times, oldest first, and which they liked.

        What carries the same time is left out: its rating was not known before.
        """
        first = int(self.table.offsets[self.table.users[position]])
        times = self.table.timestamps[first : position + 1]
        end = first + int(np.searchsorted(times, times[-1], side="left"))
        return self.table.items[first:end], self.liked[first:end]

    def digest(self) -> str:
        """SHA-256 of the table and of what trains, validates and tests."""
        parts = [part.positions for part in (self.train, self.validation, self.test)]
        return digest_of(np.array([self.table.digest()]), self.liked, *parts)  # type: ignore[arg-type]


def likes_by_time(
    table: Interactions,
    liked_from: float,
    per_user: tuple[int, int, int],
    shares: tuple[float, float] = (0.1, 0.2),
) -> Likes:
    """The newest examples of each user in each of three periods.

    Args:
        table: Events with ratings and a clock that holds for all users.
        liked_from: Lowest rating that counts as a like.
        per_user: Examples per user at most in training, validation and test; the newest count.
        shares: Share of all events in validation and in test.

    Raises:
        ValueError: Without ratings or a common clock, with a rating that is missing, or a period without both classes.
    """
    if table.ratings is None or np.isnan(table.ratings).any():
        raise ValueError(f"likes need a rating of every event, {table.name!r} lacks some or all")
    if not table.has_clock:
        raise ValueError(f"times of two users of {table.name!r} cannot be compared, so nothing divides all by time")
    liked = table.ratings >= liked_from
    starts = np.quantile(table.timestamps, [1 - sum(shares), 1 - shares[1]], method="higher")
    period = np.searchsorted(starts, table.timestamps, side="right")
    train, validation, test = (_newest(table, liked, period == part, most) for part, most in enumerate(per_user))
    for name, part in (("training", train), ("validation", validation), ("test", test)):
        if not 0 < part.balance < 1:
            raise ValueError(f"{name} has {len(part)} examples of {table.name!r}, a share of {part.balance} liked")
    return Likes(table, liked, (float(starts[0]), float(starts[1])), train, validation, test)


def _newest(table: Interactions, liked: BoolArray, inside: BoolArray, most: int) -> Examples:
    """The last `most` events of each user inside a period; a user's events are in order of time."""
    positions = np.flatnonzero(inside)
    users = table.users[positions]
    from_end = np.searchsorted(users, users, side="right") - 1 - np.arange(len(users))
    chosen = positions[from_end < most]
    return Examples(chosen, table.users[chosen], table.items[chosen], liked[chosen])
