"""Ways to make a student of a full model, side by side: a start, and the objectives that it is trained on in turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Literal

from layerwise.compression.bridge import bridged_model
from layerwise.compression.compact import compact_model
from layerwise.compression.layer_distill import distil_layers
from layerwise.compression.magnitude import finished, magnitude_pruned
from layerwise.compression.narrow import narrow_model, narrow_shape
from layerwise.compression.objective import NOTHING_MATCHED, Matching, Objective, layer_weights, paired_ends
from layerwise.compression.trainable import merged, only_last, with_lora
from layerwise.data.arrays import FloatArray
from layerwise.data.splits import Split
from layerwise.models.layers import stacks_of
from layerwise.models.recommender import Recommender
from layerwise.models.training import Progress, Recipe

Start = Literal["cut", "bridged", "sparse", "narrow"]


@dataclass(frozen=True)
class Stage:
    """A part of a student's training.

    Attributes:
        objective: Terms of the loss.
        share: Share of the method's epochs, in (0, 1].
        pairs: Layers that are compared: none; those that end the runs which kept layers stand for; the last of these.
        weights: How the pairs share the terms that compare layers; see `layer_weights`.
    """

    objective: Objective = field(default_factory=Objective)
    share: float = 1.0
    pairs: Literal["none", "ends", "last"] = "none"
    weights: str = "uniform"


@dataclass(frozen=True)
class Method:
    """How a student is made.

    Attributes:
        start: What it starts as: a cut to the kept layers; the same with bridges; the full depth with most weights of
            its layers zero; the full depth with narrow layers.
        by: What chooses the kept layers of a cut: a rule or an importance.
        stages: What it is trained on in turn; none leaves the start as it is.
        trains: All weights, the last layer with the item matrix, or low-rank changes that are merged afterwards.
        via: Shares of the layers at which a cut stops on its way, to be healed; each of them and the last gets an equal
            part of the epochs.
    """

    start: Start = "bridged"
    by: str = "empirical-fisher"
    stages: tuple[Stage, ...] = (Stage(),)
    trains: Literal["all", "last", "lora"] = "all"
    via: tuple[float, ...] = ()

    @property
    def cuts(self) -> bool:
        """Whether whole layers go."""
        return self.start in ("cut", "bridged")

    @property
    def needs_importance(self) -> bool:
        """Whether pairs of layers are weighted by the importance of the teacher's layers."""
        return any(stage.weights == "importance" for stage in self.stages)


@dataclass(frozen=True)
class Made:
    """A student, in evaluation mode, and the validation NDCG@10 by epoch of each of its trainings."""

    recommender: Recommender
    courses: list[dict[int, float]]


