"""Transfer: layers selected on one dataset or category, evaluated on another.

Where it stands: CLAIMS, robustness and scale ("10 Amazon categories, MovieLens"). Item tokens know one catalogue, so
that no model moves: what moves is the choice. The layers that Fisher information chose on another dataset are kept in
the full model of this one, untrained and without bridges, against those that it chose here. It would be refuted where
the interval of elsewhere over home lies below 95 %. Whether a rule that looks at no data does as well is a claim of
its own: then a choice that travels says nothing for Fisher information.
"""

import pytest

from layerwise.lab.transfer import agreement, every_pair, over_rules, studies_of, transferred
from layerwise.lab.transfer_checks import choice_checks, model_checks, transfer_checks
from layerwise.lab.transfer_tables import (
    choices_table,
    matrix_figure,
    matrix_table,
    scores_figure,
    transfer_notes,
    transfer_remarks,
)

DATASETS = {
    "ml-100k": None,
    "beauty": "amazon14-beauty",
    "toys": "amazon14-toys",
    "grocery": "amazon14-grocery-trainpart",
    "instruments": "amazon18-instruments-order",
    "office": "amazon18-office-recent",
}
SETS = pytest.mark.parametrize("dataset", [pytest.param(at, id=name) for name, at in DATASETS.items()])
SHARES = pytest.mark.parametrize("share", [0.5, 0.25], ids="keep{:.0%}".format)


@pytest.fixture
def everywhere(study_on):
    """The study on a dataset; skips where any of the datasets is absent, for each chooses layers for all others."""
    studies = {dataset: study_on(dataset) for dataset in DATASETS.values()}
    return studies.__getitem__


@pytest.mark.claim("transfer-retention")
@SHARES
@SETS
def test_layers_chosen_elsewhere_keep_what_those_chosen_at_home_keep(everywhere, claim, dataset, share):
    """A bare cut by layers chosen on other datasets, the mean over them, keeps 95 % of one by layers chosen here."""
    study = everywhere(dataset)
    for check in transfer_checks(study, share):
        claim.require(*check)

    claim.judge(transferred(study, share), notes=transfer_notes(study, share))


@pytest.mark.claim("transfer-every-pair")
@SHARES
def test_layers_chosen_on_any_dataset_serve_any_other(everywhere, claim, share):
    """For every ordered pair, a bare cut by layers chosen on the first dataset keeps 95 % of the second one's own."""
    studies = studies_of(everywhere(None))
    for study in studies.values():
        for check in [*model_checks(study), *choice_checks(study, share)]:
            claim.require(*check)
    for remark in transfer_remarks(studies, share):
        claim.remark(remark)
    claim.table(**matrix_table(studies, share))
    claim.table(**choices_table(studies, share))
    claim.figure(**matrix_figure(studies, share))

    claim.judge(every_pair(studies, share))


@pytest.mark.claim("transfer-over-rules")
@SHARES
@SETS
def test_layers_chosen_elsewhere_beat_rules_that_look_at_no_data(everywhere, claim, dataset, share):
    """A bare cut by layers chosen on other datasets has more NDCG@10 than the first and than evenly spread layers."""
    study = everywhere(dataset)
    for check in transfer_checks(study, share):
        claim.require(*check)

    claim.judge(over_rules(study, share))


@pytest.mark.claim("transfer-agreement")
@pytest.mark.parametrize("case", ["llama"])
def test_datasets_put_the_layers_into_one_order(everywhere, claim, case):
    """Fisher information puts the layers into much the same order on all datasets."""
    studies = studies_of(everywhere(None))
    for study in studies.values():
        for check in model_checks(study):
            claim.require(*check)
    claim.figure(**scores_figure(studies))

    claim.judge(agreement(studies), notes={"by chance": f"W is 1 / {len(studies)} on average"})
