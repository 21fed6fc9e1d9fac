"""The contestants on two real ranks: the same loss and gradients as one process, or no race."""

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ndtrain.bench.contestants_ours import Bare, Ours
from ndtrain.bench.contestants_peers import DTensorPeer, Transformers
from ndtrain.bench.workload import DEFAULT, Workload
from ndtrain.models.qwen3.hugging_face import hugging_face_names
from tests.rank_pool import ranks

pytest.importorskip("transformers")

TINY = replace(
    DEFAULT,
    shape=replace(
        DEFAULT.shape,
        vocab_size=128,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
    ),
    sequence_length=24,
    batch_size=2,
)


def error_against(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


def reference_gradients(reference: Transformers) -> dict[str, Tensor]:
    """transformers' gradients, which rank 0 has, on every rank."""
    parameters = dict(reference.model.named_parameters()) if dist.get_rank() == 0 else {}
    shapes: list[dict[str, torch.Size] | None] = [
        {name: parameter.shape for name, parameter in parameters.items()}
    ]
    dist.broadcast_object_list(shapes, src=0)
    gradients = {}
    for name, shape in (shapes[0] or {}).items():
        gradient = parameters[name].grad if parameters else torch.empty(shape)
        assert gradient is not None
        dist.broadcast(gradient, src=0)
        gradients[name] = gradient
    return gradients


def compare(rank: int, workload: Workload) -> dict[str, dict[str, float]]:
    """Losses, and the largest relative error of each parameter's gradient, on this rank."""
    reference, dtensor, ours = Transformers(), DTensorPeer(), Ours()
    losses = {}
    for contestant in (reference, dtensor, ours):
        contestant.setup(workload)
        # Twice: a step that adds to the gradients of the one before is found out.
        losses[contestant.name] = [contestant.step(), contestant.step()][1]
    expected = reference_gradients(reference)
    dtensor_errors = {
        name: error_against(parameter.grad.full_tensor(), expected[name])
        for name, parameter in dtensor.model.named_parameters()
    }
    ours_errors = {}
    for name, gradient in ours.gradients().items():
        full = torch.cat([expected[theirs] for theirs in hugging_face_names(name)])
        local = ours.shards[name].take(full)
        ours_errors[name] = error_against(gradient, local)
    return {"losses": losses, "dtensor": dtensor_errors, "ours": ours_errors}


def bare_gradients(rank: int, workload: Workload) -> bool:
    """Whether bare compute, with no network to touch, has gradients of our shapes."""
    ours, bare = Ours(), Bare()
    for contestant in (ours, bare):
        contestant.setup(workload)
    ours.step()
    calls: dict[str, Any] = dict.fromkeys(("isend", "irecv", "broadcast", "all_reduce"), _refuse)
    with mock.patch.multiple(dist, **calls):
        bare.step()
    return all(
        gradient.shape == bare.gradients()[name].shape
        for name, gradient in ours.gradients().items()
    )


def _refuse(*arguments: object, **options: object) -> None:
    raise AssertionError("bare compute communicates")


@pytest.fixture(scope="module")
def comparison() -> list[dict[str, dict[str, float]]]:
    return ranks(2).run(compare, TINY)


def test_all_compute_the_loss_of_one_process(
    comparison: list[dict[str, dict[str, float]]],
) -> None:
    expected = comparison[0]["losses"]["transformers"]
    for rank in comparison:
        # fp32, summed in another order.
        assert rank["losses"]["dtensor"] == pytest.approx(expected, rel=2e-6)
        assert rank["losses"]["ours"] == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("name", ["dtensor", "ours"])
def test_every_gradient_is_that_of_one_process(
    comparison: list[dict[str, dict[str, float]]], name: str
) -> None:
    for rank in comparison:
        assert len(rank[name]) == {"dtensor": 25, "ours": 19}[name]
        worst = max(rank[name], key=rank[name].__getitem__)
        # fp32, summed in another order over a few hundred terms.
        assert rank[name][worst] < 2e-5, worst


def test_bare_computes_what_ours_does_and_moves_nothing() -> None:
    assert ranks(2).run(bare_gradients, TINY) == [True, True]
