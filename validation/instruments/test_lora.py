"""A merged adapter computes what the adapter computes, and leaves a plain model that can be cut."""

import copy
import re

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from layerwise.compression.compact import compact_model, removed_layers
from layerwise.models import lora
from layerwise.models.families import FAMILIES, UnsupportedArchitectureError
from layerwise.models.layers import bypassed, layers_of
from layerwise.models.loading import load_pretrained
from layerwise.models.lora import merge_lora

GATED = {
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 31,
    "pad_token_id": 0,
}
TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "qwen3": ["k_proj", "o_proj", "up_proj"],
    "gpt2": ["c_attn", "c_proj"],
    "bert": ["query", "output.dense"],
    "t5": ["q", "o", "wi"],
}
KEPT = dict.fromkeys(FAMILIES, (0, 2)) | {"t5": {"encoder": (1, 2), "decoder": (1,)}}
REMOVED = dict.fromkeys(FAMILIES, removed_layers((0, 2), 4)) | {"t5": (0, 3)}
ANY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
TOKENS = torch.tensor([[5, 7, 9, 11, 30, 1], [8, 6, 4, 2, 3, 1]])


def made(family, num_layers=4, hidden=16, **fields):
    """A model whose every weight is random; a T5 has one layer less in its decoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "llama":
            config = LlamaConfig(
                hidden_size=hidden, num_hidden_layers=num_layers, **GATED, **{"tie_word_embeddings": True} | fields
            )
            model = LlamaForCausalLM(config)
        elif family == "qwen3":
            config = Qwen3Config(hidden_size=hidden, num_hidden_layers=num_layers, head_dim=4, **GATED, **fields)
            model = Qwen3ForCausalLM(config)
        elif family == "gpt2":
            model = GPT2LMHeadModel(
                GPT2Config(vocab_size=31, n_embd=hidden, n_layer=num_layers, n_head=4, n_positions=12)
            )
        elif family == "bert":
            config = BertConfig(
                vocab_size=31,
                hidden_size=hidden,
                intermediate_size=24,
                num_hidden_layers=num_layers,
                num_attention_heads=4,
                max_position_embeddings=12,
            )
            model = BertForMaskedLM(config)
        else:
            depths = {"num_layers": num_layers - 1, "num_decoder_layers": num_layers - 2}
            model = T5ForConditionalGeneration(
                T5Config(vocab_size=31, d_model=hidden, d_kv=4, d_ff=24, num_heads=4, **depths, **fields)
            )
        for parameter in model.parameters():
            parameter.data.normal_(std=0.3)
    return model.eval()


def adapter(folder, model, **fields):
    """Folder of an adapter with random weights for a model, which is left as it was."""
    family = next(name for name, family in FAMILIES.items() if model.config.model_type in family.model_types)
    known = {"target_modules": TARGETS[family], "fan_in_fan_out": family == "gpt2", "r": 2, "lora_alpha": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        config = peft.LoraConfig(init_lora_weights=False, **known | fields)
        wrapped = peft.get_peft_model(copy.deepcopy(model), config)
        for name, parameter in wrapped.named_parameters():
            if "modules_to_save" in name or (parameter.requires_grad and name.endswith(".bias")):
                parameter.data.normal_(std=0.3)
        wrapped.save_pretrained(folder)
    return folder


def unmerged(model, folder):
    """The model with the adapter beside its weights, as peft computes it."""
    return peft.PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()


def logits_of(model):
    decoder = {"decoder_input_ids": TOKENS[:, :4]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=TOKENS, **decoder, use_cache=False).logits


def weights_of(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def same(weights, others):
    return weights.keys() == others.keys() and all(
        torch.equal(weight, others[name]) for name, weight in weights.items()
    )


def rewrite(folder, change):
    """Changes the weights of a saved adapter."""
    save_file(change(load_file(folder / "adapter_model.safetensors")), folder / "adapter_model.safetensors")


# What a merge gives


@ANY_FAMILY
def test_merged_model_computes_what_the_adapter_beside_the_weights_computes(tmp_path, family):
    model = made(family)
    merged = merge_lora(model, adapter(tmp_path, model))

    torch.testing.assert_close(logits_of(merged), logits_of(unmerged(model, tmp_path)), atol=1e-5, rtol=1e-5)
    assert (logits_of(merged) - logits_of(model)).abs().max() > 0.1  # else any of this would hold of no adapter


@ANY_FAMILY
def test_merge_then_cut_is_the_cut_of_pefts_own_merge(tmp_path, family):
    model = made(family)
    compact = compact_model(merge_lora(model, adapter(tmp_path, model)), KEPT[family])
    twin = compact_model(unmerged(model, tmp_path).merge_and_unload(), KEPT[family])

    assert same(weights_of(compact), weights_of(twin))
    assert torch.equal(logits_of(compact), logits_of(twin))


@ANY_FAMILY
def test_merge_then_cut_computes_what_the_adapter_computes_with_layers_bypassed(tmp_path, family):
    """Here nothing of the truth was merged."""
    model = made(family)
    compact = compact_model(merge_lora(model, adapter(tmp_path, model)), KEPT[family])
    wrapped = unmerged(model, tmp_path)
    with bypassed(wrapped.get_base_model(), REMOVED[family]):
        torch.testing.assert_close(logits_of(compact), logits_of(wrapped), atol=1e-5, rtol=1e-5)


@ANY_FAMILY
def test_adapter_that_was_trained_on_the_compact_model_is_merged_into_it(tmp_path, family):
    compact = compact_model(made(family), KEPT[family])
    merged = merge_lora(compact, adapter(tmp_path, compact))

    torch.testing.assert_close(logits_of(merged), logits_of(unmerged(compact, tmp_path)), atol=1e-5, rtol=1e-5)
    assert (logits_of(merged) - logits_of(compact)).abs().max() > 0.1


@ANY_FAMILY
def test_merged_model_is_a_plain_one_of_the_same_names_and_configuration(tmp_path, family):
    model = made(family)
    merged = merge_lora(model, adapter(tmp_path / "adapter", model))

    assert type(merged) is type(model)
    assert vars(merged).keys() == vars(model).keys()
    assert list(merged.state_dict()) == list(model.state_dict())
    assert merged.config.to_dict() == model.config.to_dict()
    assert [type(module) for module in merged.modules()] == [type(module) for module in model.modules()]
    merged.save_pretrained(tmp_path / "merged")
    head = {"bert": "masked-lm", "t5": "seq2seq-lm"}.get(family, "causal-lm")
    assert same(weights_of(load_pretrained(tmp_path / "merged", head)), weights_of(merged))


def test_model_passed_in_and_global_generator_are_untouched(tmp_path):
    model = made("llama")
    adapter(tmp_path, model)
    model(TOKENS, labels=TOKENS).loss.backward()
    before, names, state = weights_of(model), [str(model), sorted(vars(model))], torch.get_rng_state()
    merged = merge_lora(model, tmp_path)
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.fill_(7)

    assert same(weights_of(model), before)
    assert [str(model), sorted(vars(model))] == names
    assert all(parameter.grad is None for parameter in merged.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("training", [True, False])
def test_modes_flags_and_configuration_are_the_models(tmp_path, training):
    model = made("llama", pretraining_tp=2).train(training)  # a field that peft sets to 1
    adapter(tmp_path, model)
    model.model.layers[1].train(not training)
    model.model.layers[2].requires_grad_(False)
    merged = merge_lora(model, tmp_path)

    assert [module.training for module in merged.modules()] == [module.training for module in model.modules()]
    assert [p.requires_grad for p in merged.parameters()] == [p.requires_grad for p in model.parameters()]
    assert merged.config.pretraining_tp == 2
    assert merged.config is merged.model.config is not model.config


def test_t5_with_a_head_of_its_own_keeps_it_and_its_configuration(tmp_path):
    """T5 1.1: transformers declares it tied all the same, which peft would correct without being asked."""
    model = made("t5")
    model.lm_head.weight = torch.nn.Parameter(model.shared.weight + 1)
    merged = merge_lora(model, adapter(tmp_path, model))

    assert torch.equal(merged.lm_head.weight, model.lm_head.weight)
    assert merged.config.to_dict() == model.config.to_dict()
    torch.testing.assert_close(logits_of(merged), logits_of(unmerged(model, tmp_path)), atol=1e-5, rtol=1e-5)


def test_precision_is_the_models(tmp_path):
    model = made("qwen3").to(torch.bfloat16)
    merged = merge_lora(model, adapter(tmp_path, model))

    assert {weight.dtype for weight in merged.state_dict().values()} == {torch.bfloat16}
    assert not torch.equal(merged.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize(
    "fields", [{"use_rslora": True}, {"use_dora": True}, {"bias": "all"}, {"rank_pattern": {"q_proj": 3}}], ids=str
)
def test_variants_of_lora_are_merged_as_peft_computes_them(tmp_path, fields):
    model = made("bert" if "bias" in fields else "llama")
    merged = merge_lora(model, adapter(tmp_path, model, **fields))

    torch.testing.assert_close(logits_of(merged), logits_of(unmerged(model, tmp_path)), atol=1e-5, rtol=1e-5)


def test_head_that_was_trained_beside_the_adapter_comes_with_it(tmp_path):
    model = LlamaForSequenceClassification(made("llama").config).eval()
    merged = merge_lora(model, adapter(tmp_path, model, task_type="SEQ_CLS"))

    assert not torch.equal(merged.score.weight, model.score.weight)
    torch.testing.assert_close(logits_of(merged), logits_of(unmerged(model, tmp_path)), atol=1e-5, rtol=1e-5)


def test_adapter_of_chosen_layers_leaves_the_others_as_they_are(tmp_path):
    model = made("llama")
    merged = merge_lora(model, adapter(tmp_path, model, layers_to_transform=[3]))
    changed = [
        not same(mine.state_dict(), theirs.state_dict())
        for mine, theirs in zip(layers_of(merged), layers_of(model), strict=True)
    ]

    assert changed == [False, False, False, True]


# The wrong order


@ANY_FAMILY
def test_adapter_of_the_full_model_is_refused_by_the_compact_one(tmp_path, family):
    model = made(family)
    adapter(tmp_path, model)
    stack, highest, depth = ("encoder", 2, 2) if family == "t5" else ("layers", 3, 2)
    message = (
        f"adapters are merged before a cut, since their keys name layers by position: the adapter in {tmp_path} names "
        f"layer {highest} of the {stack}, the model has {depth}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        merge_lora(compact_model(model, KEPT[family]), tmp_path)


def test_depth_of_the_second_stack_counts_as_well(tmp_path):
    model = made("t5")
    adapter(tmp_path, model)
    with pytest.raises(ValueError, match="names layer 1 of the decoder, the model has 1"):
        merge_lora(compact_model(model, {"decoder": (0,)}), tmp_path)


@ANY_FAMILY
def test_adapter_of_the_compact_model_is_refused_by_the_full_one(tmp_path, family):
    """Its keys would all match, those of layers that are others in the full model."""
    model = made(family)
    adapter(tmp_path, compact_model(model, KEPT[family]))
    with pytest.raises(ValueError, match=r"was trained on another model: it lacks [1-9]\d* weights"):
        merge_lora(model, tmp_path)


@ANY_FAMILY
def test_model_with_an_adapter_beside_its_weights_is_not_cut(tmp_path, family):
    model = made(family)
    wrapped = unmerged(model, adapter(tmp_path, model))
    for carrier in (wrapped, wrapped.get_base_model()):
        with pytest.raises(ValueError, match="carries LoRA adapters, whose keys name layers by position; merge them"):
            compact_model(carrier, KEPT[family])


# What cannot be merged


def test_model_that_carries_an_adapter_or_is_none_is_refused(tmp_path):
    model = made("llama")
    wrapped = unmerged(model, adapter(tmp_path, model))
    with pytest.raises(ValueError, match="carries LoRA adapters already; merge them first"):
        merge_lora(wrapped.get_base_model(), tmp_path)
    with pytest.raises(TypeError, match="expected a plain transformers model, got PeftModel"):
        merge_lora(wrapped, tmp_path)


def test_unknown_architecture_is_refused(tmp_path):
    sizes = {"vocab_size": 31, "hidden_size": 16, "ffn_dim": 8, "word_embed_proj_dim": 16}
    opt = OPTForCausalLM(OPTConfig(num_hidden_layers=2, num_attention_heads=1, **sizes))
    with pytest.raises(UnsupportedArchitectureError, match="'opt' is not supported"):
        merge_lora(opt, adapter(tmp_path, made("llama")))


def test_without_peft_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(lora, "peft", None)
    with pytest.raises(ImportError, match=r"needs peft; install it with: pip install 'layerwise\[lora\]'"):
        merge_lora(made("llama"), tmp_path)


def test_missing_folder_or_file_is_named(tmp_path):
    model = made("llama")
    with pytest.raises(FileNotFoundError, match="absent is not a folder; expected a LoRA adapter"):
        merge_lora(model, tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"has no adapter_config\.json; expected a LoRA adapter"):
        merge_lora(model, tmp_path)
    weights = load_file(adapter(tmp_path, model) / "adapter_model.safetensors")
    torch.save(weights, tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no adapter_model\.safetensors; expected a LoRA adapter"):
        merge_lora(model, str(tmp_path))


def test_adapter_of_another_kind_is_refused(tmp_path):
    config = peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"])
    peft.get_peft_model(made("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds an adapter of kind .*IA3; only LORA can be merged"):
        merge_lora(made("llama"), tmp_path)


def test_adapter_of_another_width_is_refused_with_both_shapes(tmp_path):
    adapter(tmp_path, made("llama", hidden=32, head_dim=4))
    message = r"lacks 0 weights \[\], 0 fit nothing \[\], \d+ have another shape .*\(2, 32\) instead of \(2, 16\)"
    with pytest.raises(ValueError, match=message):
        merge_lora(made("llama", head_dim=4), tmp_path)


def test_adapter_of_another_architecture_fits_nothing(tmp_path):
    adapter(tmp_path, made("gpt2"))
    with pytest.raises(ValueError, match="fits nothing in this LlamaForCausalLM: .*c_attn"):
        merge_lora(made("llama"), tmp_path)


def test_adapter_of_the_backbone_does_not_fit_the_language_model(tmp_path):
    """Peft finds its modules by the ends of their names, but not its weights."""
    model = made("llama")
    adapter(tmp_path, model.model)
    with pytest.raises(ValueError, match=r"it lacks 24 weights .*, 24 fit nothing \['base_model\.model\.layers\.0\."):
        merge_lora(model, tmp_path)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda weights: dict(list(weights.items())[1:]), "it lacks 1 weights"),
        (lambda weights: weights | {"base_model.model.gate.lora_A.weight": torch.ones(2)}, "1 fit nothing"),
    ],
    ids=["one less", "one more"],
)
def test_adapter_with_a_weight_too_few_or_too_many_is_refused(tmp_path, change, found):
    model = made("llama")
    adapter(tmp_path, model)
    rewrite(tmp_path, change)
    with pytest.raises(ValueError, match=found):
        merge_lora(model, tmp_path)


def test_tied_embedding_is_no_target_but_an_untied_one_is(tmp_path):
    """Merged into a tied matrix, a change of the input embedding would be one of the head, too."""
    tied, untied = made("llama"), made("llama", tie_word_embeddings=False)
    for name, model in (("tied", tied), ("untied", untied)):
        adapter(tmp_path / name, model, target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(ValueError, match=r"changes \['model\.embed_tokens'\], tied to another module"):
        merge_lora(tied, tmp_path / "tied")
    merged = merge_lora(untied, tmp_path / "untied")

    torch.testing.assert_close(
        logits_of(merged), logits_of(unmerged(untied, tmp_path / "untied")), atol=1e-5, rtol=1e-5
    )


def test_adapter_that_unties_the_head_is_refused(tmp_path):
    model = made("llama")
    adapter(tmp_path, model, modules_to_save=["lm_head"])
    with pytest.raises(ValueError, match="changes more than weights, such as a tie"):
        merge_lora(model, tmp_path)
