"""What docs/speed.md shows works as it stands there."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "speed.md"


def test_the_example_of_the_page_runs_and_its_bound_is_the_ratio_of_layers(capsys):
    names = {}
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)

    exec(compile(block, str(PAGE), "exec"), names)

    assert names["bound"].layers == names["timed"].bound == 8 / 2
    assert all(1 < ratio < 4 for ratio in names["bound"].regimes)
    assert "times as fast; by layers 4.00" in capsys.readouterr().out
