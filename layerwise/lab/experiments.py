"""What the lab can make, each with the specification that it is stored under.

An experiment is a frozen description. Its fields, the data's digest and the digest of the code that it runs decide
its place in the store; `make` computes it once, `load` reads it back.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np

from layerwise.compression.compact import compact_model
from layerwise.compression.distill import heal
from layerwise.compression.selection import select_first, select_layers, select_random, select_uniform
from layerwise.data.arrays import FloatArray
from layerwise.data.splits import Split
from layerwise.evaluation import classic
from layerwise.evaluation.quality import Scorer, target_metrics, validation_ndcg
from layerwise.evaluation.ranking import mean_by_user, ranking_metrics
from layerwise.importance.removal import metric_without_each_layer, metric_without_layers
from layerwise.importance.scores import layer_scores
from layerwise.lab.store import read_arrays, write_arrays
from layerwise.lab.tiers import Subject
from layerwise.models.recommender import Recommender, build_recommender
from layerwise.models.training import Progress, Trained, train

if TYPE_CHECKING:
    from layerwise.lab.lab import Lab

Result = TypeVar("Result")
Report = Callable[[float, str], None]
"""Called with the share done, in [0, 1], and a word on how it goes."""

_MODELS = (
    "layerwise.data",
    "layerwise.models",
    "layerwise.evaluation.ranking",
    "layerwise.evaluation.quality",
)
_IMPORTANCE = (*_MODELS, "layerwise.importance")
_COMPRESSION = (*_IMPORTANCE, "layerwise.compression")


@dataclass(frozen=True)
class Experiment(ABC, Generic[Result]):
    """Base of all experiments; see the module's docstring."""

    kind: ClassVar[str]
    code: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def subject(self) -> Subject:
        """The subject that decides data and sizes."""

    def needs(self) -> tuple["Experiment[Any]", ...]:
        """Experiments whose results `make` reads."""
        return ()

    def effort(self) -> float:
        """Rough cost, in layer-epochs of training; only for the forecast of the time left."""
        return 1.0

    @abstractmethod
    def describe(self) -> str:
        """A few words for progress lines."""

    @abstractmethod
    def make(self, lab: "Lab", folder: Path, report: Report) -> None:
        """Computes the result and writes it into the folder."""

    @abstractmethod
    def load(self, folder: Path) -> Result:
        """Reads the result back."""

    def settings(self) -> dict[str, Any]:
        """Fields of the experiment and of all it stands on, as plain data."""
        return {"kind": self.kind, **asdict(self)}


class Model(Experiment[Recommender]):
    """An experiment whose result is a recommender, kept as a plain checkpoint with the course of its training."""

    seed: int

    def load(self, folder: Path) -> Recommender:
        """The recommender, in evaluation mode."""
        return Recommender.load(folder).eval()

    def course(self, folder: Path) -> dict[str, Any]:
        """What was noted while it was made, such as validation by epoch or the kept layers."""
        course: dict[str, Any] = json.loads((folder / "course.json").read_text())
        return course


def _save(recommender: Recommender, folder: Path, **course: Any) -> None:
    recommender.save(folder)
    (folder / "course.json").write_text(json.dumps(course, indent=1))


def _training_course(trained: Trained) -> dict[str, Any]:
    return {"best_epoch": trained.best_epoch, "validation_ndcg@10": trained.validation}


def _training_report(report: Report) -> Callable[[Progress], None]:
    def told(progress: Progress) -> None:
        words = f"epoch {progress.epoch} of {progress.epochs}, validation NDCG@10 {progress.latest:.4f}"
        report(progress.epoch / progress.epochs, words)

    return told


@dataclass(frozen=True)
class ScratchModel(Model):
    """A recommender trained from scratch: full, or with fewer layers than its subject a shallow rival."""

    of: Subject
    seed: int
    num_layers: int
    kind: ClassVar[str] = "model"
    code: ClassVar[tuple[str, ...]] = _MODELS

    @property
    def subject(self) -> Subject:
        return self.of

    def effort(self) -> float:
        return float((self.num_layers + 1) * self.of.training.epochs)

    def describe(self) -> str:
        return f"{self.of.family} with {self.num_layers} layers, seed {self.seed}"

    def make(self, lab: "Lab", folder: Path, report: Report) -> None:
        of, split = self.of, lab.split(self.of)
        shape = replace(of.shape, num_layers=self.num_layers)
        fresh = build_recommender(
            of.family, split.table.num_items, of.max_length, shape, self.seed, of.attention_dropout
        ).to(lab.device)
        validate, sequences = validation_ndcg(split), split.train_sequences()
        told = _training_report(report)
        trained = train(fresh, sequences, validate, of.training, self.seed, on_progress=told)
        _save(trained.recommender, folder, **_training_course(trained))


