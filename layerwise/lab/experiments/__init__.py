"""What the lab can make.

The digests of the code are taken here, at import: later edits of the files do not change what this process runs.
"""

from layerwise.lab.experiments.base import Bench, Experiment, Report, closure
from layerwise.lab.experiments.compact import CompactModel, HealedModel
from layerwise.lab.experiments.damage import Damage, RemovalDamage
from layerwise.lab.experiments.gap_rivals import GapRivals
from layerwise.lab.experiments.models import Model, ScratchModel
from layerwise.lab.experiments.quality import FLOOR, FloorQuality, Quality
from layerwise.lab.experiments.scores import LayerScores
from layerwise.lab.experiments.training_free import Cut, CutQuality, TrainingFree

__all__ = [
    "FLOOR",
    "Bench",
    "CompactModel",
    "Cut",
    "CutQuality",
    "Damage",
    "Experiment",
    "FloorQuality",
    "GapRivals",
    "HealedModel",
    "LayerScores",
    "Model",
    "Quality",
    "RemovalDamage",
    "Report",
    "ScratchModel",
    "TrainingFree",
    "closure",
]

for _kind in (
    CompactModel,
    FloorQuality,
    GapRivals,
    HealedModel,
    LayerScores,
    Quality,
    RemovalDamage,
    ScratchModel,
    TrainingFree,
):
    _kind.code_digest()
