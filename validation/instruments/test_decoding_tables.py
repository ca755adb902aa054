from types import SimpleNamespace

import numpy as np
import pytest
import torch

from layerwise.lab.decoding_tables import decoding_pair, decoding_table, equal_memory_table, long_histories, next_items
from layerwise.models.families import Shape
from layerwise.models.recommender import build_recommender

LENGTH, ITEMS = 5, 30


def made(histories, family="llama"):
    """What the tables ask of a study: 4 layers cut to 1, of random weights, and these histories."""
    models = {
        depth: build_recommender(family, ITEMS, LENGTH, Shape(depth, 8, 16, 2), seed=0).eval() for depth in (4, 1)
    }
    split = SimpleNamespace(test=None, histories=lambda _: [np.array(history) for history in histories])
    subject = SimpleNamespace(family=family, data_name="made")
    return SimpleNamespace(
        full=lambda: [4], healed=lambda: [1], model=models.get, split=split, subject=subject, depth=4, keep=1
    )


@pytest.fixture
def study():
    return made([range(7), [1, 2], range(10, 16)])


@pytest.fixture
def many():
    return made([range(first, first + 6) for first in range(20)])


def test_histories_are_the_newest_items_of_those_that_are_long_enough(study):
    assert long_histories(study, 3).tolist() == [[1, 2, 3, 4, 5, 6], [10, 11, 12, 13, 14, 15], [1, 2, 3, 4, 5, 6]]


def test_short_histories_alone_are_refused():
    with pytest.raises(ValueError, match="made has a history of 6 items"):
        long_histories(made([[1, 2]]), 1)


def test_what_is_decoded_is_what_follows_the_history(study):
    full, compact = decoding_pair(study, 2)
    first, second = next_items(study, 2, number=2)

    with torch.inference_mode():
        logits, _ = full(**first)
        whole = full.model(torch.tensor([[1, 2, 3, 4, 5, 6], [10, 11, 12, 13, 14, 15]])).logits[:, -1]

    assert first["input_ids"].tolist() == [[6], [15]]
    assert second["input_ids"].tolist() == [[15], [6]]
    torch.testing.assert_close(logits, whole)
    assert (len(full.model.model.layers), len(compact.model.model.layers)) == (4, 1)


def test_a_family_that_does_not_decode_is_refused(study):
    with pytest.raises(ValueError, match="only causal models"):
        decoding_pair(made([range(7)], "bert"), 1)


def test_table_has_a_row_for_each_batch_with_ratios_that_the_layers_allow(many):
    table = decoding_table(many, batches=(1, 2))

    assert [row[0] for row in table["rows"]] == [1, 2]
    assert all(1 < float(ratio) < 4 for row in table["rows"] for ratio in row[4:])


def test_equal_memory_holds_as_many_rows_as_the_saved_bytes_allow(many):
    full, compact = equal_memory_table(many, 8)["rows"]

    per_layer = 2 * 8 * 6 * 4  # keys and values, width, tokens, bytes of fp32
    assert (full[2], compact[2]) == (4 * per_layer, per_layer)
    assert full[3] == 8
    assert compact[1] + compact[3] * compact[2] <= full[1] + 8 * full[2] < compact[1] + (compact[3] + 1) * compact[2]
