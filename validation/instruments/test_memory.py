"""Memory: parameters, keys and values by hand; files as they are; the peak of a process with a known weight."""

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from layerwise.compression.compact import compact_model
from layerwise.evaluation import resident
from layerwise.evaluation.memory import Parameters, cache_bytes, count_parameters, peak_allocated, stored_bytes
from layerwise.evaluation.resident import CLEAR, peak_resident
from layerwise.evaluation.workloads import Scoring
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import build_recommender


def recommender(family, layers=4, items=30):
    return build_recommender(family, items, 12, Shape(layers, 16, 32, 2), seed=0).eval()


def llama(dtype=torch.float32):
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_hidden_layers=3, **shape)).to(dtype).eval()


def test_parameters_of_a_llama_are_counted_by_hand():
    layer = 4 * 16 * 16 + 3 * 16 * 32 + 2 * 16  # attention, MLP, two norms
    assert count_parameters(recommender("llama")) == Parameters(4 * layer + 16 + 31 * 16, 4 * layer, 0)


def test_tables_of_relative_positions_belong_to_the_stacks_of_t5():
    full = recommender("t5")
    compact = compact_model(full, {"encoder": (1,), "decoder": (1,)})
    counts = [count_parameters(model) for model in (full, compact)]
    assert [count.shared for count in counts] == [2 * 32 * 2] * 2  # two stacks, 32 buckets, two heads
    assert counts[0].of_layers == 2 * counts[1].of_layers
    assert counts[0].in_layers < 2 * counts[1].in_layers


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"t5"}))
def test_a_layer_of_other_families_shares_nothing(family):
    full = recommender(family)
    counts = [count_parameters(model) for model in (full, compact_model(full, (2,)))]
    assert counts[0].in_layers == 4 * counts[1].in_layers
    assert [count.shared for count in counts] == [0, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_stored_bytes_are_those_of_the_file_that_saving_writes(family, tmp_path):
    model = recommender(family)
    model.save(tmp_path)
    file = tmp_path / "model.safetensors"
    assert stored_bytes(model) == file.stat().st_size
    weights = sum(tensor.nbytes for tensor in load_file(file).values())
    assert 0 < stored_bytes(model) - weights < 20_000  # the header


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_keys_and_values_of_grouped_heads_are_counted_by_hand(dtype, size):
    layers, both, batch, groups, length, width = 3, 2, 5, 2, 7, 4
    assert cache_bytes(llama(dtype), batch, length) == layers * both * batch * groups * length * width * size


def test_without_groups_every_head_has_its_keys_and_values():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=4)).eval()
    assert cache_bytes(model, batch=1, length=9) == 2 * 2 * 9 * 16 * 4


needs_account = pytest.mark.skipif(not CLEAR.exists(), reason="the kernel keeps no account of peaks; Linux does")


@needs_account
def test_peak_of_a_process_is_that_of_the_model_and_not_of_its_parent():
    items = 400_000
    model = recommender("llama", layers=1, items=items)
    matrix, scores = items * 16 * 4, items * 4
    ballast = np.ones(3 * matrix, dtype=np.uint8)  # a parent that is larger than the child
    peak = peak_resident(model, model.batch([np.arange(3)]))
    assert ballast.nbytes > matrix + 10 * scores
    assert matrix + scores < peak < matrix + 10 * scores


@needs_account
def test_a_process_that_fails_says_why(monkeypatch, tmp_path):
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\necho no room for $3 >&2\nexit 1\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    with pytest.raises(RuntimeError, match="failed:\nno room for /"):
        peak_resident(recommender("llama"), {})


def test_a_system_without_an_account_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(resident, "CLEAR", tmp_path / "absent")
    with pytest.raises(RuntimeError, match="measure it on Linux"):
        peak_resident(recommender("llama"), {})


def test_peak_of_an_allocator_is_not_made_up_on_a_cpu():
    with pytest.raises(ValueError, match="lies on cpu"):
        peak_allocated(recommender("llama"), {})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")
def test_peak_allocated_holds_weights_and_scores_and_little_else():
    model = recommender("llama", layers=1, items=400_000).cuda()
    others = torch.zeros(100_000_000, device="cuda")  # 400 MB that are not this model's
    peak = peak_allocated(Scoring(model), model.batch([np.arange(3)]))
    weights, scores = sum(parameter.nbytes for parameter in model.parameters()), 400_000 * 4
    assert weights + scores <= peak < weights + 10 * scores
    assert others.is_cuda


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")
def test_a_cut_that_borrows_its_weights_needs_no_more_than_a_cut_of_its_own():
    full = recommender("llama", layers=8, items=100_000).cuda()
    batch = full.batch([np.arange(3)])
    borrowed, own = (peak_allocated(Scoring(compact_model(full, [0], share)), batch) for share in (True, False))
    assert borrowed == pytest.approx(own, rel=0.05)
    assert borrowed < peak_allocated(Scoring(full), batch)
