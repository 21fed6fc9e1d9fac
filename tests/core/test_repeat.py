"""What is repeated beside a block, and that it ends with the block."""

import threading

import pytest

from ndtrain.core.repeat import repeating


def test_it_is_done_again_until_the_block_ends_and_not_after() -> None:
    done: list[int] = []
    is_enough = threading.Event()

    def act() -> None:
        done.append(1)
        if len(done) == 3:
            is_enough.set()

    with repeating(act, 0.001, "test"):
        assert is_enough.wait(30)
    assert not [thread for thread in threading.enumerate() if thread.name == "test"]


def test_a_block_that_fails_ends_it_too() -> None:
    with pytest.raises(ValueError, match="of the block"), repeating(lambda: None, 60.0, "test"):
        raise ValueError("of the block")
    assert not [thread for thread in threading.enumerate() if thread.name == "test"]
