"""Workloads compute what they say, leave the model as it was, and can be timed."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, LlamaModel, Qwen3Config
from transformers import Qwen3ForCausalLM as Qwen3

from layerwise.compression.compact import compact_model
from layerwise.evaluation.latency import compare_latency
from layerwise.evaluation.workloads import Decoding, Scoring, random_tokens
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import build_recommender

VOCABULARY = 50


def recommender(family, layers=4):
    return build_recommender(family, 30, 12, Shape(layers, 16, 32, 2), seed=0).eval()


def llama(layers=3):
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=layers, **shape)).eval()


CAUSAL = {
    "llama": llama,
    "qwen3": lambda: Qwen3(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=4,
        )
    ).eval(),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=3, n_head=2)).eval(),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_scoring_finds_the_items_that_a_sort_of_all_scores_finds(family):
    model = recommender(family)
    histories = [np.arange(2 + row) for row in range(7)]
    with torch.inference_mode():
        scores, items = Scoring(model, k=5)(**model.batch(histories))

    expected = model.scores(histories)
    order = np.argsort(-expected, axis=1)[:, :5]
    np.testing.assert_array_equal(items.numpy(), order)
    np.testing.assert_allclose(scores.numpy(), np.take_along_axis(expected, order, axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_scoring_leaves_no_hook_behind(family):
    model = recommender(family)
    batch = model.batch([np.arange(3), np.arange(5)])
    before = model(**batch)
    Scoring(model)(**batch)
    assert torch.equal(model(**batch), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_scoring_transforms_the_asked_position_of_a_masked_model_alone():
    model = recommender("bert")
    seen = []
    transform = model.model.get_submodule("cls.predictions.transform")
    transform.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    Scoring(model)(**model.batch([np.arange(3), np.arange(5)]))
    assert seen == [(2, 1, 16)]


@pytest.mark.parametrize("k", [0, 31])
def test_more_items_than_the_catalogue_has_or_none_are_an_error(k):
    with pytest.raises(ValueError, match=rf"within \[1, 30\], the catalogue, got {k}"):
        Scoring(recommender("llama"), k)


@pytest.mark.parametrize("family", CAUSAL)
def test_a_decoded_token_has_the_logits_of_the_whole_sequence_without_a_cache(family):
    model = CAUSAL[family]()
    prompt, *tokens = random_tokens(1, VOCABULARY, (2, 7), seed=0) + random_tokens(3, VOCABULARY, (2, 1), seed=1)
    decoding = Decoding(model, prompt)
    with torch.inference_mode():
        for token in tokens:  # each after the prompt, not after the token before
            logits, following = decoding(token)
            expected = model(torch.cat([prompt, token], dim=1)).logits[:, -1]
            torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
            assert torch.equal(following, expected.argmax(-1))


def test_decoding_leaves_mode_and_gradients_of_the_model_as_they_were():
    model = llama().train()
    model.model.layers[1].eval()
    Decoding(model, random_tokens(1, VOCABULARY, (1, 4), seed=0)[0])
    assert [layer.training for layer in model.model.layers] == [True, False, True]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_does_not_decode_is_refused():
    prompt = torch.zeros(1, 4, dtype=torch.long)
    for model in (recommender("bert").model, recommender("t5").model, LlamaModel(llama().config)):
        with pytest.raises(ValueError, match=f"got {type(model).__name__}"):
            Decoding(model, prompt)


def test_random_tokens_follow_the_seed_and_no_other_state():
    torch.manual_seed(1)
    first = random_tokens(2, VOCABULARY, (3, 4), seed=0)
    torch.manual_seed(2)
    again = random_tokens(2, VOCABULARY, (3, 4), seed=0)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], random_tokens(1, VOCABULARY, (3, 4), seed=1)[0])
    assert [tokens.shape for tokens in first] == [(3, 4), (3, 4)]


def test_both_workloads_pass_the_checks_of_the_latency_comparison():
    full, model = recommender("t5"), llama(4)
    compact = compact_model(full, {"encoder": (0,), "decoder": (0,)})
    histories = [[np.arange(2 + row + number) for row in range(4)] for number in range(3)]
    prompt = random_tokens(1, VOCABULARY, (2, 6), seed=0)[0]
    tokens = [{"input_ids": token} for token in random_tokens(5, VOCABULARY, (2, 1), seed=1)]
    pairs = [
        (Scoring(full, 5), Scoring(compact, 5), [full.batch(rows) for rows in histories], 4 / 2),
        (Decoding(model, prompt), Decoding(compact_model(model, (0,)), prompt), tokens, 4 / 1),
    ]
    for large, small, inputs, bound in pairs:
        timed = compare_latency(large, small, inputs, blocks=2, calls=2, warmup=2)
        assert timed.bound == bound
        assert [ok for ok, _ in timed.checks()[:3]] == [True, True, True]  # outputs, layers of both


def test_a_secret_full_model_behind_a_compact_one_is_caught():
    """The sabotage: layers of a compact model are shown, and a full model answers."""

    class Secret(Scoring):
        def __init__(self, shown, full):
            super().__init__(shown)
            self.answers = nn.ModuleList([Scoring(full)])

        def forward(self, **inputs):
            return self.answers[0](**inputs)

    full = recommender("llama", 4)
    inputs = [full.batch([np.arange(2 + row), np.arange(3 + row)]) for row in range(3)]
    shown = compact_model(full, (0,))
    timed = compare_latency(Scoring(full), Secret(shown, full), inputs, blocks=2, calls=2, warmup=2)
    failed = [sentence for ok, sentence in timed.checks() if not ok]
    assert len(failed) == 1
    assert "the compact model's 1 layers ran once in 0 of" in failed[0]
