"""A full model whose layers come from a pretrained checkpoint."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from layerwise.evaluation.quality import validation_ndcg
from layerwise.lab.experiments.base import Bench, Report
from layerwise.lab.experiments.models import ScratchModel, save_model, training_course, training_report
from layerwise.models.catalogue import with_catalogue
from layerwise.models.families import family_named
from layerwise.models.loading import Head, load_pretrained
from layerwise.models.training import train

HEADS: dict[str, Head] = {"causal": "causal-lm", "masked": "masked-lm", "encoder-decoder": "seq2seq-lm"}


@dataclass(frozen=True)
class FineTuned(ScratchModel):
    """A recommender that starts from the layers of a pretrained language model, trained on the subject's data.

    Attributes:
        checkpoint: Folder, or name on the hub.
        weights: What `weights_digest` says of it: another checkpoint at the same place is another model.
    """

    checkpoint: str = ""
    weights: str = ""
    kind: ClassVar[str] = "fine-tuned"
    code: ClassVar[tuple[str, ...]] = ("layerwise.lab.experiments.fine_tuned",)

    def describe(self) -> str:
        return f"{Path(self.checkpoint).name} on {self.of.data_name}, seed {self.seed}"

    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        of, split = self.of, lab.split(self.of)
        head = HEADS[family_named(of.family).inputs]
        pretrained = load_pretrained(self.checkpoint, head, torch.float32, lab.device)
        fresh = with_catalogue(pretrained, split.table.num_items, of.max_length, self.seed)
        validate, sequences = validation_ndcg(split), split.train_sequences()
        trained = train(fresh, sequences, validate, of.training, self.seed, on_progress=training_report(report))
        save_model(trained.recommender, folder, **training_course(trained))


def weights_digest(folder: str | Path) -> str:
    """sha256 over configuration and weights of a checkpoint's folder; of a name on the hub, over the name alone."""
    digest = hashlib.sha256(str(folder).encode() if not Path(folder).is_dir() else b"")
    for path in sorted(Path(folder).glob("*")):
        if path.name == "config.json" or path.suffix == ".safetensors":
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
