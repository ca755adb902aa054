"""What the lab can make.

The digests of the code are taken here, at import: later edits of the files do not change what this process runs.
"""

from layerwise.lab.experiments.adaptation import BandAdaptation
from layerwise.lab.experiments.base import Bench, Experiment, Report, closure
from layerwise.lab.experiments.compact import RULES, CompactModel, HealedModel
from layerwise.lab.experiments.controls import Control, IdentityLayers, PointerChain
from layerwise.lab.experiments.damage import Damage, RemovalDamage
from layerwise.lab.experiments.fine_tuned import FineTuned, weights_digest
from layerwise.lab.experiments.gap_rivals import GapRivals
from layerwise.lab.experiments.likes import (
    ARMS,
    PARTS,
    Answers,
    FrozenFeatures,
    LikeAnswers,
    LoraAdapter,
    base_classifier,
    like_tasks,
)
from layerwise.lab.experiments.models import Model, ScratchModel
from layerwise.lab.experiments.noisy_training import NoisyModel, NoisyScores, NoisyStudent
from layerwise.lab.experiments.own_adapter import FrozenArms, OwnAnswers, OwnTask, TunedArm, own_digest
from layerwise.lab.experiments.portrait import LayerPortrait, Portrait
from layerwise.lab.experiments.qlora import FORMATS, QloraAdapter, QuantizedLikes, format_models, why_no_nf4
from layerwise.lab.experiments.quality import FLOOR, FloorQuality, Quality
from layerwise.lab.experiments.quantized import QuantizedQuality
from layerwise.lab.experiments.random_cuts import RandomCut, RandomCuts
from layerwise.lab.experiments.robustness import NoisyQuality, TargetQuality
from layerwise.lab.experiments.rule_cuts import RuleCuts
from layerwise.lab.experiments.scores import LayerScores
from layerwise.lab.experiments.shapley import LayerShapley
from layerwise.lab.experiments.students import ModelQuality, Student, TunedStudent
from layerwise.lab.experiments.tasks import TaskImportance, TaskImportances
from layerwise.lab.experiments.text import (
    TEXT_IMPORTANCES,
    TEXT_ROWS,
    AnyText,
    CompactText,
    HealedText,
    TextModel,
    TextQuality,
    TextScores,
    TextStates,
)
from layerwise.lab.experiments.training_free import Cut, CutQuality, TrainingFree
from layerwise.lab.experiments.transfer_cuts import AGAIN, TransferCut, TransferCuts
from layerwise.lab.experiments.tuned import TunedModel

__all__ = [
    "AGAIN",
    "ARMS",
    "FLOOR",
    "FORMATS",
    "PARTS",
    "RULES",
    "TEXT_IMPORTANCES",
    "TEXT_ROWS",
    "Answers",
    "AnyText",
    "BandAdaptation",
    "Bench",
    "CompactModel",
    "CompactText",
    "Control",
    "Cut",
    "CutQuality",
    "Damage",
    "Experiment",
    "FineTuned",
    "FloorQuality",
    "FrozenArms",
    "FrozenFeatures",
    "GapRivals",
    "HealedModel",
    "HealedText",
    "IdentityLayers",
    "LayerPortrait",
    "LayerScores",
    "LayerShapley",
    "LikeAnswers",
    "LoraAdapter",
    "Model",
    "ModelQuality",
    "NoisyModel",
    "NoisyQuality",
    "NoisyScores",
    "NoisyStudent",
    "OwnAnswers",
    "OwnTask",
    "PointerChain",
    "Portrait",
    "QloraAdapter",
    "Quality",
    "QuantizedLikes",
    "QuantizedQuality",
    "RandomCut",
    "RandomCuts",
    "RemovalDamage",
    "Report",
    "RuleCuts",
    "ScratchModel",
    "Student",
    "TargetQuality",
    "TaskImportance",
    "TaskImportances",
    "TextModel",
    "TextQuality",
    "TextScores",
    "TextStates",
    "TrainingFree",
    "TransferCut",
    "TransferCuts",
    "TunedArm",
    "TunedModel",
    "TunedStudent",
    "base_classifier",
    "closure",
    "format_models",
    "like_tasks",
    "own_digest",
    "weights_digest",
    "why_no_nf4",
]

for _kind in (
    BandAdaptation,
    CompactModel,
    CompactText,
    FineTuned,
    FloorQuality,
    FrozenFeatures,
    GapRivals,
    HealedModel,
    HealedText,
    LayerPortrait,
    LayerScores,
    LayerShapley,
    LikeAnswers,
    LoraAdapter,
    NoisyModel,
    NoisyQuality,
    NoisyScores,
    NoisyStudent,
    QloraAdapter,
    Quality,
    QuantizedLikes,
    QuantizedQuality,
    RandomCuts,
    RemovalDamage,
    RuleCuts,
    ScratchModel,
    Student,
    TargetQuality,
    TaskImportances,
    TextModel,
    TextQuality,
    TextScores,
    TextStates,
    TrainingFree,
    TransferCuts,
    TunedArm,
    TunedStudent,
):
    _kind.code_digest()
