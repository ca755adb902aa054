"""The lab: hands out the results of experiments, from the store or made now."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeVar

import torch
import transformers

from layerwise.data.audit import audit
from layerwise.data.sources import load_interactions
from layerwise.data.splits import Split, leave_last_out
from layerwise.lab.experiments import Experiment, Model, Report, closure
from layerwise.lab.store import Artefact, Store
from layerwise.lab.tiers import Subject

Result = TypeVar("Result")


class Lab:
    """Results of experiments, each made once and kept.

    Args:
        store: Where finished results lie.
        device: Where models run.
    """

    def __init__(self, store: Store, device: str = "cpu") -> None:
        self.store = store
        self.device = torch.device(device)

    def split(self, subject: Subject) -> Split:
        """The subject's data, divided into training, validation and test."""
        return _split(subject.dataset, subject.test_targets)

    def get(self, experiment: Experiment[Result]) -> Result:
        """The result of an experiment; what is missing is made first, in this process."""
        result = experiment.load(self.build(experiment).path)
        if isinstance(result, torch.nn.Module):
            result.to(self.device)
        return result

    def course(self, model: Model) -> dict[str, Any]:
        """What was noted while a model was made."""
        return model.course(self.build(model).path)

    def has(self, experiment: Experiment[Any]) -> bool:
        """Whether the result is in the store, undamaged."""
        return self.store.has(self.spec(experiment))

    def build(self, experiment: Experiment[Any], report: Report = lambda *_: None) -> Artefact:
        """The stored result of an experiment, made now if it is missing."""
        return self.store.build(
            self.spec(experiment),
            lambda folder: experiment.make(self, folder, report),
            experiment.describe(),
        )

    def spec(self, experiment: Experiment[Any]) -> dict[str, Any]:
        """All that decides the result: settings, data, code, versions and device."""
        return {
            **experiment.settings(),
            "data": _data_digest(experiment.subject.dataset, experiment.subject.test_targets),
            "code": {part.kind: part.code_digest() for part in closure([experiment])},
            "versions": {"torch": str(torch.__version__), "transformers": transformers.__version__},
            "device": self.device.type,
        }

    def missing(self, experiments: Iterable[Experiment[Any]]) -> list[Experiment[Any]]:
        """Those whose result is not in the store."""
        return [experiment for experiment in experiments if not self.has(experiment)]


@lru_cache(maxsize=8)
def _split(dataset: str, test_targets: int) -> Split:
    """The split of a dataset that can be judged; what had to be left out or shuffled stands in its audit.

    Users with too few events and events that repeat an earlier item are left out. Where events of equal time are
    stored in the order of their items, which gives the next one away, they are shuffled and the ids permuted.
    """
    enough = test_targets + 2  # one more to validate, one to train on
    table = load_interactions(dataset).without_repeats().without_short_users(enough)
    split = leave_last_out(table, test_targets)
    return leave_last_out(table.shuffled_ties(seed=0), test_targets) if audit(split).has_sorted_ties else split


@lru_cache(maxsize=8)
def _data_digest(dataset: str, test_targets: int) -> str:
    return _split(dataset, test_targets).digest()
