"""Layer-wise distillation: a student learns from the data, from what its teacher says, and from what its layers do.

`distill.heal` is the plain case, which does not look at layers.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from layerwise.compression.distill import HEALING
from layerwise.compression.objective import NOTHING_MATCHED, Matching, Objective
from layerwise.compression.observed import ObservedRecommender, Seen, observe, plain
from layerwise.compression.relations import attention_transfer, score_loss, value_relation_transfer
from layerwise.data.splits import Split
from layerwise.evaluation.quality import validation_ndcg
from layerwise.models.layers import stacks_of
from layerwise.models.modes import evaluating
from layerwise.models.recommender import Recommender, Windows
from layerwise.models.training import Loss, Progress, Recipe, Trained, train


def distil_layers(
    student: Recommender,
    teacher: Recommender,
    split: Split,
    objective: Objective,
    matching: Matching = NOTHING_MATCHED,
    recipe: Recipe = HEALING,
    seed: int = 0,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Trained:
    """A copy of a student, trained on the next item and on what the teacher says and does.

    Args:
        student: Starting weights; left as they were. What is frozen in it stays as it is.
        teacher: The full model; left as it was.
        split: Its training sequences are learned from, its validation targets decide when to stop.
        objective: Terms of the loss.
        matching: Layers that are compared, for the terms that look inside.
        recipe: Steps, rates, dropout.
        seed: Decides windows, order and dropout.
        on_progress: Called after each validation.

    Raises:
        ValueError: If student and teacher have different catalogues, or layers should be compared and none is matched,
            one does not exist or belongs to another stack, or the student is no plain `Recommender`.
        TrainingDivergedError: If the loss is not finite; there is no fallback to the plain loss.
    """
    if student.num_items != teacher.num_items:
        raise ValueError(
            f"student and teacher must share a catalogue, got {student.num_items} and {teacher.num_items} items"
        )
    loss = objective_loss(teacher, objective, matching)
    sequences, validate = split.train_sequences(), validation_ndcg(split)
    if not objective.watches_layers:
        return train(student, sequences, validate, recipe, seed, loss, on_progress)
    _check_matching(student, teacher, objective, matching)
    learned = len(matching.pairs) if matching.weights is None else 0
    observed = ObservedRecommender(student, objective.watches_attention, learned)
    trained = train(observed, sequences, validate, recipe, seed, loss, on_progress)
    return replace(trained, recommender=plain(trained.recommender))


def objective_loss(teacher: Recommender, objective: Objective, matching: Matching = NOTHING_MATCHED) -> Loss:
    """The loss that `distil_layers` minimises, a weighted sum of the objective's terms; see `Objective`."""

    def loss(student: Recommender, states: Tensor, windows: Windows) -> Tensor:
        total = states.new_zeros(())
        logits = student.item_scores(states)
        if objective.observed:
            total = total + objective.observed * nn.functional.cross_entropy(logits, windows.items)
        if not (objective.logits or objective.watches_layers):
            return total
        with evaluating(teacher), torch.no_grad():
            if objective.watches_layers:
                told, seen = observe(teacher, windows.inputs, objective.watches_attention)
            else:
                told = teacher.states(windows.inputs)
            wanted = teacher.item_scores(told[windows.valid]) if objective.logits else logits
        if objective.logits:
            divergence = _divergence(logits, wanted, objective.temperature)
            total = total + objective.logits * objective.temperature**2 * divergence
        if objective.watches_layers:
            total = total + _inside(student, seen, windows, objective, matching)
        return total

    return loss


