"""Models of full size have the shapes of their checkpoints, and nothing in a call of theirs waits for the device."""

import pytest
import torch

from layerwise.evaluation.workloads import Decoding, Scoring
from layerwise.lab import full_size
from layerwise.models.full_size import FULL_SIZES, random_language_model, random_recommender
from layerwise.models.layers import layers_of

# Parameters that the checkpoints on the hub have, tied ones counted once; BERT with its head for masked words.
PARAMETERS = {
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "gpt2-xl": 1_557_611_200,
    "bert-large": 335_174_458,
    "t5-large": 737_668_096,
}


@pytest.mark.parametrize("shape", FULL_SIZES)
def test_full_sizes_have_as_many_parameters_as_their_checkpoints(shape):
    model = random_language_model(shape, device="meta")

    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[shape]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert len(layers_of(model)) % full_size.QUARTER == 0


@pytest.mark.parametrize("shape", ["llama-3.1-8b", "qwen3-0.6b", "gpt2-xl", "bert-large", "t5-large"])
def test_scoring_never_waits_for_the_device_so_that_it_can_be_captured(shape):
    """What would read a value off the device cannot do so on `meta`, and raises."""
    full = Scoring(random_recommender(shape, full_size.ITEMS, full_size.EVENTS, device="meta")).eval()
    (inputs,) = full_size.requests(full.recommender, batch=2, number=1)
    with torch.inference_mode():
        scores, items = full(**inputs)

    assert scores.shape == items.shape == (2, 10)
    assert scores.dtype == torch.float32


def test_requests_are_all_different_full_and_without_a_mask():
    recommender = random_recommender("bert-large", full_size.ITEMS, full_size.EVENTS, device="meta")
    recommender._tensor = torch.as_tensor  # values, which `meta` has not
    first, second = full_size.requests(recommender, batch=3, number=2)

    assert set(first) == {"input_ids", "last"}
    assert first["input_ids"].shape == (3, full_size.EVENTS + 1)
    assert not torch.equal(first["input_ids"], second["input_ids"])


@pytest.mark.parametrize(("shape", "rows"), [("llama-3.1-8b", 64), ("llama-3.2-1b", 512), ("bert-large", 1024)])
def test_small_models_take_more_rows_to_saturate_a_card(shape, rows):
    """By hand: 5e13 operations over 64 events, two per weight of a layer, to the nearest power of two."""
    workload = random_recommender(shape, full_size.ITEMS, full_size.EVENTS, device="meta")

    assert full_size.WAYS["saturated"].rows(workload) == rows
    assert full_size.WAYS["captured"].rows(workload) == full_size.WAYS["eager"].rows(workload) == 1


def test_in_equal_memory_throughput_is_rows_over_time():
    table = full_size._equal_memory_table("small", [100, 40], [1, 1], [20, 80], [10.0, 8.0])

    assert "0.00 GB" in table["title"]
    assert "throughput is 5.00 times" in table["title"]
    assert table["rows"] == [["full", 100, 1, 20, "10.00", "2000"], ["compact", 40, 1, 80, "8.00", "10000"]]


def test_unknown_full_size_is_refused_with_those_that_there_are():
    for make in (random_language_model, lambda name: random_recommender(name, 10, 5)):
        with pytest.raises(ValueError, match=r"'llama-9b'; there are llama-3\.2-1b, .*, t5-large"):
            make("llama-9b")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")
@pytest.mark.parametrize("shape", ["bert-large", "qwen3-0.6b"])
def test_scores_in_half_precision_are_those_of_converted_weights(shape):
    device = torch.device("cuda")
    scoring = Scoring(random_recommender(shape, 1000, 16, device)).eval()
    states = torch.randn(5, scoring.model.config.hidden_size, dtype=torch.bfloat16, device=device)
    with torch.inference_mode():
        found, expected = scoring._item_scores(states), scoring.recommender.item_scores(states.float())

    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")
def test_decoding_after_a_prompt_is_the_plain_pass_over_prompt_and_token():
    device = torch.device("cuda")
    model = random_language_model("qwen3-0.6b", device=device, dtype=torch.float32)
    tokens = torch.randint(1000, (2, 9), device=device, generator=torch.Generator(device).manual_seed(0))
    with torch.inference_mode():
        logits, _ = Decoding(model, tokens[:, :-1])(tokens[:, -1:])
        expected = model(tokens).logits[:, -1]

    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
