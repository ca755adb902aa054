"""A model against its own copy goes through the real instrument, and the times are written for judging."""

import numpy as np

from layerwise.lab.same_model import main, same_model_runs


def test_copy_does_the_same_work_on_different_inputs():
    (run,) = same_model_runs(1, blocks=2, calls=2)

    assert run.full_layers == run.compact_layers == 1
    assert run.max_difference == 0
    assert len(set(run.input_digests)) == len(run.input_digests)
    assert run.full_ms.min() > 0


def test_times_of_all_blocks_are_written(tmp_path):
    main([str(tmp_path / "new" / "timing.npz"), "--runs", "2"])

    with np.load(tmp_path / "new" / "timing.npz") as times:
        assert times["full_ms"].shape == times["compact_ms"].shape == (2, 10)
        assert times["calls"] == 4
        assert "clock" in str(times["setting"])
