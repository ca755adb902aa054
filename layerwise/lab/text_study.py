"""A tier's models on titles and their measurements: the like/dislike comparison, and recommending with a text model."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from layerwise.data.arrays import FloatArray
from layerwise.lab.experiments import (
    FLOOR,
    Answers,
    AnyText,
    CompactText,
    FloorQuality,
    HealedText,
    LikeAnswers,
    QuantizedLikes,
    TextModel,
    TextQuality,
    TextScores,
    why_no_nf4,
)
from layerwise.lab.results import Results


class TextStudy(Results):
    """What the claims on a pretrained text model ask for; empty in a tier without one."""

    def likes(self) -> list[Answers]:
        """What the arms of a LoRA comparison answer, one per seed."""
        return self.found(self.like_answers())

    def like_answers(self) -> list[LikeAnswers]:
        """The LoRA comparison of every seed."""
        task, seeds = self.tier.likes, self.tier.seeds
        return [LikeAnswers(task, seed, seeds[0]) for seed in seeds] if task else []

    def few_bits(self) -> list[Answers]:
        """What LoRA answers in full precision, INT8 and INT4, and trained on NF4; one per seed.

        Nothing is made where bitsandbytes cannot work: `why_no_nf4` says why.
        """
        return self.found(self.bit_answers())

    def bit_answers(self) -> list[QuantizedLikes]:
        """Few bits of every seed; none in a tier without them, and where bitsandbytes cannot work."""
        task, seeds = self.tier.likes, self.tier.seeds
        if task is None or not self.tier.few_bits or why_no_nf4():
            return []
        return [QuantizedLikes(task, seed, seeds[0]) for seed in seeds]

    def models(self, row: str = "lora", shuffled: bool = False) -> list[TextModel]:
        """Text recommenders of a row of `TextModel`, one per seed; of the controls' seeds where titles are shuffled.

        Without training there is one for all seeds.
        """
        task = self.tier.texts
        if task is None:
            return []
        seeds = self.tier.seeds[: task.controls] if shuffled else self.tier.seeds
        return [TextModel(task, seed, row, shuffled) for seed in (seeds[:1] if row == "zero-shot" else seeds)]

    def compact(self) -> list[CompactText]:
        """Text recommenders with a share of their layers, untrained."""
        return [CompactText(full, full.of.selected_by, full.of.kept) for full in self.models()]

    def healed(self) -> list[HealedText]:
        """The same, healed."""
        return [HealedText(compact) for compact in self.compact()]

    def quality(self, models: Sequence[AnyText]) -> dict[str, FloatArray]:
        """Test metrics of text recommenders, name -> *seeds x users*; names as in `Quality`."""
        return self.stacked([TextQuality(model) for model in models])

    def scores(self, method: str) -> NDArray[np.float64]:
        """Importance of each layer of the text recommenders, *seeds x num_layers*."""
        return np.stack(self.found([TextScores(full, method) for full in self.models()])).astype(np.float64)

    def floor(self) -> dict[str, FloatArray]:
        """NDCG@10 of the training-free recommenders on the text task's data: name -> *users*."""
        task = self.tier.texts
        wanted = [FloorQuality(task.subject, name) for name in FLOOR] if task else []
        return {quality.name: values["ndcg@10"] for quality, values in zip(wanted, self.found(wanted), strict=True)}
