"""What the Fisher information of the layers costs, beside an ordinary training step on the same batch.

Aims, for sequences of about 50: no more than the step from 256 wide on and .7 of it at 512; faster than a loop over
single examples at every width; no more than 1.5 times the step's peak memory. Memory and the loop decide the tests;
times on a shared processor are printed, not judged. Each round takes every way once, so that all have the same
conditions. First all ways must agree on the empirical Fisher, so that the same quantity is timed.

The other libraries sum over examples what they compute for each: Opacus gradients themselves or norms (ghost
clipping), BackPACK norms, without those of normalisations, which it does not know.
"""

import copy
import statistics
import time
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from layerwise.importance.fisher import diagonal_fisher, fisher_information
from layerwise.importance.gate import gate_fisher
from layerwise.models.families import Shape
from layerwise.models.layers import layer_prefixes, layers_of
from layerwise.models.recommender import build_recommender

ROUNDS, LENGTH, NUM_ITEMS = 5, 50, 1682
SIZES = {
    "6 x 64, batch 32": (Shape(6, 64, 128, 4), 32),
    "4 x 256, batch 16": (Shape(4, 256, 512, 4), 16),
    "2 x 512, batch 16": (Shape(2, 512, 1024, 8), 16),
}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

each_case = pytest.mark.parametrize(
    ("size", "device", "labelled"),
    [(size, device, at) for size in SIZES for device in DEVICES for at in ("all", "last")],
)


def model_and_batch(size, device, labelled):
    shape, batch_size = SIZES[size]
    recommender = build_recommender("llama", NUM_ITEMS, LENGTH, shape, seed=0).to(device)
    random = np.random.default_rng(0)
    (batch,) = recommender.labelled_batches([random.integers(0, NUM_ITEMS, LENGTH + 1) for _ in range(batch_size)])
    return recommender.model.eval(), batch | ({"labels": batch["input_ids"]} if labelled == "all" else {})


def rows(batch, row):
    return {name: tensor[row : row + 1] for name, tensor in batch.items()}


def summed_loss(model, batch):
    logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")


def with_gradients_of_layers(model):
    """A copy; asking for the embedding's gradients, too, would only make the others slower."""
    (prefix,) = layer_prefixes(model).values()
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(prefix))
    return model


def per_layer(model, square_of, examples):
    return [
        sum(float(square_of(p)) for p in layer.parameters() if p.requires_grad) / examples for layer in layers_of(model)
    ]


# Ways


def step(model, batch):
    """Forward and backward, all weights asking for gradients."""
    model = copy.deepcopy(model)

    def run():
        model.zero_grad()
        model(**batch).loss.backward()

    return run


def loop(model, batch):
    model = with_gradients_of_layers(model)

    def run():
        total, count = 0.0, len(batch["labels"])
        for row in range(count):
            model.zero_grad()
            summed_loss(model, rows(batch, row)).backward()
            total = total + np.array(per_layer(model, lambda p: p.grad.square().sum(), count))
        return total

    return run


def functional(model, batch):
    """Per-example gradients by `torch.func`; eager attention, since the fused one has no batching rule."""
    model = with_gradients_of_layers(model)
    model.set_attn_implementation("eager")
    names = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}

    def loss(parameters, ids, labels):
        logits = torch.func.functional_call(model, parameters, (), {"input_ids": ids[None], "use_cache": False}).logits
        return cross_entropy(logits[0, :-1], labels[1:], reduction="sum")

    def run():
        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
        found = each(names, batch["input_ids"], batch["labels"])
        (prefix,) = layer_prefixes(model).values()
        totals = np.zeros(len(layers_of(model)))
        for name, gradients in found.items():
            totals[int(name.removeprefix(prefix).split(".")[0])] += float(gradients.square().sum())
        return totals / len(batch["labels"])

    return run


def opacus(model, batch, kind, square_of, **options):
    """Opacus watches activations in training mode only; there is no dropout in this model."""
    model = with_gradients_of_layers(model).train()
    wrapped = getattr(import_module("opacus.grad_sample"), kind)(model, loss_reduction="sum", strict=False, **options)

    def run():
        wrapped.zero_grad()
        summed_loss(wrapped, batch).backward()
        return per_layer(model, square_of, len(batch["labels"]))

    return run


def backpack(model, batch):
    library, extensions = import_module("backpack"), import_module("backpack.extensions")
    model = with_gradients_of_layers(model)
    for layer in layers_of(model):
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                library.extend(module)
            elif not any(module.children()):
                module.requires_grad_(False)

    def run():
        model.zero_grad()
        with library.backpack(extensions.BatchL2Grad()):
            summed_loss(model, batch).backward()
        return per_layer(model, lambda p: p.batch_l2.sum(), len(batch["labels"]))

    return run


OWN = {
    "empirical trace": lambda model, batch: lambda: fisher_information(model, [batch], "data"),
    "true trace": lambda model, batch: lambda: fisher_information(model, [batch], "model"),
    "gate": lambda model, batch: lambda: gate_fisher(model, [batch], "data"),
    "diagonal": lambda model, batch: lambda: diagonal_fisher(model, [batch], "data"),
}
OTHERS = {"loop": loop, "torch.func": functional}
LIBRARIES = {
    "Opacus, gradients": lambda model, batch: opacus(
        model, batch, "GradSampleModule", lambda p: p.grad_sample.square().sum()
    ),
    "Opacus, ghost norms": lambda model, batch: opacus(
        model,
        batch,
        "GradSampleModuleFastGradientClipping",
        lambda p: p._norm_sample.square().sum(),
        max_grad_norm=1.0,
        use_ghost_clipping=True,
    ),
    "BackPACK, norms": backpack,
}


# Measuring


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seconds_of(run, device):
    began = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_memory(run, device):
    """Most bytes in tensors at a time that `run` allocated."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return int(np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]).max())


def measured(ways, device):
    """Median seconds and peak bytes of each way."""
    for run in ways.values():
        seconds_of(run, device)
    seconds = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            seconds[way].append(seconds_of(run, device))
    return {way: (statistics.median(seconds[way]), peak_memory(run, device)) for way, run in ways.items()}


@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:Full backward hook is firing")
@each_case
def test_fisher_against_a_training_step(size, device, labelled, benchmark, capsys):
    model, batch = model_and_batch(size, device, labelled)
    libraries = {way: make for way, make in LIBRARIES.items() if find_spec(way.partition(",")[0].lower())}
    ways = {way: make(model, batch) for way, make in ({"step": step} | OWN | OTHERS | libraries).items()}
    expected = ways["empirical trace"]()
    for way in OTHERS | libraries:
        np.testing.assert_allclose(ways[way](), expected, rtol=1e-3, err_msg=way)
    found = measured(ways, device)
    benchmark.group = "Fisher information"
    benchmark.extra_info["torch"] = torch.__version__
    benchmark(ways["empirical trace"])

    step_seconds, step_bytes = found["step"]
    with capsys.disabled():
        print(f"\nLlama {size}, length {LENGTH}, labels at {labelled} positions, {device}; median of {ROUNDS} rounds")
        for way, (seconds, peak) in found.items():
            times = f"{1000 * seconds:7.0f} ms = {seconds / step_seconds:5.2f} x"
            print(f"  {way:20}{times}{peak / 2**20:8.0f} MiB = {peak / step_bytes:5.2f} x")
        for way in LIBRARIES.keys() - libraries.keys():
            print(f"  {way:20} not installed")
    for way in ("empirical trace", "true trace", "gate"):
        seconds, peak = found[way]
        assert seconds < found["loop"][0]
        assert peak <= 1.5 * step_bytes
