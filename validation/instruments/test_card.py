"""What is read off a card: clocks, what slows it, and who else is there; nothing is set."""

import os
import sys
from types import SimpleNamespace

import pytest
import torch

from layerwise.evaluation import card
from layerwise.evaluation.card import card_state


def nvml(bits=0, pids=()):
    """Answers of NVML, as its Python package gives them."""
    return SimpleNamespace(
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: bits,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [SimpleNamespace(pid=pid) for pid in pids],
        nvmlDeviceGetName=lambda handle: "Card",
        nvmlSystemGetDriverVersion=lambda: "1.2",
        nvmlDeviceGetClockInfo=lambda handle, clock: {1: 1500, 2: 3000}[clock],
        nvmlDeviceGetMaxClockInfo=lambda handle, clock: 1980,
        nvmlDeviceGetTemperature=lambda handle, sensor: 40,
        nvmlDeviceGetPowerUsage=lambda handle: 123_456,
    )


def test_a_card_is_read_in_its_units():
    state = card._read(nvml(pids=[os.getpid()]), handle=None)

    assert (state.sm_mhz, state.most_sm_mhz, state.memory_mhz, state.celsius, state.watts) == (
        1500,
        1980,
        3000,
        40,
        123.5,
    )
    assert state.slowed_by == ()
    assert all(ok for ok, _ in state.checks())
    assert state.facts() == {"driver": "1.2", "highest clock": "1980 MHz", "memory clock": "3000 MHz"}
    assert state.reading() == {
        "clock of the card": "1500 MHz, slowed by nothing",
        "heat and power": "40 °C, 124 W",
    }


@pytest.mark.parametrize(
    ("bits", "slowed_by", "is_fault"),
    [
        (0x01, (), False),  # idle
        (0x04, ("power limit",), False),
        (0x08, ("hardware slowdown",), True),
        (0x20, ("software thermal",), True),
        (0x40 | 0x04, ("hardware thermal", "power limit"), True),
        (0x80, ("power brake",), True),
    ],
)
def test_heat_and_supply_are_faults_and_the_power_limit_is_not(bits, slowed_by, is_fault):
    state = card._read(nvml(bits=bits), handle=None)

    assert state.slowed_by == slowed_by
    assert any("slows the card" in sentence and not ok for ok, sentence in state.checks()) == is_fault


@pytest.mark.parametrize(
    ("pids", "others"),
    [((), 0), ((os.getpid(),), 0), ((os.getpid(), 1), 1), ((1,), 0), ((1, 2, 3), 2)],
)
def test_other_programs_are_counted_also_where_this_one_has_another_number(pids, others):
    state = card._read(nvml(pids=pids), handle=None)

    assert state.others == others
    assert [ok for ok, sentence in state.checks() if "no other program" in sentence] == [others == 0]


def test_what_is_no_card_is_refused():
    with pytest.raises(ValueError, match="the state of a CUDA card is read, got cpu"):
        card_state(torch.device("cpu"))


def test_absent_nvml_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ImportError, match=r"pip install 'layerwise\[gpu\]'"):
        card_state(torch.device("cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")
def test_a_real_card_answers():
    state = card_state(torch.device("cuda", 0))

    assert state.name in torch.cuda.get_device_name()
    assert 0 < state.sm_mhz <= state.most_sm_mhz
    assert 0 < state.celsius < 100
    assert state.watts > 0
