"""The effects by which methods of compression are judged against one another, from the measurements of a study."""

from collections.abc import Mapping

from layerwise.data.arrays import FloatArray
from layerwise.lab.exhibits import best_floor
from layerwise.lab.study import Study
from layerwise.statistics import MeanDifference, Retention, retained

Metrics = Mapping[str, FloatArray]

WEIGHTINGS = {
    "fisher": "ours",
    **{kind: f"ours, {kind} weights" for kind in ("rising", "falling", "learned", "random")},
}
PARTS = {
    **{part: f"ours without {part}" for part in ("selection", "bridge", "healing", "distillation")},
    "weighting": "ours, uniform weights",
}
# Name in a case -> method that is trained with the same budget and a rate tuned on the same grid.
TRAINED_RIVALS = {
    "distilbert": "DistilBERT",
    "tinybert": "TinyBERT",
    "minilm": "MiniLM",
    "magnitude": "magnitude pruning",
    "narrow": "narrow layers",
    "random": "random layers",
    "uniform": "uniform layers",
    "first": "first layers",
    "searched": "searched layers",
}
OTHER_RIVALS = ("scratch", "int8", "int4", "training-free")


def weighting(study: Study, weights: str) -> MeanDifference:
    """H3: NDCG@10 of students taught with layer-wise weights minus of those taught with uniform ones."""
    share = study.tier.weighted_share
    weighted = study.quality(study.students(WEIGHTINGS[weights], share))
    uniform = study.quality(study.students("ours, uniform weights", share))
    return MeanDifference(weighted["ndcg@10"] - uniform["ndcg@10"], "NDCG@10")


def ablation(study: Study, part: str) -> MeanDifference:
    """NDCG@10 of the whole method minus of the method without a part."""
    whole, without = (study.quality(study.students(method)) for method in ("ours", PARTS[part]))
    return MeanDifference(whole["ndcg@10"] - without["ndcg@10"], "NDCG@10")


def kept_depth(study: Study, keep: int) -> Retention:
    """NDCG@10 of a healed model of so many layers over that of the full one."""
    healed = study.quality(study.students("ours", keep / study.depth))
    return retained(healed["ndcg@10"], study.quality(study.full())["ndcg@10"], "NDCG@10")


def beyond_scratch(study: Study) -> MeanDifference:
    """NDCG@10 of healed models minus of models of their size trained from scratch."""
    healed, shallow = study.quality(study.healed()), study.quality(study.shallow())
    return MeanDifference(healed["ndcg@10"] - shallow["ndcg@10"], "NDCG@10")


def advantage(study: Study, rival: str, metric: str = "ndcg@5") -> Retention:
    """Our compact model's metric over a rival's."""
    own = study.quality(study.tuned("ours"))[metric]
    return retained(own, rival_quality(study, rival)[metric], metric.upper())


def rival_quality(study: Study, rival: str) -> Metrics:
    """Test metrics of a rival, *seeds x users*; a training-free one is the same for every seed."""
    match rival:
        case "scratch":
            return study.quality(study.shallow())
        case "int8":
            return study.quantized(8)
        case "int4":
            return study.quantized(4)
        case "training-free":
            best = study.floor()[best_floor(study)[0]]
            return {name: values[None].repeat(len(study.tier.seeds), axis=0) for name, values in best.items()}
        case _:
            return study.quality(study.tuned(TRAINED_RIVALS[rival]))
