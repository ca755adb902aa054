"""Masks and position buckets in fewer operations than `transformers` makes them in every call; outputs stay the same.

At the sizes of the tiers a layer takes milliseconds, and so does what is made once per stack in many small operations:
a fixed cost, which stays when layers are cut. Three things need not be made so:

- *The mask of padding* is spread over all queries, *batch x 1 x length x length*, though it is the same for each. One
  of four dimensions is taken as it is, and *batch x 1 x 1 x length* broadcasts to the same.
- *Relative positions* (T5). Which bucket each pair of positions falls into takes twenty operations and depends on
  nothing but the two lengths. The buckets are kept. Their biases are looked up in every call and laid out in the order
  in which every layer of the stack reads them, where `transformers` hands on a transposed view.
- *Packed sequences.* Where no mask is given, causal models look whether a row holds several sequences. A history is
  one. On an accelerator that look waits for the device, and in a captured graph, where it cannot, a mask is made.

Nothing that is kept comes from an input or a weight: the mask is made anew for every batch, and a table of biases that
is trained further is seen at the next call. No layer does less. Attention is known by the method that it has, and no
entry of `models/families.py` is needed: a family without such a method is left alone.

References:
    Raffel et al. 2020 (T5), section 2.1: buckets of relative positions, shared by all layers of a stack.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, masking_utils


class Prepared:
    """A model whose forward passes, inside of `using`, make masks and position biases in fewer operations.

    Args:
        model: A `transformers` model; used, not copied, and as it was outside of `using`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._biases = [_Biases(module) for module in model.modules() if _has_buckets(module)]

    @contextmanager
    def using(self, inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """The inputs of a call, their mask in its small form; biases are made from kept buckets while this is open."""
        for biases in self._biases:
            biases.attention.compute_bias = biases  # hides the method of the class
        try:
            with _one_sequence_a_row():
                yield self._with_small_mask(inputs)
        finally:
            for biases in self._biases:
                vars(biases.attention).pop("compute_bias", None)

    def _with_small_mask(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mask true where a key counts, *batch x 1 x 1 x length*; none where all do."""
        ready = dict(inputs)
        mask = ready.pop("attention_mask", None)
        if mask is None or bool(mask.all()):
            return ready
        if self._model.config._attn_implementation != "sdpa":  # others add their masks, or have a form of their own
            return {**ready, "attention_mask": mask}
        return {**ready, "attention_mask": mask.bool()[:, None, None]}


@contextmanager
def _one_sequence_a_row() -> Iterator[None]:
    """Inside, `transformers` takes it as known that no row holds several sequences."""
    look = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = look


def _has_buckets(module: nn.Module) -> bool:
    """Whether a module is attention that owns a table of relative position biases."""
    return hasattr(module, "compute_bias") and bool(getattr(module, "has_relative_attention_bias", False))


class _Biases:
    """`compute_bias` of one attention, for which buckets are found once for each pair of lengths.

    An object and not a closure, so that the copy of a workload looks up its own table.
    """

    def __init__(self, attention: Any) -> None:
        self.attention = attention
        self.buckets: dict[tuple[Any, ...], Tensor] = {}

    def __call__(
        self, query_length: int, key_length: int, device: torch.device | None = None, past_seen_tokens: int = 0
    ) -> Tensor:
        """Biases, *1 x heads x queries x keys*."""
        table, key = self.attention.relative_attention_bias, (query_length, key_length, device, past_seen_tokens)
        if key not in self.buckets:
            plain = type(self.attention).compute_bias
            self.buckets[key] = _looked_up(table, lambda: plain(self.attention, *key))
        biases: Tensor = table(self.buckets[key])  # queries x keys x heads
        return biases.permute(2, 0, 1)[None].contiguous()


def _looked_up(table: nn.Module, call: Callable[[], Any]) -> Tensor:
    """Which rows of a table a call looks up; a tensor that may take part in gradients, whoever asks first."""
    seen: list[Tensor] = []
    hook = table.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        with torch.inference_mode(False), torch.no_grad():
            call()
    finally:
        hook.remove()
    return seen[0]
