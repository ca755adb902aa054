"""What the docs say can be done can be done: commands, options, environments, links, and the tutorial as it stands."""

import configparser
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from layerwise.commands import compress, main
from layerwise.lab.engine import closure
from layerwise.models.families import Shape
from layerwise.models.recommender import build_recommender
from reports.claims_page import page
from reports.declarations import read_declarations

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
SEVERAL = re.compile(r"\b(tox run -e|python -m|layerwise|pytest) [^`\n]*")


def commands(path):
    """Every command in a page's code, in blocks and within lines."""
    text = path.read_text()
    code = [*re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)]
    lines = [line.partition("  #")[0].strip() for part in code for line in part.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if SEVERAL.match(part.strip())]


def words_of(command):
    return shlex.split(command.replace("...", "").replace("…", ""))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_environments_and_modules_that_are_named_exist(path):
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "tox.ini")
    for command in commands(path):
        words = words_of(command)
        if command.startswith("tox run -e"):
            assert {f"testenv:{name}" for name in words[3].split(",")} <= set(settings.sections()), command
        if command.startswith("python -m"):
            assert find_spec(words[2]), command


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_options_that_are_named_exist(path):
    sources = [*(ROOT / "fixtures").glob("*.py"), *(ROOT / "reports").glob("*.py"), *(ROOT / "layerwise").rglob("*.py")]
    known = set(re.findall(r'"(--[a-z-]+)"', "".join(source.read_text() for source in sources)))
    of_others = {"--junit-xml", "--lf", "--no-deps", "--collect-only", "--tb", "--benchmark-columns", "--ignore"}

    for command in commands(path):
        options = {word.partition("=")[0] for word in words_of(command) if word.startswith("--") and len(word) > 2}
        assert options <= known | of_others, command


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()

    assert [path.name for path in DOCS if path.name != "README.md" and f"]({path.name})" not in index] == []


def test_the_page_of_claims_is_made_from_the_declarations():
    made = page(read_declarations(ROOT / "validation" / "claims.toml"))

    assert (ROOT / "docs" / "claims.md").read_text() == made, "python -m reports.claims_page > docs/claims.md"


def test_the_verdict_in_three_lines(capsys):
    code = (ROOT / "docs" / "verdicts.md").read_text().partition("```python\n")[2].partition("```")[0]

    exec(compile(code, "verdicts.md", "exec"), {})

    assert capsys.readouterr().out.startswith("supported: keeps 97.1 % of NDCG@10")


@pytest.fixture
def readers_folder(tmp_path, monkeypatch):
    """A folder with what the tutorial calls my-interactions.csv and my-language-model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAYERWISE_STORE", str(tmp_path / "store"))
    rng = np.random.default_rng(0)
    rows = [f"u{user},i{item},{time}" for user in range(40) for time, item in enumerate(rng.permutation(30)[:12])]
    Path("my-interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    build_recommender("llama", 60, 60, Shape(2, 8, 16, 2), seed=0).model.save_pretrained("my-language-model")


def test_the_tutorial_as_it_stands(readers_folder, monkeypatch, capsys):
    """Every `layerwise` command runs as written, in order; trainings are made in this process, of fewer epochs."""

    def run(lab, experiments, workers=None):
        for experiment in closure(experiments):
            lab.build(experiment)

    monkeypatch.setattr(compress.engine, "run", run)
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.DOTALL)
    given = [shlex.split(line) for block in blocks for line in block.splitlines() if line.startswith("layerwise ")]

    status = [main.main([*words[1:], "--epochs", "1"]) for words in given]

    assert len(status) >= 4
    assert set(status) <= {0, 1}  # 1: not shown with so few users
    assert Path("compact/README.md").exists()
    assert Path("compact-from-mine/config.json").exists()
    assert "empirical-fisher" in capsys.readouterr().out
