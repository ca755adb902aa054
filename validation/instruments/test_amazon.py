"""Amazon's editions in the formats of their publisher, and every way in which a file can be another one."""

import gzip
import json

import pytest

from layerwise.data.amazon import (
    RATINGS_2014,
    RATINGS_2018,
    read_metadata,
    read_ratings,
    read_ratings_2023,
    read_reviews,
)

OLD = {  # a review of 2014 and 2018, with fields that are not read
    "reviewerID": "A2SUAM1J3GNN3B",
    "asin": "0000013714",
    "reviewerName": "J. McDonald",
    "helpful": [2, 3],
    "reviewText": "I bought this for my husband who plays the piano.",
    "overall": 5.0,
    "summary": "Heavenly Highway Hymns",
    "unixReviewTime": 1252800000,
    "reviewTime": "09 13, 2009",
}
NEW = {
    "rating": 4.0,
    "title": "Works",
    "text": "as it should",
    "asin": "B08BBQ29N5",
    "parent_asin": "B07N69T6TM",
    "user_id": "AEYORY2AVPMCPDV57CE337YU5LXA",
    "timestamp": 1634275259292,
    "verified_purchase": True,
}
HEADER = "user_id,parent_asin,rating,timestamp\n"


def zipped(path, text):
    path.write_bytes(gzip.compress(text.encode()))
    return path


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def rows(frame):
    assert frame.columns.tolist() == ["user_id", "item_id", "rating", "timestamp"]
    return frame.values.tolist()


def test_reviews_until_2018_count_seconds(tmp_path):
    path = zipped(tmp_path / "Video_Games_5.json.gz", lines(OLD, OLD | {"asin": "B00000J9J0", "overall": 1.0}))

    assert rows(read_reviews(path)) == [
        ["A2SUAM1J3GNN3B", "0000013714", 5.0, 1252800000],
        ["A2SUAM1J3GNN3B", "B00000J9J0", 1.0, 1252800000],
    ]


def test_reviews_of_2023_count_milliseconds_and_name_the_parent(tmp_path):
    path = tmp_path / "Video_Games.jsonl"
    path.write_text(lines(NEW))

    assert rows(read_reviews(path)) == [["AEYORY2AVPMCPDV57CE337YU5LXA", "B07N69T6TM", 4.0, 1634275259292]]


def test_a_loose_line_is_read_as_the_python_dictionary_that_it_is(tmp_path):
    path = zipped(tmp_path / "reviews.json.gz", f"{OLD | {'summary': chr(39)}!r}\n")

    assert rows(read_reviews(path)) == [["A2SUAM1J3GNN3B", "0000013714", 5.0, 1252800000]]


def test_a_loose_line_is_never_run(tmp_path):
    mark = tmp_path / "mark"
    path = zipped(tmp_path / "reviews.json.gz", f"{{'asin': open({str(mark)!r}, 'w').name}}\n")

    with pytest.raises(ValueError, match="line 1: expected one JSON object a line"):
        read_metadata(path)
    assert not mark.exists()


