"""The two arms of a LoRA comparison: what they must share, and what is no arm; see docs/sabotage.md."""

import copy

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from layerwise.models.lora_arms import arm_checks, carries_adapters, features_digest, head_digest

peft = pytest.importorskip("peft", reason="LoRA needs the extra layerwise[lora]")
TOKENS = torch.arange(2, 34).reshape(4, 8)
LABELS = torch.tensor([0, 1, 0, 1])


@pytest.fixture
def base():
    config = BertConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_labels=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return BertForSequenceClassification(config).eval()


@pytest.fixture
def tuned(base):
    """The base with an adapter and a head that were trained for a few steps."""
    config = peft.LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        model = peft.get_peft_model(copy.deepcopy(base), config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=TOKENS, labels=LABELS).loss.backward()
        optimizer.step()
    return model.eval()


def frozen_arm(tuned):
    return copy.deepcopy(tuned).unload()


def tuned_arm(tuned):
    return copy.deepcopy(tuned).merge_and_unload()


def failed(checks):
    return [sentence for ok, sentence in checks if not ok]


def test_arms_with_one_trained_head_over_frozen_and_tuned_features_are_sound(base, tuned):
    frozen, merged = frozen_arm(tuned), tuned_arm(tuned)
    assert failed(arm_checks(base, frozen, merged)) == []
    assert head_digest(frozen) == head_digest(merged) != head_digest(base)
    assert features_digest(frozen) == features_digest(base) != features_digest(merged)
    with torch.inference_mode():  # what the digests stand for
        assert torch.equal(frozen.bert(TOKENS)[0], base.bert(TOKENS)[0])
        assert not torch.equal(frozen(TOKENS).logits, base(TOKENS).logits)


@pytest.mark.parametrize("arm", ["A", "B"])
def test_an_untrained_head_on_one_arm_is_named(base, tuned, arm):
    arms = {"A": frozen_arm(tuned), "B": tuned_arm(tuned)}
    arms[arm].classifier = copy.deepcopy(base.classifier)
    same, fresh = failed(arm_checks(base, arms["A"], arms["B"]))
    assert same.startswith("both arms must have the same head, bit for bit")
    assert fresh.startswith(f"arm {arm}'s head must be trained, not the fresh one")


def test_disabled_adapters_are_no_frozen_base(base, tuned):
    """The trained head is switched off with them: the model is the untrained one again."""
    with tuned.disable_adapter(), torch.inference_mode():
        assert torch.equal(tuned(input_ids=TOKENS).logits, base(TOKENS).logits)
        (sentence,) = failed(arm_checks(base, tuned, tuned_arm(tuned)))
    assert sentence.startswith(
        "both arms must be plain models, made by unload() and merge_and_unload(), not by disable"
    )
    assert carries_adapters(tuned)


def test_a_copy_of_the_base_in_place_of_disabled_adapters_has_the_fresh_head(base, tuned):
    same, fresh = failed(arm_checks(base, copy.deepcopy(base), tuned_arm(tuned)))
    assert "the same head" in same
    assert "arm A's head must be trained" in fresh


def test_features_of_the_wrong_arm_are_named(base, tuned):
    frozen, merged = frozen_arm(tuned), tuned_arm(tuned)
    (tuned_a,) = failed(arm_checks(base, merged, merged))
    assert tuned_a.startswith("arm A's features must be the frozen base's")
    (frozen_b,) = failed(arm_checks(base, frozen, frozen))
    assert frozen_b.startswith("arm B's features must be tuned")


def test_one_bit_of_a_head_counts(base, tuned):
    frozen, merged = frozen_arm(tuned), tuned_arm(tuned)
    with torch.no_grad():
        merged.classifier.bias[0] = torch.nextafter(merged.classifier.bias[0], torch.tensor(9.0))
    (sentence,) = failed(arm_checks(base, frozen, merged))
    assert "the same head" in sentence


def test_a_model_without_a_head_is_refused(base):
    with pytest.raises(ValueError, match="expected a backbone '.*' and a head beside it"):
        head_digest(base.bert)
