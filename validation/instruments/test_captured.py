"""Captured and compiled calls do what plain ones do, their layers are counted, and a graph that cheats is caught."""

import numpy as np
import pytest
import torch
from torch import nn

from layerwise.evaluation.audited import AuditedModel
from layerwise.evaluation.captured import CapturedCall
from layerwise.evaluation.latency import compare_latency
from layerwise.evaluation.workloads import Scoring
from layerwise.lab.speed_tables import shallower
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.recommender import build_recommender

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")
WIDTH = 64


class Tower(nn.Module):
    """Linear layers, each of which runs as often as `times` says."""

    def __init__(self, layers, times=1, dtype=torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(layers)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, dtype=dtype) for _ in range(layers))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype) / WIDTH**0.5
        self.times = times

    def forward(self, x):
        for layer in self.layers:
            for _ in range(self.times):
                x = torch.tanh(layer(x))
        return x


def inputs(device="cuda", number=4, dtype=torch.float32, spread=1.0):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(3, WIDTH, generator=generator)
    return [
        {"x": (base + spread * torch.randn(3, WIDTH, generator=generator)).to(device, dtype)} for _ in range(number)
    ]


def failed(timed):
    return [sentence for ok, sentence in timed.checks() if not ok]


def test_capture_without_a_cuda_device_is_refused_with_what_came():
    with pytest.raises(ValueError, match=r"captured on a CUDA device, the inputs lie on \['cpu'\]"):
        CapturedCall(Tower(2), inputs("cpu")[0])
    with pytest.raises(ValueError, match="captured on a CUDA device"):
        compare_latency(Tower(4), Tower(1), inputs("cpu"), 2, mode="captured", layers_of=lambda model: model.layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_output_of_another_input_never_passes_for_rounding(dtype):
    """Inputs so alike that eight roundings of bf16 would explain what lies between their outputs."""

    class Cached(Tower):
        kept = None

        def forward(self, x):
            out = super().forward(x)
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls > 4 and self.kept is not None:  # after the references
                return self.kept
            self.kept = out
            return out

    alike = inputs("cpu", dtype=dtype, spread=0.05)
    honest = compare_latency(Tower(4, dtype=dtype), Tower(1, dtype=dtype), alike, 2, layers_of=lambda m: m.layers)
    cached = compare_latency(Tower(4, dtype=dtype), Cached(1, dtype=dtype), alike, 2, layers_of=lambda m: m.layers)

    assert not any("timed outputs" in sentence for sentence in failed(honest))
    assert any("timed outputs" in sentence for sentence in failed(cached))


def test_what_lies_between_outputs_is_the_smallest_difference_of_any_two():
    model = nn.Identity()
    rows = [{"input": torch.tensor([[value]])} for value in (0.0, 3.0, 3.5, 9.0)]

    assert AuditedModel("plain", model, rows, lambda: 0.0).apart == 0.5


@pytest.fixture
def compiled_without_a_compiler(monkeypatch):
    """torch.compile traces as ever, and hands its graphs to eager kernels."""
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: whole(model, backend="aot_eager", **options))
    torch._dynamo.reset()


@pytest.mark.usefixtures("compiled_without_a_compiler")
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_a_compiled_workload_are_counted_and_its_outputs_compared_with_eager_ones(family):
    full = Scoring(build_recommender(family, 30, 12, Shape(8, 16, 32, 2), seed=0), k=5).eval()
    histories = [[np.arange(start + row, start + row + 9) for row in range(2)] for start in range(3)]
    batches = [full.recommender.batch(rows) for rows in histories]
    timed = compare_latency(full, shallower(full, 2).eval(), batches, 2, mode="compiled")

    assert timed.setting()["mode"] == "compiled by torch.compile"
    assert timed.full_executed.shape[1] == 8
    assert [sentence for sentence in failed(timed) if "is possible" not in sentence] == []


@pytest.mark.usefixtures("compiled_without_a_compiler")
def test_layers_that_run_twice_in_a_compiled_model_are_caught():
    timed = compare_latency(
        Tower(4), Tower(1, times=2), inputs("cpu"), 2, mode="compiled", layers_of=lambda model: model.layers
    )

    assert any("compact model's 1 layers ran once in 0 of" in sentence for sentence in failed(timed))


@needs_cuda
def test_a_captured_call_gives_what_the_plain_one_gives_for_every_input():
    model = Tower(4).cuda().eval()
    with torch.inference_mode():
        captured = CapturedCall(model, inputs()[0])
        for one in inputs():
            torch.testing.assert_close(captured(**one), model(**one))
        with pytest.raises(ValueError, match="captured for inputs of the shapes"):
            captured(x=torch.zeros(1, WIDTH, device="cuda"))


@needs_cuda
def test_a_captured_comparison_counts_the_layers_of_the_graph():
    timed = compare_latency(
        Tower(8).cuda(), Tower(2).cuda(), inputs(), 2, mode="captured", layers_of=lambda model: model.layers
    )

    assert failed(timed) == [] or all("speedup" in sentence for sentence in failed(timed))
    assert timed.mode == "captured"
    assert timed.setting()["mode"] == "captured as a CUDA graph"
    assert (timed.full_executed == 1).all()
    assert timed.full_executed.shape[1] == 8


@needs_cuda
def test_layers_that_run_twice_in_the_graph_and_a_graph_that_does_not_run_are_caught(monkeypatch):
    twice = compare_latency(
        Tower(8).cuda(), Tower(2, times=2).cuda(), inputs(), 2, mode="captured", layers_of=lambda model: model.layers
    )
    assert any("compact model's 2 layers ran once in 0 of" in sentence for sentence in failed(twice))

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda self: None)
    idle = compare_latency(
        Tower(8).cuda(), Tower(2).cuda(), inputs(), 2, mode="captured", layers_of=lambda model: model.layers
    )
    assert any("timed outputs equal untimed ones" in sentence for sentence in failed(idle))
