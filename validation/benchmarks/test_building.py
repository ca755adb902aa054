"""What it costs to build a compact model, beside what it costs to load it.

Aim: no more than loading. Random weights of real shapes, since only time is looked at. Each round takes every way once,
so that all have the same conditions. Loading only maps the file; its pages are read when a weight is first used,
while a copy has read and written them. So each way ends with one read of all weights; the lazy load stands beside it.
"""

import statistics
import time

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from layerwise.compression.compact import compact_model
from layerwise.models.layers import stacks_of

ROUNDS = 7
MODELS = {
    "GPT-2 small (12 x 768)": lambda: GPT2LMHeadModel(GPT2Config()),
    "BERT base (12 x 768)": lambda: BertForMaskedLM(BertConfig()),
    "T5 small (6 + 6 x 512)": lambda: T5ForConditionalGeneration(T5Config()),
    "Llama (12 x 1024)": lambda: LlamaForCausalLM(
        LlamaConfig(vocab_size=8000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=12)
    ),
}


def read(model):
    return sum(float(parameter.detach().sum()) for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_building_a_quarter_of_a_model_against_loading_it(name, tmp_path, benchmark, capsys):
    model = MODELS[name]().eval()
    kept = {stack.name: range(0, len(layers), 4) for stack, layers in stacks_of(model).items()}
    compact_model(model, kept).save_pretrained(tmp_path)
    ways = {
        "load": lambda: read(type(model).from_pretrained(tmp_path)),
        "load, not read": lambda: type(model).from_pretrained(tmp_path),
        "build, copied": lambda: read(compact_model(model, kept)),
        "build, shared": lambda: read(compact_model(model, kept, share_weights=True)),
    }
    seconds = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            began = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - began)
    benchmark.group = "compact model"
    benchmark.extra_info["torch"] = torch.__version__
    benchmark(ways["build, copied"])

    median = {way: statistics.median(times) for way, times in seconds.items()}
    with capsys.disabled():
        ratios = ", ".join(f"{way} {1000 * t:.0f} ms = {t / median['load']:.2f} x" for way, t in median.items())
        print(f"\n{name}: {ratios} of loading (median of {ROUNDS} rounds)")
