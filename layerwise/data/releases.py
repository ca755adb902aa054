"""Published data sets by name: where their publishers keep them, what they hold and on which terms.

Hashes are given where the publisher, or a named source, gives them; what was seen of a source stands beside it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Layout = Literal["grouplens", "amazon-reviews", "amazon-2014-ratings", "amazon-2018-ratings", "amazon-2023-ratings"]


@dataclass(frozen=True)
class RemoteFile:
    """A file on its publisher's server.

    Attributes:
        url: Where it lies.
        size: Its length in bytes, None where no source gives it.
        digest: Its hash as ``kind:hexadecimal``, None where no source gives one.
        digest_source: Who gives the hash.
    """

    url: str
    size: int | None = None
    digest: str | None = None
    digest_source: str = ""

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Release:
    """A data set as its publisher hands it out.

    Attributes:
        name: What `load_interactions` is given, such as ``"grouplens/ml-1m"``.
        layout: How its files are to be read.
        events: The file that holds the events.
        items: The file that holds titles and categories; the same one for GroupLens.
        terms: What its publisher allows, in a sentence.
        citation: The paper that users are asked to cite.
    """

    name: str
    layout: Layout
    events: RemoteFile
    items: RemoteFile
    terms: str
    citation: str

    @property
    def table_name(self) -> str:
        """The name in reports; that of a MovieLens release is what the audit knows its counts by."""
        return self.name.removeprefix("grouplens/").replace("/", "-")


_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_GROUPLENS_TERMS = "Research only; no commercial use without permission, no endorsement implied; see its README."
_MOVIELENS_PAPER = "Harper & Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015"
# Name -> size in bytes, hash. GroupLens publishes the MD5 of every benchmark as a file of its own, <url>.md5.
_MOVIELENS = {
    "ml-100k": (4_924_029, "md5:0e33842e24a9c977be4e0107933c0723"),
    "ml-1m": (5_917_549, "md5:c4d9eecfca2ab87c1945afe126590906"),
    "ml-10m": (65_566_137, "md5:ce571fd55effeba0271552578f2648bd"),
    "ml-20m": (198_702_078, "md5:cd245b17a1ae2cc31bb14903e1204af3"),
    "ml-25m": (261_978_986, "md5:6b51fb2759a8657d3bfcbfc42b592ada"),
    "ml-32m": (238_950_008, "md5:d472be332d4daa821edc399621853b57"),
}

_MCAULEY = "https://mcauleylab.ucsd.edu/public_datasets/data"
_AMAZON_TERMS = "Made for research; its publisher names no licence, product texts remain Amazon's and its sellers'."
_PAPER_2014 = "McAuley, Targett, Shi & van den Hengel, SIGIR 2015; He & McAuley, WWW 2016"
_PAPER_2018 = "Ni, Li & McAuley, Justifying Recommendations using Distantly-Labeled Reviews, EMNLP 2019"
_PAPER_2023 = "Hou et al., Bridging Language and Items for Retrieval and Recommendation, arXiv:2403.03952, 2024"
_CATEGORIES = (
    "Books",
    "Clothing_Shoes_and_Jewelry",
    "Electronics",
    "Grocery_and_Gourmet_Food",
    "Musical_Instruments",
    "Office_Products",
    "Sports_and_Outdoors",
    "Toys_and_Games",
    "Video_Games",
)  # the tenth is beauty, whose name every edition changed


def _movielens() -> Iterable[Release]:
    for name, (size, digest) in _MOVIELENS.items():
        url = f"{_GROUPLENS}/{name}.zip"
        yield _movielens_release(name, RemoteFile(url, size, digest, f"{url}.md5"))
    # May change and has no published hash; this one is the edition of September 2018.
    digest = "sha256:696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436"
    source = "tensorflow/datasets, url_checksums/movielens.txt"
    latest = RemoteFile(f"{_GROUPLENS}/ml-latest-small.zip", 978_202, digest, source)
    yield _movielens_release("ml-latest-small", latest)


def _movielens_release(name: str, file: RemoteFile) -> Release:
    return Release(f"grouplens/{name}", "grouplens", file, file, _GROUPLENS_TERMS, _MOVIELENS_PAPER)


def _amazon() -> Iterable[Release]:
    for category in ("Beauty", *_CATEGORIES):
        place = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
        items = f"{place}/meta_{category}.json.gz"
        yield _amazon_release("2014", category, "amazon-reviews", f"{place}/reviews_{category}_5.json.gz", items)
        yield _amazon_release("2014-ratings", category, "amazon-2014-ratings", f"{place}/ratings_{category}.csv", items)
    for category in ("Luxury_Beauty", *_CATEGORIES):
        place = f"{_MCAULEY}/amazon_v2/categoryFilesSmall"
        items = f"{_MCAULEY}/amazon_v2/metaFiles2/meta_{category}.json.gz"
        yield _amazon_release("2018", category, "amazon-reviews", f"{place}/{category}_5.json.gz", items)
        yield _amazon_release("2018-ratings", category, "amazon-2018-ratings", f"{place}/{category}.csv", items)
    for category in ("Beauty_and_Personal_Care", *_CATEGORIES):
        place = f"{_MCAULEY}/amazon_2023"
        items = f"{place}/raw/meta_categories/meta_{category}.jsonl.gz"
        for edition, path in {"2023": "benchmark/5core", "2023-0core": "benchmark/0core"}.items():
            events = f"{place}/{path}/rating_only/{category}.csv.gz"
            yield _amazon_release(edition, category, "amazon-2023-ratings", events, items)
        raw = f"{place}/raw/review_categories/{category}.jsonl.gz"
        yield _amazon_release("2023-reviews", category, "amazon-reviews", raw, items)


def _amazon_release(edition: str, category: str, layout: Layout, events: str, items: str) -> Release:
    paper = {"2014": _PAPER_2014, "2018": _PAPER_2018, "2023": _PAPER_2023}[edition.partition("-")[0]]
    name = f"amazon-{edition}/{category}"
    return Release(name, layout, RemoteFile(events), RemoteFile(items), _AMAZON_TERMS, paper)


def by_name(releases: Iterable[Release]) -> Mapping[str, Release]:
    """The releases by name.

    Raises:
        ValueError: If two share a name.
    """
    table: dict[str, Release] = {}
    for release in releases:
        if release.name in table:
            raise ValueError(f"two releases are called {release.name!r}; a name must say which files are meant")
        table[release.name] = release
    return table


RELEASES = by_name([*_movielens(), *_amazon()])
