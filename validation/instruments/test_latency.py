"""The latency comparison times what it says, and notices a model that is fast for the wrong reason."""

import copy
import gc
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from layerwise.evaluation.audited import digests_of
from layerwise.evaluation.latency import LatencyComparison, compare_latency
from layerwise.evaluation.timing import turn_length

WIDTH = 4
NUM_INPUTS = 4


@dataclass
class Clock:
    """A clock that stands still until a model adds the time that its call costs."""

    now: float = 0.0
    calls: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now


class Toy(nn.Module):
    """Real linear layers, a clock that each call advances by `cost(number of the call)` seconds."""

    def __init__(
        self, num_layers: int, clock: Clock, name: str = "full", cost: Callable[[int], float] = lambda _: 1.0
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(num_layers))
        self.clock, self.name, self.cost = clock, name, cost
        self.num_calls = 0
        self.modes: set[bool] = set()

    def forward(self, x: Tensor) -> Any:
        self.clock.calls.append((self.name, int(x[0, 0])))
        self.clock.now += self.cost(self.num_calls)
        self.num_calls += 1
        self.modes.add(self.training or torch.is_grad_enabled() or not torch.is_inference_mode_enabled())
        return self.run(x)

    def run(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x

    @property
    def is_reference_call(self) -> bool:
        return self.num_calls <= NUM_INPUTS


def layers_of(model: nn.Module) -> nn.ModuleList:
    layers = model.layers
    assert isinstance(layers, nn.ModuleList)
    return layers


def distinct_inputs(number: int = NUM_INPUTS, batch: int = 3) -> list[dict[str, Tensor]]:
    """Inputs that carry their number in the first cell."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(batch, WIDTH, generator=generator) for _ in range(number)]
    for index, x in enumerate(inputs):
        x[0, 0] = index
    return [{"x": x} for x in inputs]


def compare(full: Toy, compact: Toy, **options: Any) -> LatencyComparison:
    defaults: dict[str, Any] = {"inputs": distinct_inputs(), "blocks": 2, "calls": 2, "warmup": 2}
    options = defaults | options
    return compare_latency(full, compact, layers_of=layers_of, timer=full.clock, **options)


def failed(comparison: LatencyComparison) -> list[str]:
    return [sentence for ok, sentence in comparison.checks() if not ok]


def pair(
    full: type[Toy] = Toy, compact: type[Toy] = Toy, full_cost: float = 4.0, compact_cost: float = 1.0
) -> tuple[Toy, Toy]:
    torch.manual_seed(1)
    clock = Clock()
    return full(8, clock, "full", lambda _: full_cost), compact(2, clock, "compact", lambda _: compact_cost)


# The schedule


def test_blocks_run_there_and_back_on_the_same_inputs_from_either_end_in_turn() -> None:
    full, compact = pair()
    compare(full, compact, blocks=2, calls=3, warmup=2)
    calls = full.clock.calls
    rounds = [("full", index) for index in range(4)] + [("compact", index) for index in range(4)]
    assert calls[:8] == rounds  # references
    assert calls[8:24] == 2 * rounds  # warm-up
    assert calls[24:36] == [
        *(("full", 0), ("full", 1), ("full", 2)),
        *(("compact", 0), ("compact", 1), ("compact", 2)),
        *(("compact", 3), ("compact", 0), ("compact", 1)),
        *(("full", 3), ("full", 0), ("full", 1)),
    ]
    second = [("compact", "full"), ("full", "compact")]  # each model begins every other block
    assert [name for name, _ in calls[36:]] == [name for turn in second for name in turn for _ in range(3)]
    assert [index for _, index in calls[36:42]] == [2, 3, 0, 2, 3, 0]
    assert len(calls) == 24 + 2 * 12


@pytest.mark.parametrize("num_inputs", [2, 3, 4, 5])
@pytest.mark.parametrize("calls", [2, 3, 4, 5, 6])
def test_successive_calls_never_see_the_same_input(num_inputs: int, calls: int) -> None:
    full, compact = pair()
    comparison = compare(full, compact, inputs=distinct_inputs(num_inputs), calls=calls)
    seen = [index for _, index in full.clock.calls]
    assert all(one != other for one, other in itertools.pairwise(seen))
    assert comparison.calls_per_block in (2 * calls, 2 * calls + 2)


def test_both_models_see_the_same_inputs_in_every_block() -> None:
    full, compact = pair()
    compare(full, compact, blocks=3, calls=3)
    timed = full.clock.calls[-3 * 12 :]
    for block in (timed[:12], timed[12:24], timed[24:]):
        by_model = {name: sorted(index for n, index in block if n == name) for name in ("full", "compact")}
        assert by_model["full"] == by_model["compact"]


def test_warm_up_ends_when_two_rounds_agree_and_is_bounded() -> None:
    clock = Clock()
    settling = Toy(8, clock, "full", lambda call: 16.0 / 2 ** min(call // NUM_INPUTS, 3))
    comparison = compare(settling, Toy(2, clock, "compact"), warmup=10)
    assert (comparison.warmup_rounds, comparison.stable) == (4, True)  # reference 16; rounds 8, 4, 2, 2

    clock = Clock()
    restless = Toy(8, clock, "full", lambda call: float(1 + call))
    comparison = compare(restless, Toy(2, clock, "compact"), warmup=5)
    assert (comparison.warmup_rounds, comparison.stable) == (5, False)
    assert comparison.setting()["warm-up"] == "5 rounds, not yet stable"


@pytest.mark.parametrize(
    ("typical_ms", "seconds", "expected"),
    [
        ((4.0, 1.0), 60.0, 26),  # 50 ms / 2 turns / 1 ms = 25, and 24 is a multiple of 4 inputs
        ((4.0, 1.0), 0.5, 6),  # 500 ms / (2 turns * 10 blocks * 5 ms) = 5, and 4 is a multiple of 4
        ((4000.0, 1000.0), 60.0, 2),  # never fewer than two
        ((0.0, 0.0), 60.0, 1000),  # a clock too coarse to see a call
    ],
)
def test_turns_are_long_enough_and_time_is_bounded(
    typical_ms: tuple[float, float], seconds: float, expected: int
) -> None:
    assert turn_length(None, np.array(typical_ms) / 1000, 10, seconds, NUM_INPUTS) == expected


# The figures


def test_block_figures_are_medians_in_milliseconds_worked_by_hand() -> None:
    clock = Clock()
    before = 3 * NUM_INPUTS  # reference and two rounds of warm-up
    full_seconds = [1.0, 2.0, 3.0, 10.0, 5.0, 5.0, 7.0, 90.0]
    compact_seconds = [0.5, 0.5, 0.7, 9.0, 1.0, 2.0, 3.0, 4.0]
    full = Toy(8, clock, "full", lambda call: full_seconds[call - before] if call >= before else 1.0)
    compact = Toy(2, clock, "compact", lambda call: compact_seconds[call - before] if call >= before else 1.0)
    comparison = compare(full, compact, blocks=2, calls=2)
    np.testing.assert_allclose(comparison.full_ms, [2500.0, 6000.0])  # medians of (1 2 3 10) and (5 5 7 90) s
    np.testing.assert_allclose(comparison.compact_ms, [600.0, 2500.0])  # of (.5 .5 .7 9) and (1 2 3 4) s
    assert comparison.speedup == pytest.approx(((2500 / 600) * (6000 / 2500)) ** (1 / 2))
    assert comparison.bound == 8 / 2
    assert comparison.calls_per_block == 4
    assert comparison.batch_size == 3
    assert failed(comparison) == []


def test_linear_drift_cancels_within_a_block() -> None:
    clock = Clock()
    drifting = [Toy(8, clock, name, lambda _: 1.0 + 0.01 * len(clock.calls)) for name in ("full", "compact")]
    comparison = compare(drifting[0], drifting[1], calls=4, blocks=10, inputs=distinct_inputs(6))
    assert comparison.full_ms[-1] > 1.5 * comparison.full_ms[0]
    np.testing.assert_allclose(comparison.full_ms, comparison.compact_ms, rtol=1e-12)


def test_time_between_the_calls_is_not_counted() -> None:
    full, compact = pair()

    class Impatient(Clock):
        def __call__(self) -> float:
            self.now += 1000.0 * (self.reads % 2 == 0)  # before every first reading of a call
            self.reads += 1
            return self.now

        reads = 0

    full.clock = compact.clock = Impatient()
    comparison = compare(full, compact)
    np.testing.assert_allclose(comparison.full_ms, 4000.0)
    np.testing.assert_allclose(comparison.compact_ms, 1000.0)


def test_real_clock_gives_positive_times_and_passes_every_check_but_noise() -> None:
    torch.manual_seed(0)
    clock = Clock()
    full, compact = Toy(8, clock), Toy(2, clock, "compact")
    comparison = compare_latency(full, compact, distinct_inputs(), blocks=3, calls=3, layers_of=layers_of)
    assert (comparison.full_ms > 0).all()
    assert (comparison.compact_ms > 0).all()
    assert comparison.max_difference == 0.0
    assert {"device": "cpu", "dtype": "float32", "batch size": "3"}.items() <= comparison.setting().items()
    assert comparison.setting()["threads"] == str(torch.get_num_threads())
    assert {type(value) for value in comparison.setting().values()} == {str}  # torch's version is a kind of its own


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("number", "timer", "clock"),
    [
        (1, None, "processor time of the thread"),
        (2, None, "wall clock"),
        (1, time.perf_counter, "wall clock"),
        (2, time.thread_time, "processor time of the thread"),
        (1, time.monotonic, "given"),
    ],
)
def test_clock_is_processor_time_on_one_thread_unless_another_is_given(
    threads: Callable[[int], None], number: int, timer: Callable[[], float] | None, clock: str
) -> None:
    threads(number)
    comparison = compare_latency(*pair(), distinct_inputs(), 2, calls=2, layers_of=layers_of, timer=timer)
    assert comparison.clock == comparison.setting()["clock"] == clock
    assert comparison.setting()["threads"] == str(number)


def test_waiting_for_a_processor_is_not_the_models_time(threads: Callable[[int], None]) -> None:
    class Interrupted(Toy):
        def run(self, x: Tensor) -> Any:
            time.sleep(0.05)  # as when another program has the processor
            return super().run(x)

    threads(1)
    full, compact = pair(full=Interrupted)
    comparison = compare_latency(full, compact, distinct_inputs(), 2, calls=2, warmup=2, layers_of=layers_of)
    assert (comparison.full_ms < 50).all()
    assert comparison.full_share < 0.5


@pytest.mark.parametrize(
    ("clock", "device", "full_share", "passes"),
    [
        ("wall clock", "cpu", 0.97, True),
        ("wall clock", "cpu", 0.66, False),
        ("wall clock", "cpu", 1.30, False),
        ("processor time of the thread", "cpu", 0.66, True),
        ("wall clock", "NVIDIA H200", 0.66, True),
    ],
)
def test_uneven_shares_of_the_processor_spoil_wall_clock_times(
    clock: str, device: str, full_share: float, passes: bool
) -> None:
    comparison = replace(compare(*pair()), clock=clock, device=device, full_share=full_share, compact_share=0.98)
    assert [("share of the processor" in sentence) for sentence in failed(comparison)] == [True] * (not passes)


def test_transformers_models_are_compared_through_their_family() -> None:
    def llama(num_layers: int) -> LlamaForCausalLM:
        shape = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 11}
        return LlamaForCausalLM(LlamaConfig(num_hidden_layers=num_layers, **shape))

    generator = torch.Generator().manual_seed(0)
    inputs = [{"input_ids": torch.randint(0, 11, (2, 5), generator=generator)} for _ in range(3)]
    comparison = compare_latency(llama(4), llama(1), inputs, blocks=2, calls=2, warmup=2)
    assert comparison.bound == 4.0
    assert [ok for ok, _ in comparison.checks()[:3]] == [True, True, True]


# Models that cheat


class Stale(Toy):
    """Under the clock, hands out the output of the first input, though every layer runs."""

    kept: Tensor | None = None

    def run(self, x: Tensor) -> Any:
        output = super().run(x)
        self.kept = output if self.kept is None else self.kept
        return output if self.is_reference_call else self.kept


class Skipping(Toy):
    """Under the clock, leaves its last layer out."""

    def run(self, x: Tensor) -> Any:
        for layer in list(self.layers)[: None if self.is_reference_call else -1]:
            x = torch.tanh(layer(x))
        return x


class Remembering(Toy):
    """Remembers every output: right, but not computed."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.memory: dict[bytes, Tensor] = {}

    def run(self, x: Tensor) -> Any:
        key = x.numpy().tobytes()
        if key not in self.memory:
            self.memory[key] = super().run(x)
        return self.memory[key]


class Doubling(Toy):
    """Under the clock, runs the first layer twice instead of the second."""

    def run(self, x: Tensor) -> Any:
        layers = list(self.layers)
        if not self.is_reference_call:
            layers[1] = layers[0]
        for layer in layers:
            x = torch.tanh(layer(x))
        return x


class Growing(Toy):
    """Under the clock, gives an output of another shape."""

    def run(self, x: Tensor) -> Any:
        output = super().run(x)
        return output if self.is_reference_call else output[:1]


@pytest.mark.parametrize("arm", ["full", "compact"])
@pytest.mark.parametrize(
    ("kind", "complaints"),
    [
        (Stale, ["timed outputs equal"]),
        (Growing, ["timed outputs equal"]),
        (Remembering, ["ran once in 0 of 16 calls"]),
        (Skipping, ["timed outputs equal", "ran once in 0 of 16 calls"]),
        (Doubling, ["timed outputs equal", "ran once in 0 of 16 calls"]),
    ],
)
def test_model_that_cheats_under_the_clock_is_caught(arm: str, kind: type[Toy], complaints: list[str]) -> None:
    full, compact = pair(full=kind) if arm == "full" else pair(compact=kind)
    sentences = failed(compare(full, compact))
    assert len(sentences) == len(complaints)
    for complaint, sentence in zip(complaints, sentences, strict=True):
        assert complaint in sentence
    assert all(arm in sentence for sentence in sentences if "ran once" in sentence)


def test_single_skipped_call_is_caught() -> None:
    class SkippingOnce(Toy):
        def run(self, x: Tensor) -> Any:
            return x if self.num_calls == 15 else super().run(x)

    comparison = compare(*pair(full=SkippingOnce))
    assert "ran once in 15 of 16 calls" in failed(comparison)[1]


@pytest.mark.parametrize(("full_cost", "impossible"), [(4.11, False), (4.13, True)])
def test_speedup_beyond_the_ratio_of_layers_is_impossible(full_cost: float, impossible: bool) -> None:
    comparison = compare(*pair(full_cost=full_cost))  # 8 / 2 layers, 3 % tolerated
    assert comparison.speedup == pytest.approx(full_cost)
    assert [("is possible" in sentence) for sentence in failed(comparison)] == [True] * impossible


def test_repeated_inputs_are_seen_in_the_evidence() -> None:
    comparison = compare(*pair())
    assert len(set(comparison.input_digests)) == NUM_INPUTS
    repeated = replace(comparison, input_digests=("a", "b", "a"))
    assert failed(repeated) == ["inputs are all different: 2 of 3"]


def test_inputs_of_equal_bytes_and_other_shape_kind_or_name_are_different() -> None:
    x = torch.zeros(2, 6)
    others: list[dict[str, Tensor]] = [{"y": x}, {"x": x.view(4, 3)}, {"x": x.int()}, {"x": x, "y": x[:0]}]
    assert len(set(digests_of([{"x": x}, *others]))) == 5


def test_tolerance_follows_the_outputs_unless_given() -> None:
    full, compact = pair()
    comparison = compare(full, compact)
    with torch.no_grad():
        largest = min(max(float(model.run(x["x"]).abs().max()) for x in distinct_inputs()) for model in (full, compact))
    assert comparison.allowed_difference == pytest.approx(8 * 2**-23 * largest)
    assert compare(*pair(full=Stale), tolerance=100.0).checks()[0][0]


# What is put back


def test_modes_gradients_hooks_and_collection_are_put_back() -> None:
    full, compact = pair()
    full.train()
    full.layers[3].eval()
    compact.eval()
    compact.layers[0].weight.requires_grad_(False)
    before = copy.deepcopy([full.state_dict(), compact.state_dict()])
    flags = [[m.training for m in model.modules()] for model in (full, compact)]
    assert gc.isenabled()
    compare(full, compact)
    assert [[m.training for m in model.modules()] for model in (full, compact)] == flags
    assert [p.requires_grad for p in compact.parameters()] == [False, True, True, True]
    assert all(p.requires_grad and p.grad is None for p in full.parameters())
    assert not any(layer._forward_hooks for model in (full, compact) for layer in model.layers)
    assert gc.isenabled()
    assert full.modes == compact.modes == {False}  # always evaluating, never with gradients
    for state, model in zip(before, (full, compact), strict=True):
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_everything_is_put_back_after_an_error() -> None:
    class Failing(Toy):
        def run(self, x: Tensor) -> Any:
            if self.num_calls > 14:
                assert not gc.isenabled()
                raise RuntimeError("out of memory")
            return super().run(x)

    full, compact = pair(compact=Failing)
    full.train()
    with pytest.raises(RuntimeError, match="out of memory"):
        compare(full, compact)
    assert full.training
    assert not any(layer._forward_hooks for model in (full, compact) for layer in model.layers)
    assert gc.isenabled()
    assert torch.is_grad_enabled()


# What is refused


def bad_inputs() -> list[tuple[Any, type[Exception], str]]:
    good = distinct_inputs()
    return [
        ([good[0], good[1], copy.deepcopy(good[0])], ValueError, "inputs 0 and 2 are equal"),
        (good[:1], ValueError, "at least 2 different inputs"),
        ([], ValueError, "at least 2 different inputs"),
        ([good[0], {"x": torch.zeros(5, WIDTH)}], ValueError, "same first dimension"),
        ([good[0], {"x": torch.tensor(0.0)}], ValueError, "same first dimension"),
        ([good[0], {"x": [1, 2]}], TypeError, "input 1 must be a dictionary of tensors"),
        ([good[0], {}], TypeError, "input 1 must be a dictionary of tensors"),
        ([good[0], good[1]["x"]], TypeError, "got Tensor"),
    ]


@pytest.mark.parametrize("case", range(8))
def test_unusable_inputs_are_refused(case: int) -> None:
    inputs, error, message = bad_inputs()[case]
    with pytest.raises(error, match=message):
        compare(*pair(), inputs=inputs)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("late", [False, True])
def test_outputs_that_are_not_finite_are_an_error(value: float, late: bool) -> None:
    class Diverging(Toy):
        def run(self, x: Tensor) -> Any:
            output = super().run(x)
            return output if late and self.is_reference_call else torch.full_like(output, value)

    with pytest.raises(ValueError, match="the compact model's output for input 0 is not finite"):
        compare(*pair(compact=Diverging))


def test_other_unusable_arguments_are_refused() -> None:
    class Wordy(Toy):
        def run(self, x: Tensor) -> Any:
            return {"text": "none"}

    with pytest.raises(TypeError, match="the full model must return tensors, got dict"):
        compare(*pair(full=Wordy))
    with pytest.raises(ValueError, match="compact model has no layers"):
        compare(pair()[0], Hollow(1, Clock()))
    full, compact = pair()
    with pytest.raises(ValueError, match="same floating-point dtypes"):
        compare(full, copy.deepcopy(compact).to(torch.bfloat16))
    with pytest.raises(ValueError, match=r"one device, got \['cpu', 'meta'\]"):
        compare(full, copy.deepcopy(compact).to("meta"))
    for name in ("blocks", "warmup", "calls"):
        with pytest.raises(ValueError, match=f"{name} must be at least 2, got 1"):
            compare(full, pair()[1], **dict[str, Any]({name: 1}))


class Hollow(Toy):
    """A model with weights and without layers."""

    def __init__(self, num_layers: int, clock: Clock) -> None:
        super().__init__(num_layers, clock)
        self.head = self.layers[0]
        self.layers = nn.ModuleList()
