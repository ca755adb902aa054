"""What the README shows works as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from layerwise.models.families import Shape
from layerwise.models.recommender import build_recommender
from reports.declarations import read_declarations

README = Path(__file__).parents[2] / "README.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.fixture
def own_model_and_data(tmp_path, monkeypatch):
    """A folder with what the README calls my-recommender and my-interactions.csv."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [f"{user},{item},{time}" for user in range(40) for time, item in enumerate(rng.permutation(30)[:12])]
    Path("my-interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    build_recommender("llama", 30, 10, Shape(4, 16, 32, 2), seed=0).save(Path("my-recommender"))


def test_your_own_model(own_model_and_data, capsys):
    code = next(block for block in blocks("python") if "my-recommender" in block)

    exec(compile(code, "README.md", "exec"), {})

    assert re.search(r"\(\d, \d\) .*(supported|refuted|inconclusive)", capsys.readouterr().out)
    model, report = AutoModelForCausalLM.from_pretrained("my-compact-recommender", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.num_hidden_layers == 2


def test_your_own_claim_is_a_valid_declaration(tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text(blocks("toml")[0])

    declared = read_declarations(path).declared("quick")

    assert set(declared) == {("two-layers-suffice", "default")}


def test_every_option_of_the_readme_exists():
    folders = ("fixtures", "reports", "layerwise/commands")
    sources = [path for folder in folders for path in (README.parent / folder).glob("*.py")]
    known = set(re.findall(r'"(--[a-z-]+)"', "".join(path.read_text() for path in sources)))

    assert set(re.findall(r"(--[a-z-]+)", README.read_text())) <= known
