"""A copy of a pretrained text model that can pad, whatever it came as."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, GPT2Config, GPT2Model, PreTrainedTokenizerFast

from layerwise.lab.manifest import file_digests
from layerwise.lab.text_base import text_base
from layerwise.models.families import UnsupportedArchitectureError
from layerwise.models.loading import load_pretrained

WORDS = ("[UNK]", "</s>", "a", "film")
SIZES = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": len(WORDS)}


@pytest.fixture
def model(tmp_path):
    """The folder of a model whose tokenizer has an end and no padding token, as those of decoders."""
    return saved(tmp_path / "tiny", eos_token="</s>")


def saved(folder, **tokens):
    GPT2Model(GPT2Config(**SIZES, bos_token_id=1, eos_token_id=1)).save_pretrained(folder)
    words = Tokenizer(WordLevel({word: code for code, word in enumerate(WORDS)}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", **tokens).save_pretrained(folder)
    return folder


def test_a_model_without_padding_token_pads_with_its_end_token(model, tmp_path):
    copy = text_base(str(model), tmp_path / "bases")

    tokenizer = AutoTokenizer.from_pretrained(copy)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id is not None
    assert load_pretrained(copy).config.pad_token_id == tokenizer.pad_token_id
    assert AutoTokenizer.from_pretrained(model).pad_token is None


def test_the_original_stays_as_it_was_and_its_weights_are_not_stored_twice(model, tmp_path):
    before = file_digests(model)

    copy = text_base(str(model), tmp_path / "bases")

    assert file_digests(model) == before
    assert (Path(copy) / "model.safetensors").samefile(model / "model.safetensors")
    assert not (Path(copy) / "config.json").samefile(model / "config.json")


def test_a_model_is_copied_once_and_a_changed_one_again(model, tmp_path):
    bases = tmp_path / "bases"
    first, again = text_base(str(model), bases), text_base(str(model), bases)
    assert first == again
    assert [str(folder) for folder in bases.iterdir()] == [first]

    fields = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(fields | {"layer_norm_epsilon": 1e-3}))
    assert text_base(str(model), bases) != first


def test_a_copy_has_no_links(model, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in model.iterdir():
        (linked / file.name).symlink_to(file)

    copy = text_base(str(linked), tmp_path / "bases")

    assert file_digests(tmp_path / "bases")  # refuses links
    assert load_pretrained(copy).num_parameters() == load_pretrained(model).num_parameters()


def test_a_model_that_can_neither_end_nor_pad_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="neither a padding nor an end token"):
        text_base(str(saved(tmp_path / "endless")), tmp_path / "bases")
    assert not list((tmp_path / "bases").iterdir())


def test_an_architecture_that_is_not_known_is_refused_before_anything_is_copied(tmp_path):
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(UnsupportedArchitectureError):
        text_base(str(tmp_path / "strange"), tmp_path / "bases")
    assert not (tmp_path / "bases").exists()
