"""One door: names of wheels, releases and folders, and paths, all give the same kinds of table."""

import gzip
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import layerwise
from layerwise.data import downloads, readers
from layerwise.data.folders import FOLDERS, VARIABLE
from layerwise.data.sources import item_table, load_interactions
from layerwise.data.titles import item_titles
from layerwise.lab import lab as lab_module
from layerwise.lab.lab import Lab
from layerwise.lab.store import Store
from layerwise.lab.tiers import TIERS

REVIEW = {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1252800000}
RATINGS = {  # release -> its file, and one event of user A1 with item B1
    "amazon-2014/Video_Games": ("reviews_Video_Games_5.json.gz", json.dumps(REVIEW) + "\n"),
    "amazon-2014-ratings/Video_Games": ("ratings_Video_Games.csv", "A1,B1,5.0,1252800000\n"),
    "amazon-2018/Video_Games": ("Video_Games_5.json.gz", json.dumps(REVIEW) + "\n"),
    "amazon-2018-ratings/Video_Games": ("Video_Games.csv", "B1,A1,5.0,1252800000\n"),
    "amazon-2023/Video_Games": (
        "Video_Games.csv.gz",
        "user_id,parent_asin,rating,timestamp\nA1,B1,5.0,1252800000000\n",
    ),
    "amazon-2023-0core/Video_Games": (
        "Video_Games.csv.gz",
        "user_id,parent_asin,rating,timestamp\nA1,B1,5.0,1252800000000\n",
    ),
    "amazon-2023-reviews/Video_Games": (
        "Video_Games.jsonl.gz",
        json.dumps({"user_id": "A1", "parent_asin": "B1", "rating": 5.0, "timestamp": 1252800000000}) + "\n",
    ),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of the variable, and an empty cache; no test of this module reaches for a network."""

    def refuse(file, path):
        raise FileNotFoundError(f"no network for {file.url}")

    monkeypatch.setattr(downloads, "_download", refuse)
    monkeypatch.setattr(downloads, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", RATINGS)
def test_every_amazon_edition_is_read_by_its_own_rules(place, name):
    file, text = RATINGS[name]
    put(place / name / file, text)

    table = load_interactions(name)

    assert (table.name, table.user_ids.tolist(), table.item_ids.tolist()) == (name.replace("/", "-"), ["A1"], ["B1"])
    assert table.ratings.tolist() == [5.0]
    assert table.timestamps.tolist() == [1252800000 * (1000 if "2023" in name else 1)]


def test_an_unpacked_movielens_release_is_read_and_known_to_the_audit_by_its_name(place):
    put(place / "grouplens/ml-1m/ratings.dat", "1::10::5::978300760\n1::11::4::978300761\n")
    put(place / "grouplens/ml-1m/movies.dat", "10::GoldenEye (1995)::Action|Thriller\n")

    table = load_interactions("grouplens/ml-1m")

    assert (table.name, table.num_events) == ("ml-1m", 2)
    assert item_table("grouplens/ml-1m").values.tolist() == [["10", "GoldenEye (1995)", ("Action", "Thriller")]]


def test_an_archive_in_the_place_of_a_release_must_have_the_published_hash(place):
    put(place / "grouplens/ml-1m/ml-1m.zip", "not the release")

    with pytest.raises(ValueError, match="but c4d9eecfca2ab87c1945afe126590906 by https://files.grouplens.org/.*md5"):
        load_interactions("grouplens/ml-1m")


@pytest.mark.parametrize("ask", [load_interactions, item_table])
@pytest.mark.parametrize("name", ["grouplens/ml-25m", "amazon-2018/Books"])
def test_a_release_that_is_not_here_is_downloaded(place, ask, name):
    with pytest.raises(FileNotFoundError, match="no network for https://"):
        ask(name)


def test_paths_to_published_files_are_read_without_a_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        archive.writestr("x/ratings.csv", "userId,movieId,rating,timestamp\n1,10,5.0,978300760\n")
        archive.writestr("x/movies.csv", 'movieId,title,genres\n10,"Net, The (1995)",Action|Crime\n')
    put(tmp_path / "Video_Games_5.json.gz", json.dumps(REVIEW) + "\n")
    put(tmp_path / "old" / "u.data", "1\t10\t5\t978300760\n")

    tables = [load_interactions(tmp_path / name) for name in ("films.zip", "Video_Games_5.json.gz", "old")]

    assert [table.name for table in tables] == ["films", "Video_Games_5", "old"]
    assert [table.item_ids.tolist() for table in tables] == [["10"], ["B1"], ["10"]]
    assert item_table(tmp_path / "films.zip").values.tolist() == [["10", "Net, The (1995)", ("Action", "Crime")]]


def test_users_with_few_events_are_left_out_and_counted(tmp_path):
    put(tmp_path / "u.data", "1\t10\t5\t978300760\n1\t11\t5\t978300760\n2\t10\t5\t978300760\n")

    table = load_interactions(tmp_path, min_events=2)

    assert table.user_ids.tolist() == ["1"]
    assert table.dropped == {"events of users with fewer than 2 events": 1}


def test_what_the_older_reader_knows_is_read_as_before(place):
    frame = pd.DataFrame({"user_id": [1, 1, 2], "item_id": [7, 8, 7], "timestamp": [3, 2, 1]})
    (place / "amazon14-toys").mkdir(parents=True)
    frame.to_parquet(place / "amazon14-toys" / "interactions.parquet")
    path = put(place / "ratings.csv", "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")

    assert load_interactions("amazon14-toys").digest() == readers.load_interactions(place / "amazon14-toys").digest()
    for source in (path, str(path)):
        assert load_interactions(source).digest() == readers.load_interactions(path).digest()
    assert load_interactions("ml-100k").digest() == readers.load_interactions("ml-100k").digest()


def test_a_name_that_nobody_knows_is_refused(place):
    with pytest.raises(FileNotFoundError, match="'grouplens/ml-2m' is neither a known data set"):
        load_interactions("grouplens/ml-2m")


def test_the_public_name_is_this_door():
    assert layerwise.load_interactions is load_interactions


def test_items_of_the_wheel_have_titles_with_years_and_genres():
    items = item_table("ml-100k").set_index("item_id")

    assert len(items) == 1682
    assert items.loc["1"].tolist() == ["Toy Story (1995)", ("Animation", "Children's", "Comedy")]


def test_items_beside_the_events_of_a_folder_are_those_that_titles_and_categories_are_read_from(place):
    folder = place / "amazon14-toys"
    folder.mkdir(parents=True)
    frame = pd.DataFrame({"item_id": [7, 8], "title": ["Kite", None], "categories": ["Toys|Wind", None]})
    frame.to_parquet(folder / "items.parquet")

    items = item_table("amazon14-toys")

    assert items.values.tolist() == [["7", "Kite", ("Toys", "Wind")], ["8", "", ()]]
    assert items["title"].tolist() == item_titles(folder, np.array(["7", "8"]))


def test_items_without_any_title_have_empty_ones(tmp_path):
    pd.DataFrame({"item_id": [7, 8], "title": [None, None], "categories": ["Toys", "Toys"]}).to_csv(
        tmp_path / "items.csv"
    )

    assert item_table(tmp_path)["title"].tolist() == ["", ""]


def test_a_folder_without_items_or_with_items_without_ids_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no item file for"):
        item_table(tmp_path)
    (tmp_path / "items.csv").write_text("title\nKite\n")
    with pytest.raises(ValueError, match=r"items.csv needs a column of ids, one of item_id.*\['title'\]"):
        item_table(tmp_path)


def test_metadata_of_amazon_titles_the_items_of_its_events(place):
    name = "amazon-2014-ratings/Video_Games"
    put(place / name / RATINGS[name][0], RATINGS[name][1])
    put(
        place / name / "meta_Video_Games.json.gz", "{'asin': 'B1', 'title': 'Pad', 'categories': [['Games', 'Pads']]}\n"
    )

    assert item_table(name).values.tolist() == [["B1", "Pad", ("Games", "Pads")]]


def test_the_lab_takes_the_name_of_a_release(place):
    rows = [f"{user}::{(user + step) % 7}::4::{978300760 + step}" for user in range(1, 5) for step in range(8)]
    put(place / "grouplens/ml-1m/ratings.dat", "\n".join(rows) + "\n")
    subject = next(subject for subject in TIERS["standard"].elsewhere if subject.dataset == "ml-latest-small")

    try:
        split = Lab(Store(place / "store")).split(type(subject)(**{**vars(subject), "dataset": "grouplens/ml-1m"}))
    finally:
        lab_module._split.cache_clear()

    assert (split.table.name, split.table.num_users) == ("ml-1m", 4)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_named_folder_that_is_here_has_events_and_items(name):
    folder = Path(os.environ.get(VARIABLE) or ".") / name
    if not (folder / "interactions.parquet").is_file():
        pytest.skip(f"{VARIABLE} names no folder with {name}")
    expected = pd.read_parquet(folder / "interactions.parquet", columns=["user_id", "item_id"])

    table = load_interactions(name)

    assert table.num_events == len(expected)
    assert (table.num_users, table.num_items) == (expected["user_id"].nunique(), expected["item_id"].nunique())
