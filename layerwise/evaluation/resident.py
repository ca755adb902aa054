"""Peak resident memory of scoring on a CPU, measured in a process of its own.

In a process that has done other things the peak is theirs. So a fresh one imports everything, loads and runs a tiny
model of the same family (what libraries take on first use is nobody's model), notes its size, loads the model, scores
one batch, and reports how far the kernel saw it grow above that size. Weights are mapped from their file and count once
they have been read; what was taken and given back in between counts, too.

`ru_maxrss` would not do: on Linux a child keeps its parent's peak across `exec`, so a large parent hides a small child.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig

from layerwise.evaluation.workloads import Scoring
from layerwise.models.families import Shape, family_of
from layerwise.models.recommender import Recommender, build_recommender

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # written to clear_refs; see proc(5)
INPUTS = "inputs.pt"


def peak_resident(recommender: Recommender, inputs: Mapping[str, Tensor]) -> int:
    """Bytes that loading a recommender and scoring one batch add to a fresh Python process, on one torch thread.

    Args:
        recommender: Written to a temporary folder, read by the process.
        inputs: Arguments of its forward, on the CPU.

    Raises:
        RuntimeError: If the kernel keeps no such account (only Linux does), or the process failed.
    """
    if not CLEAR.exists():
        raise RuntimeError(f"the peak is read from {STATUS}, which this system lacks; measure it on Linux")
    with tempfile.TemporaryDirectory() as folder:
        recommender.save(Path(folder))
        torch.save(dict(inputs), Path(folder) / INPUTS)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "layerwise.evaluation.resident", folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process that was to be measured failed:\n{done.stderr}")
    return int(done.stdout.splitlines()[-1])


def measure_here(folder: Path) -> int:
    """The same for a folder that `peak_resident` wrote, in this process, which should have done nothing else."""
    family = family_of(AutoConfig.from_pretrained(folder, local_files_only=True)).name
    with tempfile.TemporaryDirectory() as tiny:
        build_recommender(family, num_items=20, max_length=4, shape=Shape(2, 8, 8, 2), seed=0).save(Path(tiny))
        _score(Path(tiny))
    inputs = torch.load(folder / INPUTS)
    before = _resident("VmRSS")
    CLEAR.write_text(RESET_PEAK)
    _score(folder, inputs)
    return _resident("VmHWM") - before


def _score(folder: Path, inputs: Mapping[str, Tensor] | None = None) -> None:
    """Loads a recommender and finds the best items for these inputs, or for a short history."""
    scoring = Scoring(Recommender.load(folder)).eval()
    with torch.inference_mode():
        scoring(**(inputs or scoring.recommender.batch([np.arange(3)])))


def _resident(field: str) -> int:
    """Bytes of a field of this process' status."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    print(measure_here(Path(sys.argv[1])))
