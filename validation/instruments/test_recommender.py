"""The recommender scores a history the same way whatever stands beside it, and comes back from disk as it was."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from layerwise.models.families import Shape
from layerwise.models.recommender import Recommender, build_recommender, evaluating

NUM_ITEMS, MAX_LENGTH = 30, 6
SHAPE = Shape(num_layers=3, hidden=16, intermediate=24, num_heads=2)


def made(seed=0, **options):
    """Random recommender; larger weights than usual, so that scores depend on the whole history."""
    recommender = build_recommender("llama", NUM_ITEMS, MAX_LENGTH, SHAPE, seed, **options)
    with torch.no_grad():
        for parameter in recommender.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
    return recommender


def items(*codes):
    return np.array(codes, dtype=np.int64)


@pytest.fixture(scope="module")
def recommender():
    return made()


@pytest.fixture(scope="module")
def histories():
    random = np.random.default_rng(0)
    return [random.integers(0, NUM_ITEMS, length) for length in (1, 9, 3, 6, 2, 5, 20, 1, 4)]


def test_batch_is_padded_on_the_right_and_keeps_the_newest_events(recommender):
    batch = recommender.batch([items(4), items(0, 1, 2, 3, 4, 5, 6, 7), items(9, 8, 7)])
    pad = NUM_ITEMS

    assert batch["input_ids"].tolist() == [[4, *[pad] * 5], [2, 3, 4, 5, 6, 7], [9, 8, 7, *[pad] * 3]]
    assert batch["last"].tolist() == [0, 5, 2]


def test_a_batch_is_no_longer_than_its_longest_history(recommender):
    assert recommender.batch([items(1), items(2, 3)])["input_ids"].shape == (2, 2)
    assert recommender.pad([items(1, 2, 3, 4)], length=2).tolist() == [[3, 4]]


def test_events_older_than_the_window_do_not_matter_and_those_inside_do(recommender):
    old, newest = items(11, 12, 13), items(0, 1, 2, 3, 4, 5)
    alone, longer, other = recommender.scores([newest, np.append(old, newest), np.append(items(7), newest[1:])])

    np.testing.assert_array_equal(alone, longer)
    assert np.abs(alone - other).max() > 1e-3


def test_padding_changes_no_score(recommender, histories):
    together = recommender.scores(histories)
    alone = np.concatenate([recommender.scores([history]) for history in histories])

    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_scores_are_the_state_at_the_last_event_times_the_item_vectors(recommender):
    history = items(3, 1, 2)
    with torch.no_grad():
        logits = recommender.eval().model(torch.from_numpy(history)[None]).logits[0, -1, :NUM_ITEMS]

    scores = recommender.scores([history])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[0], logits.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_scores_do_not_depend_on_batch_size_and_keep_the_order_of_rows(recommender, histories, batch_size):
    expected = recommender.scores(histories)
    np.testing.assert_allclose(recommender.scores(histories, batch_size), expected, rtol=1e-4, atol=1e-5)

    order = np.random.default_rng(1).permutation(len(histories))
    shuffled = recommender.scores([histories[row] for row in order], batch_size)
    np.testing.assert_allclose(shuffled, expected[order], rtol=1e-4, atol=1e-5)


def test_no_history_gives_no_row(recommender):
    assert recommender.scores([]).shape == (0, NUM_ITEMS)


@pytest.mark.parametrize("others", [[], [items(1, 2)]], ids=["alone", "beside-another"])
def test_empty_history_is_refused(recommender, others):
    with pytest.raises(ValueError, match=f"history {len(others)} is empty"):
        recommender.batch([*others, items()])


def test_empty_history_is_named_by_the_row_of_the_caller(recommender):
    with pytest.raises(ValueError, match="history 2 is empty"):
        recommender.scores([items(1), items(2, 3), items(), items(4)])


@pytest.mark.parametrize("code", [-1, -NUM_ITEMS, NUM_ITEMS, NUM_ITEMS + 1, 10**6])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_code_outside_the_catalogue_is_refused_wherever_it_stands(recommender, code, place):
    """The code after the last item is the padding token: as an event it would pass for an item."""
    history = items(1, 2, 3)
    history[place] = code

    with pytest.raises(ValueError, match=rf"within \[0, {NUM_ITEMS}\), got {code}"):
        recommender.scores([items(5), history])


def test_vocabulary_must_fit_the_catalogue(recommender):
    with pytest.raises(ValueError, match=r"num_items \+ 1 = 32 tokens.*got 31"):
        Recommender(recommender.model, NUM_ITEMS + 1, MAX_LENGTH)


def test_scoring_restores_the_mode_of_every_submodule():
    recommender = made(attention_dropout=0.5).train()
    recommender.layers[1].eval()
    modes = [module.training for module in recommender.modules()]
    recommender.scores([items(1, 2)])

    assert [module.training for module in recommender.modules()] == modes
    with evaluating(recommender):
        assert not any(module.training for module in recommender.modules())
    assert [module.training for module in recommender.modules()] == modes
    with pytest.raises(RuntimeError, match="stop"), evaluating(recommender):
        raise RuntimeError("stop")
    assert [module.training for module in recommender.modules()] == modes


def test_dropout_is_off_while_scoring_and_on_while_training():
    recommender = made(attention_dropout=0.5).train()
    history = items(1, 2, 3, 4)

    np.testing.assert_array_equal(recommender.scores([history]), recommender.scores([history]))
    tokens = recommender.pad([history])
    assert not torch.equal(recommender.states(tokens), recommender.states(tokens))
    recommender.eval()
    assert torch.equal(recommender.states(tokens, embedding_dropout=0.5), recommender.states(tokens))
    recommender.model.config.attention_dropout = 0.0
    assert not torch.equal(recommender.train().states(tokens, embedding_dropout=0.5), recommender.states(tokens))


def test_labels_ask_for_the_last_event_of_each_sequence_with_two(recommender):
    sequences = [items(5, 6, 7), items(1), items(0, 1, 2, 3, 4, 5, 6, 7, 8), items(8, 9)]
    first, second = recommender.labelled_batches(sequences, batch_size=2)
    no, pad = -100, NUM_ITEMS

    assert first["input_ids"].tolist() == [[8, 9, pad], [5, 6, 7]]
    assert first["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert first["labels"].tolist() == [[no, 9, no], [no, no, 7]]
    assert second["input_ids"].tolist() == [[2, 3, 4, 5, 6, 7, 8]]  # the newest MAX_LENGTH and the target
    assert second["labels"].tolist() == [[no] * 6 + [8]]


def test_recommender_read_back_gives_the_same_scores(tmp_path, recommender, histories):
    recommender.save(tmp_path)
    read = Recommender.load(tmp_path)

    assert (read.num_items, read.max_length) == (NUM_ITEMS, MAX_LENGTH)
    np.testing.assert_array_equal(read.scores(histories), recommender.scores(histories))
    assert read.item_matrix.data_ptr() == read.model.get_input_embeddings().weight.data_ptr()


def test_checkpoint_whose_weights_do_not_fit_its_configuration_is_refused(tmp_path, recommender):
    """`transformers` would fill missing layers with random weights, or ignore surplus ones, and only log it."""
    file = tmp_path / "model.safetensors"
    recommender.save(tmp_path)
    weights = load_file(file)
    gone = "model.layers.1.mlp.up_proj.weight"

    save_file({name: tensor for name, tensor in weights.items() if name != gone}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"does not fit its configuration: missing \['{gone}'\], left over \[\]"):
        Recommender.load(tmp_path)

    surplus = {name.replace("layers.2", "layers.3"): tensor.clone() for name, tensor in weights.items()} | weights
    save_file(surplus, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing \[\], left over \['model.layers.3.input_layernorm.weight'"):
        Recommender.load(tmp_path)


@pytest.mark.parametrize("field", ["num_items", "max_history"])
def test_checkpoint_that_says_nothing_of_the_catalogue_is_refused(tmp_path, field):
    config = LlamaConfig(vocab_size=31, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    other = {"num_items": "max_history", "max_history": "num_items"}[field]
    setattr(config, other, NUM_ITEMS)
    LlamaForCausalLM(config).save_pretrained(tmp_path)

    with pytest.raises(ValueError, match=f"has no '{field}'"):
        Recommender.load(tmp_path)


def test_seed_decides_the_weights_and_the_global_generators_are_left_alone(monkeypatch):
    def weights(seed):
        return torch.nn.utils.parameters_to_vector(made(seed).parameters())

    seeded_elsewhere = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded_elsewhere.append)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert seeded_elsewhere == []  # the generators of every accelerator, also of one in use by somebody else


def test_fresh_recommender_has_tied_item_vectors_and_the_shape_asked_for():
    recommender = made()

    assert len(recommender.layers) == 3
    assert recommender.item_matrix.shape == (NUM_ITEMS, 16)
    assert recommender.model.lm_head.weight is recommender.model.model.embed_tokens.weight
