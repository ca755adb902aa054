"""MovieLens in its three layouts, as zip and as folder, and what is said of archives that are no release."""

import os
import zipfile
from pathlib import Path

import pytest

from layerwise.data.grouplens import is_movielens, read_movies, read_ratings
from layerwise.data.interactions import Interactions
from layerwise.data.readers import load_interactions

FLAGS_TOY_STORY = "0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0"  # Animation, Children's, Comedy: fields 3 to 5 of u.genre
FLAGS_UNKNOWN = "1" + "|0" * 18
LAYOUTS = {
    "100k": {
        "u.data": "196\t242\t3\t881250949\n186\t1\t3\t891717742\n",
        "u.item": f"1|Toy Story (1995)|01-Jan-1995||http://x/?a|{FLAGS_TOY_STORY}\n"
        f"242|Misérables, Les (1995)|||http://x|{FLAGS_UNKNOWN}\n",
    },
    "1m": {
        "ratings.dat": "196::242::3::881250949\n186::1::3::891717742\n",
        "movies.dat": "1::Toy Story (1995)::Animation|Children's|Comedy\n"
        "242::Misérables, Les (1995)::(no genres listed)\n",
    },
    "25m": {
        "ratings.csv": "userId,movieId,rating,timestamp\n196,242,3.0,881250949\n186,1,3.0,891717742\n",
        "movies.csv": "movieId,title,genres\n1,Toy Story (1995),Animation|Children's|Comedy\n"
        '242,"Misérables, Les (1995)",(no genres listed)\n',
    },
}
ENCODINGS = {"100k": "latin-1", "1m": "latin-1", "25m": "utf-8"}


