"""Gap adapters: a small trained network stands in for each removed run of layers; the rival of bridges.

Unlike a bridge it is no part of a standard model: only this library reads and runs it.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from layerwise.compression.compact import KeptLayers, compact_model, kept_by_stack
from layerwise.models.families import family_of
from layerwise.models.layers import stacks_of, state_of
from layerwise.models.recommender import Recommender

ADAPTERS_FILE = "gap_adapters.safetensors"


class GapAdapter(nn.Module):
    """A residual bottleneck, state + up(gelu(down(state))), that starts as the identity.

    Args:
        hidden: Width of the residual stream.
        bottleneck: Width inside, above 0.

    References:
        Houlsby et al. 2019, section 2.1; here it stands behind a whole layer and starts at exactly the identity.
    """

    def __init__(self, hidden: int, bottleneck: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(hidden, bottleneck), nn.Linear(bottleneck, hidden)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, state: Tensor) -> Tensor:
        """The state after the gap, same shape as `state`, *... x hidden*."""
        update: Tensor = self.up(nn.functional.gelu(self.down(state)))
        return state + update


class AdaptedRecommender(Recommender):
    """A compact recommender with adapters behind some of its layers; scored, trained and judged like any other.

    The adapters act in whatever goes through `states`: scores, training, quality. They do not act where
    `recommender.model` is called itself, and compressing this recommender again leaves them out.

    Args:
        model: As for `Recommender`.
        num_items: Size of the catalogue.
        max_length: Number of most recent events that are read.
        adapters: Adapter by index of the layer behind which it stands, an index into `layers_of(model)`.
    """

    def __init__(
        self, model: PreTrainedModel, num_items: int, max_length: int, adapters: Mapping[int, GapAdapter]
    ) -> None:
        super().__init__(model, num_items, max_length)
        self.adapters = nn.ModuleDict({str(index): adapter for index, adapter in adapters.items()})

    def states(self, inputs: Mapping[str, Tensor], embedding_dropout: float = 0.0) -> Tensor:
        """Final states with the adapters in place; as for `Recommender`."""
        with self._inserted():
            return super().states(inputs, embedding_dropout)

    @contextmanager
    def _inserted(self) -> Iterator[None]:
        """Hooks for one pass only: a deep copy of lasting ones would still call the first model's adapters."""

        def hook_of(adapter: nn.Module) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> Any:
                state = adapter(state_of(output))
                return (state, *output[1:]) if isinstance(output, tuple) else state

            return hook

        with ExitStack() as hooks:
            for index, adapter in self.adapters.items():
                hooks.callback(self.layers[int(index)].register_forward_hook(hook_of(adapter)).remove)
            yield

    def save(self, folder: Path) -> None:
        """Writes a plain compact checkpoint and, beside it, `gap_adapters.safetensors`.

        The adapters are not standard: `transformers` reads the checkpoint as the bare cut and knows nothing of them.
        So that `Recommender.load` does not drop them silently either, the catalogue and history length, which it asks
        for, stand in the adapters' file and not in the configuration: it refuses the folder.
        """
        self.model.save_pretrained(folder)
        weights = {name: tensor.contiguous() for name, tensor in self.adapters.state_dict().items()}
        about = {"num_items": str(self.num_items), "max_history": str(self.max_length)}
        save_file(weights, Path(folder) / ADAPTERS_FILE, metadata=about)

    @classmethod
    def load(cls, folder: Path) -> "AdaptedRecommender":
        """Reads what `save` wrote; only the adapters are trainable.

        Raises:
            ValueError: If there are no adapters, or if the model's weights are missing or left over.
        """
        path = Path(folder) / ADAPTERS_FILE
        if not path.is_file():
            raise ValueError(f"{folder} has no {ADAPTERS_FILE}; a plain checkpoint is read with Recommender.load")
        auto = family_of(AutoConfig.from_pretrained(folder, local_files_only=True)).auto
        model, report = auto.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        if wrong := sorted(report["missing_keys"]) + sorted(report["unexpected_keys"]):
            raise ValueError(f"{folder} does not fit its configuration: missing or left over {wrong}")
        with safe_open(path, "pt") as file:
            about, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        sizes = {int(name.split(".")[0]): w.shape for name, w in weights.items() if name.endswith("down.weight")}
        adapters = {index: GapAdapter(hidden, bottleneck) for index, (bottleneck, hidden) in sorted(sizes.items())}
        recommender = cls(model.requires_grad_(False), int(about["num_items"]), int(about["max_history"]), adapters)
        recommender.adapters.to(device=model.device, dtype=model.dtype).load_state_dict(weights)
        return recommender.eval()


def adapted_model(
    model: Recommender, kept_layers: KeptLayers, bottleneck: int = 16, seed: int = 0
) -> AdaptedRecommender:
    """A compact recommender with an untrained adapter in front of each removed run; it scores like the bare cut.

    All other weights are frozen, so that `train` and `heal` train the adapters alone. Layers removed before the first
    kept one have no adapter.

    Args:
        model: A recommender; left as it was.
        kept_layers: As for `compact_model`.
        bottleneck: Width inside each adapter, which has 2 x hidden x bottleneck + bottleneck + hidden parameters.
        seed: Decides the adapters' initial weights; the global generator is left as it was.

    Raises:
        ValueError: If no removed run stands behind a kept layer, `bottleneck` is not above 0, the recommender has
            adapters already, or as for `compact_model`.
        TypeError: If `model` is no recommender.
    """
    if not isinstance(model, Recommender):
        raise TypeError(f"adapters need a Recommender around the model, got {type(model).__name__}")
    if isinstance(model, AdaptedRecommender):
        raise ValueError(
            "the recommender has adapters already, and cutting it would drop them; start from the full one"
        )
    if bottleneck < 1:
        raise ValueError(f"bottleneck must be above 0, got {bottleneck}")
    compact = compact_model(model, kept_layers)
    places = _layers_before_gaps(model.model, kept_layers)
    if not places:
        raise ValueError(f"no removed layers stand behind a kept one, so there is no gap to fill, got {kept_layers}")
    hidden = compact.item_matrix.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every accelerator, too
        adapters = {place: GapAdapter(hidden, bottleneck) for place in places}
    inside = compact.model.requires_grad_(False)
    adapted = AdaptedRecommender(inside, model.num_items, model.max_length, adapters)
    adapted.adapters.to(device=inside.device, dtype=inside.dtype).train(model.training)
    adapted.training = model.training  # its own mode alone; `train` would set every module's
    return adapted


def _layers_before_gaps(model: PreTrainedModel, kept_layers: KeptLayers) -> list[int]:
    """The compact model's layers, counted through its stacks, behind which layers were removed."""
    places, start = [], 0
    for stack, kept in kept_by_stack(model, kept_layers).items():
        ends = (*kept, len(stacks_of(model)[stack]))
        places += [start + place for place, (low, high) in enumerate(pairwise(ends)) if high > low + 1]
        start += len(kept)
    return places
