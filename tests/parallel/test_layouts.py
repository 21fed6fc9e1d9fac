"""The curve does not depend on the layout beyond rounding, the initial weights not at all."""

import pytest
import torch

from ndtrain.models.qwen3.hugging_face import parameter_shapes
from ndtrain.overlap.modes import Modes
from ndtrain.parallel.initialize import RandomWeights
from tests.parallel.small import LLAMA, SHAPE, UNTIED, start, train
from tests.rank_pool import ranks

# (tp, dp); with 2 key/value heads tp=4 keeps each on two ranks.
LAYOUTS = [(2, 1), (1, 2), (2, 2), (4, 1), (1, 4)]
# In fp64 rounding is 1e-16 and grows by less than 10^3 over the few steps; a gradient that is
# missing or counted twice moves the curve by far more (test_the_curve_would_show_a_missing_sum).
FP64 = 1e-11
# fp32 rounds at 6e-8, and AdamW passes relative errors of tiny gradients on at full size.
FP32 = 1e-5


def reference(shape, num_steps: int, **options) -> dict:
    return train(0, shape, 1, 1, num_steps, **options)


@pytest.mark.parametrize(("tp", "dp"), LAYOUTS)
@pytest.mark.parametrize("shape", [SHAPE, UNTIED, LLAMA], ids=["tied", "untied", "llama"])
def test_the_curve_is_the_same_on_every_layout(shape, tp, dp):
    expected = reference(shape, 10, dtype=torch.float64)
    for result in ranks(tp * dp).run(train, shape, tp, dp, 10, "none", torch.float64):
        assert result["losses"] == pytest.approx(expected["losses"], rel=FP64)
        assert result["norms"] == pytest.approx(expected["norms"], rel=FP64)
    assert expected["losses"][-1] != expected["losses"][0]


@pytest.mark.parametrize(("tp", "dp"), LAYOUTS)
def test_in_fp32_layouts_differ_by_rounding(tp, dp):
    expected = reference(SHAPE, 10)
    for result in ranks(tp * dp).run(train, SHAPE, tp, dp, 10):
        assert result["losses"] == pytest.approx(expected["losses"], rel=FP32)


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_recomputation_changes_no_bit(mode):
    kept = ranks(2).run(train, SHAPE, 2, 1, 3)
    again = ranks(2).run(train, SHAPE, 2, 1, 3, mode)
    for before, after in zip(kept, again, strict=True):
        assert before["losses"] == after["losses"]
        for name, value in before["parameters"].items():
            assert torch.equal(value, after["parameters"][name]), name


@pytest.mark.parametrize(
    "form",
    [
        "ring",
        pytest.param("bulk", marks=pytest.mark.slow),
        pytest.param("chunk", marks=pytest.mark.slow),
        pytest.param("ring2", marks=pytest.mark.slow),
    ],
)
def test_every_form_goes_with_shared_heads_tied_weights_accumulation_and_recompute(form):
    """Four ranks share two key/value heads. One node at a time it has the same bits."""
    pool = ranks(4)
    common = (SHAPE, 4, 1, 2, "full", torch.float64, 2, True)
    blocking = pool.run(train, *common)
    ours, serial = (pool.run(train, *common, Modes.all(form, one)) for one in (False, True))
    for concurrent, one_by_one, off in zip(ours, serial, blocking, strict=True):
        assert concurrent["losses"] == one_by_one["losses"]
        assert concurrent["losses"] == pytest.approx(off["losses"], rel=FP64)
        for name, value in concurrent["parameters"].items():
            assert torch.equal(value, one_by_one["parameters"][name]), name


def test_accumulation_adds_up_to_the_whole_batch():
    whole = reference(SHAPE, 5)
    parts = reference(SHAPE, 5, num_micro_batches=4)
    assert parts["losses"] == pytest.approx(whole["losses"], rel=FP32)
    results = ranks(2).run(train, SHAPE, 1, 2, 5, "none", torch.float32, 2)
    assert results[0]["losses"] == pytest.approx(whole["losses"], rel=FP32)


@pytest.mark.parametrize(("tp", "dp"), [(4, 1), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replicas_are_bit_equal_after_50_steps(tp, dp, dtype):
    results = ranks(4).run(train, SHAPE, tp, dp, 50, "none", dtype)
    copies: dict[tuple, torch.Tensor] = {}
    num_compared = 0
    for result in results:
        for name, parameter in result["parameters"].items():
            row = 0
            for part in result["slices"][name]:
                dim = 1 if name.endswith(("o.weight", "down.weight")) else 0
                value = parameter.narrow(dim, row, part.size)
                row += part.size
                key = (name, part.start, part.stop)
                if key in copies:
                    assert torch.equal(copies[key], value), key
                    num_compared += 1
                copies[key] = value
    assert num_compared > len(results[0]["parameters"])


def initial(rank: int, tp: int, dp: int) -> dict[str, torch.Tensor]:
    _, model, _, shards = start(SHAPE, tp, dp)
    full = {
        name: torch.full(parameter_shapes(SHAPE)[name], torch.nan)
        for name, _ in model.named_parameters()
    }
    for name, value in model.named_parameters():
        row, shard = 0, shards[name]
        for part in shard.slices:
            local = value.detach().narrow(shard.dim, row, part.size)
            full[name].narrow(shard.dim, part.start, part.size).copy_(local)
            row += part.size
    return full


@pytest.mark.parametrize(("tp", "dp"), LAYOUTS)
def test_initial_weights_do_not_depend_on_the_layout(tp, dp):
    expected = initial(0, 1, 1)
    for held in ranks(tp * dp).run(initial, tp, dp):
        for name, value in held.items():
            here = ~value.isnan()
            assert here.any()
            assert torch.equal(value[here], expected[name][here]), name


def test_a_block_edge_inside_a_slice_changes_nothing(monkeypatch):
    monkeypatch.setattr("ndtrain.parallel.initialize.BLOCK_ELEMENTS", 7 * SHAPE.hidden_size)
    weights = RandomWeights(SHAPE, seed=1)
    whole = weights.read("embedding.weight", 0, [(0, 96)])
    assert torch.equal(
        weights.read("embedding.weight", 0, [(5, 23), (60, 61)]),
        torch.cat([whole[5:23], whole[60:61]]),
    )
    assert whole.std() == pytest.approx(SHAPE.initial_std, rel=0.05)
    assert not torch.equal(whole[:7], whole[7:14])


def train_without_sums(rank: int) -> dict:
    """A mutant: the gradients of replicated parameters stay partial."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ndtrain.parallel.data_parallel.sum_replicated_gradients", lambda *_: None)
        return train(rank, SHAPE, 4, 1, 10, "none", torch.float64)


def test_the_curve_would_show_a_missing_sum():
    expected = reference(SHAPE, 10, dtype=torch.float64)
    mutant = ranks(4).run(train_without_sums)[0]
    assert mutant["losses"] != pytest.approx(expected["losses"], rel=1e5 * FP64)
