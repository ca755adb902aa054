"""Who interacted with what, and when: the one table that everything downstream is computed from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerwise.data.arrays import FloatArray, IntArray, StrArray
from layerwise.data.columns import digest_of, encode, numbers_of


@dataclass(frozen=True, eq=False)
class Interactions:
    """Events sorted by user, then time; events of one user at the same time keep the order of the file.

    Attributes:
        name: Name of the data set, for reports.
        users: User code of each event, 0..num_users-1, non-decreasing. Shape ``[num_events]``.
        items: Item code of each event, 0..num_items-1. Shape ``[num_events]``.
        timestamps: Time of each event in the unit of the source (often seconds). Shape ``[num_events]``.
        ratings: Rating of each event, nan where the source gives none; None without a rating column.
        user_ids: Original id of each user code, as text. Shape ``[num_users]``.
        item_ids: Original id of each item code, as text. Shape ``[num_items]``.
        dropped: Reason -> number of rows that were left out while reading.
        has_clock: False where the source knows only the order of a user's events, so that times of two users
            cannot be compared.
    """

    name: str
    users: IntArray
    items: IntArray
    timestamps: FloatArray | IntArray
    ratings: FloatArray | None
    user_ids: StrArray
    item_ids: StrArray
    dropped: Mapping[str, int] = field(default_factory=dict)
    has_clock: bool = True

    @classmethod
    def from_columns(
        cls,
        name: str,
        users: Iterable[Any],
        items: Iterable[Any],
        timestamps: Iterable[float],
        ratings: Iterable[float] | None = None,
        dropped: Mapping[str, int] | None = None,
        has_clock: bool = True,
    ) -> "Interactions":
        """Table of events given as columns of equal length, in the order of the file.

        Args:
            name: Name of the data set.
            users: User id of each event, of any kind that has a text form.
            items: Item id of each event.
            timestamps: Finite number of each event.
            ratings: Number of each event, nan where unknown.
            dropped: Reason -> rows that were already left out.
            has_clock: Whether timestamps of different users can be compared.

        Raises:
            ValueError: Without events, with columns of unequal length, a missing id or a time that is nan
                or infinite.
        """
        user_codes, user_ids = encode(users, "user")
        item_codes, item_ids = encode(items, "item")
        times = numbers_of(timestamps)
        marks = None if ratings is None else numbers_of(ratings).astype(np.float64)
        lengths = {len(column) for column in (user_codes, item_codes, times, marks) if column is not None}
        if len(lengths) != 1:
            raise ValueError(f"columns of {name!r} must be equally long, got lengths {sorted(lengths)}")
        if lengths == {0}:
            raise ValueError(f"{name!r} has no events (left out while reading: {dict(dropped or {})})")
        if not np.isfinite(times).all():
            row = int(np.flatnonzero(~np.isfinite(times))[0])
            raise ValueError(f"timestamps of {name!r} must be finite, got {times[row]} in row {row}")
        order = np.lexsort((times, user_codes))  # stable: equal times keep the order of the file
        return cls(
            name=name,
            users=user_codes[order],
            items=item_codes[order],
            timestamps=times[order],
            ratings=None if marks is None else marks[order],
            user_ids=user_ids,
            item_ids=item_ids,
            dropped=dict(dropped or {}),
            has_clock=has_clock,
        )

    @property
    def num_users(self) -> int:
        """Number of users, each with at least one event."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return len(self.item_ids)

    @property
    def num_events(self) -> int:
        """Number of events."""
        return len(self.users)

    @cached_property
    def offsets(self) -> IntArray:
        """Events of user ``u`` are ``offsets[u]:offsets[u + 1]``. Shape ``[num_users + 1]``."""
        return np.searchsorted(self.users, np.arange(self.num_users + 1))

    def items_of(self, user: int) -> IntArray:
        """Item codes of a user's events, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def codes_of(self, item_ids: Iterable[Any]) -> IntArray:
        """Item codes of original item ids.

        Raises:
            ValueError: For ids outside the catalogue; the message names the first of them.
        """
        wanted = [str(item) for item in item_ids]
        unknown = [item for item in wanted if item not in self._item_codes]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(wanted)} item ids are not among the {self.num_items} items of "
                f"{self.name!r}: {unknown[:3]}; leave them out of the history, or train on data that has them"
            )
        return np.array([self._item_codes[item] for item in wanted], dtype=np.int64)

    @cached_property
    def _item_codes(self) -> dict[str, int]:
        return {str(item): code for code, item in enumerate(self.item_ids)}

    def without_short_users(self, min_events: int) -> "Interactions":
        """The table without users of fewer than ``min_events`` events, whose events count as dropped."""
        long_enough = np.diff(self.offsets)[self.users] >= min_events
        return self._where(long_enough, f"events of users with fewer than {min_events} events")

    def without_repeats(self) -> "Interactions":
        """The table with only the first of a user's events with the same item; the others count as dropped.

        The ranking of unseen items needs this: a target that is already in the history would be masked.
        """
        _, first = np.unique(self.users * self.num_items + self.items, return_index=True)
        return self._where(np.isin(np.arange(self.num_events), first), "repeats of a user's earlier item")

    def _where(self, kept: NDArray[np.bool_], reason: str) -> "Interactions":
        """The table of some events; users and items without any are left out, the codes keep their order."""
        if kept.all():
            return self
        if not kept.any():
            raise ValueError(f"no event of {self.name!r} would remain: all {self.num_events} are {reason}")
        old_users, users = np.unique(self.users[kept], return_inverse=True)
        old_items, items = np.unique(self.items[kept], return_inverse=True)
        return replace(
            self,
            users=users,
            items=items,
            timestamps=self.timestamps[kept],
            ratings=None if self.ratings is None else self.ratings[kept],
            user_ids=self.user_ids[old_users],
            item_ids=self.item_ids[old_items],
            dropped={**self.dropped, reason: self.dropped.get(reason, 0) + int((~kept).sum())},
        )

    def shuffled_ties(self, seed: int) -> "Interactions":
        """The table with each user's events of equal time in random order, and with item codes permuted.

        For sources that store tied events sorted by item id: there, "the next id" predicts the next event,
        and so would anything that can see the order of the codes. The new table's name says what was done.
        """
        random = np.random.default_rng(seed)
        order = np.lexsort((random.random(self.num_events), self.timestamps, self.users))
        old_codes = random.permutation(self.num_items)  # new code -> old code
        return replace(
            self,
            name=f"{self.name}+ties-shuffled-{seed}",
            items=np.argsort(old_codes)[self.items[order]],
            timestamps=self.timestamps[order],
            ratings=None if self.ratings is None else self.ratings[order],
            item_ids=self.item_ids[old_codes],
        )

    def digest(self) -> str:
        """SHA-256 of the events and ids; name and dropped rows do not count."""
        columns = [self.users, self.items, self.timestamps, self.user_ids, self.item_ids]
        return digest_of(*columns, *([] if self.ratings is None else [self.ratings]))
