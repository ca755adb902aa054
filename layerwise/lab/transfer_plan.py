"""Which results the claims on transfer read, by the tier alone."""

from typing import Any

from layerwise.data.folders import is_here
from layerwise.lab.experiments import Experiment, FloorQuality, ModelQuality, ScratchModel, TransferCuts
from layerwise.lab.tiers import Subject, Tier

POPULARITY = "Popularity"  # what a model must beat to make use of histories at all


def subjects_of(tier: Tier) -> dict[str, Subject]:
    """Dataset -> subject, for all that choose layers for one another; the tier's own comes first."""
    return {subject.dataset: subject for subject in (tier.subject, *tier.transferred)}


def transfer_cuts(tier: Tier) -> list[TransferCuts]:
    """The tier's own full models cut by everybody's choice, one per seed; a source has the seed of what it cuts.

    The other training at home is that of the next seed, the first one's for the last.

    Raises:
        ValueError: Layers are to move between architectures, or between models of different depth.
    """
    own, *others = subjects_of(tier).values()
    for other in others:
        if (other.family, other.shape.num_layers) != (own.family, own.shape.num_layers):
            raise ValueError(
                f"layers move between models of one architecture and depth; {own.dataset} has {own.family} with "
                f"{own.shape.num_layers} layers, {other.dataset} has {other.family} with {other.shape.num_layers}"
            )
    following = dict(zip(tier.seeds, (*tier.seeds[1:], tier.seeds[0]), strict=True))
    return [
        TransferCuts(
            _full(own, seed),
            tuple(_full(other, seed) for other in others),
            _full(own, after),
            tier.selected_by,
            tier.rivals,
            tier.shares,
        )
        for seed, after in following.items()
    ]


def transfer_cells(tier: Tier) -> list[Experiment[Any]]:
    """All that the claims on transfer read; nothing where a dataset is not on this machine."""
    datasets = subjects_of(tier)
    if not tier.transferred or not all(map(is_here, datasets)):
        return []
    return [cell for dataset in datasets for cell in _cells(tier.on(dataset))]


def _cells(tier: Tier) -> list[Experiment[Any]]:
    quality = [ModelQuality(_full(tier.subject, seed)) for seed in tier.seeds]
    return [*quality, FloorQuality(tier.subject, POPULARITY), *transfer_cuts(tier)]


def _full(subject: Subject, seed: int) -> ScratchModel:
    return ScratchModel(subject, seed, subject.shape.num_layers)
