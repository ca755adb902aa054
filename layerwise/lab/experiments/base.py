"""What an experiment is.

An experiment is a frozen description. Its fields, the digest of the data and the digests of the code that it and all it
stands on run decide its place in the store; `make` computes it once, `load` reads it back.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch

from layerwise.data.splits import Split
from layerwise.lab.code import code_digest, with_imports
from layerwise.lab.tiers import Subject

Result = TypeVar("Result")
Other = TypeVar("Other")
Report = Callable[[float, str], None]
"""Called with the share done, in [0, 1], and a word on how it goes."""


class Bench(Protocol):
    """What an experiment may ask of the lab that makes it."""

    device: torch.device

    def get(self, experiment: "Experiment[Other]") -> Other:
        """The result of another experiment."""

    def course(self, model: Any) -> dict[str, Any]:
        """What was noted while a model was made."""

    def split(self, subject: Subject) -> Split:
        """The subject's data."""


@dataclass(frozen=True)
class Experiment(ABC, Generic[Result]):
    """Base of all experiments; see the module's docstring.

    Attributes:
        of: What it is made from: another experiment, or the subject where it starts from the data.
        kind: Its folder in the store.
        code: Modules that it runs itself, to which what they import is added.
    """

    of: Any  # a Subject or an Experiment; each kind says which
    kind: ClassVar[str]
    code: ClassVar[tuple[str, ...]]

    @property
    def subject(self) -> Subject:
        """The subject that decides data and sizes."""
        subject: Subject = self.of if isinstance(self.of, Subject) else self.of.subject
        return subject

    def needs(self) -> tuple["Experiment[Any]", ...]:
        """Experiments whose results `make` reads."""
        return () if isinstance(self.of, Subject) else (self.of,)

    def effort(self) -> float:
        """Rough cost, in layer-epochs of training; only for the forecast of the time left."""
        return 1.0

    @abstractmethod
    def describe(self) -> str:
        """A few words for progress lines."""

    @abstractmethod
    def make(self, lab: Bench, folder: Path, report: Report) -> None:
        """Computes the result and writes it into the folder."""

    @abstractmethod
    def load(self, folder: Path) -> Result:
        """Reads the result back."""

    def settings(self) -> dict[str, Any]:
        """Fields of the experiment and of all it stands on, as plain data."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def code_digest(cls) -> str:
        """sha256 of the modules that it runs and what they import; taken at import of the package, see `__init__`."""
        return _digest(cls.code)


@lru_cache
def _digest(modules: tuple[str, ...]) -> str:
    return code_digest(*with_imports(*modules))


def closure(experiments: Sequence[Experiment[Any]]) -> list[Experiment[Any]]:
    """The experiments and all they need, without repetition, each after what it needs."""
    ordered: dict[Experiment[Any], None] = {}

    def add(experiment: Experiment[Any]) -> None:
        for needed in experiment.needs():
            add(needed)
        ordered.setdefault(experiment)

    for experiment in experiments:
        add(experiment)
    return list(ordered)
