"""Next-item losses whose memory does not grow with the catalogue times the batch: exact in chunks, or sampled.

Both are a `Loss` of `layerwise.models.training.train`. The plain loss holds scores, their gradient and a copy, each
*num_targets x num_items*: with 2,000 targets among 119,000 items, 1 GB a piece.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from layerwise.models.recommender import Recommender, Windows
from layerwise.models.training import Loss


def chunked_loss(chunk: int = 512) -> Loss:
    """The mean cross-entropy over the whole catalogue, in nats, as `next_item_loss` gives it but for rounding.

    Scores of a chunk are computed, summed up and forgotten, and computed again for the gradient: a third more
    arithmetic in the item head, for *chunk x num_items* scores in memory.

    Args:
        chunk: Targets at a time, at least 1.

    Raises:
        ValueError: If the chunk is below 1.
    """
    if chunk < 1:
        raise ValueError(f"a chunk must hold at least 1 target, got {chunk}")

    def loss(recommender: Recommender, states: Tensor, windows: Windows) -> Tensor:
        def summed(part: Tensor, items: Tensor) -> Tensor:
            return nn.functional.cross_entropy(recommender.item_scores(part), items, reduction="sum")

        parts = zip(states.split(chunk), windows.items.split(chunk), strict=True)
        sums = [checkpoint(summed, part, items, use_reentrant=False) for part, items in parts]
        return torch.stack(sums).sum() / len(windows.items)

    return loss


def sampled_loss(proposal: Tensor, negatives: int, generator: torch.Generator) -> Loss:
    """The mean cross-entropy over the target and a sample of the catalogue, in nats.

    Negatives are drawn with replacement, once for a batch. The score of each is lowered by the logarithm of how often
    it is expected in the sample, and a target among the negatives does not count twice, so that the sum of
    exponentials is an unbiased estimate of that over the catalogue. The loss is too low on average, by about half
    the squared coefficient of variation of that sum, and converges to the full one with more negatives.

    Args:
        proposal: Probability of each item to be drawn, above 0, in any scale. Shape ``[num_items]``.
        negatives: Items drawn, at least 1; the memory is *num_targets x negatives*.
        generator: Draws them, on the device of `proposal`.

    Raises:
        ValueError: If a probability is not above 0, or nothing is to be drawn.

    References:
        Bengio & Senecal, IEEE TNN 2008, section 3 (importance sampling); Yi et al., RecSys 2019, eq. 5 (logQ).
    """
    if negatives < 1 or not bool((proposal > 0).all()):
        raise ValueError(f"needs at least 1 negative, and probabilities above 0, got {negatives}, {proposal.min():g}")
    expected = torch.log(negatives * proposal / proposal.sum())

    def loss(recommender: Recommender, states: Tensor, windows: Windows) -> Tensor:
        drawn = torch.multinomial(proposal, negatives, replacement=True, generator=generator)
        vectors, offsets = _head(recommender, drawn, states.dtype)
        scores = states @ vectors.T + offsets - expected[drawn].to(states.dtype)  # num_targets x negatives
        scores = scores.masked_fill(drawn == windows.items[:, None], -torch.inf)
        vectors, offsets = _head(recommender, windows.items, states.dtype)
        target = (states * vectors).sum(dim=-1) + offsets
        return (torch.logsumexp(torch.cat([target[:, None], scores], dim=1), dim=1) - target).mean()

    return loss


def _head(recommender: Recommender, items: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Output vectors and offsets of some items."""
    bias = getattr(recommender.model.get_output_embeddings(), "bias", None)
    offsets = torch.zeros(len(items), device=items.device) if bias is None else bias[items]
    return recommender.item_matrix[items].to(dtype), offsets.to(dtype)
