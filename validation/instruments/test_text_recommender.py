"""Text recommenders of three kinds, on narrow layers and a vocabulary of a few words."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer, GPT2Config, GPT2Model, T5Config, T5Model

from layerwise.compression.compact import compact_model
from layerwise.importance.fisher import fisher_information
from layerwise.importance.influence import block_influence
from layerwise.models.item_head import ItemHead
from layerwise.models.layers import bypassed
from layerwise.models.text_recommender import TextRecommender, text_recommender

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "next", ":", "red", "blue", "sun", "moon", "sea", "hill"]
TITLES = ["Red Sun", "Blue Moon", "Moon", "", "Red Sea", "Blue Hill", "Sun Moon Sea"]
HISTORIES = [np.array([0]), np.array([0, 1, 2, 4, 5]), np.array([5, 3, 4])]
KINDS = [("bert", "mean"), ("bert", "last"), ("gpt2", "last"), ("gpt2", "mean"), ("t5", "last")]
WIDE = {"initializer_range": 0.3}  # at .02 the states of all prompts would be nearly the same


def backbone(kind):
    torch.manual_seed(0)
    size = {"vocab_size": len(WORDS), "pad_token_id": 0}
    if kind == "bert":
        config = BertConfig(
            **size, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
            max_position_embeddings=40, **WIDE,
        )  # fmt: skip
        return BertModel(config).eval()
    if kind == "gpt2":
        return GPT2Model(GPT2Config(**size, n_embd=16, n_layer=3, n_head=2, n_positions=40, **WIDE)).eval()
    config = T5Config(**size, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0)
    return T5Model(config).eval()


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return BertTokenizer(vocab=str(tmp_path / "vocab.txt"))


def recommender(tokenizer, kind="bert", pooling="mean", max_tokens=20):
    return text_recommender(backbone(kind), tokenizer, TITLES, max_tokens, pooling)


@pytest.mark.parametrize(("kind", "pooling"), KINDS)
def test_scores_do_not_depend_on_what_else_is_in_the_batch(tokenizer, kind, pooling):
    text = recommender(tokenizer, kind, pooling)

    together = text.scores(HISTORIES)

    assert together.shape == (3, len(TITLES))
    alone = np.concatenate([text.scores([history]) for history in HISTORIES])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.ptp(together, axis=0).max() > 0.1  # histories differ


@pytest.mark.parametrize(("kind", "pooling"), KINDS)
def test_the_state_is_the_one_that_the_family_is_asked_for(tokenizer, kind, pooling):
    text = recommender(tokenizer, kind, pooling)
    tokens = torch.tensor(text.rows([np.array([0])]))  # [CLS] red sun , (next : ([MASK])) [SEP]

    with torch.no_grad():
        state = text.states(text.batch(text.rows([np.array([0]), np.array([1, 2, 4])])))[0]
        if kind == "t5":
            states = text.model(input_ids=tokens, decoder_input_ids=torch.tensor([[0]])).last_hidden_state[0]
        else:
            states = text.model(input_ids=tokens).last_hidden_state[0]

    expected = {"mean": states.mean(dim=0), "last": states[{"bert": -2, "gpt2": -1, "t5": 0}[kind]]}[pooling]
    torch.testing.assert_close(state, expected, atol=1e-5, rtol=1e-4)


def test_a_masked_model_is_asked_at_its_mask_and_a_causal_one_without(tokenizer):
    words = {kind: recommender(tokenizer, kind, "last").rows([np.array([2])])[0] for kind in ("bert", "gpt2", "t5")}

    spelled = {kind: tokenizer.convert_ids_to_tokens(row) for kind, row in words.items()}
    assert spelled["bert"] == ["[CLS]", "moon", ",", "next", ":", "[MASK]", "[SEP]"]
    assert spelled["gpt2"] == spelled["t5"] == ["[CLS]", "moon", ",", "next", ":", "[SEP]"]


def test_a_left_padding_tokenizer_changes_nothing(tokenizer):
    before = recommender(tokenizer, "gpt2", "last").scores(HISTORIES)
    tokenizer.padding_side = "left"

    np.testing.assert_array_equal(recommender(tokenizer, "gpt2", "last").scores(HISTORIES), before)


def test_only_the_newest_titles_that_fit_are_read(tokenizer):
    text = recommender(tokenizer, max_tokens=7)

    np.testing.assert_array_equal(text.scores([np.array([1, 5, 0, 2])]), text.scores([np.array([0, 2])]))


def test_zero_shot_scores_are_cosines_of_titles_and_history(tokenizer):
    text = recommender(tokenizer)
    prompts = ["Red Sun, Moon,", *(title for title in TITLES if title)]
    with torch.no_grad():
        states = [
            text.model(**tokenizer(prompt, return_tensors="pt")).last_hidden_state[0].mean(0) for prompt in prompts
        ]
    history, *titles = (state.double().numpy() for state in states)
    cosines = [title @ history / np.linalg.norm(title) / np.linalg.norm(history) for title in titles]

    scores = text.scores([np.array([0, 2])])[0]

    np.testing.assert_allclose(np.delete(scores, 3), np.multiply(20, cosines), atol=1e-4)
    assert scores[3] == 0  # the item without a title


def test_a_saved_recommender_scores_the_same_and_its_backbone_loads_without_the_library(tokenizer, tmp_path):
    text = recommender(tokenizer)
    text.head.expect(np.arange(len(TITLES)))
    text.save(tmp_path / "saved")

    np.testing.assert_allclose(
        TextRecommender.load(tmp_path / "saved").scores(HISTORIES), text.scores(HISTORIES), atol=1e-6
    )
    assert loaded_alone(tmp_path / "saved") == "[] [] 3"


def loaded_alone(folder):
    """Missing and surplus weights, and the depth, as a process sees them that knows transformers only."""
    code = (
        "import sys; from transformers import AutoModel, AutoTokenizer; folder = sys.argv[1]; "
        "model, told = AutoModel.from_pretrained(folder, output_loading_info=True); "
        "model(**AutoTokenizer.from_pretrained(folder)('red sun', return_tensors='pt')); "
        "assert 'layerwise' not in sys.modules; "
        "print(sorted(told['missing_keys']), sorted(told['unexpected_keys']), model.config.num_hidden_layers)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(("kind", "pooling"), [("bert", "mean"), ("gpt2", "last"), ("t5", "last")])
def test_a_compact_backbone_scores_as_the_full_one_with_the_layers_bypassed(tokenizer, kind, pooling):
    text = recommender(tokenizer, kind, pooling)
    kept = (0, 2)  # of T5 the first of each stack

    compact = text.on(compact_model(text.model, kept))

    with bypassed(text, [layer for layer in range(len(text.layers)) if layer not in kept]):
        np.testing.assert_allclose(compact.scores(HISTORIES), text.scores(HISTORIES), atol=1e-4)
    assert len(compact.layers) == 2


@pytest.mark.parametrize(("kind", "pooling"), [("bert", "mean"), ("gpt2", "last"), ("t5", "last")])
def test_importances_look_through_the_recommender_at_its_layers(tokenizer, kind, pooling):
    text = recommender(tokenizer, kind, pooling)
    items = np.array([1, 0, 2])
    batches = text.labelled_batches(HISTORIES, items, batch_size=2)

    fisher = fisher_information(text, batches, labels="data", predict=text.predict)

    squares = np.zeros(len(text.layers))
    for history, item in zip(HISTORIES, items, strict=True):
        text.zero_grad()
        loss = torch.nn.functional.cross_entropy(text(**text.batch(text.rows([history]))), torch.tensor([item]))
        loss.backward()
        for place, layer in enumerate(text.layers):
            found = [w.grad for name, w in layer.named_parameters() if "relative_attention_bias" not in name]
            squares[place] += sum(float(gradient.pow(2).sum()) for gradient in found if gradient is not None)
    np.testing.assert_allclose(fisher, squares / 3, rtol=1e-3)
    assert (block_influence(text, batches) > 0).all()


def test_a_tokenizer_without_padding_gets_its_end_token_and_without_both_it_is_refused(tokenizer):
    before = recommender(tokenizer).scores(HISTORIES)
    tokenizer.pad_token, tokenizer.eos_token = None, "[MASK]"

    np.testing.assert_allclose(recommender(tokenizer).scores(HISTORIES), before, atol=1e-4)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="neither a padding nor an end token; set tokenizer.pad_token"):
        recommender(tokenizer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "t5"}, "pooling 'mean' would leave the decoder without work"),
        ({"max_tokens": 41}, "max_tokens is 41, but the backbone has 40 positions"),
        ({"pooling": "first"}, "pooling must be one of mean, last, got 'first'"),
    ],
)
def test_what_cannot_be_read_is_refused(tokenizer, change, message):
    with pytest.raises(ValueError, match=message):
        recommender(tokenizer, **change)


def test_a_masked_model_without_a_mask_is_refused(tokenizer):
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="a masked model is asked at a mask, but its tokenizer has no mask_token"):
        recommender(tokenizer, pooling="last")


def test_histories_and_titles_that_do_not_fit_are_refused(tokenizer):
    text = recommender(tokenizer)

    with pytest.raises(ValueError, match="history 1 is empty"):
        text.scores([np.array([0]), np.array([], dtype=np.int64)])
    with pytest.raises(ValueError, match=r"item codes must lie within \[0, 7\), got 7"):
        text.scores([np.array([0, 7])])
    with pytest.raises(ValueError, match="none of the 2 items has a title"):
        text_recommender(backbone("bert"), tokenizer, ["", ""], 20)
    with pytest.raises(ValueError, match="expected a title for each of the 3 items of the head, got 7"):
        TextRecommender(backbone("bert"), tokenizer, TITLES, ItemHead(3, 16), 20)


def test_the_example_of_the_docs_finds_the_sequel_without_training():
    page = (Path(__file__).parents[2] / "docs" / "text.md").read_text()
    names = {}

    exec(page.partition("```python\n")[2].partition("```")[0], names)

    scores = names["text"].scores([[0]])[0]
    assert names["titles"][1 + int(scores[1:].argmax())] == "The Empire Strikes Back (1980)"
