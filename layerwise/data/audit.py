"""What is wrong with a data set and its split: duplicates, ties, leaks, the wrong variant."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerwise.data.interactions import Interactions
from layerwise.data.splits import Split, Targets

# Users, items and events of releases that are often confused with one another.
KNOWN_COUNTS: Mapping[str, tuple[int, int, int]] = {
    "ml-100k": (943, 1682, 100000),
    "ml-latest-small": (610, 9724, 100836),
    "ml-1m": (6040, 3706, 1000209),
}
# Ties in natural order ascend about half of the time (MovieLens: .50); stored by item id they always do.
SORTED_TIES = 0.25  # largest distance from one half that passes for natural
FEW_TIES = 100  # below, the share says nothing


@dataclass(frozen=True)
class Audit:
    """Counts and shares of a split; a share is in [0, 1], and None where it is not defined.

    Attributes:
        name: Name of the data set.
        split: Name of the split.
        users: Number of users.
        items: Number of items.
        events: Number of events.
        expected: Known users, items and events of a data set of this name, None for unknown names.
        dropped: Reason -> rows left out while reading.
        left_out: Reason -> users without a target.
        duplicates: Events that repeat an earlier (user, item).
        tied_events: Share of events that share (user, time) with another.
        tied_pairs: Number of neighbouring events of one user at the same time.
        ascending_ties: Share of those pairs in which the later item has the larger id.
        single_time_users: Users with several events, all at one time.
        test_targets: Number of test targets.
        tied_targets: Share of test targets that share their time with another event of their user.
        seen_targets: Test targets that already occur in their history.
        unseen_target_items: Test targets whose item never occurs in training.
    """

    name: str
    split: str
    users: int
    items: int
    events: int
    expected: tuple[int, int, int] | None
    dropped: dict[str, int]
    left_out: dict[str, int]
    duplicates: int
    tied_events: float | None
    tied_pairs: int
    ascending_ties: float | None
    single_time_users: int
    test_targets: int
    tied_targets: float | None
    seen_targets: int
    unseen_target_items: int

    @property
    def is_expected(self) -> bool:
        """False where a data set of this name is known and has other counts."""
        return self.expected in (None, (self.users, self.items, self.events))

    @property
    def has_sorted_ties(self) -> bool:
        """Whether events of equal time are stored in the order of their items, which leaks."""
        if self.ascending_ties is None or self.tied_pairs < FEW_TIES:
            return False
        return abs(self.ascending_ties - 0.5) > SORTED_TIES

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain Python values."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """The audit for a reader, errors first."""
        return [*self._errors(), *self._facts()]

    def _errors(self) -> list[str]:
        found = []
        if not self.is_expected:
            found.append(
                f"error: {self.name} is known with {_counts(self.expected)}, this has "
                f"{_counts((self.users, self.items, self.events))}: another variant, or rows are missing"
            )
        if self.has_sorted_ties:
            found.append(
                f"error: {_percent(self.ascending_ties)} of {self.tied_pairs} neighbours of equal time are in "
                "ascending order of item id, which predicts the next event; use table.shuffled_ties(seed)"
            )
        if self.seen_targets:
            found.append(
                f"error: {self.seen_targets} of {self.test_targets} test targets already occur in their "
                "history and cannot be ranked among unseen items; use table.without_repeats()"
            )
        return found

    def _facts(self) -> list[str]:
        return [
            f"{self.name}: {_counts((self.users, self.items, self.events))}, split {self.split}",
            f"{self.duplicates} events repeat an earlier item of their user",
            f"{_percent(self.tied_events)} of events share their time with another event of their user; "
            f"{self.single_time_users} users have one distinct time only",
            f"{_percent(self.tied_targets)} of {self.test_targets} test targets share their time with "
            "another event: there, the order of the file decides which is the target",
            f"{self.unseen_target_items} test targets are items that training never sees",
            *(f"left out while reading: {count} {reason}" for reason, count in self.dropped.items()),
            *(f"users without a target: {count} ({reason})" for reason, count in self.left_out.items()),
        ]


def audit(split: Split) -> Audit:
    """Counts and shares that say how far a split can be trusted.

    References:
        Woolridge, Wilner & Glick 2021 (equal timestamps make pseudo-sequences).
    """
    table, test = split.table, split.test
    tied_pairs = _neighbours_tied(table)
    tied = _share_time(tied_pairs)
    known = table.has_clock  # positions never tie, times might have
    ascending = np.diff(table.items)[tied_pairs] > 0
    return Audit(
        name=table.name,
        split=split.name,
        users=table.num_users,
        items=table.num_items,
        events=table.num_events,
        expected=KNOWN_COUNTS.get(table.name.partition("+")[0]),
        dropped=dict(table.dropped),
        left_out=dict(split.left_out),
        duplicates=table.num_events - len(np.unique(table.users * table.num_items + table.items)),
        tied_events=_share(tied) if known else None,
        tied_pairs=int(tied_pairs.sum()),
        ascending_ties=_share(ascending),
        single_time_users=_single_time_users(table),
        test_targets=len(test),
        tied_targets=_share(tied[test.positions]) if known else None,
        seen_targets=_seen_targets(split, test),
        unseen_target_items=int((~np.isin(test.items, np.concatenate(split.train_sequences()))).sum()),
    )


def _neighbours_tied(table: Interactions) -> NDArray[np.bool_]:
    """Whether event i + 1 has the user and time of event i. Shape ``[num_events - 1]``."""
    return np.asarray((np.diff(table.users) == 0) & (np.diff(table.timestamps) == 0))


def _share_time(tied_pairs: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether an event shares user and time with another. Shape ``[num_events]``."""
    return np.append(tied_pairs, False) | np.insert(tied_pairs, 0, False)


def _single_time_users(table: Interactions) -> int:
    first, last = table.offsets[:-1], table.offsets[1:] - 1
    return int(((table.timestamps[first] == table.timestamps[last]) & (first < last)).sum())


def _seen_targets(split: Split, targets: Targets) -> int:
    histories = split.histories(targets)
    return sum(int(item in history) for item, history in zip(targets.items, histories, strict=True))


def _share(flags: NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{share:.1%}"


def _counts(counts: tuple[int, int, int] | None) -> str:
    users, items, events = counts or (0, 0, 0)
    return f"{users} users, {items} items, {events} events"