def _divergence(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Mean KL(teacher || student) of the softened distributions, in nats."""
    told, wanted = ((scores / temperature).log_softmax(-1) for scores in (logits, wanted))
    return nn.functional.kl_div(told, wanted, log_target=True, reduction="batchmean")


def _inside(student: Recommender, theirs: Seen, windows: Windows, objective: Objective, matching: Matching) -> Tensor:
    """The terms that compare layers."""
    if not isinstance(student, ObservedRecommender) or student.seen is None:
        raise TypeError("an objective that compares layers needs an ObservedRecommender in training mode")
    mine, real = student.seen, _real_positions(student, windows)  # one mask per layer
    total = mine.states[0].new_zeros(())
    if objective.embeddings:
        first = [real[0], *([real[-1]] if len(mine.embedded) > 1 else [])]
        distances = [
            _distance(own[mask], other[mask], "relative")
            for own, other, mask in zip(mine.embedded, theirs.embedded, first, strict=True)
        ]
        total = total + objective.embeddings * torch.stack(distances).mean()
    if not matching.pairs:
        return total
    by_pair = torch.stack([_of_pair(mine, theirs, pair, real[pair[0]], objective) for pair in matching.pairs])
    if matching.weights is None:
        return total + _learned_sum(by_pair, student.running_distances)
    return total + (by_pair * by_pair.new_tensor(matching.weights)).sum()


def _of_pair(mine: Seen, theirs: Seen, pair: tuple[int, int], real: Tensor, objective: Objective) -> Tensor:
    own, other = pair
    total = mine.states[own].new_zeros(())
    if objective.states:
        distance = _distance(mine.states[own][real], theirs.states[other][real], objective.distance)
        total = total + objective.states * distance
    if objective.watches_attention:
        attention = mine.attention[own], theirs.attention[other], real
        if objective.scores:
            total = total + objective.scores * score_loss(*attention)
        if objective.relations:
            transfer = attention_transfer(*attention) + value_relation_transfer(*attention)
            total = total + objective.relations * transfer
    return total


def _learned_sum(by_pair: Tensor, running: Tensor) -> Tensor:
    """Weighted sum, each weight in proportion to 1 over the running mean of its distance and all of sum 1.

    References:
        Kendall, Gal and Cipolla 2018, equation 7: exp(-s) * distance + s is least where exp(s) is the distance. Here
        that minimum is taken at once, so that no further optimiser has a say.
    """
    with torch.no_grad():
        running.lerp_(by_pair.to(running), 0.01 if running.any() else 1.0)
        weights = 1 / running.clamp_min(torch.finfo(running.dtype).tiny)
    return ((weights / weights.sum()).to(by_pair) * by_pair).sum()


def _distance(own: Tensor, other: Tensor, kind: str) -> Tensor:
    """Mean distance of states *rows x hidden*."""
    if kind == "cosine":
        return 1 - nn.functional.cosine_similarity(own, other, dim=-1).mean()
    return (own - other).square().mean() / other.square().mean()


def _real_positions(student: Recommender, windows: Windows) -> list[Tensor]:
    """For each layer, which positions are no padding, *batch x length*.

    Every real position of a causal model or a decoder has a target in training; the others have a mask.
    """
    mask = windows.inputs.get("attention_mask", windows.valid).bool()
    return [
        windows.valid if stack.ids == "decoder_input_ids" else mask
        for stack, layers in stacks_of(student.model).items()
        for _ in layers
    ]


def _check_matching(student: Recommender, teacher: Recommender, objective: Objective, matching: Matching) -> None:
    if type(student) is not Recommender:
        raise ValueError(f"layers of a {type(student).__name__} cannot be compared; use an objective that does not")
    compares_pairs = objective.watches_attention or objective.states > 0
    if compares_pairs and not matching.pairs:
        raise ValueError("the objective compares layers, but none is matched; see paired_ends")
    mine, theirs = (
        [stack.name for stack, layers in stacks_of(model).items() for _ in layers] for model in (student, teacher)
    )
    if wrong := [(a, b) for a, b in matching.pairs if not (0 <= a < len(mine) and 0 <= b < len(theirs))]:
        raise ValueError(f"pairs of layers must lie within {len(mine)} and {len(theirs)} layers, got {wrong}")
    if wrong := [(a, b) for a, b in matching.pairs if mine[a] != theirs[b]]:
        raise ValueError(f"pairs of layers must be of the same stack, got {wrong}")