def written(folder, layout, packing, **changed):
    """A small release, as zip (with the folder that GroupLens puts in it) or unpacked."""
    files = {**LAYOUTS[layout], **changed}
    contents = {name: text.encode(ENCODINGS[layout]) for name, text in files.items()}
    if packing == "folder":
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        return folder
    with zipfile.ZipFile(folder / "ml.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"ml-{layout}/README", "no data")
        for name, content in contents.items():
            archive.writestr(f"ml-{layout}/{name}", content)
    return folder / "ml.zip"


@pytest.mark.parametrize("packing", ["zip", "folder"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_events_and_movies_are_the_same_in_every_layout(tmp_path, layout, packing):
    path = written(tmp_path, layout, packing)

    events, movies = read_ratings(path), read_movies(path)

    assert events.columns.tolist() == ["user_id", "item_id", "rating", "timestamp"]
    assert events.values.tolist() == [[196, 242, 3, 881250949], [186, 1, 3, 891717742]]
    assert movies.values.tolist() == [
        ["1", "Toy Story (1995)", ("Animation", "Children's", "Comedy")],
        ["242", "Misérables, Les (1995)", ()],
    ]


def test_accents_of_utf_8_stay(tmp_path):
    (tmp_path / "ratings.dat").write_text(LAYOUTS["1m"]["ratings.dat"])
    (tmp_path / "movies.dat").write_text(LAYOUTS["1m"]["movies.dat"], encoding="utf-8")  # as 10M has it

    assert read_movies(tmp_path)["title"][1] == "Misérables, Les (1995)"


def test_paths_that_are_movielens_are_known_from_their_files(tmp_path):
    assert is_movielens(written(tmp_path, "25m", "zip"))
    assert not is_movielens(tmp_path)
    assert is_movielens(written(tmp_path, "1m", "folder"))
    assert not is_movielens(tmp_path / "absent.zip")


@pytest.mark.parametrize(
    ("layout", "name", "text", "error"),
    [
        (
            "100k",
            "u.data",
            "196\t242\t3\t881250949\n186\t1\t3\n",
            r"u.data, line 2: expected 4 fields .*got '186.t1.t3'",
        ),
        (
            "100k",
            "u.data",
            "196\t242\t3\t881250949\n186\t1\t3\tnow\n",
            "line 2: timestamp must be a whole number, got 'now'",
        ),
        ("1m", "ratings.dat", "a::242::3::881250949\n", "line 1: user_id must be a whole number, got 'a'"),
        ("1m", "ratings.dat", "196::242::3::881250949::5\n", "line 1: expected 4 fields"),
        ("1m", "ratings.dat", "196::242::nan::881250949\n", "line 1: rating must be a finite number, got 'nan'"),
        ("1m", "ratings.dat", "196::242::3::881250949\n\n", "line 2: expected 4 fields .*got ''"),
        ("1m", "ratings.dat", "", "there are no events"),
        ("25m", "ratings.csv", "userId,movieId,rating,timestamp\n", "there are no events"),
        (
            "25m",
            "ratings.csv",
            "user,movie,stars,time\n1,2,3,4\n",
            "line 1: expected the header 'userId,.*got 'user,movie",
        ),
        (
            "25m",
            "ratings.csv",
            "userId,movieId,rating,timestamp\n1,2,3.0,881250949000\n",
            "line 2: 881250949000 is no time in s",
        ),
        ("1m", "ratings.dat", "196::242::3::881250949\n1::2::3::4\n", "line 2: 4 is no time in s"),
    ],
)
def test_a_broken_line_of_events_is_named(tmp_path, layout, name, text, error):
    with pytest.raises(ValueError, match=error):
        read_ratings(written(tmp_path, layout, "zip", **{name: text}))


def test_a_broken_line_of_movies_is_named(tmp_path):
    path = written(tmp_path, "1m", "folder", **{"movies.dat": "1::Toy Story (1995)::Comedy\n2::Jumanji\n"})

    with pytest.raises(ValueError, match=r"movies.dat, line 2: not the fields of movies.dat: \['2', 'Jumanji'\]"):
        read_movies(path)


def test_a_folder_of_two_layouts_is_ambiguous(tmp_path):
    written(tmp_path, "100k", "folder")

    with pytest.raises(ValueError, match=r"must hold exactly one of .*found: .*u.data.*ratings.dat"):
        read_ratings(written(tmp_path, "1m", "folder"))


def test_an_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("photos/cat.txt", "cat")

    with pytest.raises(ValueError, match="found: none; is it a MovieLens release"):
        read_ratings(tmp_path / "other.zip")


def test_an_archive_that_was_cut_off_is_to_be_fetched_again(tmp_path):
    path = written(tmp_path, "1m", "zip")
    path.write_bytes(path.read_bytes()[:-30])

    with pytest.raises(ValueError, match=r"ml.zip is cut off or damaged .*delete it and get the file again"):
        read_ratings(path)


def test_an_archive_with_a_flipped_bit_is_damaged(tmp_path):
    path = tmp_path / "ml.zip"
    with zipfile.ZipFile(path, "w") as archive:  # stored, so that the bit is one of the events
        archive.writestr("ml-1m/ratings.dat", LAYOUTS["1m"]["ratings.dat"])
    content = bytearray(path.read_bytes())
    content[content.index(b"196::")] ^= 1
    path.write_bytes(content)

    with pytest.raises(ValueError, match="cut off or damaged"):
        read_ratings(path)


def test_a_web_page_instead_of_an_archive_is_recognised(tmp_path):
    (tmp_path / "ml.zip").write_text("<!DOCTYPE html><html>Not found</html>")

    with pytest.raises(ValueError, match=r"ml.zip is a web page \(.*Not found.*get the file again"):
        read_ratings(tmp_path / "ml.zip")


def test_the_published_release_holds_the_events_of_the_parquet_copy():
    place = os.environ.get("LAYERWISE_DATA")
    folder = Path(place or ".") / "ml-latest-small"
    if not (folder / "official" / "ratings.csv").is_file():
        pytest.skip("LAYERWISE_DATA names no folder with ml-latest-small/official, the release as published")
    events, movies = read_ratings(folder / "official"), read_movies(folder / "official")

    official = Interactions.from_columns("x", events.user_id, events.item_id, events.timestamp, events.rating)

    assert official.digest() == load_interactions(folder).digest()
    assert (len(events), len(movies)) == (100836, 9742)
