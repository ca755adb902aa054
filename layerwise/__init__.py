"""Layer-wise compression of transformer recommenders, and the instruments that judge it.

The names below are imported when they are first used, so that `layerwise.statistics` works without torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "load_interactions": "layerwise.data.sources",
    "leave_one_out": "layerwise.data.splits",
    "Recommender": "layerwise.models.recommender",
    "load_pretrained": "layerwise.models.loading",
    "ranking_metrics": "layerwise.evaluation.ranking",
    "layer_scores": "layerwise.importance.scores",
    "select_layers": "layerwise.compression.selection",
    "compact_model": "layerwise.compression.compact",
    "bridged_model": "layerwise.compression.bridge",
    "heal": "layerwise.compression.distill",
    "compare_latency": "layerwise.evaluation.latency",
    "judge": "layerwise.statistics",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'layerwise' has no attribute {name!r}; public names are {__all__}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
