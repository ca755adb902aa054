"""Text recommenders: zero-shot, with a trained head, with LoRA; the last one cut, and healed."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoTokenizer

from layerwise.compression.compact import compact_model
from layerwise.compression.selection import select_layers, select_within
from layerwise.compression.text_healing import heal_text
from layerwise.data.arrays import FloatArray
from layerwise.data.folders import located
from layerwise.data.splits import Split
from layerwise.data.titles import item_titles
from layerwise.evaluation.quality import target_metrics, validation_ndcg
from layerwise.evaluation.ranking import mean_by_user, ranking_metrics
from layerwise.importance.fisher import fisher_information
from layerwise.importance.influence import block_influence
from layerwise.lab.experiments.base import Bench, Experiment, Report
from layerwise.lab.manifest import file_digests
from layerwise.lab.store import read_arrays, write_arrays
from layerwise.lab.tiers import TextTask
from layerwise.models.assets import pretrained_folder
from layerwise.models.item_head import ItemHead
from layerwise.models.layers import stacks_of
from layerwise.models.loading import load_pretrained
from layerwise.models.text_recommender import TextRecommender, text_recommender
from layerwise.models.text_training import TextTrained, drawn_examples, train_head, train_text
from layerwise.models.training import Progress

CODE = ("layerwise.lab.experiments.text",)
TEXT_ROWS = ("zero-shot", "head", "lora")
TEXT_IMPORTANCES = ("empirical-fisher", "block-influence")
SHUFFLE = 0  # seed of the one permutation by which titles are handed to other items
DRAWS = 0  # seed of the examples whose frozen states are kept, the same for every head


@dataclass(frozen=True)
class OfText(Experiment[Any]):
    """An experiment on a text recommender; the pretrained weights and the version of peft decide its result, too."""

    code: ClassVar[tuple[str, ...]] = CODE

    @property
    def task(self) -> TextTask:
        """The task that decides data, base and recipes."""
        task: TextTask = self.of if isinstance(self.of, TextTask) else self.of.task
        return task

    @property
    def subject(self) -> Any:
        """What the lab reads the data by."""
        return self.task.subject

    def needs(self) -> tuple[Experiment[Any], ...]:
        return () if isinstance(self.of, TextTask) else (self.of,)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "base": _base_digest(self.task.base), "peft": version("peft")}


@dataclass(frozen=True)
class TextStates(OfText):
    """States of the frozen base, *prompts x hidden*, for training examples and validation targets.

    Attributes:
        shuffled: Whether titles belong to other items.
    """

    of: TextTask
    shuffled: bool = False
    kind: ClassVar[str] = "text-states"

    def effort(self) -> float:
        return 40.0

    def describe(self) -> str:
        return f"states of {_named(self.of, self.shuffled)}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        split, text = lab.split(self.subject), untrained(lab, self.of, self.shuffled)
        examples = drawn_examples(split.train_sequences(), self.of.head_examples, np.random.default_rng(DRAWS))
        report(0.1, f"{len(examples)} prompts")
        train = text.features(text.rows(examples.histories)).cpu().numpy()
        validation = text.features(text.rows(split.histories(split.validation))).cpu().numpy()
        arrays = {"train": train, "validation": validation, "items": examples.items}
        write_arrays(folder / "states.safetensors", arrays)

    def load(self, folder: Path) -> dict[str, Any]:
        return dict(read_arrays(folder / "states.safetensors"))


class AnyText(OfText):
    """An experiment whose result is a text recommender, kept with the course of its training."""

    seed: int

    @property
    def full(self) -> "TextModel":
        """The recommender with all layers that it was made from."""
        full: TextModel = self.of.full
        return full

    def load(self, folder: Path) -> TextRecommender:
        """The recommender, in evaluation mode."""
        return TextRecommender.load(folder / "model")

    def course(self, folder: Path) -> dict[str, Any]:
        """What was noted while it was made, such as validation by epoch or the kept layers."""
        course: dict[str, Any] = json.loads((folder / "course.json").read_text())
        return course


@dataclass(frozen=True)
class TextModel(AnyText):
    """A text recommender with all layers of its base.

    Attributes:
        seed: Of the training; the zero-shot one has none, and is the same for all.
        row: One of `TEXT_ROWS`: nothing trained, the head on frozen states, or from there head and LoRA.
        shuffled: Whether titles belong to other items, the control: what is left then owes nothing to their meaning.
    """

    of: TextTask
    seed: int
    row: str = "lora"
    shuffled: bool = False
    kind: ClassVar[str] = "text-model"

    @property
    def full(self) -> "TextModel":
        return self

    def needs(self) -> tuple[Experiment[Any], ...]:
        match self.row:
            case "zero-shot":
                return ()
            case "head":
                return (TextStates(self.of, self.shuffled),)
            case "lora":
                return (replace(self, row="head"),)
            case _:
                raise ValueError(f"row must be one of {', '.join(TEXT_ROWS)}, got {self.row!r}")

    def effort(self) -> float:
        return {"zero-shot": 5.0, "head": 10.0, "lora": 100.0}[self.row]

    def describe(self) -> str:
        return f"{_named(self.of, self.shuffled)}, {self.row}, seed {self.seed}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        match self.row:
            case "zero-shot":
                _save(untrained(lab, self.of, self.shuffled), folder)
            case "head":
                _save_trained(self._with_head(lab, report), folder)
            case _:
                split, start = lab.split(self.subject), lab.get(replace(self, row="head"))
                trained = train_text(
                    start,
                    split.train_sequences(),
                    validation_ndcg(split),
                    self.of.lora,
                    self.of.recipe,
                    self.seed,
                    on_progress=_told(report),
                )
                _save_trained(trained, folder)

    def _with_head(self, lab: Bench, report: Report) -> TextTrained:
        split, states = lab.split(self.subject), lab.get(TextStates(self.of, self.shuffled))
        text = untrained(lab, self.of, self.shuffled)
        seen = np.concatenate(split.train_sequences())
        text.head.expect(np.bincount(seen, minlength=split.table.num_items))
        train, validation = (torch.as_tensor(states[part], device=lab.device) for part in ("train", "validation"))
        validate = _head_ndcg(validation, split)
        return train_head(text, train, states["items"], validate, self.of.head_recipe, self.seed, _told(report))


@dataclass(frozen=True)
class TextScores(OfText):
    """Importance of each layer of a text recommender, *num_layers*: one example per user, its last training event."""

    of: TextModel
    method: str
    kind: ClassVar[str] = "text-scores"

    def effort(self) -> float:
        return 10.0

    def describe(self) -> str:
        return f"{self.method} of {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        text, usable = lab.get(self.of), [s for s in lab.split(self.subject).train_sequences() if len(s) > 1]
        batches = text.labelled_batches([s[:-1] for s in usable], np.array([s[-1] for s in usable]))
        match self.method:
            case "empirical-fisher":
                scores = fisher_information(text, batches, labels="data", predict=text.predict)
            case "block-influence":
                scores = block_influence(text, batches)
            case _:
                raise ValueError(f"method must be one of {', '.join(TEXT_IMPORTANCES)}, got {self.method!r}")
        write_arrays(folder / "scores.safetensors", {"scores": scores})

    def load(self, folder: Path) -> FloatArray:
        return read_arrays(folder / "scores.safetensors")["scores"]


@dataclass(frozen=True)
class CompactText(AnyText):
    """A text recommender with a share of its layers, chosen by an importance, without any training."""

    of: TextModel
    by: str
    share: float
    kind: ClassVar[str] = "text-compact"

    @property
    def seed(self) -> int:  # type: ignore[override]
        """Seed of the full model."""
        return self.of.seed

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.of, TextScores(self.of, self.by))

    def describe(self) -> str:
        return f"{self.share:.0%} of the layers by {self.by} of {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        text, scores = lab.get(self.of), lab.get(TextScores(self.of, self.by))
        depths = [len(layers) for layers in stacks_of(text).values()]
        kept = select_within(depths, self.share, lambda place, keep: select_layers(scores[place], keep))
        _save(text.on(compact_model(text.model, kept)), folder, kept_layers=kept)


@dataclass(frozen=True)
class HealedText(AnyText):
    """A compact text recommender after LoRA with distillation from its full model, merged."""

    of: CompactText
    kind: ClassVar[str] = "text-healed"

    @property
    def seed(self) -> int:  # type: ignore[override]
        """Seed of the full model, and of the healing."""
        return self.of.seed

    def needs(self) -> tuple[Experiment[Any], ...]:
        return (self.of, self.full)

    def effort(self) -> float:
        return 90.0

    def describe(self) -> str:
        return f"healing {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        split, task = lab.split(self.subject), self.task
        healed = heal_text(
            lab.get(self.of),
            lab.get(self.full),
            split.train_sequences(),
            validation_ndcg(split),
            task.lora,
            task.healing,
            self.seed,
            task.distillation,
            _told(report),
        )
        _save_trained(healed, folder)


@dataclass(frozen=True)
class TextQuality(OfText):
    """Test metrics of a text recommender, one value per user, named as in `Quality`."""

    of: AnyText
    kind: ClassVar[str] = "text-quality"

    def effort(self) -> float:
        return 20.0

    def describe(self) -> str:
        return f"ranking with {self.of.describe()}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        split = lab.split(self.subject)
        values, users = target_metrics(lab.get(self.of), split, split.test), split.test.users
        last = np.append(np.diff(users) > 0, True)  # targets are in order of users and time
        by_user = {name: mean_by_user(value, users) for name, value in values.items()}
        write_arrays(
            folder / "quality.safetensors", by_user | {f"last/{name}": value[last] for name, value in values.items()}
        )

    def load(self, folder: Path) -> dict[str, FloatArray]:
        return read_arrays(folder / "quality.safetensors")


def untrained(lab: Bench, of: TextTask, shuffled: bool) -> TextRecommender:
    """The zero-shot recommender of a task, in fp32 on the lab's device."""
    folder = pretrained_folder(of.base)
    model = load_pretrained(folder, dtype=torch.float32, device=lab.device)
    titles = item_titles(located(of.dataset), lab.split(of.subject).table.item_ids)
    if shuffled:
        titles = [titles[place] for place in np.random.default_rng(SHUFFLE).permutation(len(titles))]
    return text_recommender(model, AutoTokenizer.from_pretrained(folder), titles, of.max_tokens, of.pooling)


