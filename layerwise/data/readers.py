"""Interactions from files: RecBole atomic files, CSV and Parquet, by name, folder or path."""

import csv
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.data.interactions import Interactions

# Role -> column names that publishers use, in lower case without underscores, the preferred name first.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "user_id": ("userid", "user", "uid", "reviewerid"),
    "item_id": ("itemid", "item", "iid", "movieid", "parentasin", "asin"),
    "timestamp": ("timestamp", "time", "unixreviewtime"),
    "position": ("position",),
    "rating": ("rating", "overall", "stars"),
}
NUMERIC = ("timestamp", "position", "rating")
# Name -> file inside the RecBole wheel, which is used as a parcel of data and never imported.
RECBOLE_FILES: Mapping[str, str] = {"ml-100k": "recbole/dataset_example/ml-100k/ml-100k.inter"}
PATTERNS = ("*.inter", "interactions.parquet", "interactions.csv", "ratings.parquet", "ratings.csv")


def load_interactions(source: str | Path, min_events: int = 0) -> Interactions:
    """Interactions of a named data set, a folder or a file.

    Args:
        source: ``"ml-100k"``; or a folder that holds one interactions file; or a file: RecBole atomic
            ``.inter``, ``.csv`` or ``.parquet`` with columns for user, item, timestamp (or position) and
            optionally rating. Beside a timestamp, position orders the events of equal time.
        min_events: Users with fewer events are left out and counted in ``dropped``.

    Raises:
        FileNotFoundError: If the source is no known name and does not exist, or its asset is not installed.
        ValueError: If a column is missing, the file is empty or broken, or a time or rating is not a number.
    """
    path = _asset(str(source)) if str(source) in RECBOLE_FILES else _interactions_file(Path(source))
    name = path.resolve().parent.name if any(path.match(pattern) for pattern in PATTERNS[1:]) else path.stem
    return _to_table(name, path, _read(path)).without_short_users(min_events)


def _asset(name: str) -> Path:
    """Path of a file in the installed RecBole distribution, found without importing the package."""
    how = "get it with: python -m pip install --no-deps recbole==1.2.1"
    try:
        path = Path(str(distribution("recbole").locate_file(RECBOLE_FILES[name])))
    except PackageNotFoundError:
        raise FileNotFoundError(f"{name!r} comes with RecBole, which is not installed; {how}") from None
    if not path.is_file():
        raise FileNotFoundError(f"{name!r} is not in the installed RecBole ({path} is missing); {how}")
    return path


def _interactions_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        known = ", ".join(RECBOLE_FILES)
        raise FileNotFoundError(f"{str(path)!r} is neither a known data set ({known}) nor a folder or file")
    found = sorted({file for pattern in PATTERNS for file in path.glob(pattern)})
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ValueError(
            f"{path} must hold one interactions file ({', '.join(PATTERNS)}), found: {names}; name the file itself"
        )
    return found[0]


def _read(path: Path) -> pd.DataFrame:
    """The file's rows with columns named by role; text files are read as text: ids stay as written."""
    readers = {".inter": _read_atomic, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ValueError(f"{path} must end in {', '.join(readers)}, got {path.suffix!r}")
    try:
        frame = readers[path.suffix](path)
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix}: {error}") from error
    if frame.empty:
        raise ValueError(f"{path} has a header but no events")
    return _by_role(frame, path)


def _read_csv(path: Path, **options: Any) -> pd.DataFrame:
    # Only an empty field is missing ("NA" may be an id); a blank line stays a row, so that line numbers hold.
    options |= {"keep_default_na": False, "na_values": [""], "skip_blank_lines": False}
    with warnings.catch_warnings():
        # Rows longer than the header: pandas would take the first column for an index, or warn and cut them.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame: pd.DataFrame = pd.read_csv(path, dtype=str, encoding="utf-8-sig", index_col=False, **options)
    return frame


def _read_atomic(path: Path) -> pd.DataFrame:
    """RecBole atomic file: tabs, and a header of ``name:type`` fields."""
    frame = _read_csv(path, sep="\t", quoting=csv.QUOTE_NONE)
    untyped = [column for column in frame.columns if ":" not in column]
    if untyped:
        raise ValueError(f"{path} needs a header of name:type fields such as user_id:token, got {untyped}")
    return frame.rename(columns=lambda column: column.split(":")[0])


def _read_parquet(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path, dtype_backend="numpy_nullable")  # whole-number ids stay whole beside missing ones


def _by_role(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    plain = {column.lower().replace("_", ""): column for column in reversed(list(frame.columns))}
    roles = {role: next((plain[n] for n in names if n in plain), None) for role, names in COLUMNS.items()}
    missing = [role for role in ("user_id", "item_id") if roles[role] is None]
    if roles["timestamp"] is None and roles["position"] is None:
        missing.append("timestamp (or position)")
    if missing:
        raise ValueError(f"{path} has no column for {', '.join(missing)}; its columns are {list(frame.columns)}")
    return pd.DataFrame({role: frame[column] for role, column in roles.items() if column is not None})


def _to_table(name: str, path: Path, frame: pd.DataFrame) -> Interactions:
    clock = "timestamp" if "timestamp" in frame else "position"
    dropped: dict[str, int] = {}
    for role in ("user_id", "item_id", clock):
        if frame[role].isna().any():
            dropped[f"rows without {role}"] = int(frame[role].isna().sum())
            frame = frame[frame[role].notna()]
    if frame.empty:
        raise ValueError(f"{path} has no complete row: {dropped}")
    numbers = {role: _numeric(frame[role], path) for role in NUMERIC if role in frame}
    if "position" in numbers:
        order = np.argsort(numbers["position"], kind="stable")
        frame, numbers = frame.iloc[order], {role: column[order] for role, column in numbers.items()}
    return Interactions.from_columns(
        name,
        frame["user_id"],
        frame["item_id"],
        numbers[clock],
        numbers.get("rating"),
        dropped,
        has_clock=clock == "timestamp",
    )


def _numeric(column: pd.Series, path: Path) -> IntArray | FloatArray:
    """The column as plain numbers: int64 where all are whole, else float64 with nan for an empty field."""
    parsed = pd.to_numeric(column, errors="coerce", dtype_backend="numpy_nullable")
    if pd.api.types.is_integer_dtype(parsed) and parsed.notna().all():
        return parsed.to_numpy(np.int64)
    numbers = parsed.to_numpy(np.float64, na_value=np.nan)
    wrong = column[~np.isfinite(numbers) & column.notna().to_numpy()]
    if len(wrong):
        row = int(wrong.index[0])
        where = f"row {row + 1}" if path.suffix == ".parquet" else f"line {row + 2}"  # line 1 is the header
        raise ValueError(
            f"{path}, {where}: {column.name} must be a finite number, got {wrong.iloc[0]!r} "
            f"({len(wrong)} such rows); times are numbers such as Unix seconds"
        )
    return numbers
