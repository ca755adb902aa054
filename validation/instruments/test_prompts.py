"""Prompts of a BERT tokenizer with a vocabulary of a few words, whose ids are known."""

import pytest
import torch
from transformers import BertTokenizer

from layerwise.models.assets import pretrained_folder
from layerwise.models.prompts import Prompts, padded

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "blue",
    "sun",
    "moon",
    ",",
    "next",
    "liked",
    "[",
    "]",
    "pad",
]
PAD, _, CLS, SEP, MASK, _, RED, BLUE, SUN, MOON, COMMA, NEXT, LIKED, OPEN, CLOSE, PLAIN = range(16)
TITLES = ["Red Sun", "Blue Moon", "Moon", "", "[PAD]"]


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return BertTokenizer(vocab=str(tmp_path / "vocab.txt"))


def test_a_history_becomes_its_titles_between_opening_and_ending(tokenizer):
    prompt = Prompts(tokenizer, TITLES, max_tokens=30, opening="liked")([0, 2], ending="next", candidate=1)

    assert prompt == [CLS, LIKED, RED, SUN, COMMA, MOON, COMMA, NEXT, BLUE, MOON, SEP]


@pytest.mark.parametrize(
    ("max_tokens", "titles"),
    [
        (11, [RED, SUN, COMMA, BLUE, MOON, COMMA, MOON, COMMA]),
        (10, [BLUE, MOON, COMMA, MOON, COMMA]),
        (5, [MOON, COMMA]),
        (3, []),
    ],
)
def test_the_oldest_titles_are_cut_first_and_whole_and_the_ending_never(tokenizer, max_tokens, titles):
    assert Prompts(tokenizer, TITLES, max_tokens)([0, 1, 2], ending="[MASK]") == [CLS, *titles, MASK, SEP]


def test_an_ending_that_does_not_fit_is_refused(tokenizer):
    with pytest.raises(ValueError, match="max_tokens is 3, but without any history a prompt takes 1 more"):
        Prompts(tokenizer, TITLES, max_tokens=3)([0], candidate=1)


def test_an_item_without_a_title_leaves_no_trace(tokenizer):
    prompts = Prompts(tokenizer, TITLES, max_tokens=20)

    assert prompts([0, 3, 2]) == prompts([0, 2])


def test_a_title_that_reads_like_a_special_token_is_plain_text(tokenizer):
    assert Prompts(tokenizer, TITLES, max_tokens=20)([], candidate=4) == [CLS, OPEN, PLAIN, CLOSE, SEP]


def test_a_long_title_keeps_its_first_tokens(tokenizer):
    assert Prompts(tokenizer, TITLES, max_tokens=20, title_tokens=1)([0, 1]) == [CLS, RED, COMMA, BLUE, COMMA, SEP]


def test_titles_are_tokenised_once(tokenizer, monkeypatch):
    prompts = Prompts(tokenizer, TITLES, max_tokens=20)
    first = prompts([0, 1], ending="next")
    monkeypatch.setattr(type(tokenizer), "__call__", lambda *_, **__: pytest.fail("tokenised anew"))

    assert prompts([0, 1], ending="next") == first


def test_minilm_reads_the_same_tokens_as_from_one_text():
    tokenizer = BertTokenizer.from_pretrained(pretrained_folder("all-MiniLM-L6-v2"))
    titles = ["Toy Story (1995)", "Star Wars (1977)"]

    prompt = Prompts(tokenizer, titles, max_tokens=64, opening="Liked:")([0, 1], ending=" Next:", candidate=0)

    text = "Liked: Toy Story (1995), Star Wars (1977), Next: Toy Story (1995)"
    assert prompt == tokenizer(text)["input_ids"]


@pytest.mark.parametrize(("side", "ids"), [("right", [[7, 8, 9], [7, PAD, PAD]]), ("left", [[7, 8, 9], [PAD, PAD, 7]])])
def test_rows_are_padded_on_the_side_asked_for_and_the_mask_says_where(side, ids):
    batch = padded([[7, 8, 9], [7]], PAD, side)

    assert batch["input_ids"].tolist() == ids
    torch.testing.assert_close(batch["attention_mask"], (batch["input_ids"] != PAD).long())


def test_a_token_that_equals_the_padding_inside_a_prompt_is_no_padding():
    assert padded([[PAD, 7], [7]], PAD)["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_a_missing_padding_token_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="set tokenizer.pad_token and model.config.pad_token_id, to the end token"):
        padded([[7]], None)


def test_a_prompt_that_ends_with_the_padding_token_is_refused():
    with pytest.raises(ValueError, match=r"prompts \[1\] end with the padding token 0"):
        padded([[7], [7, PAD]], PAD)
