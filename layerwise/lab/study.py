"""One tier's models and their measurements, over its seeds, in the arrays that effects are made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from layerwise.compression.methods import METHODS
from layerwise.compression.selection import number_to_keep
from layerwise.data.arrays import FloatArray
from layerwise.data.categories import item_categories
from layerwise.data.folders import is_here
from layerwise.data.splits import Split
from layerwise.lab.experiments import (
    FLOOR,
    BandAdaptation,
    CompactModel,
    Control,
    CutQuality,
    Damage,
    Experiment,
    FloorQuality,
    GapRivals,
    HealedModel,
    LayerPortrait,
    LayerScores,
    LayerShapley,
    Model,
    ModelQuality,
    NoisyModel,
    NoisyQuality,
    NoisyStudent,
    Portrait,
    QuantizedQuality,
    RandomCut,
    RandomCuts,
    RemovalDamage,
    RuleCuts,
    ScratchModel,
    Student,
    TargetQuality,
    TaskImportance,
    TaskImportances,
    TrainingFree,
    TunedModel,
    TunedStudent,
)
from layerwise.lab.results import Result, Results
from layerwise.lab.text_study import TextStudy
from layerwise.lab.tiers import Subject
from layerwise.models.layers import stacks_of
from layerwise.models.recommender import Recommender


@dataclass(frozen=True)
class Study(Results):
    """Everything that the claims of a tier ask for."""

    @property
    def text(self) -> TextStudy:
        """The tier's models on titles."""
        return TextStudy(self.tier, self.lab, self.prepare)

    @property
    def subject(self) -> Subject:
        """Dataset, family and recipes."""
        return self.tier.subject

    def of(self, family: str) -> "Study":
        """The same study of another architecture."""
        return replace(self, tier=replace(self.tier, subject=self.tier.subject_of(family)))

    def on(self, dataset: str) -> "Study":
        """The same study, of the same architecture, on another dataset of the tier."""
        tier = self.tier.on(dataset)
        return replace(self, tier=replace(tier, subject=tier.subject_of(self.subject.family)))

    @property
    def depth(self) -> int:
        """Layers of the full model."""
        return self.subject.shape.num_layers

    @property
    def depths(self) -> list[int]:
        """Layers of each stack of the full model."""
        return [len(layers) for layers in stacks_of(self.model(self.full()[0])).values()]

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

    def matched(self, family: str) -> list[TunedModel]:
        """Models of a family that differ from another's in nothing but architecture and learning rate, one per seed."""
        subject, tuned_on = replace(self.subject, family=family), self.tier.seeds[0]
        return [TunedModel(subject, seed, self.depth, tuned_on) for seed in self.tier.seeds]

    def compact(self, by: str | None = None) -> list[CompactModel]:
        """Untrained compact models; by the tier's method unless another one is named."""
        return [CompactModel(full, by or self.tier.selected_by, self.tier.kept) for full in self.full()]

    def healed(self) -> list[Student]:
        """Healed compact models of the tier's share, by our own method."""
        return self.students("ours")

    def healed_cuts(self, by: str) -> list[HealedModel]:
        """Bare cuts by a rule or an importance, healed without a look at the layers."""
        return [HealedModel(compact) for compact in self.compact(by)]

    def cells(self) -> dict[tuple[str, str], "Study"]:
        """The studies of the matrix of families and datasets that can be run here, by family and dataset."""
        home = {(family, self.subject.dataset): self.of(family) for family in self.tier.families}
        family = self.subject.family
        return home | {(family, subject.dataset): self.on(subject.dataset) for subject in self.elsewhere()}

    def elsewhere(self) -> list[Subject]:
        """The tier's further subjects whose data are on this machine."""
        return [subject for subject in self.tier.elsewhere if is_here(subject.dataset)]

    def students(self, method: str, share: float | None = None) -> list[Student]:
        """Students by a method of `METHODS`, at the rate that heals the family; of the tier's share by default."""
        share, epochs, rate = share or self.tier.kept, self.tier.healing_epochs, self.tier.healing_rate
        return [Student(full, METHODS[method], share, epochs, rate) for full in self.full()]

    def tuned(self, method: str) -> list[TunedStudent]:
        """Students by a method of `METHODS`, of the tier's share, with a learning rate tuned on the first seed."""
        kept, epochs, tuned_on = self.tier.kept, self.tier.healing_epochs, self.tier.seeds[0]
        return [TunedStudent(full, METHODS[method], kept, epochs, tuned_on) for full in self.full()]

    def quantized(self, bits: int) -> Mapping[str, FloatArray]:
        """Test metrics of the full models with 8 or 4 bits per weight of their layers, as `quality` gives them."""
        return self.stacked([QuantizedQuality(full, bits) for full in self.full()])

    def quality(self, models: Sequence[Model]) -> Mapping[str, FloatArray]:
        """Test metrics, name -> *seeds x users*; names as in `Quality`."""
        return self.stacked([ModelQuality(model) for model in models])

    def target_ndcg(self, models: Sequence[Model]) -> FloatArray:
        """Test NDCG@10, *seeds x targets*, in the order of the split's targets."""
        by_seed: list[FloatArray] = self.found([TargetQuality(model) for model in models])
        return np.stack(by_seed)

    def noisy_ndcg(self, models: Sequence[Model], share: float) -> FloatArray:
        """Test NDCG@10, *seeds x users*, where a share of the events of every history is replaced by random ones."""
        by_seed: list[FloatArray] = self.found(self.under_noise(models, share))
        return np.stack(by_seed)

    def under_noise(self, models: Sequence[Model], share: float) -> list[NoisyQuality]:
        """Every seed has its own noise, all its models the same."""
        return [NoisyQuality(model, share, seed) for model, seed in zip(models, self.tier.seeds, strict=True)]

    def noisy_full(self) -> list[NoisyModel]:
        """Full models whose training events are noisy; each seed has its own noise.

        Raises:
            ValueError: The tier trains no model with noise.
        """
        noise = self.tier.training_noise
        if noise is None:
            raise ValueError(f"the {self.tier.name} tier has no noise in training; the robustness tier has")
        return [NoisyModel(self.subject, seed, self.depth, noise) for seed in self.tier.seeds]

    def noisy_healed(self) -> list[NoisyStudent]:
        """Healed compact models of these, from the same noisy events."""
        kept, epochs, rate = self.tier.kept, self.tier.healing_epochs, self.tier.healing_rate
        return [NoisyStudent(full, METHODS["ours"], kept, epochs, rate) for full in self.noisy_full()]

    def categories(self) -> list[tuple[str, ...]] | None:
        """Categories of every item, such as genres; None where the data say none."""
        return item_categories(self.subject.dataset, self.split.table.item_ids)

    def control(self, kind: type[Control], num_users: int | None = None) -> dict[str, FloatArray]:
        """NDCG@10, *seeds x users*, of the arms "full" and "compact" of a control.

        Args:
            kind: Which of the controls.
            num_users: How many users of every seed, the first; all of them by default.

        Raises:
            ValueError: A seed has fewer users.
        """
        wanted = self.controls_of(kind)
        by_seed = self.found(wanted)
        for control, values in zip(wanted, by_seed, strict=True):
            if num_users is not None and len(values["full"]) < num_users:
                raise ValueError(f"{control.describe()} needs {num_users} users, got {len(values['full'])}")
        return {arm: np.stack([values[arm][:num_users] for values in by_seed]) for arm in by_seed[0]}

    def controls_of(self, kind: type[Control]) -> list[Control]:
        """A control of every seed."""
        return [kind(self.subject, seed, self.tier.kept) for seed in self.tier.seeds]

    def floor(self) -> dict[str, dict[str, FloatArray]]:
        """Test metrics of the training-free recommenders: name -> metric -> *users*."""
        wanted = [FloorQuality(self.subject, name) for name in FLOOR]
        return dict(zip(FLOOR, self.found(wanted), strict=True))

    def layer_scores(self, method: str) -> NDArray[np.float64]:
        """Importance of each layer, *seeds x num_layers*."""
        by_seed: list[FloatArray] = self._of_full(lambda full: LayerScores(full, method))
        return np.stack(by_seed).astype(np.float64)

    def shapley(self) -> NDArray[np.float64]:
        """Shapley value of each layer, in NDCG@10, *seeds x num_layers*."""
        by_seed: list[FloatArray] = self._of_full(lambda full: LayerShapley(full))
        return np.stack(by_seed).astype(np.float64)

    def damage(self) -> list[Damage]:
        """What removing layers really does, one per seed."""
        return self._of_full(RemovalDamage)

    def portraits(self) -> list[Portrait]:
        """What the layers hold and do, one per seed."""
        return self._of_full(LayerPortrait)

    def tasks(self) -> dict[str, list[TaskImportance]]:
        """Importance of the layers by task, one per seed; the tasks that the data allow."""
        by_seed = self._of_full(TaskImportances)
        return {name: [tasks[name] for tasks in by_seed] for name in by_seed[0]}

    def adaptation(self) -> dict[str, FloatArray]:
        """Log-likelihood of the next genre after tuning a band: arm -> *seeds x users*; empty without categories."""
        return self.stacked(list(map(BandAdaptation, self.full())))

    def random_cuts(self) -> dict[float, list[RandomCut]]:
        """What random cuts keep, by the share of layers kept, one per seed."""
        by_seed = self._of_full(lambda full: RandomCuts(full, self.tier.compared_shares))
        return {share: [cuts[share] for cuts in by_seed] for share in by_seed[0]}

    def rule_cuts(self) -> dict[tuple[float, str], FloatArray]:
        """NDCG@10 of bare cuts: (share kept, rule) -> *seeds x users*."""
        by_seed = self._of_full(self.rule_cut)
        return {cut: np.stack([values[cut] for values in by_seed]) for cut in by_seed[0]}

    def rule_cut(self, full: ScratchModel) -> RuleCuts:
        """What the cuts of a full model by the tier's method and by every rule without chance keep."""
        rules = [rule for rule in (self.tier.selected_by, *self.tier.rivals) if rule != "random"]
        return RuleCuts(full, tuple(rules), self.tier.compared_shares)

    def training_free(self) -> dict[str, list[CutQuality]]:
        """NDCG@10 of every cut without training, by the name of the cut, one per seed."""
        by_seed = self._of_full(lambda full: TrainingFree(full, self.tier.rules))
        return {name: [cuts[name] for cuts in by_seed] for name in by_seed[0]}

    def gap_rivals(self) -> dict[str, FloatArray]:
        """NDCG@10, *seeds x users*, of the tier's cut by the way its gaps are closed, in order of rising quality."""
        ways = self.stacked([GapRivals(full, self.tier.selected_by, self.tier.kept) for full in self.full()])
        return dict(sorted(ways.items(), key=lambda way: float(way[1].mean())))

    def model(self, model: Model) -> Recommender:
        """The model itself."""
        return self.found([model])[0]

    def kept_layers(self) -> list[tuple[int, ...]]:
        """Layers that the tier's method keeps, per seed."""
        wanted = self.compact()
        self.prepare(wanted)
        return [tuple(self.lab.course(compact)["kept_layers"]) for compact in wanted]

    def _of_full(self, experiment: Callable[[ScratchModel], Experiment[Result]]) -> list[Result]:
        """Results of an experiment on every full model, one per seed."""
        return self.found([experiment(full) for full in self.full()])

    def contested(self) -> list["Study"]:
        """The studies in which rivals are compared: on the tier's own dataset, and on further ones that are here."""
        here = [subject.dataset for subject in self.elsewhere()]
        return [self, *(self.on(dataset) for dataset in self.tier.contested if dataset in here)]

    def matched_studies(self) -> list["Study"]:
        """The studies in which families are compared with one another: at home, and on further data that are here."""
        if not self.tier.matched:
            return []
        return [self, *(self.on(subject.dataset) for subject in self.tier.matched if is_here(subject.dataset))]
