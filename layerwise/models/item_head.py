"""From the state of a text backbone to a score for every item of a catalogue."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.arrays import IntArray

SCALE = 20.0  # of products of unit vectors, as sentence encoders are trained with; learned from there


class ItemHead(nn.Module):
    """Scores of every item for a state: scale x (unit vector of the projected state) . item vector + bias.

    Args:
        num_items: Size of the catalogue.
        hidden: Width of the backbone.
    """

    def __init__(self, num_items: int, hidden: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden, hidden)
        self.items = nn.Parameter(torch.zeros(num_items, hidden))
        self.bias = nn.Parameter(torch.zeros(num_items))
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE)))

    def forward(self, states: Tensor) -> Tensor:
        """Scores *batch x num_items*, fp32, of states *batch x hidden*."""
        unit = nn.functional.normalize(self.project(states.float()), dim=-1)
        return self.log_scale.exp() * nn.functional.linear(unit, self.items) + self.bias

    @torch.no_grad()
    def start_from(self, titles: Tensor) -> None:
        """Sets the items to the unit vectors of their titles' states and the projection to nothing: scores are cosines.

        Args:
            titles: States of the titles alone, *num_items x hidden*; a row that is not finite belongs to an item
                without a title, which starts at zero.
        """
        nn.init.eye_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        titled = titles.isfinite().all(dim=-1, keepdim=True)
        self.items.copy_(torch.where(titled, nn.functional.normalize(titles.float(), dim=-1), 0.0))

    @torch.no_grad()
    def expect(self, counts: IntArray) -> None:
        """Sets the bias to the logarithm of how often each item was seen, plus one: the best guess without a history.

        Args:
            counts: *num_items*.
        """
        logs = torch.as_tensor(np.log1p(counts), dtype=torch.float32)
        self.bias.copy_(logs - logs.mean())
