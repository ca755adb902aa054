"""A hundred scenarios: the claimed 88 % of NDCG@10 are kept in each of them, not only on average.

Where it stands: CLAIMS, "100 named test scenarios", and the table of targets. Users count alike in every scenario, by
the mean over their targets in it. The joint claim holds where every scenario is shown to keep the share (an
intersection-union test); it is refuted where one is shown, at the error rate over their number, to keep less. The
main scenarios, large enough to be decided, are one case, all that hold enough users the other.
"""

import pytest

from layerwise.lab.exhibits import cut_checks, floor_checks
from layerwise.lab.robustness import ARMS, findings, scenario_retention
from layerwise.lab.robustness_checks import target_check
from layerwise.lab.robustness_tables import not_run, scenario_figure, scenario_table


@pytest.mark.claim("scenario-retention")
@pytest.mark.parametrize("scenarios", ["main", "all"])
@pytest.mark.parametrize("family", ["llama"])
def test_healed_compact_model_keeps_the_claimed_share_in_every_scenario(study, claim, family, scenarios):
    """With 75 % of its layers removed and healed, a recommender keeps 88 % of NDCG@10 for whom and when it may be."""
    own = study.of(family)
    found = findings(own)

    for check in [*floor_checks(own), *cut_checks(own, own.healed()), *(target_check(own, arm) for arm in ARMS)]:
        claim.require(*check)
    if scenarios == "main":
        claim.table(**scenario_table(found))
        claim.figure(**scenario_figure(found))

    claim.judge(scenario_retention(found, main=scenarios == "main"), notes={"not run": "; ".join(not_run(found))})
