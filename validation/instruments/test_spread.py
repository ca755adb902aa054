"""A model that no device holds gives what it gives in one piece."""

import pytest
import torch

from layerwise.models import spread
from layerwise.models.families import Shape
from layerwise.models.layers import bypassed, layers_of
from layerwise.models.loading import load_pretrained
from layerwise.models.recommender import build_recommender
from layerwise.models.spread import load_spread

FAMILIES = ("llama", "qwen3", "gpt2", "bert", "t5")


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path):
    build_recommender(request.param, 40, 6, Shape(4, 16, 32, 2), seed=0).model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def outputs(model, skipped=()):
    tokens = torch.arange(12).reshape(2, 6)
    inputs = (
        {"input_ids": tokens, "decoder_input_ids": tokens} if model.config.is_encoder_decoder else {"input_ids": tokens}
    )
    with torch.inference_mode(), bypassed(model, skipped):
        return model(**inputs).last_hidden_state


def bytes_of(model):
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def test_a_spread_model_answers_as_one_in_one_piece_also_with_layers_bypassed(folder, tmp_path):
    plain = load_pretrained(folder)
    parted = load_spread(folder, max_memory={"cpu": int(0.7 * bytes_of(plain))}, offload_folder=tmp_path / "off")

    assert any(weight.is_meta for weight in parted.parameters())  # really elsewhere
    for skipped in ((), (1,)):
        assert torch.equal(outputs(parted, skipped), outputs(plain, skipped))


def test_layers_stay_whole(folder, tmp_path):
    room = {"cpu": int(0.7 * bytes_of(load_pretrained(folder)))}
    parted = load_spread(folder, max_memory=room, offload_folder=tmp_path / "off")

    assert [len({weight.is_meta for weight in layer.parameters()}) for layer in layers_of(parted)] == [1] * 4


def test_a_model_without_room_is_refused_with_what_has_none(folder):
    with pytest.raises(ValueError, match="no room for .* give an offload_folder"):
        load_spread(folder, max_memory={"cpu": 10})


def test_without_accelerate_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(spread, "accelerate", None)
    with pytest.raises(ImportError, match=r"layerwise\[lora\]"):
        load_spread(folder)