@dataclass(frozen=True)
class LayerScores(Experiment[FloatArray]):
    """One importance per layer of a full model, *num_layers*, from its training sequences."""

    of: ScratchModel
    method: str
    kind: ClassVar[str] = "layer-scores"
    code: ClassVar[tuple[str, ...]] = _IMPORTANCE

    @property
    def subject(self) -> Subject:
        return self.of.subject

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.of,)

    def effort(self) -> float:
        return 2.0 * self.of.num_layers

    def describe(self) -> str:
        return f"{self.method} of {self.of.describe()}"

    def make(self, lab: "Lab", folder: Path, report: Report) -> None:
        model = lab.get(self.of)
        batches = model.labelled_batches(lab.split(self.subject).train_sequences())
        write_arrays(folder / "scores.safetensors", {"scores": layer_scores(model, batches, self.method)})

    def load(self, folder: Path) -> FloatArray:
        return read_arrays(folder / "scores.safetensors")["scores"]


RULES = ("first", "uniform", "random")


@dataclass(frozen=True)
class CompactModel(Model):
    """A full model cut down to `keep` layers, without any training."""

    of: ScratchModel
    by: str
    keep: int
    kind: ClassVar[str] = "compact"
    code: ClassVar[tuple[str, ...]] = _COMPRESSION

    @property
    def subject(self) -> Subject:
        return self.of.subject

    @property
    def seed(self) -> int:  # type: ignore[override]
        """Seed of the full model."""
        return self.of.seed

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.of,) if self.by in RULES else (self.of, LayerScores(self.of, self.by))

    def describe(self) -> str:
        return f"{self.keep} of {self.of.num_layers} layers by {self.by}, seed {self.seed}"

    def make(self, lab: "Lab", folder: Path, report: Report) -> None:
        kept = self._kept(lab)
        _save(compact_model(lab.get(self.of), kept), folder, kept_layers=kept)

    def _kept(self, lab: "Lab") -> tuple[int, ...]:
        depth = self.of.num_layers
        match self.by:
            case "first":
                return select_first(depth, self.keep)
            case "uniform":
                return select_uniform(depth, self.keep)
            case "random":
                return select_random(depth, self.keep, np.random.default_rng(self.seed))
            case method:
                return select_layers(lab.get(LayerScores(self.of, method)), self.keep)


@dataclass(frozen=True)
class HealedModel(Model):
    """A compact model after fine-tuning with distillation from its full model."""

    of: CompactModel
    kind: ClassVar[str] = "healed"
    code: ClassVar[tuple[str, ...]] = _COMPRESSION

    @property
    def subject(self) -> Subject:
        return self.of.subject

    @property
    def seed(self) -> int:  # type: ignore[override]
        """Seed of the full model, and of the healing."""
        return self.of.seed

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.of, self.of.of)

    def effort(self) -> float:
        return (self.of.keep + 1 + self.of.of.num_layers / 3) * self.subject.healing.epochs

    def describe(self) -> str:
        return f"healing {self.of.describe()}"

    def make(self, lab: "Lab", folder: Path, report: Report) -> None:
        of = self.subject
        healed = heal(
            lab.get(self.of),
            lab.get(self.of.of),
            lab.split(of),
            of.healing,
            self.seed,
            of.distillation,
            _training_report(report),
        )
        _save(healed.recommender, folder, **_training_course(healed))


@dataclass(frozen=True)
class Quality(Experiment[dict[str, FloatArray]]):
    """Test metrics of a model, one value per user.

    Names are as in `ranking_metrics` for the mean over a user's last events, and with the prefix `last/` for the
    last event alone.
    """

    of: ScratchModel | CompactModel | HealedModel
    kind: ClassVar[str] = "quality"
    code: ClassVar[tuple[str, ...]] = _MODELS

    @property
    def subject(self) -> Subject:
        return self.of.subject

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.of,)

    def describe(self) -> str:
        return f"ranking with {self.of.describe()}"

    def make(self, lab: "Lab", folder: Path, report: Report) -> None:
        write_arrays(folder / "quality.safetensors", _quality(lab.get(self.of), lab.split(self.subject)))

    def load(self, folder: Path) -> dict[str, FloatArray]:
        return read_arrays(folder / "quality.safetensors")


