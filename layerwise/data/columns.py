"""Columns as arrays: ids to codes, numbers to one of two kinds, contents to a digest."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from layerwise.data.arrays import FloatArray, IntArray, StrArray


def digest_of(*arrays: IntArray | FloatArray | StrArray) -> str:
    """SHA-256 over kind, shape and contents of arrays, the same on every machine."""
    total = hashlib.sha256()
    for array in arrays:
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        total.update(f"{plain.dtype.str}{plain.shape}".encode())
        total.update(plain.tobytes())
    return total.hexdigest()


def encode(ids: Iterable[Any], kind: str) -> tuple[IntArray, StrArray]:
    """Code per event, and the id of each code as text.

    Codes follow the ids by length, then text, which is the order of whole numbers: a code does not depend on
    the order of the rows.
    """
    codes, distinct = pd.factorize(pd.Series(_column(ids)))
    if (codes < 0).any():
        raise ValueError(f"every event needs the id of its {kind}, row {int(np.argmin(codes))} has none")
    texts = np.array([str(value) for value in distinct], dtype=np.str_)
    if len(np.unique(texts)) != len(texts):
        raise ValueError(f"{kind} ids must differ as text, got a column that mixes kinds such as 1 and '1'")
    order = np.lexsort((texts, np.char.str_len(texts)))
    return np.argsort(order)[codes], texts[order]


def _column(values: Iterable[Any]) -> Any:
    return values if hasattr(values, "__array__") else list(values)


def numbers_of(values: Iterable[float]) -> FloatArray | IntArray:
    """Whole numbers as int64 (exact beyond 2**53, as nanoseconds need), others as float64."""
    numbers = np.asarray(_column(values))
    if numbers.dtype.kind not in "iuf":
        raise TypeError(f"times and ratings must be numbers, got an array of {numbers.dtype}")
    return numbers.astype(np.float64) if numbers.dtype.kind == "f" else numbers.astype(np.int64)
