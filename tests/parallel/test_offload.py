"""Activation offload: no bit changes, copies run beside compute, one layer ahead; failures surface.

Beside is proved by events: a copy that ends only after a later product has begun.
"""

import gc
import threading
import time
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from ndtrain.models.qwen3.model import Qwen3
from ndtrain.parallel import offload
from ndtrain.parallel.apply import materialize, parallelize
from ndtrain.parallel.initialize import RandomWeights
from ndtrain.parallel.offload import offload_activations
from ndtrain.parallel.recompute import recompute
from ndtrain.runtime.runtime import Runtime, start_cpu
from ndtrain.runtime.streams import Pending, StreamError
from tests.overlap.lone import Blocking, Told, do_nothing, lone
from tests.parallel.small import SHAPE, batch, loss_of, start
from tests.rank_pool import ranks

LONG_S, SHORT_S = 60.0, 0.05
OUT, BACK = "layers.0.offload.0.out", "layers.0.offload.0.back"


@pytest.fixture(autouse=True)
def _small_tensors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "SMALLEST_BYTES", 512)


def model_on(runtime: Runtime, mode: str = "none", offloads: bool = True) -> Qwen3:
    with torch.device("meta"):
        model = Qwen3(SHAPE)
    shards = parallelize(model, runtime)
    materialize(model, shards, RandomWeights(SHAPE, seed=3), torch.float32)
    recompute(model, mode)  # type: ignore[arg-type]
    if offloads:
        offload_activations(model, runtime)
    return model


def gradients_of(model: Qwen3) -> dict[str, Tensor]:
    tokens, targets, starts = batch(0, SHAPE)
    weights = torch.full(targets.shape, 1 / targets.numel())
    model.zero_grad()
    loss = model.loss(tokens, targets, weights, None, starts)
    loss.backward()
    found = {name: value.grad for name, value in model.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return {"loss": loss.detach(), **found}  # type: ignore[dict-item]


def on_a_rank(rank: int, mode: str, offloads: bool) -> tuple[dict[str, Tensor], Counter]:
    offload.SMALLEST_BYTES = 512
    runtime, model, optimizer, _ = start(SHAPE, 2, 1, mode=mode)
    if offloads:
        offload_activations(model, runtime)
    losses = {}
    for step in range(2):
        losses[f"loss {step}"] = torch.tensor(loss_of(model, runtime, step, 2, optimizer))
        optimizer.step(1e-2)
    offload.SMALLEST_BYTES = 16 * 1024
    copies = Counter(span.name for span in runtime.spans.drain() if span.track == "dma")
    values = {name: value.detach().clone() for name, value in model.named_parameters()}
    return values | losses, copies


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_training_with_and_without_is_equal_bit_for_bit(mode: str) -> None:
    pool = ranks(2)
    plain, away = pool.run(on_a_rank, mode, False), pool.run(on_a_rank, mode, True)
    for (values, none), (others, copies) in zip(plain, away, strict=True):
        assert not none
        assert all(torch.equal(values[name], others[name]) for name in values)
        outward = {name.removesuffix(".out") for name in copies if name.endswith(".out")}
        returned = {name.removesuffix(".back") for name in copies if name.endswith(".back")}
        assert outward == returned
        assert {name.split(".")[1] for name in outward} == {"0", "1"}


def test_what_has_left_is_not_kept_beside_its_copy(monkeypatch) -> None:
    left: list[StorageWeakRef] = []
    store = offload.Offloaded._store

    def stored(block: offload.Offloaded, y: Tensor) -> offload.Away:
        left.append(StorageWeakRef(y.untyped_storage()))
        return store(block, y)

    monkeypatch.setattr(offload.Offloaded, "_store", stored)
    runtime = lone(1, 0)
    model = model_on(runtime)
    tokens, targets, starts = batch(0, SHAPE)
    weights = torch.full(targets.shape, 1 / targets.numel())
    loss = model.loss(tokens, targets, weights, None, starts)
    runtime.streams["dma"].submit("last", lambda c: None).wait()  # the copies before it have ended
    assert left
    assert [one.expired() for one in left] == [True] * len(left)
    loss.backward()


def test_what_is_kept_twice_travels_once_and_weights_stay() -> None:
    names: list[str] = []
    model = model_on(lone(1, 0, names.append))
    gradients_of(model)
    assert max(Counter(names).values()) == 1
    num_weights = sum(parameter.ndim > 1 for parameter in model.layers[0].parameters())
    kept = [name for name in names if name.startswith("layers.0") and name.endswith(".out")]
    plain = _num_kept_by_a_block()
    assert 0 < len(kept) <= plain - num_weights


def _num_kept_by_a_block() -> int:
    """Tensors of a block that autograd keeps without offload, of the same least size."""
    model = model_on(lone(1, 0), offloads=False)
    count = 0

    def pack(y: Tensor) -> Tensor:
        nonlocal count
        count += y.is_floating_point() and y.nbytes >= 512
        return y

    x = torch.ones(16, 4, SHAPE.hidden_size, requires_grad=True)
    rotary = model.rotary(torch.zeros(4, 16, dtype=torch.int64), None)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda y: y):
        model.layers[0](x, rotary, None)
    return count