@dataclass(frozen=True)
class FloorQuality(Experiment[dict[str, FloatArray]]):
    """Test metrics of a training-free recommender, named as in `Quality`."""

    of: Subject
    name: str
    kind: ClassVar[str] = "floor"
    code: ClassVar[tuple[str, ...]] = (*_MODELS, "layerwise.evaluation.classic")

    @property
    def subject(self) -> Subject:
        return self.of

    def describe(self) -> str:
        return f"ranking with {self.name}"

    def make(self, lab: "Lab", folder: Path, report: Report) -> None:
        split = lab.split(self.of)
        scorer = FLOOR[self.name]().fit(split.train_sequences(), split.table.num_items)
        write_arrays(folder / "quality.safetensors", _quality(scorer, split))

    def load(self, folder: Path) -> dict[str, FloatArray]:
        return read_arrays(folder / "quality.safetensors")


FLOOR: dict[str, Callable[[], classic.Classic]] = {
    "Popularity": classic.Popularity,
    "Markov": classic.Markov,
    "ItemKNN": classic.ItemKNN,
    "EASE": classic.Ease,
}


def _quality(scorer: Scorer, split: Split) -> dict[str, FloatArray]:
    users = split.test.users
    last = np.append(np.diff(users) > 0, True)  # targets are in order of users and time
    values = target_metrics(scorer, split, split.test)
    by_user = {name: mean_by_user(value, users) for name, value in values.items()}
    return by_user | {f"last/{name}": value[last] for name, value in values.items()}


@dataclass(frozen=True)
class Damage:
    """NDCG@10 per user of a full model, of the model without each layer and without the outer bands.

    Attributes:
        full: *users*.
        without: *num_layers x users*, one layer bypassed.
        without_bottom, without_top: *users*, the first and the last `band` layers bypassed.
        band: Number of layers in a band.
    """

    full: FloatArray
    without: FloatArray
    without_bottom: FloatArray
    without_top: FloatArray
    band: int

    @property
    def by_layer(self) -> FloatArray:
        """What removing each layer costs, *num_layers x users*; positive is damage."""
        return self.full - self.without


@dataclass(frozen=True)
class RemovalDamage(Experiment[Damage]):
    """What removing layers of a full model does to the test NDCG@10 of each user."""

    of: ScratchModel
    band_share: float = 0.3
    kind: ClassVar[str] = "damage"
    code: ClassVar[tuple[str, ...]] = _IMPORTANCE

    @property
    def subject(self) -> Subject:
        return self.of.subject

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.of,)

    def effort(self) -> float:
        return 1.5 * self.of.num_layers**2 / 2

    def describe(self) -> str:
        return f"removing layers of {self.of.describe()}"

    def make(self, lab: "Lab", folder: Path, report: Report) -> None:
        model, split = lab.get(self.of), lab.split(self.subject)
        targets = split.test
        histories = split.histories(targets)
        depth = len(model.layers)
        band = max(1, round(self.band_share * depth))

        def judge(scores: FloatArray, rows: slice) -> FloatArray:
            report(rows.stop / len(targets), "one layer at a time")
            return ranking_metrics(scores, targets.items[rows], histories[rows], ks=(10,))["ndcg@10"]

        full, without = metric_without_each_layer(model, histories, judge)
        bottom = metric_without_layers(model, range(band), histories, judge)
        top = metric_without_layers(model, range(depth - band, depth), histories, judge)
        by_user = {
            "full": mean_by_user(full, targets.users),
            "without": np.stack([mean_by_user(values, targets.users) for values in without]),
            "without_bottom": mean_by_user(bottom, targets.users),
            "without_top": mean_by_user(top, targets.users),
            "band": np.array(band),
        }
        write_arrays(folder / "damage.safetensors", by_user)

    def load(self, folder: Path) -> Damage:
        arrays = read_arrays(folder / "damage.safetensors")
        band = int(arrays.pop("band"))
        return Damage(**arrays, band=band)


def closure(experiments: Sequence[Experiment[Any]]) -> list[Experiment[Any]]:
    """The experiments and all they need, without repetition, each after what it needs."""
    ordered: dict[Experiment[Any], None] = {}

    def add(experiment: Experiment[Any]) -> None:
        for needed in experiment.needs():
            add(needed)
        ordered.setdefault(experiment)

    for experiment in experiments:
        add(experiment)
    return list(ordered)
