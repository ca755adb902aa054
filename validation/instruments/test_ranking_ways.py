"""The world in which ranking is timed is the same for all ways, has no ties at the targets, and they agree on it."""

from itertools import islice

import numpy as np
import pytest

from validation.benchmarks.ranking_ways import BLOCK, WAYS, Clock, blocks, plant


def test_a_planted_target_passes_the_items_that_have_its_score():
    after = np.nextafter(np.float32(3), np.float32(4))
    scores = np.array([[1, 3, after, 2], [1, 3, 4, 2]], dtype=np.float32)

    plant(scores, np.array([0, 3]))  # both are raised by 2: the first meets item 1, then item 2

    assert scores[0].tolist() == [np.nextafter(after, np.float32(4)), 3, after, 2]
    assert scores[1].tolist() == [1, 3, 4, np.nextafter(np.float32(4), np.float32(5))]


def test_targets_are_neither_seen_nor_tied_and_a_larger_world_begins_with_the_same_users():
    (alone,), (first, second) = blocks(BLOCK), islice(blocks(3 * BLOCK), 2)

    rows = np.arange(BLOCK)
    assert not any(target in history for target, history in zip(first.targets, first.seen, strict=True))
    assert ((first.scores == first.scores[rows, first.targets][:, None]).sum(axis=1) == 1).all()
    np.testing.assert_array_equal(alone.scores, first.scores)
    assert second.first == BLOCK
    assert not np.array_equal(first.scores, second.scores)


def test_ours_and_ir_measures_find_the_same():
    ours, theirs = (WAYS[way](BLOCK, Clock()) for way in ("layerwise", "ir_measures"))

    assert 0.1 < ours["hr"] < 0.3  # the targets are neither lost nor all first
    assert ours == pytest.approx(theirs, rel=0, abs=1e-9)
