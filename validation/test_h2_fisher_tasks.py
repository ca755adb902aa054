"""H2, tasks: Fisher information from a task ranks that task's removal damage better than another task's does.

Where it stands: hypothesis H2 of the Layerwise Adapter project. Five questions are put to one backbone: next item, like
or dislike, rating, genre and popularity of the next item; damage is the log-likelihood lost. It would be refuted by
Fisher information of the other tasks that ranks a task's damage better than its own.
"""

import pytest

from layerwise.lab.exhibits import floor_checks
from layerwise.lab.hypotheses import fisher_tasks
from layerwise.lab.layer_exhibits import tasks_heatmap
from layerwise.lab.layer_tables import knows_more_than_frequencies


@pytest.mark.claim("fisher-tasks")
@pytest.mark.parametrize("task", ["next-item", "like", "rating", "genre", "popularity"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert", "t5"])
def test_a_tasks_own_fisher_ranks_its_damage_better(study, claim, family, task):
    """A task's own Fisher information ranks its removal damage better than the other tasks' Fisher information."""
    own = study.of(family)
    if task not in own.tasks():
        pytest.skip(f"{own.subject.dataset} has no ratings or categories, which {task} needs")

    for check in [*floor_checks(own), knows_more_than_frequencies(own, task)]:
        claim.require(*check)
    if task == "next-item":
        claim.figure(**tasks_heatmap(own))

    claim.judge(fisher_tasks(own, task))
