"""How a family is fed: windows, prompts and labels by hand, and a target that no input gives away."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.models.inputs import IGNORED, Causal, EncoderDecoder, Masked, padded

NUM_ITEMS, MAX_LENGTH = 20, 4
PAD, MASK, END, NO = 20, 21, 21, -100
FORMS = [Causal, Masked, EncoderDecoder]


def items(*codes):
    return np.array(codes, dtype=np.int64)


def listed(inputs):
    return {name: tokens.tolist() for name, tokens in inputs.items()}


def drawing(end=None, hidden=()):
    """Generator that draws the given whole number, and shares below a half for the hidden events."""

    def integers(low, high):
        assert low <= end < high
        return end

    def random(size):
        return np.where(np.isin(np.arange(size), hidden), 0.4999, 0.5)

    return SimpleNamespace(integers=integers, random=random)


# What is scored


@pytest.mark.parametrize(
    ("history", "read"),
    [([7], [7]), ([3, 1, 2], [3, 1, 2]), ([9, 8, 7, 6], [9, 8, 7, 6]), (range(9), [5, 6, 7, 8])],
    ids=["one-event", "short", "full", "long"],
)
def test_prompt_by_hand(history, read):
    causal, masked, decoded = (form(NUM_ITEMS, MAX_LENGTH).prompt(items(*history)) for form in FORMS)

    assert listed(causal.inputs) == {"input_ids": read}
    assert causal.positions.tolist() == [len(read) - 1]
    assert listed(masked.inputs) == {"input_ids": [*read, MASK]}
    assert masked.positions.tolist() == [len(read)]
    assert listed(decoded.inputs) == {"input_ids": [*read, END], "decoder_input_ids": [PAD]}
    assert decoded.positions.tolist() == [0]
    assert len(causal.items) == len(masked.items) == len(decoded.items) == 0


# What is learned from


@pytest.mark.parametrize(
    ("sequence", "end", "inputs", "targets"),
    [
        ([8, 3], None, [8], [3]),
        ([5, 6, 7], None, [5, 6], [6, 7]),
        (range(5), None, [0, 1, 2, 3], [1, 2, 3, 4]),  # one more than is read
        (range(7), 5, [0, 1, 2, 3], [1, 2, 3, 4]),
        (range(7), 7, [2, 3, 4, 5], [3, 4, 5, 6]),
    ],
)
def test_causal_window_by_hand(sequence, end, inputs, targets):
    window = Causal(NUM_ITEMS, MAX_LENGTH).window(items(*sequence), drawing(end))

    assert listed(window.inputs) == {"input_ids": inputs}
    assert window.positions.tolist() == list(range(len(inputs)))
    assert window.items.tolist() == targets


@pytest.mark.parametrize(
    ("sequence", "end", "hidden", "inputs", "positions", "targets"),
    [
        ([8, 3], None, [], [8, MASK], [1], [3]),
        ([8, 3], None, [0], [MASK, MASK], [0, 1], [8, 3]),
        ([5, 6, 7, 8], None, [0, 2], [MASK, 6, MASK, MASK], [0, 2, 3], [5, 7, 8]),
        (range(5), None, [1], [0, MASK, 2, 3, MASK], [1, 4], [1, 4]),  # as long as the prompt of four events
        (range(7), 6, [4], [1, 2, 3, 4, MASK], [4], [5]),
    ],
)
def test_masked_window_by_hand(sequence, end, hidden, inputs, positions, targets):
    window = Masked(NUM_ITEMS, MAX_LENGTH).window(items(*sequence), drawing(end, hidden))

    assert listed(window.inputs) == {"input_ids": inputs}
    assert window.positions.tolist() == positions
    assert window.items.tolist() == targets


@pytest.mark.parametrize(
    ("sequence", "split", "encoded", "decoded", "targets"),
    [
        ([8, 3], 1, [8], [PAD], [3]),
        ([5, 6, 7], 1, [5], [PAD, 6], [6, 7]),
        ([5, 6, 7], 2, [5, 6], [PAD], [7]),
        (range(9), 1, [0], [PAD, 1], [1, 2]),  # half a history is decoded
        (range(9), 5, [1, 2, 3, 4], [PAD, 5], [5, 6]),  # and a whole one is encoded
        (range(9), 8, [4, 5, 6, 7], [PAD], [8]),
    ],
)
def test_encoder_decoder_window_by_hand(sequence, split, encoded, decoded, targets):
    window = EncoderDecoder(NUM_ITEMS, MAX_LENGTH).window(items(*sequence), drawing(split))

    assert listed(window.inputs) == {"input_ids": [*encoded, END], "decoder_input_ids": decoded}
    assert window.positions.tolist() == list(range(len(targets)))
    assert window.items.tolist() == targets


def test_decoder_of_a_model_that_reads_one_event_still_has_a_target():
    window = EncoderDecoder(NUM_ITEMS, 1).window(items(4, 5, 6), drawing(1))

    assert listed(window.inputs) == {"input_ids": [4, END], "decoder_input_ids": [PAD]}
    assert window.items.tolist() == [5]


# What importances are measured on


@pytest.mark.parametrize(
    ("sequence", "read", "target"),
    [([8, 3], [8], 3), ([5, 6, 7], [5, 6], 7), (range(9), [4, 5, 6, 7], 8)],
    ids=["two-events", "short", "long"],
)
def test_labels_by_hand(sequence, read, target):
    causal, masked, decoded = (listed(form(NUM_ITEMS, MAX_LENGTH).labelled(items(*sequence))) for form in FORMS)
    nothing = [NO] * len(read)

    assert causal == {"input_ids": [*read, target], "labels": [*nothing, target]}  # the model shifts them itself
    assert masked == {"input_ids": [*read, MASK], "labels": [*nothing, target]}
    assert decoded == {"input_ids": [*read, END], "decoder_input_ids": [PAD], "labels": [target]}


def test_label_that_is_left_out_is_the_one_that_transformers_leaves_out():
    assert IGNORED == NO


# Invariants


@st.composite
def cases(draw):
    """A form, a sequence of different items, and a generator."""
    form = draw(st.sampled_from(FORMS))(NUM_ITEMS, draw(st.integers(1, 6)))
    sequence = draw(st.lists(st.integers(0, NUM_ITEMS - 1), min_size=2, max_size=12, unique=True))
    return form, items(*sequence), np.random.default_rng(draw(st.integers(0, 2**32)))


def seen_at(form, window, position):
    """Tokens that the state at a position can attend to, oldest first."""
    tokens = window.inputs["input_ids"]
    if isinstance(form, Causal):
        return tokens[: position + 1]
    return np.append(tokens, window.inputs.get("decoder_input_ids", items())[: position + 1])


@given(cases())
def test_target_is_a_real_item_that_its_state_cannot_see(case):
    form, sequence, rng = case
    window = form.window(sequence, rng)

    assert len(window.positions) == len(window.items) > 0
    for position, item in zip(window.positions, window.items, strict=True):
        assert 0 <= item < NUM_ITEMS
        assert item not in seen_at(form, window, position)


@given(cases())
def test_what_a_causal_state_or_a_decoder_sees_comes_right_before_its_target(case):
    form, sequence, rng = case
    if isinstance(form, Masked):
        form = Causal(form.num_items, form.max_length)
    window = form.window(sequence, rng)

    for position, item in zip(window.positions, window.items, strict=True):
        seen = [token for token in seen_at(form, window, position) if token < NUM_ITEMS]
        end = sequence.tolist().index(item)
        assert seen == sequence[end - len(seen) : end].tolist()


@given(cases())
def test_masked_window_is_a_run_of_events_with_holes_and_the_last_is_one(case):
    form, sequence, rng = case
    window = Masked(form.num_items, form.max_length).window(sequence, rng)
    tokens = window.inputs["input_ids"]
    filled = tokens.copy()
    filled[window.positions] = window.items
    start = sequence.tolist().index(filled[0])

    assert np.flatnonzero(tokens == MASK).tolist() == window.positions.tolist()
    assert filled.tolist() == sequence[start : start + len(filled)].tolist()
    assert window.positions[-1] == len(tokens) - 1


@given(cases())
def test_special_tokens_stand_where_they_mean_something_and_nowhere_else(case):
    """Padding starts a decoder, and the last token of an encoder says that the history ends; both only there."""
    form, sequence, rng = case
    for inputs in (form.prompt(sequence).inputs, form.window(sequence, rng).inputs):
        tokens, decoded = inputs["input_ids"], inputs.get("decoder_input_ids", items(PAD))
        assert PAD not in tokens
        assert np.flatnonzero(decoded == PAD).tolist() == [0]
        if isinstance(form, EncoderDecoder):
            assert np.flatnonzero(tokens == END).tolist() == [len(tokens) - 1]
            assert END not in decoded
        for stream in (tokens, decoded):
            assert stream.max() < NUM_ITEMS + len(form.special)


@given(cases())
def test_importances_are_measured_on_the_question_that_is_scored(case):
    """Labelled inputs without the target are the prompt of what came before it."""
    form, sequence, _ = case
    labelled = form.labelled(sequence)
    labels = labelled.pop("labels")
    if isinstance(form, Causal):
        labelled["input_ids"] = labelled["input_ids"][:-1]

    assert listed(labelled) == listed(form.prompt(sequence[:-1]).inputs)
    assert labels[labels != IGNORED].tolist() == [sequence[-1]]


@given(cases())
def test_whatever_is_fed_fits_into_the_positions_that_the_model_is_told(case):
    form, sequence, rng = case
    for inputs in (form.prompt(sequence).inputs, form.window(sequence, rng).inputs, form.labelled(sequence)):
        assert all(len(tokens) <= form.positions for tokens in inputs.values())


@given(cases())
@settings(max_examples=50)
def test_sequence_is_left_as_it_was(case):
    form, sequence, rng = case
    before = sequence.copy()
    form.window(sequence, rng), form.prompt(sequence), form.labelled(sequence)

    np.testing.assert_array_equal(sequence, before)


# Draws


def draws(form, sequence, number):
    rng = np.random.default_rng(0)
    return [form.window(items(*sequence), rng) for _ in range(number)]


@pytest.mark.parametrize("form", [Causal, Masked])
def test_every_stretch_is_drawn_equally_often(form):
    """Nine events, stretches of five: each of the five ends has a chance of 1 / 5."""
    windows = draws(form(NUM_ITEMS, MAX_LENGTH), range(9), 2000)
    ends, counts = np.unique([window.items[-1] for window in windows], return_counts=True)

    assert ends.tolist() == [4, 5, 6, 7, 8]
    assert (np.abs(counts - 400) < 4 * np.sqrt(2000 * 0.2 * 0.8)).all()


def test_every_split_is_drawn_equally_often():
    """Each event but the first is the decoder's first target with a chance of 1 / 8."""
    windows = draws(EncoderDecoder(NUM_ITEMS, MAX_LENGTH), range(9), 2000)
    firsts, counts = np.unique([window.items[0] for window in windows], return_counts=True)

    assert firsts.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (np.abs(counts - 250) < 4 * np.sqrt(2000 * 1 / 8 * 7 / 8)).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_share_of_the_other_items_that_is_masked(share):
    """Every item but the last by a coin of its own; a share of 0 leaves the last alone."""
    windows = draws(Masked(NUM_ITEMS, MAX_LENGTH, share), range(5), 2000)
    hidden = np.array([window.inputs["input_ids"] == MASK for window in windows])
    spread = np.sqrt(share * (1 - share) / 2000)

    assert hidden[:, -1].all()
    np.testing.assert_allclose(hidden[:, :-1].mean(axis=0), share, atol=4 * spread)
    assert len(np.unique(hidden, axis=0)) == (1 if share == 0 else 2**4)  # every pattern is reached


@pytest.mark.parametrize("form", FORMS)
def test_generator_decides_the_window(form):
    def drawn(seed):
        rng = np.random.default_rng(seed)
        windows = [form(NUM_ITEMS, MAX_LENGTH).window(np.arange(NUM_ITEMS), rng) for _ in range(10)]
        return [listed(window.inputs) for window in windows]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


# Tables


def test_rows_are_filled_up_on_the_right():
    table = padded([items(1), items(2, 3, 4), items(5, 6)], PAD)

    assert table.tolist() == [[1, PAD, PAD], [2, 3, 4], [5, 6, PAD]]
    assert table.dtype == np.int64


@pytest.mark.parametrize(
    ("form", "special"),
    [
        (Causal, {"padding": PAD}),
        (Masked, {"padding": PAD, "mask": MASK}),
        (EncoderDecoder, {"padding": PAD, "end of history": END}),
    ],
)
def test_special_tokens_come_right_after_the_items(form, special):
    assert {name: NUM_ITEMS + place for place, name in enumerate(form.special)} == special
