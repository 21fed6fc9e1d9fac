"""A snapshot is copied on `dma` while the next step computes; the update after it waits."""

import threading

import torch

from ndtrain.config.schema import Optim
from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel.apply import parallelize
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.parallel.zero import ShardedAdamW
from ndtrain.runtime.runtime import Runtime
from tests.overlap.lone import lone
from tests.parallel.small import SHAPE, batch

SHORT_S, LONG_S = 0.05, 60.0


def optimizer_on(runtime: Runtime) -> tuple[Qwen3, ShardedAdamW]:
    with torch.device("meta"):
        model = Qwen3(SHAPE)
    shards = parallelize(model, runtime)
    source = RandomWeights(SHAPE, seed=3)
    settings = Optim(lr=1e-2)
    return model, ShardedAdamW(model, shards, source, runtime, settings, torch.float32)


def backward(model: Qwen3) -> None:
    tokens, targets, starts = batch(0, SHAPE)
    weights = torch.full(targets.shape, 1 / targets.numel())
    model.loss(tokens, targets, weights, None, starts).backward()


def test_the_update_waits_for_the_copies_and_backward_does_not() -> None:
    may_copy, has_updated = threading.Event(), threading.Event()

    def before(name: str) -> None:
        if name.startswith("checkpoint."):
            assert may_copy.wait(LONG_S)

    runtime = lone(1, 0, before)
    model, optimizer = optimizer_on(runtime)
    weight = model.embedding.weight
    was = weight.detach().clone()
    name = "checkpoint.embedding.weight"
    copy = runtime.streams["dma"].submit(name, lambda c: c.copy(weight.detach(), name))
    optimizer.hold([copy])
    backward(model)  # the copy has not begun

    def update() -> None:
        optimizer.step(1e-2)
        has_updated.set()

    thread = threading.Thread(target=update)
    thread.start()
    assert not has_updated.wait(SHORT_S)
    may_copy.set()
    thread.join(LONG_S)
    assert has_updated.is_set()
    assert torch.equal(copy.wait(), was)
    assert not torch.equal(weight, was)
    (span,) = (span for span in runtime.spans.drain() if span.track == "dma")
    assert (span.name, span.num_bytes) == (name, was.nbytes)


def test_a_copy_that_failed_does_not_stop_the_run() -> None:
    """The save that wanted it is told (`Saver`), the weights are whole."""

    def before(name: str) -> None:
        if name.startswith("checkpoint."):
            raise MemoryError("no memory for the snapshot")

    runtime = lone(1, 0, before)
    model, optimizer = optimizer_on(runtime)
    failed = runtime.streams["dma"].submit("checkpoint.x", lambda c: c.copy(torch.ones(1), "x"))
    optimizer.hold([failed])
    backward(model)
    assert optimizer.step(1e-2) > 0
    optimizer.hold([failed])
    assert optimizer._readers == []  # what has ended is not kept
