"""Worlds in which the truth is known: resampled evidence whose effect lies exactly where it is put.

An interval is believed when it is right in worlds like the one it was made for. Such a world keeps what real evidence
has (skewed, mostly zero values per user, two arms that fail on the same users, seeds that disagree) and moves only the
mean. Put on the edge of a claimed region it is the least favourable case of a claim that is not true.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import singledispatch

import numpy as np

from layerwise.statistics.all_of import AllOf
from layerwise.statistics.base import Effect
from layerwise.statistics.classification_gain import ClassificationGain
from layerwise.statistics.exact import Exact
from layerwise.statistics.mean_difference import MeanDifference
from layerwise.statistics.rank_advantage import RankAdvantage
from layerwise.statistics.rank_correlation import RankCorrelation
from layerwise.statistics.retention import Retention
from layerwise.statistics.seed_mean import SeedMean
from layerwise.statistics.speedup import Speedup
from layerwise.statistics.tables import FloatArray
from layerwise.statistics.two_way import variance_parts


class NoWorldError(ValueError):
    """No world can be made from this evidence; the message says why."""


def world_at(effect: Effect, truth: float, rng: np.random.Generator) -> Effect:
    """An effect of the same kind and size, measured in a world where its true value is `truth`.

    - *Retention, mean difference*: the linear form (compact - truth * full, or the values) loses its mean and the means
      of its seeds; users are drawn with replacement, both arms and all seeds together; seeds get new effects.
    - *Classification gain*: the log odds of one arm move by one amount per seed, towards the labels or away from them;
      users are drawn with replacement, both arms and all seeds together; seeds get new effects.
    - *Rank correlation* (truth 0): every seed's scores are dealt to its layers at random; users are drawn.
    - *Rank advantage* (truth 0): in every seed one of the scores, its own or a rival's, is its own at random.
    - *Speedup*: the blocks' log ratios around their mean get random signs, as if the models swapped places.
    - *Joint verdict* (truth 0): one part at random sits on its edge; the others are certainly above theirs.

    New seed effects are normal, with the variance component that the seeds show beyond their share of the users' noise.
    Drawing the few seeds again would make their variance too small by 1 / seeds and often zero; five values cannot tell
    the shape of a distribution, so that the worlds take the seeds' normality for granted. They do not take it for the
    users or for the interaction of users and seeds.

    Args:
        effect: What was measured.
        truth: Its value in the world, on the displayed scale.
        rng: Decides the world; the same state gives the same world.

    Returns:
        What would be measured there.

    Raises:
        NoWorldError: Evidence without noise, too small to tell or undefined, or a truth that its kind cannot have.
    """
    if math.isnan(effect.estimate):
        raise NoWorldError("its estimate is undefined")
    return _world(effect, truth, rng)


@singledispatch
def _world(effect: Effect, truth: float, rng: np.random.Generator) -> Effect:
    raise NoWorldError("it is a number without sampling error: judged exactly")  # Exact, and what else is one


@_world.register
def _retention(effect: Retention, truth: float, rng: np.random.Generator) -> Effect:
    _require_noise(effect, truth)
    users = _drawn(effect.num_units, rng)
    full = effect.full[:, users]
    return replace(effect, compact=truth * full + _noise(effect.compact - truth * effect.full, users, rng), full=full)


@_world.register
def _mean_difference(effect: MeanDifference, truth: float, rng: np.random.Generator) -> Effect:
    _require_noise(effect, truth)
    return replace(effect, values=truth + _noise(effect.values, _drawn(effect.num_units, rng), rng))


@_world.register
def _classification_gain(effect: ClassificationGain, truth: float, rng: np.random.Generator) -> Effect:
    _require_noise(effect, truth)
    moved = effect.shifted(truth + _seed_deviation(effect) * rng.standard_normal(effect.num_seeds))
    groups = [np.flatnonzero(effect.users == user) for user in np.unique(effect.users)]
    drawn = [groups[user] for user in _drawn(len(groups), rng)]
    rows = np.concatenate(drawn)
    users = np.repeat(np.arange(len(drawn), dtype=np.float64), [len(group) for group in drawn])
    return replace(
        effect, ours=moved.ours[:, rows], theirs=moved.theirs[:, rows], labels=effect.labels[rows], users=users
    )


def _seed_deviation(effect: ClassificationGain) -> float:
    """What the seeds' gains vary by beyond their share of the users' noise."""
    summary = effect.summary
    return math.sqrt(effect.num_seeds * summary.seed_share) * summary.standard_error


@_world.register
def _rank_correlation(effect: RankCorrelation, truth: float, rng: np.random.Generator) -> Effect:
    _require_zero(effect, truth)
    dealt = rng.permuted(effect.scores, axis=1)
    return replace(effect, scores=dealt, damage=effect.damage[:, :, _drawn(effect.num_units, rng)])


@_world.register
def _rank_advantage(effect: RankAdvantage, truth: float, rng: np.random.Generator) -> Effect:
    _require_zero(effect, truth)
    contenders = np.concatenate([effect.scores[None], effect.rivals])  # [1 + rivals, seeds, layers]
    order = rng.permuted(np.indices(contenders.shape[:2])[0], axis=0)
    dealt = np.take_along_axis(contenders, order[..., None], axis=0)
    return replace(effect, scores=dealt[0], rivals=dealt[1:], damage=effect.damage[:, :, _drawn(effect.num_units, rng)])


@_world.register
def _speedup(effect: Speedup, truth: float, rng: np.random.Generator) -> Effect:
    _require_noise(effect, truth)
    ratios = np.log(effect.full_ms / effect.compact_ms)
    swapped = rng.choice((-1.0, 1.0), size=ratios.size) * (ratios - ratios.mean())
    return replace(effect, compact_ms=effect.full_ms / (truth * np.exp(swapped)))


@_world.register
def _all_of(effect: AllOf, truth: float, rng: np.random.Generator) -> Effect:
    _require_zero(effect, truth)
    noisy = [name for name, part in effect.parts.items() if _varies(part, effect.edges[name])]
    if not noisy:
        raise NoWorldError("none of its parts varies: judged exactly")
    weakest = noisy[rng.integers(len(noisy))]
    parts: dict[str, Effect] = {name: Exact(edge + 1.0, "above the edge") for name, edge in effect.edges.items()}
    parts[weakest] = world_at(effect.parts[weakest], effect.edges[weakest], rng)
    return AllOf(parts, effect.edges)


@_world.register
def _seed_mean(effect: SeedMean, truth: float, rng: np.random.Generator) -> Effect:
    raise NoWorldError(f"{effect.num_seeds} numbers cannot tell how they are distributed; were they normal, t is exact")


def _noise(form: FloatArray, users: np.ndarray[tuple[int], np.dtype[np.int64]], rng: np.random.Generator) -> FloatArray:
    """Noise of mean 0 as in a table of seeds x users, for drawn users and for new seeds."""
    from_seeds, _, residual = variance_parts(form, form)  # the latter is in the former, by chance alone
    deviation = math.sqrt(len(form) * max(from_seeds - residual, 0.0))
    without_seeds = form - form.mean(axis=1, keepdims=True)
    return np.asarray(without_seeds[:, users] + deviation * rng.standard_normal((len(form), 1)), dtype=np.float64)


def _drawn(count: int, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return rng.integers(count, size=count)


def _varies(effect: Effect, truth: float) -> bool:
    return effect.against(truth).standard_error > 0


def _require_noise(effect: Effect, truth: float) -> None:
    if not _varies(effect, truth):
        raise NoWorldError("nothing in it varies: judged exactly")


def _require_zero(effect: Effect, truth: float) -> None:
    if truth != 0:
        raise NoWorldError(f"layers in a random order have a {effect.unit} of 0; there is no world for {truth:g}")
