"""The table of architectures in the docs is what this code does."""

from pathlib import Path

import pytest
import torch
import transformers
from transformers import BertConfig, GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config, T5Config

from layerwise.compression.bridge import bridged_model
from layerwise.compression.compact import compact_model, removed_layers
from layerwise.models.families import family_of
from layerwise.models.layers import bypassed, layers_of

PAGE = Path(__file__).parents[2] / "docs" / "compact-models.md"
TOKENS = torch.arange(2, 34).reshape(4, 8)
KEPT = (1, 2)  # the first layer is removed, and so is the last

LLAMA = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "eos_token_id": None,
}
BERT = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"} | {"max_position_embeddings": 32}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 4, "num_heads": 2, "initializer_factor": 3.0}
CONFIGURATIONS = {
    "Llama": LlamaConfig(**LLAMA),
    "Qwen3": Qwen3Config(**LLAMA, head_dim=8, use_sliding_window=True, sliding_window=3, max_window_layers=2),
    "Qwen2": Qwen2Config(**LLAMA),
    "GPT2": GPT2Config(
        vocab_size=40, n_embd=16, n_layer=4, n_head=2, n_positions=32, initializer_range=0.3, pad_token_id=0
    ),
    "Bert": BertConfig(**BERT),
    "BertLMHead": BertConfig(**BERT, is_decoder=True),
    "T5": T5Config(**T5, vocab_size=40, decoder_start_token_id=0, eos_token_id=9),
}
HEADS = [
    "LlamaModel",
    "LlamaForCausalLM",
    "LlamaForSequenceClassification",
    "Qwen3Model",
    "Qwen3ForCausalLM",
    "Qwen3ForSequenceClassification",
    "Qwen2Model",
    "Qwen2ForCausalLM",
    "Qwen2ForSequenceClassification",
    "GPT2Model",
    "GPT2LMHeadModel",
    "GPT2ForSequenceClassification",
    "BertModel",
    "BertForMaskedLM",
    "BertLMHeadModel",
    "BertForSequenceClassification",
    "T5Model",
    "T5ForConditionalGeneration",
    "T5ForSequenceClassification",
    "T5EncoderModel",
]


def built(head):
    configuration = next(c for name, c in reversed(CONFIGURATIONS.items()) if head.startswith(name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, head)(configuration).eval()


def batch_of(model):
    inputs = {"input_ids": TOKENS.clone()}
    if type(model).__name__ == "T5ForSequenceClassification":
        inputs["input_ids"][:, -1] = 9  # one end of sequence in each row
    elif type(model).__name__ in ("T5Model", "T5ForConditionalGeneration"):
        inputs["decoder_input_ids"] = TOKENS[:, :4]
    return inputs


def first_output(model):
    with torch.no_grad():
        return model(**batch_of(model))[0]


def twin_is_exact(model, compact):
    depth, kept = len(layers_of(model)), [*KEPT, *(4 + index for index in KEPT)]
    with bypassed(model, removed_layers(kept, depth)), torch.no_grad():
        expected = model(**batch_of(model), use_cache=False)[0]
    return torch.equal(first_output(compact), expected) and not torch.equal(expected, first_output(model))


def reloads(compact, folder):
    compact.save_pretrained(folder)
    again, report = type(compact).from_pretrained(folder, output_loading_info=True)
    return not any(report.values()) and torch.equal(first_output(again.eval()), first_output(compact))


def generates(compact):
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(TOKENS)}
    with_cache, without = (compact.generate(TOKENS, **options, use_cache=use) for use in (True, False))
    return torch.equal(with_cache, without) and with_cache.shape[1] > 1


def bridges(model, compact, kept, folder):
    bridged = bridged_model(model, kept, [batch_of(model)] * 2)
    same_form = {n: w.shape for n, w in bridged.model.state_dict().items()} == {
        n: w.shape for n, w in compact.state_dict().items()
    }
    return same_form and any(gap.bridge == 2 for gap in bridged.gaps) and reloads(bridged.model, folder)


def row(head, folder):
    model = built(head)
    stacks = [stack.name for stack in family_of(model.config).stacks]
    kept = {stack: KEPT for stack in stacks if len(layers_of(model)) == 4 * len(stacks) or stack != "decoder"}
    compact = compact_model(model, kept)
    can_generate = head not in ("BertForMaskedLM",) and model.can_generate()
    cells = [
        twin_is_exact(model, compact),
        reloads(compact, folder / "compact"),
        generates(compact) if can_generate else None,
        bridges(model, compact, kept, folder / "bridged"),
    ]
    words = {True: "exact", False: "**fails**", None: "–"}
    return f"| {family_of(model.config).name} | `{head}` | {' | '.join(words[cell] for cell in cells)} |"


@pytest.mark.parametrize("head", HEADS)
def test_row_of_the_table_of_architectures(head, tmp_path):
    assert row(head, tmp_path) in PAGE.read_text().splitlines()
