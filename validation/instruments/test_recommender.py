"""The recommender scores a history the same way whatever stands beside it, and comes back from disk as it was."""

import re
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from layerwise.models.families import FAMILIES, Shape, UnsupportedArchitectureError
from layerwise.models.modes import evaluating
from layerwise.models.recommender import Recommender, build_recommender

NUM_ITEMS, MAX_LENGTH = 30, 6
PAD, MASK, END = NUM_ITEMS, NUM_ITEMS + 1, NUM_ITEMS + 1
SHAPE = Shape(num_layers=3, hidden=16, intermediate=24, num_heads=2)
AUTO = dict.fromkeys(("llama", "qwen3", "gpt2"), AutoModelForCausalLM) | {
    "bert": AutoModelForMaskedLM,
    "t5": AutoModelForSeq2SeqLM,
}
LONG, SHORT = [9, 8, 7, 6, 5, 4, 3, 2], [3, 1, 2]

each_family = pytest.mark.parametrize("family", FAMILIES)


def made(family="llama", seed=0, **options):
    """Recommender with large random weights and biases, so that scores depend on the whole history."""
    recommender = build_recommender(family, NUM_ITEMS, MAX_LENGTH, SHAPE, seed, **options)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in recommender.named_parameters():
            if parameter.ndim > 1 or name.endswith("bias"):
                parameter.normal_(std=0.2, generator=random)
    return recommender


shared = cache(made)  # for tests that only look


def items(*codes):
    return np.array(codes, dtype=np.int64)


@pytest.fixture(scope="module")
def recommender():
    return shared()


@pytest.fixture(scope="module")
def histories():
    random = np.random.default_rng(0)
    return [random.integers(0, NUM_ITEMS, length) for length in (1, 9, 3, 6, 2, 5, 20, 1, 4)]


def arguments(family, *histories):
    """What `transformers` is to be given for histories of the same length, written by hand."""
    tokens = torch.tensor(histories)
    if family == "bert":
        return {"input_ids": torch.nn.functional.pad(tokens, (0, 1), value=MASK)}
    if family == "t5":
        ended = torch.nn.functional.pad(tokens, (0, 1), value=END)
        return {"input_ids": ended, "decoder_input_ids": torch.full((len(histories), 1), PAD)}
    return {"input_ids": tokens}


def asked(family):
    """Position of the logits that answer: the last event, the mask after it, or the decoder's start."""
    return 0 if family == "t5" else -1


def logits_of(model, **inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits


# Tensors


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_batch_of_a_causal_model_is_padded_on_the_right_and_keeps_the_newest_events(family):
    batch = shared(family).batch([items(4), items(0, 1, 2, 3, 4, 5, 6, 7), items(9, 8, 7)])

    assert set(batch) == {"input_ids", "last"}
    assert batch["input_ids"].tolist() == [[4, *[PAD] * 5], [2, 3, 4, 5, 6, 7], [9, 8, 7, *[PAD] * 3]]
    assert batch["last"].tolist() == [0, 5, 2]


def test_batch_of_a_masked_model_asks_after_the_newest_events():
    batch = shared("bert").batch([items(4), items(0, 1, 2, 3, 4, 5, 6, 7), items(9, 8, 7)])

    assert set(batch) == {"input_ids", "attention_mask", "last"}
    assert batch["input_ids"].tolist() == [
        [4, MASK, *[PAD] * 5],
        [2, 3, 4, 5, 6, 7, MASK],
        [9, 8, 7, MASK, *[PAD] * 3],
    ]
    assert batch["attention_mask"].tolist() == [[1] * 2 + [0] * 5, [1] * 7, [1] * 4 + [0] * 3]
    assert batch["last"].tolist() == [1, 6, 3]


def test_batch_of_an_encoder_decoder_asks_at_the_start():
    batch = shared("t5").batch([items(4), items(0, 1, 2, 3, 4, 5, 6, 7), items(9, 8, 7)])

    assert set(batch) == {"input_ids", "attention_mask", "decoder_input_ids", "last"}
    assert batch["input_ids"].tolist() == [[4, END, *[PAD] * 5], [2, 3, 4, 5, 6, 7, END], [9, 8, 7, END, *[PAD] * 3]]
    assert batch["attention_mask"].tolist() == [[1] * 2 + [0] * 5, [1] * 7, [1] * 4 + [0] * 3]
    assert batch["decoder_input_ids"].tolist() == [[PAD]] * 3
    assert batch["last"].tolist() == [0] * 3


def test_a_batch_is_no_longer_than_its_longest_history(recommender):
    assert recommender.batch([items(1), items(2, 3)])["input_ids"].shape == (2, 2)


# Scores


@each_family
def test_scores_are_the_logits_of_transformers_where_the_question_stands(family):
    recommender = shared(family)
    for history in (SHORT, LONG, [5]):
        logits = logits_of(recommender.model, **arguments(family, history[-MAX_LENGTH:]))

        scores = recommender.scores([items(*history)])
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores[0], logits[0, asked(family), :NUM_ITEMS], atol=1e-5)
        assert scores.std() > 0.1


