"""The widths of a layer: where a family keeps attention heads and feed-forward channels, and whether they can be fewer.

A family is added by one entry in `WIDTHS`. GPT-2 and BERT have none: their configurations cannot say it.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from layerwise.models.families import UnsupportedArchitectureError, family_of
from layerwise.models.layers import cut_config


@dataclass(frozen=True)
class Part:
    """A part of a layer that is made of units of equal size side by side: attention of heads, or channels.

    Attributes:
        reads: Paths inside a layer of the linear maps whose rows belong to units; a layer may lack some.
        writes: Path of the linear map whose columns belong to units: it writes to the residual stream.
        table: Path of a position table with one column per unit, which all layers of a stack share; None without one.
    """

    reads: tuple[str, ...]
    writes: str
    table: str | None = None

    def dimensions(self, layer: nn.Module) -> dict[str, int]:
        """The dimension along which units stand, by name of the layer's parameter; empty where it lacks the part."""
        found = {}
        for name, _ in layer.named_parameters():
            path, _, leaf = name.rpartition(".")
            if path in self.reads:
                found[name] = 0  # of weights and of biases
            elif path == self.table or (path == self.writes and leaf == "weight"):
                found[name] = 1
        return found

    def matrices(self, layer: nn.Module) -> dict[str, int]:
        """Of `dimensions`, the weights of the linear maps alone."""
        tables = {f"{self.table}.weight"}
        return {n: d for n, d in self.dimensions(layer).items() if n.endswith(".weight") and n not in tables}


@dataclass(frozen=True)
class Widths:
    """What the library needs to know about the widths of one architecture.

    Attributes:
        heads: Configuration field that holds the number of attention heads.
        key_value_heads: Field that holds the number of key/value heads; None where each head has its own.
        head_dim: Field that holds the width of a head.
        channels: Field that holds the number of feed-forward channels.
        attention: The parts made of heads; together with its query heads, a key/value head is one unit.
        feed_forward: The parts made of channels.
        heads_divide_hidden: Whether `transformers` refuses a number of heads that does not divide the hidden size.
    """

    heads: str
    key_value_heads: str | None
    head_dim: str
    channels: str
    attention: tuple[Part, ...]
    feed_forward: tuple[Part, ...]
    heads_divide_hidden: bool = False

    def sizes(self, config: PretrainedConfig) -> tuple[int, int, int]:
        """Numbers of heads, of channels, and of query heads that share a key/value head (1 in multi-head attention)."""
        heads = getattr(config, self.heads)
        sharing = heads // getattr(config, self.key_value_heads) if self.key_value_heads else 1
        return heads, getattr(config, self.channels), sharing

    def head_counts(self, config: PretrainedConfig) -> list[int]:
        """Numbers of heads that a narrower model may have, increasing; the last is the model's own."""
        heads, _, sharing = self.sizes(config)
        counts = range(sharing, heads + 1, sharing)
        return [n for n in counts if not self.heads_divide_hidden or config.hidden_size % n == 0]

    def narrowed(self, config: PretrainedConfig, num_heads: int, intermediate: int) -> PretrainedConfig:
        """A copy of the configuration with other numbers of heads and channels; the width of a head stays.

        Raises:
            ValueError: If either number is not one that a narrower model may have.
        """
        heads, channels, sharing = self.sizes(config)
        if num_heads not in self.head_counts(config):
            raise ValueError(f"num_heads must be one of {self.head_counts(config)}, got {num_heads}")
        if not 1 <= intermediate <= channels:
            raise ValueError(f"intermediate must lie in [1, {channels}], got {intermediate}")
        head_dim = getattr(config, self.head_dim, None) or config.hidden_size // heads  # Qwen2 has no such field
        fields: dict[str, Any] = {self.heads: num_heads, self.head_dim: head_dim, self.channels: intermediate}
        if self.key_value_heads:
            fields[self.key_value_heads] = num_heads // sharing
        narrow = cut_config(config, {})
        narrow.update(fields)
        return narrow


def widths_of(config: PretrainedConfig) -> Widths:
    """The widths of the family that a configuration belongs to.

    Raises:
        UnsupportedArchitectureError: If no family lists the model type, or its configuration ties the width of a head
            to the hidden size.
    """
    name = family_of(config).name
    if name not in WIDTHS:
        raise UnsupportedArchitectureError(
            f"a {name} model cannot have fewer heads: its configuration sets the width of a head to the hidden size "
            f"over the number of heads, so no checkpoint of the format could hold it; supported are {', '.join(WIDTHS)}"
        )
    return WIDTHS[name]


def _gated(heads_divide_hidden: bool) -> Widths:
    attention = Part(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj")
    feed_forward = Part(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj")
    return Widths(
        heads="num_attention_heads",
        key_value_heads="num_key_value_heads",
        head_dim="head_dim",
        channels="intermediate_size",
        attention=(attention,),
        feed_forward=(feed_forward,),
        heads_divide_hidden=heads_divide_hidden,
    )


def _t5_attention(path: str, table: str | None = None) -> Part:
    return Part(_inside(path, "q", "k", "v"), f"{path}.o", table and f"{path}.{table}")


def _t5_feed_forward(path: str) -> Part:
    return Part(_inside(path, "wi", "wi_0", "wi_1"), f"{path}.wo")  # one map, or two where it is gated


def _inside(path: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{path}.{name}" for name in names)


WIDTHS = {
    "llama": _gated(heads_divide_hidden=True),
    "qwen3": _gated(heads_divide_hidden=False),
    "t5": Widths(
        heads="num_heads",
        key_value_heads=None,
        head_dim="d_kv",
        channels="d_ff",
        attention=(
            _t5_attention("layer.0.SelfAttention", "relative_attention_bias"),
            _t5_attention("layer.1.EncDecAttention"),
        ),
        feed_forward=(_t5_feed_forward("layer.1.DenseReluDense"), _t5_feed_forward("layer.2.DenseReluDense")),
    ),
}