def test_the_columns_of_ratings_follow_the_edition(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("AKM1MP6P0OYPR,0132793040,5.0,1365811200\nA1,0321732944,1.0,1341100800\n")

    assert rows(read_ratings(path, RATINGS_2014)) == [
        ["AKM1MP6P0OYPR", "0132793040", 5.0, 1365811200],
        ["A1", "0321732944", 1.0, 1341100800],
    ]
    assert rows(read_ratings(path, RATINGS_2018))[0] == ["0132793040", "AKM1MP6P0OYPR", 5.0, 1365811200]


def test_ratings_of_2023_have_a_header_and_milliseconds(tmp_path):
    path = zipped(
        tmp_path / "Video_Games.csv.gz", HEADER + "AGKHLEW2SOWHNMFQIJGBECAF7INQ,B081TJ8YS3,4.0,1588615855070\n"
    )

    assert rows(read_ratings_2023(path)) == [["AGKHLEW2SOWHNMFQIJGBECAF7INQ", "B081TJ8YS3", 4.0, 1588615855070]]


def test_metadata_of_three_editions_gives_titles_and_categories(tmp_path):
    loose = {"asin": "0078764343", "title": "Medal &amp; Honor\n 2", "categories": [["Games", "PC"], ["Games", "Toys"]]}
    strict = {"asin": "B1", "title": "Nook", "category": ["Games", "PC &amp; Mac", "</span></span>"], "main_cat": "x"}
    parent = {"parent_asin": "B2", "title": "Pad", "categories": ["Games", "Pads"], "main_category": "x"}

    def read(text):
        return read_metadata(zipped(tmp_path / "meta.json.gz", text)).values.tolist()

    assert read(f"{loose!r}\n") == [["0078764343", "Medal & Honor 2", ("Games", "PC", "Toys")]]
    assert read(lines(strict)) == [["B1", "Nook", ("Games", "PC & Mac")]]
    assert read(lines(parent)) == [["B2", "Pad", ("Games", "Pads")]]


def test_metadata_without_a_title_or_with_a_piece_of_script_has_an_empty_one(tmp_path):
    script = "var aPageStart = (new Date()).getTime();"
    path = zipped(
        tmp_path / "meta.json.gz", lines({"asin": "B1"}, {"asin": "B2", "title": script}, {"asin": "B3", "title": None})
    )

    assert read_metadata(path)["title"].tolist() == ["", "", ""]


def test_of_metadata_that_repeats_an_id_the_first_counts(tmp_path):
    path = zipped(tmp_path / "meta.json.gz", lines({"asin": "B1", "title": "a"}, {"asin": "B1", "title": "b"}))

    assert read_metadata(path).values.tolist() == [["B1", "a", ()]]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (lines(OLD) + "<html>\n", r"line 2: expected one JSON object a line, got b'<html>"),
        (lines(OLD) + '{"reviewerID": "A2', "line 2: expected one JSON object a line"),
        (lines(OLD) + "[1, 2]\n", "line 2: expected one JSON object a line"),
        (lines(OLD, NEW), "line 2: the review has no 'reviewerID', only"),
        (
            lines({"asin": "B1", "title": "Nook"}),
            r"line 1: a review has the fields reviewerID.*\['asin', 'title'\]; is it metadata",
        ),
        (lines(OLD, OLD | {"unixReviewTime": 1252800000000}), "line 2: 1252800000000 is no time in s .*1 of 2 rows"),
        (lines(NEW | {"timestamp": 1634275259}), "line 1: 1634275259 is no time in ms"),
        (lines(OLD | {"overall": "five"}), "line 1: rating and time must be numbers, got 'five'"),
        (lines(OLD | {"asin": None}), "line 1: ids must be texts"),
        ("", "is empty: delete it"),
    ],
    ids=["page", "cut", "list", "mixed", "metadata", "ms", "s", "word", "no-id", "empty"],
)
def test_a_line_that_is_no_review_is_named(tmp_path, text, error):
    with pytest.raises(ValueError, match=rf"reviews.json.gz.*{error}"):
        read_reviews(zipped(tmp_path / "reviews.json.gz", text))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("A1,B1,5.0,1365811200\nA1,B2,5.0\n", r"line 2: expected 4 fields \(user_id, item_id, rating, timestamp\)"),
        ("A1,B1,5.0,1365811200\nA1,,5.0,1365811200\n", "line 2: item_id must be an id, got ''"),
        ("A1,B1,5.0,1365811200000\n", "line 1: 1365811200000 is no time in s"),
        (HEADER + "A1,B1,5.0,1365811200\n", "line 1: rating must be a finite number, got 'rating'"),
    ],
    ids=["short", "no-id", "ms", "header"],
)
def test_a_line_that_is_no_rating_is_named(tmp_path, text, error):
    path = tmp_path / "ratings_Beauty.csv"
    path.write_text(text)

    with pytest.raises(ValueError, match=rf"ratings_Beauty.csv, {error}"):
        read_ratings(path, RATINGS_2014)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("A1,B1,5.0,1588615855070\n", "line 1: expected the header 'user_id,parent_asin,rating,timestamp', got 'A1,B1"),
        (HEADER + "A1,B1,5.0,1588615855\n", "line 2: 1588615855 is no time in ms"),
        (
            HEADER + "A1,B1,5.0,1588615855070\nA1,B1,good,1588615855070\n",
            "line 3: rating must be a finite number, got 'good'",
        ),
    ],
    ids=["no-header", "seconds", "word"],
)
def test_a_line_of_2023_that_is_no_rating_is_named(tmp_path, text, error):
    with pytest.raises(ValueError, match=error):
        read_ratings_2023(zipped(tmp_path / "Books.csv.gz", text))


@pytest.mark.parametrize("read", [read_reviews, read_metadata, read_ratings_2023])
def test_a_gzip_file_that_was_cut_off_is_to_be_fetched_again(tmp_path, read):
    if read is read_ratings_2023:
        text = HEADER + "".join(f"A{n},B{n * n},5.0,{1588615855070 + n}\n" for n in range(5000))
    else:
        text = lines(*(OLD | {"reviewerID": f"A{n * n}"} for n in range(2000)))
    path = zipped(tmp_path / "data.gz", text)
    path.write_bytes(path.read_bytes()[:-2000])

    with pytest.raises(ValueError, match=r"data.gz is cut off or damaged .*delete it and get the file again"):
        read(path)


@pytest.mark.parametrize("read", [read_reviews, read_metadata, read_ratings_2023])
def test_a_web_page_that_is_called_gzip_is_recognised(tmp_path, read):
    (tmp_path / "data.gz").write_text("\n<html><title>503</title></html>")

    with pytest.raises(ValueError, match=r"data.gz is a web page"):
        read(tmp_path / "data.gz")