def shake_hands(moved: str, computed: str, timeout_s: float, stream: type[Told] = Told) -> None:
    """The copy ends when the compute has begun, or never."""
    has_begun = threading.Event()

    def before(name: str) -> None:
        if name == moved and not has_begun.wait(timeout_s):
            raise TimeoutError("no compute beside it")

    def before_compute(name: str) -> None:
        if name.startswith(computed):
            has_begun.set()

    gradients_of(model_on(lone(1, 0, before, before_compute, stream)))


PAIRS = [
    (OUT, "layers.1.attention.qkv.product"),
    # The last product of the block behind it: it comes back one layer ahead.
    (BACK, "layers.1.attention.qkv.backward.dweight"),
]


@pytest.mark.parametrize(("moved", "computed"), PAIRS)
def test_copies_run_while_the_next_block_computes(moved: str, computed: str) -> None:
    shake_hands(moved, computed, LONG_S)


@pytest.mark.parametrize(("moved", "computed"), PAIRS)
def test_blocking_copies_fail_the_handshake(moved: str, computed: str) -> None:
    with pytest.raises(StreamError, match=f"{moved} failed: no compute beside it"):
        shake_hands(moved, computed, SHORT_S, Blocking)


class Hasty:
    """What lies in the memory of a tensor that nobody waited for: NaN until it has arrived."""

    def __init__(self, away: offload.Away, returning: Pending) -> None:
        self._away, self._returning = away, returning

    def wait(self) -> Tensor:
        if self._returning.is_done:
            return self._returning.wait()
        return torch.full_like(self._away.stored.wait(), torch.nan)


def late_gradients() -> tuple[dict[str, Tensor], list[str]]:
    """With every way back late; and the copies in their order."""
    issued: list[str] = []

    def before(name: str) -> None:
        issued.append(name)
        if name.endswith(".back"):
            time.sleep(SHORT_S / 10)

    return gradients_of(model_on(lone(1, 0, before))), issued


def test_gradients_show_a_wait_for_a_tensor_that_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That a tensor is stored before it comes back, the order of the stream implies."""
    expected = gradients_of(model_on(lone(1, 0), offloads=False))
    late, issued = late_gradients()
    assert all(torch.equal(late[name], value) for name, value in expected.items())
    back = [name for name in issued if name.endswith(".back")]
    assert back
    for name in back:
        assert issued.index(f"{name.removesuffix('.back')}.out") < issued.index(name)
    returned = offload.Offloaded._return

    def hasty(self: offload.Offloaded, away: offload.Away) -> Hasty:
        away.returning = Hasty(away, returned(self, away))  # type: ignore[assignment]
        return away.returning  # type: ignore[return-value]

    monkeypatch.setattr(offload.Offloaded, "_return", hasty)
    mutant, _ = late_gradients()
    assert not all(torch.equal(mutant[name], value) for name, value in expected.items())


@pytest.mark.parametrize("failing", [OUT, BACK])
def test_a_failed_copy_raises_in_the_main_thread_with_its_name(failing: str) -> None:
    def before(name: str) -> None:
        if name == failing:
            raise MemoryError("no memory on the host")

    with pytest.raises(StreamError, match=f"{failing} failed: no memory on the host"):
        gradients_of(model_on(lone(1, 0, before)))


def test_nothing_is_held_once_backward_has_passed() -> None:
    model = model_on(lone(1, 0, do_nothing))
    gradients_of(model)
    gc.collect()
    blocks = [layer.forward.func.__self__ for layer in model.layers]  # type: ignore[union-attr]
    assert [block._alive() for block in blocks] == [[], []]
    assert all(block.kept for block in blocks)


class Keeping(torch.autograd.Function):
    """Keeps a view with gaps and a row that is repeated; notes what came back."""

    @staticmethod
    def forward(ctx, x: Tensor, back: list[Tensor]) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x[:, 8:24].t(), x[:1].expand(x.shape))
        ctx.back = back
        return x.clone()

    @staticmethod
    def backward(ctx, dy: Tensor):  # type: ignore[no-untyped-def]
        ctx.back += ctx.saved_tensors
        return dy, None


def test_what_comes_back_is_laid_out_as_it_went() -> None:
    """Compiled code checks it. What is repeated in memory has no layout to copy to, and stays."""
    x, back = torch.randn(32, 64, requires_grad=True), []
    block = offload.Offloaded(0, start_cpu(1, 1, 1), set())
    y = block.forward(lambda x: Keeping.apply(x, back), x)
    assert len(block.kept) == 1
    y.sum().backward()
    view, repeated = back
    assert view.stride() == (1, 64)
    assert torch.equal(view, x[:, 8:24].t())
    assert repeated.data_ptr() == x.data_ptr()
