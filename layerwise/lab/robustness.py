"""The effects that robustness is judged by: noise in histories, noise in training, and retention by scenario."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from layerwise.data.arrays import IntArray
from layerwise.data.scenarios import SCENARIOS, Scenario, scenario_masks
from layerwise.data.target_facts import BoolArray, target_facts
from layerwise.evaluation.ranking import mean_by_user
from layerwise.lab.experiments import Model
from layerwise.lab.study import Study
from layerwise.statistics import AllOf, MeanDifference, Retention, retained

Values = NDArray[np.float64]
ARMS = ("full", "compact")
CLAIMED = 0.88  # share of NDCG@10
LEAST_USERS = 30  # below, a mean over users says nothing
LEVEL = 0.95
MAIN_SHARE = 0.25  # of the targets, from which on a scenario is a main one; by size, never by result


@dataclass(frozen=True)
class Finding:
    """What was found in a scenario.

    Attributes:
        scenario: Which.
        targets: Number of test targets in it.
        users: Number of users with such a target, each of which counts alike.
        effect: NDCG@10 that the healed models keep; None where there are too few users or nothing to keep.
        main: Whether it is one of the main scenarios.
    """

    scenario: Scenario
    targets: int
    users: int
    effect: Retention | None
    main: bool

    @property
    def why_not(self) -> str:
        """Why it was not run; empty where it was."""
        if self.effect is not None:
            return ""
        few = f"{self.users} users, needs {LEAST_USERS}"
        return f"not run: {few if self.users < LEAST_USERS else 'the full model ranks no target in the first ten'}"


def arm_of(study: Study, arm: str) -> Sequence[Model]:
    """The full or the healed compact models, by the name of the arm."""
    return study.full() if arm == "full" else study.healed()


def ndcg_under_noise(study: Study, arm: str, share: float) -> Values:
    """Test NDCG@10, *seeds x users*, of an arm that reads histories with a share of noise, possibly none."""
    models = arm_of(study, arm)
    values = study.noisy_ndcg(models, share) if share else study.quality(models)["ndcg@10"]
    return values.astype(np.float64)


def loss_by_noise(study: Study, arm: str, share: float) -> MeanDifference:
    """NDCG@10 of an arm with true histories minus with noisy ones."""
    return MeanDifference(ndcg_under_noise(study, arm, 0.0) - ndcg_under_noise(study, arm, share), "NDCG@10")


def history_noise(study: Study, share: float) -> MeanDifference:
    """NDCG@10 that the full models lose by noise in the histories minus what the healed ones lose."""
    full, compact = (loss_by_noise(study, arm, share).values for arm in ARMS)
    return MeanDifference(full - compact, "NDCG@10")


def ndcg_after_training(study: Study, arm: str, noisy: bool) -> Values:
    """Test NDCG@10, *seeds x users*, of an arm that was trained on true or on noisy events."""
    if not noisy:
        return ndcg_under_noise(study, arm, 0.0)
    models: Sequence[Model] = study.noisy_full() if arm == "full" else study.noisy_healed()
    return study.quality(models)["ndcg@10"].astype(np.float64)


def loss_by_noisy_training(study: Study, arm: str) -> MeanDifference:
    """NDCG@10 of an arm that was trained on true events minus of one trained on noisy ones."""
    true, noisy = (ndcg_after_training(study, arm, noisy) for noisy in (False, True))
    return MeanDifference(true - noisy, "NDCG@10")


def training_noise(study: Study) -> MeanDifference:
    """NDCG@10 that the full models lose by noise in training minus what the healed ones lose."""
    full, compact = (loss_by_noisy_training(study, arm).values for arm in ARMS)
    return MeanDifference(full - compact, "NDCG@10")


def findings(study: Study) -> list[Finding]:
    """What was found in every scenario, in the order of `SCENARIOS`."""
    full, healed = (study.target_ndcg(arm_of(study, arm)).astype(np.float64) for arm in ARMS)
    masks, users = masks_of(study), study.split.test.users
    return [_finding(scenario, masks[scenario.name], users, full, healed) for scenario in SCENARIOS]


@lru_cache(maxsize=4)
def masks_of(study: Study) -> Mapping[str, BoolArray]:
    """Name of a scenario -> which test targets of the study belong to it."""
    return scenario_masks(target_facts(study.split, study.categories()))


def scenario_retention(found: Sequence[Finding], main: bool) -> AllOf:
    """The joint effect of all scenarios that were run, or of the main ones: each must keep the claimed share.

    Raises:
        ValueError: None of them was run.
    """
    parts = {one.scenario.name: one.effect for one in found if one.effect is not None and (one.main or not main)}
    if not parts:
        raise ValueError("no scenario has enough users to be judged; take a dataset with more of them")
    return AllOf(parts, dict.fromkeys(parts, CLAIMED))


def _finding(scenario: Scenario, mask: BoolArray, users: IntArray, full: Values, healed: Values) -> Finding:
    inside = users[mask]
    count = len(np.unique(inside))
    effect = None
    if count >= LEAST_USERS and full[:, mask].mean() > 0:
        effect = retained(_by_user(healed[:, mask], inside), _by_user(full[:, mask], inside), "NDCG@10")
    main = effect is not None and not scenario.crossed and bool(mask.mean() >= MAIN_SHARE)
    return Finding(scenario, int(mask.sum()), count, effect, main)


def _by_user(values: Values, users: IntArray) -> Values:
    """Means over each user's targets, *seeds x users*."""
    return np.stack([mean_by_user(seed, users) for seed in values]).astype(np.float64)
