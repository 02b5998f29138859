"""Figures of samples: what they say of what is left out, and which states they show."""

import json

import numpy as np
import pytest

from score_embedding.report import figures


def arrays_of(number):
    """Of a chain of three steps, whose nine states repeat some."""
    x = np.random.default_rng(0).random((9, number, 3, 8, 8))
    described = {"type": "unconditional", "prior": "unit", "prior_std": 1.0, "sampler": "Heun"}
    described |= {"metrics": {"nfe": 6}, "seed": 0}
    return {
        "samples": x[-1],
        "images": x[0, :1],
        "truth": np.zeros(number, dtype=np.int64),
        "path": x,
        "path_times": np.array([1.0, 1.0, 0.5, 0.5, 0.5, 0.2, 0.2, 0.001, 0.001]),
        "description": np.array(json.dumps(described)),
    }


@pytest.mark.parametrize("number", [1, 4, 5, 16])
def test_samples_that_are_left_out_are_counted(number):
    heading = figures.samples(arrays_of(number)).get_suptitle()
    told = heading.startswith(f"the first 4 of {number} samples; ")
    assert told is (number > 4)
    assert "prior unit" in heading


def test_a_strip_shows_each_state_once():
    titles = [axis.get_title() for axis in figures.strip(arrays_of(1)).axes]
    assert titles == ["t = 1", "t = 0.5", "t = 0.2", "t = 0.001", "ground truth"]
