"""A model whose clocked calls are audited: which layers ran, and whether the output is the right one."""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerwise.evaluation.captured import CapturedCall

Inputs = Sequence[Mapping[str, Tensor]]
Timer = Callable[[], float]
Mode = Literal["eager", "compiled", "captured"]


class AuditedModel:
    """A model with reference outputs, computed without a clock, and a record of its clocked calls.

    Args:
        name: Word for messages, such as "full".
        model: Module called as `model(**inputs[i])`; it should be in evaluation mode.
        inputs: Dictionaries of tensors.
        clock: Clock in seconds that waits for the device.

    Attributes:
        scale: Largest absolute reference output.
        apart: Smallest difference between the references of two inputs: what an output of the wrong input would show.
        difference: Largest absolute difference of a clocked output from its reference so far.
        executed: How often each layer ran, one array [layers] per clocked call.
        busy_seconds: Processor time of the whole process during the clocked calls.
        wall_seconds: Wall-clock time of the same.

    Raises:
        ValueError: A reference output that is not finite.
        TypeError: An output without a tensor.
    """

    def __init__(self, name: str, model: nn.Module, inputs: Inputs, clock: Timer) -> None:
        self.name, self.model, self.inputs, self.clock = name, model, inputs, clock
        self.references = [self._tensors(model(**batch), index) for index, batch in enumerate(inputs)]
        self.scale = max(float(part.abs().max()) for parts in self.references for part in parts)
        pairs = itertools.combinations(self.references, 2)
        self.apart = min((largest_difference(one, other) for one, other in pairs), default=float("inf"))
        self.difference = 0.0
        self.executed: list[NDArray[np.int64]] = []
        self.busy_seconds = self.wall_seconds = 0.0
        self._trace: list[int] = []
        self._num_layers = 0
        self._run: Callable[..., Any] = model
        self._in_graph: NDArray[np.int64] | None = None

    @contextmanager
    def counting(self, layers: Sequence[nn.Module]) -> Iterator[None]:
        """Inside, every layer that runs leaves its index in a trace, by a forward hook.

        Raises:
            ValueError: There are no layers.
        """
        if len(layers) == 0:
            raise ValueError(f"the {self.name} model has no layers to count")
        self._num_layers = len(layers)
        handles = [layer.register_forward_hook(self._note(index)) for index, layer in enumerate(layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def set_mode(self, mode: Mode) -> None:
        """How calls are made from now on; inside of `counting`. References stay those of eager calls.

        A captured call replays a CUDA graph: the layers that ran while it was captured are what each replay launches,
        so they are what is recorded for it. Compiled, the hooks that count are compiled with the layers.

        Raises:
            ValueError: If a call is to be captured and the inputs do not lie on a CUDA device.
        """
        self._in_graph = None
        match mode:
            case "eager":
                self._run = self.model
            case "compiled":
                torch.compiler.reset()  # what was compiled before, with other hooks, counts towards a limit
                self._run = torch.compile(self.model, dynamic=False)
            case "captured":
                self._run = CapturedCall(self.model, self.inputs[0], before=self._trace.clear)
                self._in_graph = self._layers_run()

    def call(self, index: int) -> float:
        """Time in ms of a call on input `index`; the audit happens after the clock has stopped.

        Raises:
            ValueError: The output is not finite.
        """
        self._trace.clear()
        wall, busy = time.perf_counter(), time.process_time()
        start = self.clock()
        output = self._run(**self.inputs[index])
        elapsed = self.clock() - start
        self.busy_seconds += time.process_time() - busy
        self.wall_seconds += time.perf_counter() - wall
        self.executed.append(self._layers_run() if self._in_graph is None else self._in_graph)
        found = self._tensors(output, index)
        self.difference = max(self.difference, largest_difference(found, self.references[index]))
        return 1000 * elapsed

    def _layers_run(self) -> NDArray[np.int64]:
        """How often each layer ran since the trace was cleared, [layers]."""
        return np.bincount(np.array(self._trace, dtype=np.int64), minlength=self._num_layers)

    def _note(self, index: int) -> Callable[..., None]:
        append = self._trace.append
        return lambda *_: append(index)

    def _tensors(self, output: Any, index: int) -> list[Tensor]:
        tensors = [tensor for tensor in _flatten(output) if tensor.numel()]
        if not tensors:
            raise TypeError(f"the {self.name} model must return tensors, got {type(output).__name__}")
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise ValueError(f"the {self.name} model's output for input {index} is not finite")
        return tensors


def largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest absolute difference over pairs of finite tensors; infinite where number or shapes differ."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return float("inf")
    return max(float((one - other).abs().max()) for one, other in zip(found, expected, strict=True))


def _flatten(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors in a tensor, mapping (such as a ModelOutput), list or tuple."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from _flatten(part)
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from _flatten(part)


def digests_of(inputs: Inputs) -> tuple[str, ...]:
    """sha256 of the contents of each input.

    Raises:
        ValueError: Fewer than two inputs, or two that are equal: a repeated input measures a cache.
        TypeError: An input that is not a non-empty dictionary of tensors.
    """
    if len(inputs) < 2:
        raise ValueError(f"at least 2 different inputs are needed, got {len(inputs)}")
    digests = [_digest(batch, index) for index, batch in enumerate(inputs)]
    for index, digest in enumerate(digests):
        if (first := digests.index(digest)) < index:
            raise ValueError(f"inputs must all be different, but inputs {first} and {index} are equal")
    return tuple(digests)


def _digest(batch: Mapping[str, Tensor], index: int) -> str:
    if not isinstance(batch, Mapping) or not batch or not all(isinstance(t, Tensor) for t in batch.values()):
        raise TypeError(f"input {index} must be a dictionary of tensors, got {type(batch).__name__}: {batch!r:.80}")
    digest = hashlib.sha256()
    for name, tensor in sorted(batch.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def batch_size_of(inputs: Inputs) -> int:
    """The number of rows that all tensors of all inputs share.

    Raises:
        ValueError: There is more than one.
    """
    sizes = {tensor.shape[0] if tensor.ndim else None for batch in inputs for tensor in batch.values()}
    size = next(iter(sizes))
    if len(sizes) > 1 or size is None:
        raise ValueError(f"all input tensors must have the same first dimension, the batch, got {sizes}")
    return size


def place_of(full: nn.Module, compact: nn.Module, inputs: Inputs) -> tuple[torch.device, tuple[torch.dtype, ...]]:
    """Device and floating-point dtypes (sorted by name) that both models and the inputs share.

    Raises:
        ValueError: More than one device, other dtypes in the compact than in the full model, or none.
    """
    devices = {tensor.device for model in (full, compact) for tensor in model.parameters()}
    devices |= {tensor.device for batch in inputs for tensor in batch.values()}
    if len(devices) > 1:
        raise ValueError(f"models and inputs must lie on one device, got {sorted(map(str, devices))}")
    dtypes, others = _dtypes(full), _dtypes(compact)
    if dtypes != others or not dtypes:
        raise ValueError(f"both models must have the same floating-point dtypes, got {dtypes} and {others}")
    return devices.pop(), dtypes


def _dtypes(model: nn.Module) -> tuple[torch.dtype, ...]:
    return tuple(sorted({part.dtype for part in model.parameters() if part.is_floating_point()}, key=str))
