"""What ranks of one machine are given beside the user's environment."""

import pytest

from ndtrain.config.load import load
from ndtrain.runtime.neuron_environment import STREAM_VARIABLES
from ndtrain.train.launch import _stream_variables


@pytest.mark.parametrize(
    ("overrides", "num_ranks", "expected"),
    [
        (["parallel.tp=2"], 2, STREAM_VARIABLES),
        ([], 2, STREAM_VARIABLES),  # two data-parallel ranks, whose buckets travel
        (["overlap.data_parallel='off'"], 2, {}),
        (["parallel.tp=2", "overlap.mode='off'"], 2, {}),
    ],
)
def test_streams_are_switched_on_for_overlap_alone(overrides, num_ranks, expected) -> None:
    config = load("tiny", overrides).config
    assert _stream_variables(config, num_ranks) == dict.fromkeys(expected, "1")