def _head_ndcg(states: torch.Tensor, split: Split) -> Callable[[ItemHead], float]:
    """NDCG@10 of a head on the states of the validation histories."""
    histories, items = split.histories(split.validation), split.validation.items

    def validate(head: ItemHead) -> float:
        with torch.no_grad():
            scores = head(states).cpu().numpy()
        return float(ranking_metrics(scores, items, histories, (10,))["ndcg@10"].mean())

    return validate


def _save_trained(trained: TextTrained, folder: Path) -> None:
    _save(trained.recommender, folder, best_epoch=trained.best_epoch, validation=trained.validation)


def _save(text: TextRecommender, folder: Path, **course: Any) -> None:
    text.save(folder / "model")
    (folder / "course.json").write_text(json.dumps(course, indent=1))


def _told(report: Report) -> Callable[[Progress], None]:
    def told(progress: Progress) -> None:
        words = f"epoch {progress.epoch} of {progress.epochs}, validation NDCG@10 {progress.latest:.4f}"
        report(progress.epoch / progress.epochs, words)

    return told


def _named(of: TextTask, shuffled: bool) -> str:
    return f"{of.base}{' with shuffled titles' if shuffled else ''}"


@lru_cache(maxsize=4)
def _base_digest(base: str) -> dict[str, str]:
    """sha256 of the files of a pretrained model that decide its answers."""
    digests = file_digests(Path(pretrained_folder(base)))
    return {name: digest for name, digest in digests.items() if name.endswith((".safetensors", ".json", ".txt"))}
