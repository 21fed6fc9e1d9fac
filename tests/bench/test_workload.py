"""The workload: one batch for all, and shapes that the ranks cannot share are refused at once."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from ndtrain.bench.batch import make_batch
from ndtrain.bench.workload import DEFAULT
from ndtrain.core.errors import UserErrors


def test_targets_are_the_tokens_that_follow() -> None:
    workload = replace(DEFAULT, batch_size=2, sequence_length=16)
    tokens_BS, targets_BS = make_batch(workload)
    assert tokens_BS.shape == targets_BS.shape == (2, 16)
    assert torch.equal(tokens_BS[:, 1:], targets_BS[:, :-1])
    assert 0 <= tokens_BS.min() <= tokens_BS.max() < workload.shape.vocab_size


def test_the_seed_decides_the_batch() -> None:
    first, _ = make_batch(DEFAULT)
    torch.manual_seed(5)
    again, _ = make_batch(DEFAULT)
    other, _ = make_batch(replace(DEFAULT, seed=1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_default_is_accepted() -> None:
    for num_ranks in (1, 2, 4, 8):
        replace(DEFAULT, num_ranks=num_ranks).check()


def test_every_size_that_does_not_divide_is_named() -> None:
    with pytest.raises(UserErrors) as caught:
        replace(DEFAULT, num_ranks=3).check()
    assert [error.what.split()[0] for error in caught.value.errors] == [
        "--heads",
        "--kv-heads",
        "--vocab",
        "--sequence",
    ]


def test_heads_that_do_not_form_groups_are_refused() -> None:
    shape = replace(DEFAULT.shape, num_heads=6, num_kv_heads=4)
    with pytest.raises(UserErrors, match="--kv-heads 4 does not divide --heads 6"):
        replace(DEFAULT, shape=shape).check()


def test_an_odd_head_is_refused() -> None:
    shape = replace(DEFAULT.shape, head_dim=15)
    with pytest.raises(UserErrors, match="--head-dim 15 is odd"):
        replace(DEFAULT, shape=shape).check()


def test_torch_is_not_imported() -> None:
    program = "import sys, ndtrain.cli.bench; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
