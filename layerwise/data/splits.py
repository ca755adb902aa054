"""Which events train, which validate, which test."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from layerwise.data.arrays import IntArray
from layerwise.data.columns import digest_of
from layerwise.data.interactions import Interactions


@dataclass(frozen=True, eq=False)
class Targets:
    """Events to be predicted; the history of each is everything its user did before it.

    Attributes:
        users: User code of each target, non-decreasing. Shape ``[n]``.
        positions: Index of the target event in the table. Shape ``[n]``.
        items: Item code of the target event. Shape ``[n]``.
    """

    users: IntArray
    positions: IntArray
    items: IntArray

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, eq=False)
class Split:
    """A table divided into training, validation and test.

    Attributes:
        name: Protocol, for reports.
        table: All events.
        train_lengths: Number of each user's first events that training may see. Shape ``[num_users]``.
        validation: Targets for choosing a model.
        test: Targets for judging it.
        left_out: Reason -> number of users without a target.
    """

    name: str
    table: Interactions
    train_lengths: IntArray
    validation: Targets
    test: Targets
    left_out: Mapping[str, int] = field(default_factory=dict)

    def train_sequences(self) -> list[IntArray]:
        """Item codes that training may see, one array per user (empty where a user has none)."""
        starts = self.table.offsets[:-1]
        return [self.table.items[a : a + n] for a, n in zip(starts, self.train_lengths, strict=True)]

    def histories(self, targets: Targets) -> list[IntArray]:
        """Items before each target, oldest first; earlier validation and test events are among them."""
        starts = self.table.offsets[targets.users]
        return [self.table.items[a:b] for a, b in zip(starts, targets.positions, strict=True)]

    def digest(self) -> str:
        """SHA-256 of the table and of what trains, validates and tests."""
        parts = [self.train_lengths, self.validation.positions, self.test.positions]
        return digest_of(np.array([self.table.digest()]), *parts)


def leave_one_out(table: Interactions) -> Split:
    """Split in which each user's last event tests, the one before validates and the rest trains.

    Raises:
        ValueError: If a user has fewer than 3 events.
    """
    return leave_last_out(table, targets=1)


def leave_last_out(table: Interactions, targets: int = 5) -> Split:
    """Split in which each user's last ``targets`` events test, the one before validates and the rest trains.

    Args:
        table: Events; every user needs at least ``targets + 2`` of them.
        targets: Test events per user, at least 1. Each is to be ranked from its own true prefix.

    Raises:
        ValueError: If a user has too few events, or ``targets`` is below 1.
    """
    if targets < 1:
        raise ValueError(f"targets must be at least 1 event per user, got {targets}")
    counts = np.diff(table.offsets)
    _check_long_enough(table, counts, targets)
    ends = table.offsets[1:]
    return Split(
        name="leave-one-out" if targets == 1 else f"leave-last-{targets}-out",
        table=table,
        train_lengths=counts - targets - 1,
        validation=_targets_at(table, ends - targets - 1),
        test=_targets_at(table, (ends[:, None] - np.arange(targets, 0, -1)).ravel()),
    )


def global_time_split(table: Interactions, validation: float = 0.8, test: float = 0.9) -> Split:
    """Split at two moments that are the same for everybody: no model learns from another user's future.

    Training sees what happened before the first moment. A user's validation target is the first event between
    the two moments, the test target the first event from the second on. Users without such an event, or with
    nothing before it, have no target and are counted.

    Args:
        table: Events whose times can be compared between users.
        validation: Quantile of all event times at which validation begins.
        test: Quantile at which testing begins; 0 < validation < test < 1.

    Raises:
        ValueError: If the quantiles do not increase within (0, 1), the table has no clock or no target
            remains.

    References:
        Ji, Sun, Zhang & Li, TOIS 2023 (leave-one-out learns from other users' future).
    """
    if not 0 < validation < test < 1:
        raise ValueError(f"need 0 < validation < test < 1, got validation={validation}, test={test}")
    if not table.has_clock:
        raise ValueError(f"{table.name!r} has positions, no times: users cannot be compared; use leave_one_out")
    # method="higher": the boundary is the time of an event, never between two of them
    begin, middle = np.quantile(table.timestamps, [validation, test], method="higher")
    left_out: dict[str, int] = {}
    return Split(
        name=f"global-time-{validation:g}-{test:g}",
        table=table,
        train_lengths=_count_before(table, begin),
        validation=_first_between(table, begin, middle, "validation", left_out),
        test=_first_between(table, middle, np.inf, "test", left_out),
        left_out=left_out,
    )


def _check_long_enough(table: Interactions, counts: IntArray, targets: int) -> None:
    needed = targets + 2
    short = np.flatnonzero(counts < needed)
    if len(short):
        user = short[0]
        raise ValueError(
            f"user {str(table.user_ids[user])!r} of {table.name!r} has {counts[user]} events, but {targets} "
            f"test + 1 validation + 1 training event need {needed} ({len(short)} users are too short); "
            f"load_interactions(..., min_events={needed}) leaves them out and counts them"
        )


def _targets_at(table: Interactions, positions: IntArray) -> Targets:
    return Targets(users=table.users[positions], positions=positions, items=table.items[positions])


def _count_before(table: Interactions, moment: float) -> IntArray:
    """Number of each user's events before a moment."""
    return np.bincount(table.users, weights=table.timestamps < moment, minlength=table.num_users).astype(np.int64)


def _first_between(table: Interactions, begin: float, end: float, kind: str, left_out: dict[str, int]) -> Targets:
    """Each user's first event in [begin, end) that has a history; adds the users without to ``left_out``."""
    before, until = _count_before(table, begin), _count_before(table, end)
    active = before < until
    left_out[f"no event in the {kind} period"] = int((~active).sum())
    left_out[f"nothing before the {kind} event"] = int((active & (before == 0)).sum())
    positions = (table.offsets[:-1] + before)[active & (before > 0)]
    if not len(positions):
        raise ValueError(f"no user of {table.name!r} has a {kind} target with a history: {left_out}")
    return _targets_at(table, positions)
