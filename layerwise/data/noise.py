"""Events of somebody else in a user's history: a share of the items is replaced by random other ones.

What lands in a history is drawn like a random training event, popular items more often than rare ones. Drawn uniformly
from the catalogue, most replacements would be items that hardly occur in training, which a model could tell apart and
ignore; drawn by popularity, histories keep the look of histories and only what they say of the user is lost.
"""

from dataclasses import replace

import numpy as np

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.data.splits import Split


def with_noisy_events(split: Split, share: float, seed: int) -> Split:
    """The split with a share of all events replaced: what `histories` gives is noisy, the targets stay.

    Args:
        split: The true events.
        share: Chance of each event to be replaced, in [0, 1].
        seed: Decides which events, and by what. The same seed replaces at a larger share the same events by the same
            items, and more of them.

    Returns:
        A split whose users, times, ratings and targets are the same. No replacement is an item that its user has
        anywhere, as a target or before, and none comes twice to one user. Share 0 changes nothing.

    Raises:
        ValueError: A share outside [0, 1], or a user who has nearly all items, so that too few others are left.
    """
    return _with_items(split, _replaced_items(split, share, seed))


def with_noisy_training(split: Split, share: float, seed: int) -> Split:
    """The split with a share of the training events replaced, as `with_noisy_events` does; all others stay."""
    table = split.table
    place = np.arange(table.num_events) - table.offsets[table.users]
    trains = place < split.train_lengths[table.users]
    return _with_items(split, np.where(trains, _replaced_items(split, share, seed), table.items))


def replaced_share(read: list[IntArray], true: list[IntArray], last: int) -> float:
    """Share of the last events of histories, of all of them together, that differ from the true ones."""
    differ = [row[-last:] != other[-last:] for row, other in zip(read, true, strict=True)]
    return float(np.concatenate(differ).mean())


def _with_items(split: Split, items: IntArray) -> Split:
    return replace(split, table=replace(split.table, items=items))


def _replaced_items(split: Split, share: float, seed: int) -> IntArray:
    if not 0 <= share <= 1:
        raise ValueError(f"the share of replaced events must lie in [0, 1], got {share}")
    table, rng = split.table, np.random.default_rng(seed)
    popularity = np.bincount(np.concatenate(split.train_sequences()), minlength=table.num_items)
    items = table.items.copy()
    for user, (start, stop) in enumerate(zip(table.offsets[:-1], table.offsets[1:], strict=True)):
        chance, others = rng.random(stop - start), _in_random_order(popularity, table.items_of(user), rng)
        order = np.argsort(chance)
        count = int((chance < share).sum())
        if count > len(others):
            raise ValueError(
                f"user {str(table.user_ids[user])!r} needs {count} items that they do not have, and training knows "
                f"{len(others)}; leave out users with so much of the catalogue, or replace a smaller share"
            )
        items[start + order[:count]] = others[:count]
    return items


def _in_random_order(popularity: FloatArray | IntArray, known: IntArray, rng: np.random.Generator) -> IntArray:
    """Items that a user does not know and training does, drawn one by one by popularity, none twice.

    References:
        Efraimidis & Spirakis 2006: the order of exponential times whose rates are the weights.
    """
    waiting = rng.exponential(size=len(popularity))
    possible = popularity > 0
    possible[known] = False
    candidates = np.flatnonzero(possible)
    return np.asarray(candidates[np.argsort(waiting[candidates] / popularity[candidates])])
