"""One tensor rank: the gradients of a plain product, and the weight's before the input's."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel.apply import materialize, parallelize
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.parallel.lone_linear import lone_product
from ndtrain.runtime.runtime import start_cpu
from tests.overlap.lone import lone
from tests.parallel.small import UNTIED, batch

ROWS, BATCH, IN, OUT = 6, 2, 5, 4


def operands(x_learns: bool, weight_learns: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, dy."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, weight = normal(ROWS, BATCH, IN), normal(OUT, IN)
    return (
        x.requires_grad_(x_learns),
        weight.requires_grad_(weight_learns),
        normal(ROWS, BATCH, OUT),
    )


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize(
    ("x_learns", "weight_learns"), [(True, True), (True, False), (False, True)]
)
def test_equals_a_plain_product(x_learns: bool, weight_learns: bool, recomputes: bool) -> None:
    runtime = start_cpu(1, 1, 1)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return lone_product(x, weight, runtime, "layer")

    def recomputed(x: Tensor, weight: Tensor) -> Tensor:
        return checkpoint(ours, x, weight, use_reentrant=False)

    found = gradients(recomputed if recomputes else ours, x_learns, weight_learns)
    expected = gradients(F.linear, x_learns, weight_learns)
    for own, plain in zip(found, expected, strict=True):
        assert (own is None) == (plain is None)
        assert own is None or torch.equal(own, plain)


def gradients(
    product: Callable[[Tensor, Tensor], Tensor], x_learns: bool, weight_learns: bool
) -> list[Tensor | None]:
    """The product and what came to x and to the weight."""
    x, weight, dy = operands(x_learns, weight_learns)
    y = product(x, weight)
    y.backward(dy)
    return [y, x.grad, weight.grad]


def test_twice_through_the_same_graph() -> None:
    x, weight, dy = operands(True, True)
    y = lone_product(x, weight, start_cpu(1, 1, 1), "layer")
    y.backward(dy, retain_graph=True)
    once = [x.grad.clone(), weight.grad.clone()]
    y.backward(dy)
    assert torch.equal(x.grad, 2 * once[0])
    assert torch.equal(weight.grad, 2 * once[1])


def test_a_weight_gradient_is_handed_on_before_dx_is_computed() -> None:
    events: list[str] = []
    runtime = lone(1, 0, before_compute=events.append)
    with torch.device("meta"):
        model = Qwen3(UNTIED)
    shards = parallelize(model, runtime)
    materialize(model, shards, RandomWeights(UNTIED, seed=3), torch.float32)
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(note(events, name))
    tokens, targets, starts = batch(0, UNTIED)
    weights = torch.full(targets.shape, 1 / targets.numel())
    model.loss(tokens, targets, weights, None, starts).backward()
    for layer in range(UNTIED.num_layers):
        for linear in ("attention.qkv", "attention.o", "mlp.gate_up", "mlp.down"):
            name = f"layers.{layer}.{linear}"
            order = [f"{name}.backward.dweight", f"{name}.weight", f"{name}.backward.product"]
            assert [event for event in events if event in order] == order


def note(events: list[str], name: str):
    def hook(parameter: nn.Parameter) -> None:
        events.append(name)

    return hook