@each_family
def test_training_states_give_the_logits_of_transformers_at_every_target(family):
    recommender = shared(family).eval()
    windows = recommender.windows([items(*SHORT), np.arange(20), items(7, 8)], np.random.default_rng(0))
    with torch.no_grad():
        found = recommender.item_scores(recommender.states(windows.inputs)[windows.valid])
    expected = logits_of(recommender.model, **windows.inputs)[windows.valid][:, :NUM_ITEMS]

    assert found.shape == (len(windows.items), NUM_ITEMS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_decoder_that_scales_its_states_is_followed():
    recommender, found = made("t5"), {}
    for scaled in (True, False):
        recommender.model.config.scale_decoder_outputs = scaled
        found[scaled] = recommender.scores([items(*SHORT)])[0]
        logits = logits_of(recommender.model, **arguments("t5", SHORT))
        np.testing.assert_allclose(found[scaled], logits[0, 0, :NUM_ITEMS], atol=1e-5)

    np.testing.assert_allclose(found[False], 16**0.5 * found[True], atol=1e-5)  # the root of the width


def test_bias_of_the_output_is_part_of_the_scores():
    recommender = made("bert")
    before = recommender.scores([items(*SHORT)])
    with torch.no_grad():
        recommender.model.get_output_embeddings().bias[4] += 3

    np.testing.assert_allclose(recommender.scores([items(*SHORT)]) - before, 3.0 * np.eye(NUM_ITEMS)[[4]], atol=1e-5)


@each_family
def test_only_the_newest_events_matter_and_each_of_them_does(family):
    recommender, old, newest = shared(family), items(11, 12, 13), items(0, 1, 2, 3, 4, 5)
    others = [np.where(np.arange(MAX_LENGTH) == place, 20, newest) for place in range(MAX_LENGTH)]
    alone, longer, *changed = recommender.scores([newest, np.append(old, newest), *others])

    np.testing.assert_array_equal(alone, longer)
    assert (np.abs(np.array(changed) - alone).max(axis=1) > 1e-3).all()


@each_family
def test_what_stands_in_the_padding_changes_no_score(family, histories):
    recommender = shared(family).eval()
    batch = recommender.batch(histories)
    tokens = batch["input_ids"]
    changed = batch | {"input_ids": torch.where(tokens == PAD, 17, tokens)}

    assert (tokens == PAD).any()
    with torch.no_grad():
        torch.testing.assert_close(recommender(**changed), recommender(**batch), rtol=0, atol=1e-5)


@each_family
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_scores_depend_neither_on_batch_size_nor_on_the_other_rows_and_their_padding(family, histories, batch_size):
    recommender = shared(family)
    expected = recommender.scores(histories)
    np.testing.assert_allclose(recommender.scores(histories, batch_size), expected, atol=1e-5)

    order = np.random.default_rng(1).permutation(len(histories))
    shuffled = recommender.scores([histories[row] for row in order], batch_size)
    np.testing.assert_allclose(shuffled, expected[order], atol=1e-5)


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


SPECIAL = {"bert": "padding, mask", "t5": "padding, end of history"}


@each_family
def test_vocabulary_must_fit_the_catalogue(family):
    special = SPECIAL.get(family, "padding")
    needed = 32 + special.count(",")
    message = f"expected a vocabulary of {needed} tokens (31 items and {special}), got {needed - 1}; build the model"

    with pytest.raises(ValueError, match=re.escape(message)):
        Recommender(shared(family).model, NUM_ITEMS + 1, MAX_LENGTH)


@each_family
def test_model_is_told_which_of_its_tokens_are_special(family):
    """Hugging Face's own tools read them from the configuration."""
    config = shared(family).model.config

    assert config.pad_token_id == PAD
    assert getattr(config, "decoder_start_token_id", PAD) == PAD
    assert config.eos_token_id == (END if family == "t5" else None)


def test_family_that_is_not_known_is_refused():
    with pytest.raises(UnsupportedArchitectureError, match="no family is named 'gru4rec'"):
        build_recommender("gru4rec", NUM_ITEMS, MAX_LENGTH, SHAPE, seed=0)


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


@each_family
def test_dropout_is_off_while_scoring_and_on_while_training(family):
    recommender = made(family, attention_dropout=0.5).train()
    history = items(1, 2, 3, 4)
    inputs = recommender.windows([history] * 2, np.random.default_rng(0)).inputs

    np.testing.assert_array_equal(recommender.scores([history]), recommender.scores([history]))
    assert not torch.equal(recommender.states(inputs), recommender.states(inputs))
    recommender.eval()
    assert torch.equal(recommender.states(inputs), recommender.states(inputs))


@each_family
def test_embedding_dropout_is_on_while_training_alone(family):
    recommender = made(family)
    inputs = recommender.windows([items(1, 2, 3, 4)] * 2, np.random.default_rng(0)).inputs
    plain = recommender.eval().states(inputs)

    assert torch.equal(recommender.states(inputs, embedding_dropout=0.5), plain)
    recommender.train()
    torch.testing.assert_close(recommender.states(inputs), plain)
    first, again = (recommender.states(inputs, embedding_dropout=0.5) for _ in range(2))
    assert not torch.equal(first, plain)
    assert not torch.equal(first, again)


# Windows and labels


@each_family
def test_a_batch_of_windows_says_which_states_have_which_targets(family):
    """Each row is what the same generator draws for its sequence alone; padding has no target."""
    recommender = shared(family)
    sequences = [items(5, 6, 7), items(8, 9), np.arange(20)]
    windows = recommender.windows(sequences, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    expected = [recommender.inputs.window(sequence, rng) for sequence in sequences]

    assert windows.items.tolist() == [item for window in expected for item in window.items]
    for row, window in enumerate(expected):
        assert torch.nonzero(windows.valid[row]).flatten().tolist() == window.positions.tolist()
        for name, tokens in window.inputs.items():
            padding = windows.inputs[name].shape[1] - len(tokens)
            assert windows.inputs[name][row].tolist() == [*tokens, *[PAD] * padding]
    mask = windows.inputs.get("attention_mask")
    assert (mask is not None) == (family in ("bert", "t5"))
    assert mask is None or mask.sum(1).tolist() == [len(window.inputs["input_ids"]) for window in expected]


SEQUENCES = [items(5, 6, 7), items(1), items(0, 1, 2, 3, 4, 5, 6, 7, 8), items(8, 9)]


def listed(batch):
    return {name: tensor.tolist() for name, tensor in batch.items()}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_labels_of_a_causal_model_ask_for_the_last_event_of_each_sequence_with_two(family):
    first, second = map(listed, shared(family).labelled_batches(SEQUENCES, batch_size=2))
    no = -100

    assert first == {
        "input_ids": [[8, 9, PAD], [5, 6, 7]],
        "attention_mask": [[1, 1, 0], [1, 1, 1]],
        "labels": [[no, 9, no], [no, no, 7]],
    }
    assert second == {  # the newest MAX_LENGTH and the target
        "input_ids": [[2, 3, 4, 5, 6, 7, 8]],
        "attention_mask": [[1] * 7],
        "labels": [[no] * 6 + [8]],
    }


def test_labels_of_a_masked_model_stand_at_the_mask():
    first, second = map(listed, shared("bert").labelled_batches(SEQUENCES, batch_size=2))
    no = -100

    assert first == {
        "input_ids": [[8, MASK, PAD], [5, 6, MASK]],
        "attention_mask": [[1, 1, 0], [1, 1, 1]],
        "labels": [[no, 9, no], [no, no, 7]],
    }
    assert second["input_ids"] == [[2, 3, 4, 5, 6, 7, MASK]]
    assert second["labels"] == [[no] * 6 + [8]]


def test_labels_of_an_encoder_decoder_stand_at_its_start():
    first, second = map(listed, shared("t5").labelled_batches(SEQUENCES, batch_size=2))

    assert first == {
        "input_ids": [[8, END, PAD], [5, 6, END]],
        "attention_mask": [[1, 1, 0], [1, 1, 1]],
        "decoder_input_ids": [[PAD], [PAD]],
        "labels": [[9], [7]],
    }
    assert second["input_ids"] == [[2, 3, 4, 5, 6, 7, END]]
    assert second["labels"] == [[8]]


@each_family
def test_loss_on_labelled_batches_is_that_of_the_scores(family):
    """The model's own loss, from its own reading of labels, is the cross-entropy over its whole vocabulary."""
    recommender, sequence = shared(family).eval(), items(4, 3, 9, 1)
    (batch,) = recommender.labelled_batches([sequence])
    logits = logits_of(recommender.model, **arguments(family, [4, 3, 9]))[0, asked(family)]
    with torch.no_grad():
        loss = recommender.model(**batch).loss

    assert loss.item() == pytest.approx(-logits.log_softmax(-1)[1].item(), rel=1e-5)


@each_family
def test_labelled_batches_of_long_sequences_can_be_fed_to_the_model(family):
    recommender = shared(family)
    for batch in recommender.labelled_batches([np.arange(20)]):
        assert recommender.model(**batch).loss.isfinite()


# On disk


@each_family
def test_recommender_read_back_gives_the_same_scores(tmp_path, family, histories):
    recommender = shared(family)
    recommender.save(tmp_path)
    read = Recommender.load(tmp_path)

    assert (read.num_items, read.max_length) == (NUM_ITEMS, MAX_LENGTH)
    np.testing.assert_array_equal(read.scores(histories), recommender.scores(histories))
    assert read.item_matrix.data_ptr() == read.model.get_input_embeddings().weight.data_ptr()
    assert not hasattr(recommender.model.config, "num_items")  # the configuration in memory is left as it was


@each_family
def test_checkpoint_is_read_by_the_plain_class_of_transformers(tmp_path, family):
    recommender = shared(family)
    recommender.save(tmp_path)
    model, report = AUTO[family].from_pretrained(tmp_path, output_loading_info=True)

    assert type(model) is type(recommender.model)
    assert not any(report.values()), report
    inputs = arguments(family, SHORT)
    assert torch.equal(logits_of(model, **inputs), logits_of(recommender.model, **inputs))


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


# Fresh recommenders


@each_family
def test_seed_decides_the_weights_and_the_global_generators_are_left_alone(family, monkeypatch):
    def weights(seed):
        fresh = build_recommender(family, NUM_ITEMS, MAX_LENGTH, SHAPE, seed)
        return torch.nn.utils.parameters_to_vector(fresh.parameters())

    seeded_elsewhere = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded_elsewhere.append)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert seeded_elsewhere == []  # the generators of every accelerator, also of one in use by somebody else


@each_family
def test_fresh_recommender_has_tied_item_vectors_and_the_shape_asked_for(family):
    recommender = shared(family)

    assert len(recommender.layers) == 3
    assert recommender.item_matrix.shape == (NUM_ITEMS, 16)
    assert recommender.model.get_output_embeddings().weight is recommender.model.get_input_embeddings().weight


def test_encoder_has_the_layer_more_where_their_number_is_odd():
    model = shared("t5").model
    assert (len(model.encoder.block), len(model.decoder.block)) == (2, 1)


@pytest.mark.parametrize("shape", [Shape(8, 64, 172, 2), Shape(6, 128, 344, 4), Shape(12, 64, 256, 2)], ids=str)
def test_families_of_one_shape_have_about_as_many_parameters(shape):
    """Within 5 %, in the layers and in all, at the size of MovieLens 100K."""
    found = [build_recommender(family, 1682, 50, shape, seed=0) for family in FAMILIES]
    in_all = [sum(parameter.numel() for parameter in recommender.parameters()) for recommender in found]
    in_layers = [sum(p.numel() for layer in recommender.layers for p in layer.parameters()) for recommender in found]

    for counts in (in_all, in_layers):
        assert max(counts) <= 1.05 * min(counts)


def test_parameters_of_a_layer_by_hand():
    """Hidden 64, feed-forward 172: four attention matrices, three of 64 x 172 or two of 64 x 258, norms and biases."""
    expected = {
        "llama": 4 * 64**2 + 3 * 64 * 172 + 2 * 64,
        "qwen3": 4 * 64**2 + 3 * 64 * 172 + 2 * 64 + 2 * 32,
        "gpt2": 4 * (64**2 + 64) + 2 * 64 * 258 + 258 + 64 + 4 * 64,
        "bert": 4 * (64**2 + 64) + 2 * 64 * 258 + 258 + 64 + 4 * 64,
    }
    for family, count in expected.items():
        layer = build_recommender(family, 10, 5, Shape(1, 64, 172, 2), seed=0).layers[0]
        assert sum(parameter.numel() for parameter in layer.parameters()) == count
    encoder, decoder = build_recommender("t5", 10, 5, Shape(2, 64, 172, 2), seed=0).layers
    counts = [sum(parameter.numel() for parameter in layer.parameters()) for layer in (encoder, decoder)]
    assert counts[0] == 4 * 64**2 + 2 * 64 * 194 + 2 * 64 + 32 * 2  # 258 - 64 = 194; positions in 32 buckets, 2 heads
    assert counts[1] == 8 * 64**2 + 2 * 64 * 194 + 3 * 64 + 32 * 2