def made_student(
    full: Recommender,
    method: Method,
    kept_layers: Sequence[Sequence[int]],
    share: float,
    split: Split,
    recipe: Recipe,
    seed: int,
    importance: FloatArray | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Made:
    """A student of a full model.

    A method's last objective keeps the weights with the best validation NDCG@10, those before it hand on their last.

    Args:
        full: The teacher; left as it was.
        method: How the student is made.
        kept_layers: Of the full model, for each stop of a cut and last for its end, one a subset of the one before.
        share: Share of the layers' parameters that remain, in (0, 1]; a cut has it by its kept layers.
        split: Its training sequences are learned from, its validation targets decide when to stop.
        recipe: Steps, rates, dropout of the whole.
        seed: Decides windows, order, dropout and random weights of layers; each training draws its own.
        importance: One score per layer of the full model, where the method weighs by it.
        on_progress: Called after each validation.

    Raises:
        ValueError: As for `distil_layers`, or if the epochs do not suffice for one in each stage.
        TrainingDivergedError: If a loss is not finite.
    """
    stops = [tuple(kept) for kept in kept_layers]
    parts = iter(_parts(recipe.epochs, [stage.share / len(stops) for _ in stops for stage in method.stages]))
    courses: list[dict[int, float]] = []
    student, before = full, tuple(range(len(full.layers)))
    for kept in stops:
        inside = tuple(before.index(layer) for layer in kept)
        student = _opened(_started(student, method, inside, share, split), method, seed)
        for stage in method.stages:
            epochs = next(parts)
            chosen = recipe.evaluate_every if stage is method.stages[-1] else epochs  # a first stage hands its end on
            part = replace(recipe, epochs=epochs, evaluate_every=chosen)
            matching = _matching(full, kept, stage, seed, importance)
            own = seed + _NEXT_SEED * len(courses)  # another stage sees other windows
            trained = distil_layers(student, full, split, stage.objective, matching, part, own, on_progress)
            student = trained.recommender
            courses.append(trained.validation)
        student = _closed(student, method)
        before = kept
    return Made(student, courses)


def _started(model: Recommender, method: Method, kept: Sequence[int], share: float, split: Split) -> Recommender:
    match method.start:
        case "cut":
            return compact_model(model, kept)
        case "bridged":
            return bridged_model(model, kept, model.labelled_batches(split.train_sequences())).model
        case "sparse":
            return magnitude_pruned(model, 1 - share)
        case "narrow":
            return narrow_model(model, *narrow_shape(model, share))


def _opened(student: Recommender, method: Method, seed: int) -> Recommender:
    match method.trains:
        case "all":
            return student
        case "last":
            return only_last(student)
        case "lora":
            return with_lora(student, seed=seed)


def _closed(student: Recommender, method: Method) -> Recommender:
    if method.trains == "lora":
        student = merged(student)
    elif method.start == "sparse":
        student = finished(student)
    student.model.requires_grad_(True)
    return student.eval()


def _matching(
    full: Recommender, kept: Sequence[int], stage: Stage, seed: int, importance: FloatArray | None
) -> Matching:
    if stage.pairs == "none":
        return NOTHING_MATCHED
    depths = [len(layers) for layers in stacks_of(full).values()]
    pairs = paired_ends(depths, kept)
    pairs = pairs if stage.pairs == "ends" else pairs[-1:]
    return Matching(pairs, layer_weights(stage.weights, pairs, importance, seed))


def _parts(epochs: int, shares: Sequence[float]) -> list[int]:
    """Epochs of each training, in all those that there are."""
    edges = [round(epochs * done) for done in accumulate(shares, initial=0.0)]
    parts = [high - low for low, high in pairwise(edges)]
    if min(parts, default=1) < 1:
        raise ValueError(f"{epochs} epochs leave none for one of {len(parts)} trainings; train longer")
    return parts


_NEXT_SEED = 1000  # far from any seed that a study counts up to

ITEMS = Objective(observed=1, logits=0)
TEACHER = Objective(observed=0.5, logits=0.5)
LAYERS = replace(TEACHER, states=1.0)


def weighted_by(weights: str) -> Method:
    """Ours: layers that Fisher information finds, bridged; taught by data and teacher, and at first by its layers, too.

    Args:
        weights: How much the layers count; see `layer_weights`.
    """
    return Method(stages=(Stage(LAYERS, 0.5, "ends", weights), Stage(TEACHER, 0.5)))


OURS = weighted_by("importance")


def cut_by(rule: str) -> Method:
    """A cut by a rule, healed on the next item and the teacher's distribution."""
    return Method("cut", rule, (Stage(TEACHER),))


METHODS = {
    "ours": OURS,
    **{f"ours, {kind} weights": weighted_by(kind) for kind in ("uniform", "rising", "falling", "learned", "random")},
    "ours without selection": replace(OURS, by="random"),
    "ours without bridge": replace(OURS, start="cut"),
    "ours without healing": replace(OURS, stages=()),
    "ours without distillation": replace(OURS, stages=(Stage(ITEMS),)),
    "ours, last layer only": replace(OURS, trains="last"),
    "ours, LoRA": replace(OURS, trains="lora"),
    "ours, progressive": replace(OURS, via=(0.5,)),
    # Sanh et al. 2019: every second layer, and the loss weights of the authors' training script.
    "DistilBERT": Method(
        "cut",
        "uniform",
        (Stage(Objective(observed=2 / 8, logits=5 / 8, states=1 / 8, distance="cosine"), pairs="last"),),
    ),
    # Jiao et al. 2020: first the layers (equation 11), then the distribution (equation 10), without the labels.
    "TinyBERT": Method(
        "cut",
        "uniform",
        (
            Stage(Objective(observed=0, logits=0, states=1, embeddings=1, scores=1), 0.5, "ends"),
            Stage(Objective(observed=0, logits=1, temperature=1), 0.5),
        ),
    ),
    # Wang et al. 2020: attention and values of the last layer, then fine-tuning on the task.
    "MiniLM": Method(
        "cut", "first", (Stage(Objective(observed=0, logits=0, relations=1), 0.5, "last"), Stage(ITEMS, 0.5))
    ),
    "magnitude pruning": Method("sparse", stages=(Stage(TEACHER),)),
    "narrow layers": Method("narrow", stages=(Stage(TEACHER),)),
    "random layers": cut_by("random"),
    "uniform layers": cut_by("uniform"),
    "first layers": cut_by("first"),
    "searched layers": cut_by("search"),
}


def method_name(method: Method) -> str:
    """What `METHODS` calls it."""
    return next((name for name, known in METHODS.items() if known == method), "unnamed")
