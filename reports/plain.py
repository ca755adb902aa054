"""What may stand in a record: plain finite JSON, checked by exact type."""

from __future__ import annotations

import math


def require_plain(value: object, name: str) -> None:
    """Refuse what strict JSON cannot hold; exact types, because numpy.float64 is a float and an enum may be a str.

    Raises:
        TypeError: `value` or something inside it is not a plain str, int, float, bool, None, list or dict.
        ValueError: A number is NaN or infinite.
    """
    kind = type(value)
    if kind is dict:
        for key, inner in value.items():  # type: ignore[attr-defined]
            if type(key) is not str:
                raise TypeError(f"{name}: keys must be str, got {type(key).__name__} {key!r}")
            require_plain(inner, f"{name}.{key}")
    elif kind is list:
        for index, inner in enumerate(value):  # type: ignore[arg-type]
            require_plain(inner, f"{name}[{index}]")
    elif kind is float:
        if not math.isfinite(value):  # type: ignore[arg-type]
            raise ValueError(f"{name} must be finite, got {value}; leave out what is undefined or say it in words")
    elif kind not in (str, int, bool, type(None)):
        origin = f"{kind.__module__}.{kind.__qualname__}"
        raise TypeError(
            f"{name} must be plain JSON, got {origin} {value!r}; convert it with float(), int(), str() or list()"
        )
