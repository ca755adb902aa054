"""The table of releases: every name says which files it means, on which terms, and its hashes have a named source."""

import re
from pathlib import Path

import pytest

from layerwise.data.folders import FOLDERS
from layerwise.data.readers import RECBOLE_FILES
from layerwise.data.releases import RELEASES, by_name

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"
MOVIELENS = ["ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m", "ml-latest-small"]
LENGTHS = {"md5": 32, "sha256": 64}


def test_there_are_seven_movielens_releases_and_ten_categories_of_each_amazon_edition():
    assert [name for name in RELEASES if name.startswith("grouplens/")] == [f"grouplens/{name}" for name in MOVIELENS]
    for edition in ("2014", "2014-ratings", "2018", "2018-ratings", "2023", "2023-0core", "2023-reviews"):
        assert sum(name.startswith(f"amazon-{edition}/") for name in RELEASES) == 10
    assert len(RELEASES) == 7 + 7 * 10


def test_no_release_takes_the_name_of_a_wheel_or_folder():
    assert not set(RELEASES) & (set(RECBOLE_FILES) | set(FOLDERS))


def test_two_releases_of_one_name_are_refused():
    release = RELEASES["grouplens/ml-1m"]

    with pytest.raises(ValueError, match="two releases are called 'grouplens/ml-1m'"):
        by_name([release, release])


def test_no_two_releases_have_the_same_events():
    assert len({release.events.url for release in RELEASES.values()}) == len(RELEASES)


def test_no_two_releases_have_the_same_name_in_reports():
    assert len({release.table_name for release in RELEASES.values()}) == len(RELEASES)


@pytest.mark.parametrize("release", RELEASES.values(), ids=lambda release: release.name)
def test_a_release_says_where_it_is_and_on_which_terms(release):
    assert re.fullmatch(r"[a-z0-9-]+/[A-Za-z0-9_-]+", release.name)
    assert release.events.url.startswith("https://")
    assert release.items.url.startswith("https://")
    assert release.terms
    assert re.search(r"(19|20)\d\d", release.citation)
    for file in (release.events, release.items):
        assert re.fullmatch(r"[A-Za-z0-9_.-]+\.(zip|json\.gz|jsonl\.gz|csv\.gz|csv)", file.name)
        assert (file.digest is None) == (not file.digest_source)
        if file.digest:
            kind, _, digest = file.digest.partition(":")
            assert re.fullmatch(r"[0-9a-f]+", digest)
            assert len(digest) == LENGTHS[kind]
            assert file.size


def test_events_and_items_of_a_release_lie_in_different_files_unless_it_is_one_archive():
    for release in RELEASES.values():
        assert (release.events.name == release.items.name) == (release.layout == "grouplens")


def test_every_release_and_folder_stands_in_the_docs():
    text = PAGE.read_text()

    missing = [name for name in FOLDERS if f"`{name}`" not in text]
    missing += [name for name in RELEASES if name.startswith("grouplens/") and f"`{name}`" not in text]
    editions = {name.partition("/")[0] for name in RELEASES if name.startswith("amazon-")}
    categories = {name.partition("/")[2] for name in RELEASES if name.startswith("amazon-")}
    missing += [edition for edition in editions if f"`{edition}/" not in text]
    missing += [category for category in categories if category not in text]
    assert not missing


@pytest.mark.parametrize("name", MOVIELENS)
def test_the_size_of_a_movielens_release_in_the_docs_is_that_of_the_table(name):
    (row,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `grouplens/{name}`")]

    assert f"{RELEASES[f'grouplens/{name}'].events.size:,}" in row
