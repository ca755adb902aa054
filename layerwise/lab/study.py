"""One tier's models and their measurements, over its seeds, in the arrays that effects are made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from layerwise.compression.selection import number_to_keep
from layerwise.data.arrays import FloatArray
from layerwise.data.splits import Split
from layerwise.lab.experiments import (
    FLOOR,
    CompactModel,
    CutQuality,
    Damage,
    Experiment,
    FloorQuality,
    GapRivals,
    HealedModel,
    LayerScores,
    Model,
    Quality,
    RemovalDamage,
    ScratchModel,
    TrainingFree,
)
from layerwise.lab.lab import Lab
from layerwise.lab.tiers import Subject, Tier
from layerwise.models.recommender import Recommender

Prepare = Callable[[Sequence[Experiment]], None]  # type: ignore[type-arg]


@dataclass(frozen=True)
class Study:
    """Everything that the claims of a tier ask for.

    Args:
        tier: Sizes, recipes and seeds.
        lab: Where results come from.
        prepare: Makes missing results, side by side where it can; called before results are read.
    """

    tier: Tier
    lab: Lab
    prepare: Prepare

    @property
    def subject(self) -> Subject:
        """Dataset, family and recipes."""
        return self.tier.subject

    def of(self, family: str) -> "Study":
        """The same study of another architecture."""
        return replace(self, tier=replace(self.tier, subject=self.tier.subject_of(family)))

    @property
    def depth(self) -> int:
        """Layers of the full model."""
        return self.subject.shape.num_layers

    @property
    def keep(self) -> int:
        """Layers of the compact model."""
        return number_to_keep(self.depth, self.tier.kept)

    @cached_property
    def split(self) -> Split:
        """The data."""
        return self.lab.split(self.subject)

    def full(self) -> list[ScratchModel]:
        """Full models, one per seed."""
        return [ScratchModel(self.subject, seed, self.depth) for seed in self.tier.seeds]

    def shallow(self) -> list[ScratchModel]:
        """Models of the compact size, trained from scratch by the same recipe."""
        return [ScratchModel(self.subject, seed, self.keep) for seed in self.tier.seeds]

    def compact(self, by: str | None = None) -> list[CompactModel]:
        """Untrained compact models; by the tier's method unless another one is named."""
        return [CompactModel(full, by or self.tier.selected_by, self.tier.kept) for full in self.full()]

    def healed(self) -> list[HealedModel]:
        """Healed compact models."""
        return [HealedModel(compact) for compact in self.compact()]

    def quality(self, models: Sequence[ScratchModel | CompactModel | HealedModel]) -> Mapping[str, FloatArray]:
        """Test metrics, name -> *seeds x users*; names as in `Quality`."""
        wanted = [Quality(model) for model in models]
        self.prepare(wanted)
        by_seed = [self.lab.get(quality) for quality in wanted]
        return {name: np.stack([values[name] for values in by_seed]) for name in by_seed[0]}

    def floor(self) -> dict[str, dict[str, FloatArray]]:
        """Test metrics of the training-free recommenders: name -> metric -> *users*."""
        wanted = [FloorQuality(self.subject, name) for name in FLOOR]
        self.prepare(wanted)
        return {quality.name: self.lab.get(quality) for quality in wanted}

    def layer_scores(self, method: str) -> FloatArray:
        """Importance of each layer, *seeds x num_layers*."""
        wanted = [LayerScores(full, method) for full in self.full()]
        self.prepare(wanted)
        return np.stack([self.lab.get(scores) for scores in wanted])

    def damage(self) -> list[Damage]:
        """What removing layers really does, one per seed."""
        wanted = [RemovalDamage(full) for full in self.full()]
        self.prepare(wanted)
        return [self.lab.get(damage) for damage in wanted]

    def training_free(self) -> dict[str, list[CutQuality]]:
        """NDCG@10 of every cut without training, by the name of the cut, one per seed."""
        wanted = [TrainingFree(full, self.tier.rules) for full in self.full()]
        self.prepare(wanted)
        by_seed = [self.lab.get(cuts) for cuts in wanted]
        return {name: [cuts[name] for cuts in by_seed] for name in by_seed[0]}

    def gap_rivals(self) -> dict[str, FloatArray]:
        """NDCG@10, *seeds x users*, of the tier's cut by the way its gaps are closed, in order of rising quality."""
        wanted = [GapRivals(full, self.tier.selected_by, self.tier.kept) for full in self.full()]
        self.prepare(wanted)
        by_seed = [self.lab.get(rivals) for rivals in wanted]
        stacked = {name: np.stack([values[name] for values in by_seed]) for name in by_seed[0]}
        return dict(sorted(stacked.items(), key=lambda way: float(way[1].mean())))

    def model(self, model: Model) -> Recommender:
        """The model itself."""
        self.prepare([model])
        return self.lab.get(model)

    def kept_layers(self) -> list[tuple[int, ...]]:
        """Layers that the tier's method keeps, per seed."""
        wanted = self.compact()
        self.prepare(wanted)
        return [tuple(self.lab.course(compact)["kept_layers"]) for compact in wanted]

    def everything(self) -> list[Experiment]:  # type: ignore[type-arg]
        """All results that the tier's claims read, the longest first."""
        rules = [Quality(compact) for by in ("first", "uniform", "random") for compact in self.compact(by)]
        of_families = [full for family in self.tier.families for full in self.of(family).full()]
        return [
            *(TrainingFree(full, self.tier.rules) for full in of_families),
            *(Quality(full) for full in of_families),
            *(GapRivals(full, self.tier.selected_by, self.tier.kept) for full in self.full() if self.tier.families),
            *(Quality(full) for full in self.full()),
            *(Quality(shallow) for shallow in self.shallow()),
            *(Quality(healed) for healed in self.healed()),
            *(RemovalDamage(full) for full in self.full()),
            *(Quality(compact) for compact in self.compact()),
            *(LayerScores(full, "block-influence") for full in self.full()),
            *rules,
            *(FloorQuality(self.subject, name) for name in FLOOR),
        ]
