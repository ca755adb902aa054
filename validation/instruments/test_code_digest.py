"""The digest of code follows what the code does, not how it is explained."""

from pathlib import Path

import pytest

from layerwise.lab.code import code_digest, with_imports

SOURCE = '''"""Adds."""

RATE = 1  # per second


class Adder:
    """A class."""

    amount: int = 1
    """An attribute."""

    def add(self, value, *, more=None):
        """Returns a sum."""
        return value + self.amount
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "toy" / "inner"
    folder.mkdir(parents=True)
    (tmp_path / "toy" / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("")
    (folder / "adder.py").write_text(SOURCE)
    (tmp_path / "toy" / "other.py").write_text("X = 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# per second", "# per minute"),
        ('"""Adds."""', '"""Adds, in other words."""'),
        ('    """A class."""\n', ""),
        ('"""An attribute."""', '"""Another word."""'),
        ('"""Returns a sum."""', '"""Sum."""'),
        ("value + self.amount", "(value  +  self.amount)"),
    ],
    ids=["comment", "module", "class", "attribute", "function", "layout"],
)
def test_words_and_layout_do_not_change_the_digest(package: Path, old: str, new: str) -> None:
    before = code_digest("toy.inner", root=package)
    assert SOURCE.count(old) == 1
    (package / "toy" / "inner" / "adder.py").write_text(SOURCE.replace(old, new))
    assert code_digest("toy.inner", root=package) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("value + self.amount", "value - self.amount"),
        ("RATE = 1", "RATE = 1.0"),
        ("RATE = 1", "RATE = True"),
        ("more=None", "more=0"),
        ("def add(self, value, *, more", "def add(self, value, more"),
        ("amount: int = 1", "amount: int"),
        ("return value", "yield value"),
    ],
)
def test_code_changes_the_digest(package: Path, old: str, new: str) -> None:
    before = code_digest("toy.inner", root=package)
    assert old in SOURCE
    (package / "toy" / "inner" / "adder.py").write_text(SOURCE.replace(old, new))
    assert code_digest("toy.inner", root=package) != before


def test_text_that_is_used_is_code(package: Path) -> None:
    path = package / "toy" / "other.py"
    path.write_text('X = "a"\n')
    before = code_digest("toy.other", root=package)
    path.write_text('X = "b"\n')
    assert code_digest("toy.other", root=package) != before


def test_new_moved_and_removed_modules_change_the_digest(package: Path) -> None:
    before = code_digest("toy.inner", root=package)
    path = package / "toy" / "inner" / "adder.py"
    (package / "toy" / "inner" / "extra.py").write_text("")
    added = code_digest("toy.inner", root=package)
    (package / "toy" / "inner" / "extra.py").unlink()
    path.rename(path.with_name("renamed.py"))
    moved = code_digest("toy.inner", root=package)
    assert len({before, added, moved}) == 3


def test_only_the_named_modules_count(package: Path) -> None:
    before = code_digest("toy.inner", root=package)
    (package / "toy" / "other.py").write_text("X = 2\n")
    assert code_digest("toy.inner", root=package) == before
    assert code_digest("toy", root=package) != code_digest("toy.inner", root=package)


def test_order_and_repetition_of_names_do_not_matter(package: Path) -> None:
    assert code_digest("toy.other", "toy.inner", root=package) == code_digest(
        "toy.inner", "toy.inner.adder", "toy.other", "toy.inner", root=package
    )


def test_digest_does_not_depend_on_where_the_package_lies(package: Path, tmp_path: Path) -> None:
    before = code_digest("toy", root=package)
    (tmp_path / "elsewhere").mkdir()
    (package / "toy").rename(tmp_path / "elsewhere" / "toy")
    assert code_digest("toy", root=tmp_path / "elsewhere") == before


def test_unknown_name_is_an_error(package: Path) -> None:
    with pytest.raises(ValueError, match=r"no source for 'toy\.missing'"):
        code_digest("toy.missing", root=package)
    with pytest.raises(ValueError, match="at least one"):
        code_digest(root=package)


def test_source_that_does_not_parse_is_named(package: Path) -> None:
    (package / "toy" / "other.py").write_text("def\n")
    with pytest.raises(SyntaxError) as error:
        code_digest("toy.other", root=package)
    assert error.value.filename == str(package / "toy" / "other.py")


def test_own_package_is_found_without_a_root() -> None:
    assert code_digest("layerwise.lab") != code_digest("layerwise.lab.code")


def test_imports_are_followed_but_not_into_the_lab(tmp_path: Path) -> None:
    write(
        tmp_path,
        "top/lab/experiments/one.py",
        "from top.models.net import Net\nfrom top.lab.store import put\nimport numpy\n",
    )
    write(tmp_path, "top/models/net.py", "from top.models import parts\nimport top.data.table as table\n")
    write(
        tmp_path,
        "top/models/parts.py",
        "from .. import nothing_of_ours\n\ndef late():\n    from top.data import rare\n",
    )
    for leaf in ("top/data/table.py", "top/data/rare.py", "top/data/unused.py", "top/lab/store.py"):
        write(tmp_path, leaf, "")

    assert with_imports("top.lab.experiments.one", root=tmp_path, beside="top.lab") == (
        "top.data.rare",
        "top.data.table",
        "top.lab.experiments.one",
        "top.models.net",
        "top.models.parts",
    )


def test_modules_that_import_each_other_end_the_search(tmp_path: Path) -> None:
    write(tmp_path, "top/a.py", "import top.b\n")
    write(tmp_path, "top/b.py", "import top.a\n")

    assert with_imports("top.a", root=tmp_path) == ("top.a", "top.b")


def test_training_depends_on_what_it_runs_and_on_nothing_else() -> None:
    found = with_imports("layerwise.lab.experiments.models")

    assert {"layerwise.models.families", "layerwise.models.training", "layerwise.evaluation.ranking"} <= set(found)
    assert not [name for name in found if name.startswith(("layerwise.compression", "layerwise.importance"))]


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
