"""Categories of items, as publishers write them down."""

import numpy as np
import pandas as pd
import pytest

from layerwise.data.categories import item_categories, rarest_category
from layerwise.data.readers import load_interactions

IDS = np.array(["1", "2", "3"])


def written(folder, name, text):
    (folder / name).write_text(text)
    return folder / "interactions.csv"


def test_genres_of_movielens_come_from_the_item_file_of_recbole():
    table = load_interactions("ml-100k")
    categories = item_categories("ml-100k", table.item_ids)

    assert len(categories) == table.num_items
    assert categories[0] == ("Animation", "Children's", "Comedy")  # Toy Story


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("movies.csv", 'movieId,title,genres\n1,"A, B",Sci-Fi|War\n2,C,(no genres listed)\n9,D,War\n'),
        ("items.csv", "item_id,categories\n1,Sci-Fi|War\n2,\n"),
        ("any.item", "item_id:token\tclass:token_seq\n1\tSci-Fi War\n2\tunknown\n"),
    ],
)
def test_categories_are_read_as_publishers_write_them(tmp_path, name, text):
    assert item_categories(written(tmp_path, name, text), IDS) == [("Sci-Fi", "War"), (), ()]


def test_one_category_may_hold_blanks_outside_recbole(tmp_path):
    events = written(tmp_path, "items.csv", "item_id,categories\n1,Video Games\n")

    assert item_categories(events, IDS)[0] == ("Video Games",)


def test_a_comma_is_part_of_a_name_where_another_mark_divides(tmp_path):
    """Amazon calls a whole department "Clothing, Shoes & Jewelry"."""
    text = 'item_id,categories\n1,"Clothing, Shoes & Jewelry"\n2,"Clothing, Shoes & Jewelry|Women"\n'

    found = item_categories(written(tmp_path, "items.csv", text), IDS)

    assert found == [("Clothing, Shoes & Jewelry",), ("Clothing, Shoes & Jewelry", "Women"), ()]


def test_lists_in_parquet_are_categories(tmp_path):
    pd.DataFrame({"item_id": [1, 2], "categories": [["A", "B"], None]}).to_parquet(tmp_path / "items.parquet")

    assert item_categories(tmp_path, IDS) == [("A", "B"), (), ()]


@pytest.mark.parametrize("text", [None, "item_id,title\n1,A\n", "item_id,categories\n1,\n2,\n"])
def test_data_without_categories_have_none(tmp_path, text):
    if text is not None:
        written(tmp_path, "items.csv", text)

    assert item_categories(tmp_path / "interactions.csv", IDS) is None


def test_an_item_file_of_other_items_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="do the ids agree"):
        item_categories(written(tmp_path, "items.csv", "item_id,categories\nx,A\n"), IDS)


def test_the_rarest_category_of_an_item_is_its_most_specific_one():
    codes, names = rarest_category([("Drama", "War"), ("Drama",), ("Drama", "Comedy"), (), ("Comedy",)])

    assert names == ["Comedy", "Drama", "War"]  # of two items, of one, of one: then by name
    assert codes.tolist() == [2, 1, 0, -1, 0]
