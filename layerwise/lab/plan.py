"""What a run of a tier takes, from what results of its kinds took before.

    python -m layerwise.lab.plan --tier standard

A cell is one result of the store: a training, a measurement. One that was made before, by whatever code and versions,
counts with the seconds and bytes of its manifest; any other with its effort, at the median rate of those of its kind on
its data, else of its kind, else of all.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from layerwise.lab.asking import everything
from layerwise.lab.experiments import Experiment, closure
from layerwise.lab.lab import Lab
from layerwise.lab.manifest import MANIFEST, digest_of
from layerwise.lab.store import Store
from layerwise.lab.study import Study
from layerwise.lab.tiers import TIERS


@dataclass(frozen=True)
class Cost:
    """What a cell takes.

    Attributes:
        seconds: Of one worker.
        size: Bytes that are kept.
        is_measured: Whether this very cell was made before.
    """

    seconds: float
    size: float
    is_measured: bool = True


def planned(lab: Lab, experiments: Sequence[Experiment[Any]]) -> dict[Experiment[Any], Cost]:
    """The cost of experiments and of all they need, each after what it needs.

    Raises:
        ValueError: If none of them was ever made in this store, so that there is nothing to go by.
    """
    cells, known = closure(experiments), _measured(lab.store)
    found = {cell: known[key] for cell in cells if (key := _identity(lab.spec(cell))) in known}
    if not found:
        raise ValueError(f"no cell of this run was ever made in {lab.store.root}; make a few first, or name --store")
    return {cell: found.get(cell) or _estimated(cell, found) for cell in cells}


def longest_chain(costs: Mapping[Experiment[Any], Cost]) -> float:
    """Seconds of the longest chain of cells that need each other: with however many workers, no run is shorter."""
    until: dict[Experiment[Any], float] = {}
    for cell, cost in costs.items():
        until[cell] = cost.seconds + max((until[needed] for needed in cell.needs()), default=0.0)
    return max(until.values())


def _measured(store: Store) -> dict[str, Cost]:
    """What every stored result took, by its identity."""
    costs = {}
    for path in store.root.glob(f"*/*/{MANIFEST}"):
        body = json.loads(path.read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
        costs[_identity(body["spec"])] = Cost(body["seconds"], size)
    return costs


def _identity(spec: Mapping[str, Any]) -> str:
    """What a specification asks for, whatever code and versions answer it."""
    return digest_of({name: part for name, part in spec.items() if name not in ("code", "versions")})


def _estimated(cell: Experiment[Any], found: Mapping[Experiment[Any], Cost]) -> Cost:
    alike = [one for one in found if one.kind == cell.kind]
    near = [one for one in alike if one.subject.dataset == cell.subject.dataset]
    like = near or alike or list(found)
    rate = median(found[one].seconds / one.effort() for one in like)
    return Cost(rate * cell.effort(), mean(found[one].size for one in like), is_measured=False)


def table(costs: Mapping[Experiment[Any], Cost], title: str, unit: str) -> Table:
    """Cells, hours and storage by kind, the dearest first, with a sum."""
    kinds: dict[str, list[Cost]] = {}
    for cell, cost in costs.items():
        kinds.setdefault(cell.kind, []).append(cost)
    shown = Table("kind", "cells", "made before", f"{unit} hours", "GB", title=title, show_footer=True)
    for column in shown.columns[1:]:
        column.justify = "right"
    for kind, of in sorted(kinds.items(), key=lambda entry: -sum(cost.seconds for cost in entry[1])):
        shown.add_row(kind, *_figures(of))
    for column, figure in zip(shown.columns, ["all", *_figures(list(costs.values()))], strict=True):
        column.footer = figure
    shown.caption = f"longest chain of cells that need each other: {longest_chain(costs) / 3600:.2f} hours"
    return shown


def _figures(costs: Sequence[Cost]) -> list[str]:
    hours, size = sum(cost.seconds for cost in costs) / 3600, sum(cost.size for cost in costs) / 1e9
    return [str(len(costs)), str(sum(cost.is_measured for cost in costs)), f"{hours:.2f}", f"{size:.3f}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the plan of a tier; 2 where there is nothing to go by."""
    parser = argparse.ArgumentParser(prog="python -m layerwise.lab.plan", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tier", choices=sorted(TIERS), default="standard", help="default: standard")
    parser.add_argument("--store", metavar="DIR", help="folder of finished results (default: as for the claims)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where models ran (default: cpu)")
    options = parser.parse_args(arguments)
    lab = Lab(Store.at(options.store), options.device)
    study = Study(TIERS[options.tier], lab, lambda _: None)
    try:
        costs = planned(lab, everything(study))
    except ValueError as error:
        Console(stderr=True).print(f"plan: {error}", style="red", markup=False)
        return 2
    unit = "GPU" if options.device == "cuda" else "core"
    Console().print(table(costs, f"A run of the {options.tier} tier", unit))
    return 0


if __name__ == "__main__":
    sys.exit(main())
