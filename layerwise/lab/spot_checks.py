"""Stored results faced with a few of them computed anew, by a plain way of their own.

A store says what it holds, but not that it is true: a model with other layers than it claims, values of other users or
of another ranking, numbers that no model gave. Each check takes a sample small enough for every run, and is handed to
`claim.require`.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from layerwise.compression.selection import number_to_keep
from layerwise.data.arrays import FloatArray, IntArray
from layerwise.data.audit import audit
from layerwise.data.splits import Split
from layerwise.importance.attention import attention_profile
from layerwise.importance.scores import layer_scores
from layerwise.lab.experiments import Model
from layerwise.lab.study import Study
from layerwise.models.recommender import Recommender

Check = tuple[bool, str]
USERS = 20  # whose targets are ranked anew, per model
SEQUENCES = 64  # of which Fisher information is computed anew, per seed
METRICS = ("ndcg@5", "ndcg@10", "mrr")
SAME = 1e-6  # values further apart come from other ranks
ROUNDING = 0.05  # share of users whose rank another order of summation may move past a neighbour
AGREEMENT = 0.6  # least mean correlation of the logarithms of a sample's scores and the stored ones; chance is 0
FACTOR = 2.0  # by which a layer's score may differ from the stored one, geometric mean over seeds


def data_check(split: Split) -> Check:
    """Whether the data are the known variant, nothing that is asked was seen, and no order gives it away."""
    facts = audit(split)
    sound = facts.is_expected and not facts.seen_targets and not facts.has_sorted_ties
    return sound, f"data: {facts.sentences()[0]}"


def training_check(split: Split) -> Check:
    """Whether what trains ends, for every user, before what validates and tests begins."""
    starts, sequences = split.table.offsets[:-1], split.train_sequences()
    ends = starts + np.array([len(sequence) for sequence in sequences])
    asked = [split.validation, split.test]
    inside = sum(int((targets.positions < ends[targets.users]).sum()) for targets in asked)
    foreign = sum(
        int(not np.array_equal(sequence, split.table.items[start : start + len(sequence)]))
        for start, sequence in zip(starts, sequences, strict=True)
    )
    return (
        not inside and not foreign,
        f"no event that is asked may train: {inside} of {sum(map(len, asked))} targets lie in the training sequences, "
        f"and {foreign} of {len(sequences)} sequences are not the first events of their user",
    )


@lru_cache(maxsize=64)
def depth_check(study: Study, models: tuple[Model, ...], share: float) -> Check:
    """Whether the models really have the share of layers that is claimed of them, and kept what they say."""
    expected = sum(number_to_keep(depth, share) for depth in study.depths)
    found = sorted({len(study.model(model).layers) for model in models})
    said = sorted({len(study.lab.course(model)["kept_layers"]) for model in models})
    return (
        found == said == [expected],
        f"a model of {share:.0%} of {sum(study.depths)} layers must have {expected}: it has {_listed(found)} and says "
        f"that it keeps {_listed(said)}",
    )


@lru_cache(maxsize=64)
def ranking_check(study: Study, models: tuple[Model, ...], name: str) -> Check:
    """Whether stored metrics are those of these models, users and targets, ranked against the whole catalogue."""
    split, stored = study.split, study.quality(models)
    users = np.unique(split.test.users)
    shape = stored[METRICS[0]].shape
    if shape != (len(models), len(users)):
        return False, f"the {name} must be judged on {len(models)} seeds x {len(users)} users, got {shape}"
    rows = np.unique(np.linspace(0, len(users) - 1, USERS).astype(np.int64))
    found = np.stack([stored[metric][:, rows] for metric in METRICS], axis=-1)  # seeds x users x metrics
    counted = np.stack([counted_metrics(study.model(model), split, users[rows]) for model in models])
    apart = np.abs(found - counted)
    differ, total = int((apart.max(axis=-1) > SAME).sum()), found[..., 0].size
    worst = np.unravel_index(apart.argmax(), apart.shape)
    example = f", at most {found[worst]:.4f} stored and {counted[worst]:.4f} counted" if differ else ""
    return (
        differ <= ROUNDING * total,
        f"the stored ranking of the {name} must be what its model gives against the whole catalogue, counted one by "
        f"one: {differ} of {total} users differ{example}",
    )


def counted_metrics(recommender: Recommender, split: Split, users: IntArray, read: Split | None = None) -> FloatArray:
    """Metrics by the definition: for each target, how many unseen items score higher, and how many the same.

    Args:
        recommender: Model to judge.
        split: Where targets and what was seen come from.
        users: Whose targets are ranked.
        read: Where the histories come from that the model reads, if they are others than what was seen.

    Returns:
        Means over each user's targets, *users x metrics*, in the order of `METRICS`.
    """
    rows = np.flatnonzero(np.isin(split.test.users, users))
    starts = split.table.offsets[split.test.users[rows]]
    places = [slice(a, b) for a, b in zip(starts, split.test.positions[rows], strict=True)]
    histories, told = ([of.table.items[place] for place in places] for of in (split, read or split))
    targets = split.table.items[split.test.positions[rows]]
    gains = np.array([*map(_gains, recommender.scores(told), targets, histories)])
    return np.stack([gains[split.test.users[rows] == user].mean(axis=0) for user in users])


def _gains(scores: FloatArray, target: int, history: IntArray) -> list[float]:
    """NDCG@5, NDCG@10 and MRR, the mean over the ranks that a tie leaves open."""
    unseen = np.setdiff1d(np.arange(len(scores)), [*history, target])
    better = int((scores[unseen] > scores[target]).sum())
    tied = int((scores[unseen] == scores[target]).sum())
    ranks = np.arange(better + 1, better + tied + 2)
    discounted = 1 / np.log2(ranks + 1)
    return [float((discounted * (ranks <= k)).mean()) for k in (5, 10)] + [float((1 / ranks).mean())]


def fisher_check(study: Study, methods: tuple[str, ...]) -> Check:
    """Whether stored scores are about what the same measure gives on a few of the sequences, layer by layer.

    Values are compared, not ranks: layers that are nearly alike change places from sample to sample.
    """
    found = {method: _agreement(study, method) for method in methods}
    said = ", ".join(f"{method} {agreement:.2f}, {factor:.3g}" for method, (agreement, factor) in found.items())
    return (
        all(agreement >= AGREEMENT and factor <= FACTOR for agreement, factor in found.values()),
        f"stored scores must be about those computed anew on a sample, correlation of logarithms at "
        f"least {AGREEMENT} and no layer off by more than a factor of {FACTOR:g}: {said}",
    )


@lru_cache(maxsize=64)
def _agreement(study: Study, method: str) -> tuple[float, float]:
    """Mean correlation over seeds, nan for scores that do not vary, and the largest factor between layers."""
    usable = [sequence for sequence in study.split.train_sequences() if len(sequence) > 1]
    sample = usable[:: max(1, len(usable) // SEQUENCES)]
    stored, anew = study.layer_scores(method), []
    for full in study.full():
        model = study.model(full)
        anew.append(layer_scores(model, model.labelled_batches(sample), method))
    logs = [np.log(np.maximum(scores, np.finfo(np.float64).tiny)) for scores in (stored, np.stack(anew))]
    left, right = (rows - rows.mean(axis=1, keepdims=True) for rows in logs)
    with np.errstate(invalid="ignore"):
        correlations = (left * right).sum(axis=1) / np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    return float(correlations.mean()), float(np.exp(np.abs((logs[0] - logs[1]).mean(axis=0)).max()))


@lru_cache(maxsize=64)
def attention_check(study: Study) -> Check:
    """Whether stored attention is that of the models: one batch of real maps, anew."""
    furthest = 0.0
    for full, portrait in zip(study.full(), study.portraits(), strict=True):
        model = study.model(full)
        batches = model.labelled_batches(study.split.train_sequences())
        sizes = [len(batch["input_ids"]) for batch in batches]
        middle = len(batches) // 2
        examples = slice(sum(sizes[:middle]), sum(sizes[: middle + 1]))
        anew = attention_profile(model, [batches[middle]])
        for stored, found in ((portrait.entropy, anew.entropy), (portrait.distance, anew.distance)):
            furthest = max(furthest, _distance(stored[:, examples], found))
    return (
        furthest <= 1e-3,
        f"stored attention must be that of the models' own maps, computed anew for one batch: at most {furthest:.2g} "
        "apart",
    )


def _distance(stored: FloatArray, found: FloatArray) -> float:
    """Largest difference; infinite where shapes differ or only one is undefined."""
    if stored.shape != found.shape or not np.array_equal(np.isnan(stored), np.isnan(found)):
        return float("inf")
    return float(np.nanmax(np.abs(stored - found), initial=0.0))


@lru_cache(maxsize=64)
def damage_check(study: Study) -> Check:
    """Whether removal damage starts, user by user, from the quality that the full models have elsewhere."""
    stored = study.quality(study.full())["ndcg@10"]
    started = np.stack([damage.full for damage in study.damage()])
    if stored.shape != started.shape:
        return False, f"removal damage must be of the same seeds and users: {started.shape} against {stored.shape}"
    differ = int((np.abs(stored - started) > SAME).sum())
    return (
        differ <= ROUNDING * stored.size,
        f"removal damage must start from the full models' own quality: {differ} of {stored.size} values differ",
    )


def _listed(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))
