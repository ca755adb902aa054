"""Data in a user's folders: found by name below one folder, and a name that is not there says what to do."""

import pytest

from layerwise.data.folders import FOLDERS, VARIABLE, is_here, located
from layerwise.data.readers import PATTERNS
from layerwise.lab import lab as lab_module
from layerwise.lab.lab import Lab
from layerwise.lab.store import Store
from layerwise.lab.tiers import TIERS


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder that the variable names, with one of the data sets in it."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "amazon14-toys").mkdir()
    return tmp_path


def test_a_named_data_set_lies_below_the_folder_of_the_variable(place):
    assert located("amazon14-toys") == str(place / "amazon14-toys")
    assert is_here("amazon14-toys")


def test_a_folder_that_is_not_there_is_named_with_the_variable_and_the_files(place):
    with pytest.raises(FileNotFoundError) as error:
        located("amazon14-beauty")

    message = str(error.value)
    assert f"there is no folder {place / 'amazon14-beauty'}" in message
    assert "the one that LAYERWISE_DATA names" in message
    assert all(pattern in message for pattern in PATTERNS)
    assert not is_here("amazon14-beauty")


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_the_message_says_that_it_is_not_set(monkeypatch, value):
    if value is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, value)

    with pytest.raises(FileNotFoundError, match=r"'ml-latest-small' is read .* but LAYERWISE_DATA is not set"):
        located("ml-latest-small")
    assert not is_here("ml-latest-small")


def test_a_file_is_no_folder(place):
    (place / "amazon18-games").write_text("user_id,item_id,timestamp\n")

    assert not is_here("amazon18-games")


@pytest.mark.parametrize("source", ["ml-100k", "some/file.csv", "amazon14-toys/ratings.csv", "AMAZON14-TOYS"])
def test_what_is_no_name_of_a_folder_stays_as_it_is(place, source):
    assert located(source) == source
    assert is_here(source)


def test_every_further_data_set_of_a_tier_has_a_folder():
    """Only those can be missing, and only what can be missing is skipped with a reason."""
    further = {s.dataset for tier in TIERS.values() for s in (*tier.elsewhere, *tier.matched, *tier.transferred)}

    assert further - {tier.subject.dataset for tier in TIERS.values()} <= set(FOLDERS)


@pytest.fixture
def forgetful():
    """The lab keeps splits by name: another folder of the same name must not meet an older one's split."""
    for cache in (lab_module._split, lab_module._data_digest):
        cache.cache_clear()
    yield
    for cache in (lab_module._split, lab_module._data_digest):
        cache.cache_clear()


def test_the_lab_reads_from_the_folder(place, forgetful):
    rows = [f"{user},{(user + step) % 7},{step}" for user in range(4) for step in range(8)]
    folder = place / "ml-latest-small"
    folder.mkdir()
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,timestamp", *rows]))
    further = next(subject for subject in TIERS["standard"].elsewhere if subject.dataset == folder.name)

    split = Lab(Store(place / "store")).split(further)

    assert split.table.num_users == 4
    assert split.table.name == "ml-latest-small"
    assert len(split.test) == 4 * further.test_targets
