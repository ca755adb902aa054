"""The sizes in docs/models.md are those of the models that are compared."""

from pathlib import Path

from layerwise.evaluation.memory import count_parameters
from layerwise.lab.tiers import TIERS
from layerwise.models.families import FAMILIES
from layerwise.models.recommender import build_recommender

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_table_of_sizes_is_that_of_the_models():
    table = PAGE.read_text().partition("| family | in the layers |")[2].partition("\n\n")[0]
    rows = table.splitlines()[2:]
    subject, counts = TIERS["models"].subject, {}
    for family in FAMILIES:
        counts[family] = count_parameters(build_recommender(family, 1682, subject.max_length, subject.shape, 0))

    assert rows == [
        f"| {family} | {count.of_layers:,} | {count.total:,} | {100 * count.total / counts['llama'].total:.1f} % |"
        for family, count in counts.items()
    ]
