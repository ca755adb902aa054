"""Which layers build on which: what bypassing one layer changes in what the later ones write."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerwise.importance.influence import counted, stack_by_layer
from layerwise.importance.likelihood import Batches
from layerwise.models.layers import Trace, pretrained_of, resumed, run_layers, traced
from layerwise.models.modes import evaluating


def layer_dependency(model: nn.Module, batches: Batches) -> NDArray[np.float64]:
    """Relative change of each layer's contribution when another one is bypassed, over positions that count.

    A layer's contribution is its output minus its input. The output itself would not do: the residual stream carries
    what is missing past every later layer, whether it reads it or not. At one position the change is

        |contribution without layer i - contribution| / |contribution|

    and the entry is the mean over positions: 0 where layer j does not notice that i is gone, 1 where the change is as
    large as what j writes, more where it is larger. Dropout is off. All L bypasses cost about L / 2 passes.
    Measure in fp32: in half precision, the rounding of the stream is larger than small changes.

    Args:
        model: A supported `transformers` model, or a `Recommender` around one; it is left as it was.
        batches: Keyword dictionaries for its forward; positions of the affected layer count as in `block_influence`.

    Returns:
        *num_layers x num_layers*, no unit: the row is the bypassed layer i, the column the affected layer j. 0 below
        the diagonal, since nothing comes back to an earlier layer; `nan` on it, since a bypassed layer writes nothing.
        Encoder layers act on decoder layers through what was encoded. Positions at which layer j writes nothing have
        no relative change and are left out; `nan` where none remains, and everywhere above the diagonal if there is no
        batch.

    References:
        Csordas, Manning and Potts 2025 (Do Language Models Use Their Depth Efficiently?, arXiv 2505.13898).
    """
    pretrained = pretrained_of(model)
    stacks = stack_by_layer(pretrained)
    num_layers = len(stacks)
    changes = torch.zeros(num_layers, num_layers, dtype=torch.float64)
    positions = torch.zeros(num_layers, dtype=torch.float64)
    with evaluating(pretrained), torch.inference_mode():
        for batch in batches:
            with traced(pretrained) as full:
                run_layers(pretrained, batch)
            written = [_contribution(full, index) for index in range(num_layers)]
            sizes = [states.norm(dim=-1) for states in written]
            counts = [counted(batch, *of) & (of[1] > 0) for of in zip(stacks, sizes, strict=True)]
            positions += torch.tensor([where.sum() for where in counts])
            for bypassed in range(num_layers):
                with resumed(pretrained, bypassed, full), traced(pretrained) as without:
                    run_layers(pretrained, batch)
                for index in range(bypassed + 1, num_layers):
                    change = (_contribution(without, index) - written[index]).norm(dim=-1) / sizes[index]
                    changes[bypassed, index] += change[counts[index]].sum().cpu()
    means = (changes / positions).numpy()
    means[np.tril_indices(num_layers, k=-1)] = 0
    np.fill_diagonal(means, np.nan)
    return means


def _contribution(trace: Trace, index: int) -> Tensor:
    """What a layer adds to the residual stream, *batch x length x hidden*."""
    return trace.outputs[index].double() - trace.inputs[index].double()
