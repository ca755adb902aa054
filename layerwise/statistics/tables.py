"""Measured values as checked, read-only arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def as_table(name: str, values: npt.ArrayLike, axes: tuple[str, ...] = ("seeds", "units")) -> FloatArray:
    """A read-only float64 copy of measured values, checked.

    Args:
        name: what the values are called in an error.
        values: numbers; the last axis is the sample.
        axes: name of each axis expected.

    Returns:
        The copy, shape as named by axes.

    Raises:
        ValueError: not numbers of that many axes, an empty axis, fewer than two units, or values not finite.
    """
    expected = f"{name} must be numbers of shape [{', '.join(axes)}]"
    try:
        table = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected}, got {type(values).__name__}: {error}") from error
    if table.ndim != len(axes) or table.size == 0:
        raise ValueError(f"{expected}, got shape {table.shape}")
    if table.shape[-1] < 2:
        raise ValueError(f"{name} needs at least 2 {axes[-1]} to have an error, got shape {table.shape}")
    if not np.isfinite(table).all():
        where = tuple(int(index) for index in np.argwhere(~np.isfinite(table))[0])
        raise ValueError(f"{name} must be finite, got {table[where]} at {list(where)}; repair what made it")
    table.flags.writeable = False
    return table


def check_same_shape(name: str, array: FloatArray, other_name: str, other: FloatArray) -> None:
    """Raise ValueError unless two paired tables have one shape."""
    if array.shape != other.shape:
        raise ValueError(
            f"{name} and {other_name} are paired and need the same shape, got {array.shape} and {other.shape}"
        )
