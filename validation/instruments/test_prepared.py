"""Masks and position buckets that are made once change no output, keep nothing of an input, and leave no trace."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import masking_utils

from layerwise.evaluation import prepared
from layerwise.evaluation.workloads import Scoring
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import build_recommender

PADDED, OTHERS, EVEN, SHORT = range(2, 9), range(8, 1, -1), [5] * 7, [1, 3]
AS_TRANSFORMERS_DOES = SimpleNamespace(using=nullcontext)


def recommender(family):
    model = build_recommender(family, 30, 12, Shape(4, 16, 32, 2), seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # far from zero, so that a wrong bias or mask shows
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def batch(model, lengths, seed=0):
    rng = np.random.default_rng(seed)
    return model.batch([rng.integers(0, 30, length) for length in lengths])


def plain(model):
    scoring = Scoring(model, k=5)
    scoring.prepared = AS_TRANSFORMERS_DOES
    return scoring


def scored(scoring, *inputs):
    with torch.inference_mode():
        return [scoring(**one) for one in inputs]


def equal(found, expected):
    pairs = [pair for one, other in zip(found, expected, strict=True) for pair in zip(one, other, strict=True)]
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_those_of_the_plain_pass_to_the_bit_whatever_came_before(family):
    model = recommender(family)
    batches = [batch(model, lengths) for lengths in (PADDED, EVEN, SHORT, OTHERS, PADDED)]
    assert equal(scored(Scoring(model, k=5), *batches), scored(plain(model), *batches))


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_an_input_is_kept(family):
    """The sabotage would be an output, or a mask, kept from an input before of the same shape."""
    model = recommender(family)
    scoring = Scoring(model, k=5)
    one, other = batch(model, PADDED, seed=0), batch(model, PADDED, seed=1)
    padded_elsewhere = batch(model, OTHERS, seed=0)
    first, second, third, again = scored(scoring, one, other, padded_elsewhere, one)
    assert equal([first], [again])
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0], third[0])
    assert equal([second, third], scored(plain(model), other, padded_elsewhere))


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_what_padding_holds_does_not_matter(family):
    model = recommender(family)
    one = batch(model, PADDED)
    other = {**one, "input_ids": torch.where(one["attention_mask"].bool(), one["input_ids"], 7)}
    assert equal(*(scored(Scoring(model, k=5), inputs) for inputs in (one, other)))


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_attention_that_adds_its_mask_gets_the_mask_that_it_knows(family):
    model = recommender(family)
    model.model.set_attn_implementation("eager")
    batches = [batch(model, lengths) for lengths in (PADDED, EVEN)]
    assert equal(scored(Scoring(model, k=5), *batches), scored(plain(model), *batches))


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_the_mask_is_the_same_for_all_queries_and_left_out_where_nothing_is_padded(family):
    model = recommender(family)
    for lengths, shape in ((PADDED, (7, 1, 1, 9)), (EVEN, None)):
        with prepared.Prepared(model.model).using(batch(model, lengths)) as ready:
            assert (ready["attention_mask"].shape if shape else ready.get("attention_mask")) == shape


def test_biases_follow_their_weights():
    model = recommender("t5")
    scoring, one = Scoring(model, k=5), batch(model, PADDED)
    before = scored(scoring, one)
    with torch.no_grad():
        model.model.get_parameter("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight").mul_(-3)
    after = scored(scoring, one)
    assert not torch.equal(before[0][0], after[0][0])
    assert equal(after, scored(plain(model), one))


def test_a_copy_looks_up_its_own_biases():
    scoring = Scoring(recommender("t5"), k=5)
    one = batch(scoring.recommender, PADDED)
    before = scored(scoring, one)
    copied = copy.deepcopy(scoring)
    with torch.no_grad():
        for table in (p for name, p in copied.named_parameters() if "relative_attention_bias" in name):
            table.mul_(-3)
    assert equal(scored(copied, one), scored(plain(copied.recommender), one))
    assert equal(scored(scoring, one), before)


def test_buckets_are_found_once_for_each_pair_of_lengths(monkeypatch):
    found = []
    look = prepared._looked_up
    monkeypatch.setattr(prepared, "_looked_up", lambda table, call: found.append(table) or look(table, call))
    scoring = Scoring(recommender("t5"), k=5)
    scored(scoring, *(batch(scoring.recommender, lengths) for lengths in (PADDED, EVEN, OTHERS, EVEN)))
    assert len(found) == 3  # the encoder's at two lengths, the decoder's at one


def test_buckets_that_inference_found_serve_gradients():
    model = recommender("t5")
    scoring, one = Scoring(model, k=5), batch(model, PADDED)
    scored(scoring, one)
    scoring(**one)[0].sum().backward()
    table = model.model.get_parameter("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    assert table.grad.abs().sum() > 0


def test_the_model_is_as_it_was_also_after_an_error():
    model = recommender("t5")
    scoring, one = Scoring(model, k=5), batch(model, PADDED)
    names = set(model.state_dict())
    scored(scoring, one)
    with pytest.raises(RuntimeError):
        scoring(**{**one, "decoder_input_ids": torch.zeros(3, 2, dtype=torch.long)})
    assert not any("compute_bias" in vars(module) for module in model.modules())
    assert set(model.state_dict()) == names == {name.removeprefix("recommender.") for name in scoring.state_dict()}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_no_history_is_searched_for_several_sequences_and_the_search_is_put_back(family, monkeypatch):
    searched = []
    look = lambda position_ids: searched.append(position_ids)  # noqa: E731
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", look)
    model = recommender(family)
    scored(Scoring(model, k=5), batch(model, EVEN))
    assert searched == []

    assert masking_utils.find_packed_sequence_indices is look
    scored(plain(model), batch(model, EVEN))
    assert len(searched) == 1
