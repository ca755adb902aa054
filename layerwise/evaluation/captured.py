"""A workload's call as a CUDA graph: the same kernels on the same memory, launched at once.

A small model at a small batch waits for Python to launch its kernels. A captured call does not; it shows what the
device itself needs, and is how such models are served.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

WARM_UPS = 3  # calls before the capture, in which libraries choose their kernels and allocate


class CapturedCall:
    """`model(**inputs)` for inputs of one shape, captured at the first of them and replayed for every other.

    A call copies its inputs to where the captured kernels read them, replays, and returns the tensors that the kernels
    write; the next call overwrites them.

    Args:
        model: Module on a CUDA device, in evaluation mode; nothing in its forward pass may wait for the device.
        inputs: Arguments of a call, on the same device.
        before: Called between the warm-up and the capture.

    Raises:
        ValueError: If the inputs do not lie on a CUDA device.
    """

    def __init__(
        self, model: nn.Module, inputs: Mapping[str, Tensor], before: Callable[[], Any] = lambda: None
    ) -> None:
        devices = {tensor.device for tensor in inputs.values()}
        if any(device.type != "cuda" for device in devices):
            raise ValueError(f"graphs are captured on a CUDA device, the inputs lie on {sorted(map(str, devices))}")
        self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                model(**self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        before()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = model(**self._inputs)

    def __call__(self, **inputs: Tensor) -> Any:
        """The model's output for these inputs, in memory that the next call overwrites.

        Raises:
            ValueError: If names or shapes differ from those of the capture.
        """
        shapes = {name: tensor.shape for name, tensor in inputs.items()}
        captured = {name: tensor.shape for name, tensor in self._inputs.items()}
        if shapes != captured:
            raise ValueError(f"captured for inputs of the shapes {captured}, called with {shapes}")
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor)
        self._graph.replay()
        return self._output
