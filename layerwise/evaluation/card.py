"""The state of a CUDA card while it is timed: clocks, temperature, power, what slows it, who else computes on it.

Everything is read and nothing is set. Readings come from NVML (the extra `gpu`).
"""

import os
from dataclasses import dataclass
from typing import Any

import torch

# Bits of NVML's reasons for a lower clock. Power is within the card's own limit and a saturated card meets it.
_FAULTS = {0x08: "hardware slowdown", 0x20: "software thermal", 0x40: "hardware thermal", 0x80: "power brake"}
_POWER = {0x04: "power limit"}


@dataclass(frozen=True)
class CardState:
    """One reading of a card.

    Attributes:
        name: Product.
        driver: Version of the driver.
        sm_mhz: Clock of the multiprocessors.
        most_sm_mhz: The highest that they have.
        memory_mhz: Clock of the memory.
        celsius: Temperature of the chip.
        watts: Power drawn.
        slowed_by: What keeps the clock down, faults of cooling and supply first.
        faults: How many of these are such faults.
        others: Processes beside this one that compute on the card.
    """

    name: str
    driver: str
    sm_mhz: int
    most_sm_mhz: int
    memory_mhz: int
    celsius: int
    watts: float
    slowed_by: tuple[str, ...]
    faults: int
    others: int

    def checks(self) -> list[tuple[bool, str]]:
        """What must hold for timings: whether it does, and a sentence with the numbers."""
        return [
            (self.others == 0, f"no other program computes on the card: {self.others} do"),
            (self.faults == 0, f"neither heat nor supply slows the card: {self._slowed_by} at {self.celsius} °C"),
        ]

    def facts(self) -> dict[str, str]:
        """What a card is, whatever it does, in words."""
        return {
            "driver": self.driver,
            "highest clock": f"{self.most_sm_mhz} MHz",
            "memory clock": f"{self.memory_mhz} MHz",
        }

    def reading(self) -> dict[str, str]:
        """What it was doing, in words."""
        clock = f"{self.sm_mhz} MHz, slowed by {self._slowed_by}"
        return {"clock of the card": clock, "heat and power": f"{self.celsius} °C, {self.watts:.0f} W"}

    @property
    def _slowed_by(self) -> str:
        return ", ".join(self.slowed_by) or "nothing"


def card_state(device: torch.device) -> CardState:
    """Reads the card that torch calls `device`.

    Raises:
        ImportError: If NVML's Python package is absent.
        ValueError: If the device is no CUDA device.
    """
    if device.type != "cuda":
        raise ValueError(f"the state of a CUDA card is read, got {device}")
    try:
        import pynvml as nvml
    except ImportError as error:
        raise ImportError("clocks and slowdowns are read with nvidia-ml-py: pip install 'layerwise[gpu]'") from error
    nvml.nvmlInit()
    try:
        return _read(nvml, nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}"))
    finally:
        nvml.nvmlShutdown()


def _read(nvml: Any, handle: Any) -> CardState:
    bits = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    faults = tuple(name for bit, name in _FAULTS.items() if bits & bit)
    power = tuple(name for bit, name in _POWER.items() if bits & bit)
    processes = {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    # In a container NVML may number processes as the host does; then this one is among them under another number.
    own = {os.getpid()} if os.getpid() in processes else set(list(processes)[:1])
    return CardState(
        name=str(nvml.nvmlDeviceGetName(handle)),
        driver=str(nvml.nvmlSystemGetDriverVersion()),
        sm_mhz=int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        most_sm_mhz=int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
        memory_mhz=int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
        celsius=int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        watts=round(nvml.nvmlDeviceGetPowerUsage(handle) / 1000, 1),
        slowed_by=faults + power,
        faults=len(faults),
        others=len(processes - own),
    )
