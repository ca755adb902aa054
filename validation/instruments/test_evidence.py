"""Stored evidence gives the same verdict again, and nothing else passes for it."""

import gzip

import numpy as np
import pytest

from layerwise.statistics import AllOf, Exact, MeanDifference, RankCorrelation, Retention, Speedup
from reports.evidence import EvidenceError, array_digest, path_of, read_evidence, remove_unnamed, write_evidence

RNG = np.random.default_rng(0)
TABLE = RNG.random((5, 30))
EFFECTS = [
    Exact(75.0, "% of layer parameters removed"),
    MeanDifference(TABLE - 0.5, "NDCG@10"),
    Retention(0.9 * TABLE, TABLE, "NDCG@10"),
    RankCorrelation(RNG.random((5, 4)), RNG.random((5, 4, 30))),
    Speedup(RNG.random(10) + 3, RNG.random(10) + 1),
    AllOf({"a": MeanDifference(TABLE, "NDCG@10"), "b": Exact(1.0, "points")}),
]


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: effect.kind)
def test_an_effect_comes_back_bit_for_bit(tmp_path, effect):
    digests = write_evidence(tmp_path, effect)
    again = read_evidence(tmp_path, digests, effect.text(), effect.kind)

    assert type(again) is type(effect)
    assert again.text() == effect.text()
    for name, array in effect.evidence().items():
        np.testing.assert_array_equal(again.evidence()[name], array)
        assert again.evidence()[name].dtype == array.dtype
    assert repr(again.interval(0.98)) == repr(effect.interval(0.98))


def test_arrays_that_effects_share_are_stored_once_and_the_same_array_gives_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        for metric in ("NDCG@10", "MRR"):
            write_evidence(tmp_path / folder, Retention(TABLE, TABLE.copy(order="F"), metric))
    first, second = (list((tmp_path / folder / "evidence").iterdir()) for folder in ("a", "b"))

    assert [path.name for path in first] == [path.name for path in second]
    assert len(first) == 1
    assert first[0].read_bytes() == second[0].read_bytes()


def test_digests_tell_type_and_shape_apart():
    zeros = np.zeros(4)
    others = [zeros.reshape(2, 2), zeros.astype(np.float32), zeros.astype(np.int64)]

    assert len({array_digest(array) for array in [zeros, *others]}) == 4


def spoilt(content):
    return content[: len(content) // 2]


def exchanged(content):
    array = np.frombuffer(gzip.decompress(content), dtype=np.uint8).copy()
    array[-1] ^= 1
    return gzip.compress(array.tobytes(), mtime=0)


@pytest.mark.parametrize(
    ("damage", "sentence"), [(spoilt, "cannot be read"), (exchanged, "holds another array than its name says")]
)
def test_damaged_evidence_is_refused(tmp_path, damage, sentence):
    effect = MeanDifference(TABLE, "NDCG@10")
    digests = write_evidence(tmp_path, effect)
    (path,) = (tmp_path / "evidence").iterdir()
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(EvidenceError, match=sentence):
        read_evidence(tmp_path, digests, effect.text(), effect.kind)


def test_missing_evidence_and_evidence_of_another_kind_are_refused(tmp_path):
    effect = MeanDifference(TABLE, "NDCG@10")
    digests = write_evidence(tmp_path, effect)

    with pytest.raises(EvidenceError, match="no evidence was stored"):
        read_evidence(tmp_path, {}, effect.text(), effect.kind)
    with pytest.raises(EvidenceError, match="does not make an effect of the kind 'retention'"):
        read_evidence(tmp_path, digests, effect.text(), "retention")
    path_of(tmp_path, digests["values"]).unlink()
    with pytest.raises(EvidenceError, match=r"evidence/\w+\.npy\.gz is missing"):
        read_evidence(tmp_path, digests, effect.text(), effect.kind)


def test_only_what_no_record_names_is_removed(tmp_path):
    class Named:
        evidence = write_evidence(tmp_path, Exact(1.0, "points"))

    write_evidence(tmp_path, Exact(2.0, "points"))
    (tmp_path / "evidence" / "notes.txt").write_text("not ours")
    remove_unnamed(tmp_path, [Named])

    left = {path.name for path in (tmp_path / "evidence").iterdir()}
    assert left == {path_of(tmp_path, Named.evidence["value"]).name, "notes.txt"}
