"""Which layouts fit which nodes, against counts made by other means."""

import pytest
import torch
from torch import nn

from ndtrain.cluster.placement import (
    check_placement,
    load_for,
    predict,
    rank_parameters,
    state_bytes,
)
from ndtrain.cluster.rank import RUNTIME_DEVICE
from ndtrain.config.load import load
from ndtrain.config.schema import Config
from ndtrain.core.errors import UserError
from ndtrain.hardware.instances import INSTANCES, find_instance
from ndtrain.models.qwen3.shape import Shape

GIB = 2**30


def config(size: str, tp: int, *overrides: str, device: str = "cpu") -> Config:
    changed = [f"parallel.tp={tp}", f"runtime.device={device}", *overrides]
    return load(f"{size}+pretrain", changed).config


def device_of(hardware: str) -> str:
    device = find_instance(hardware).device
    return "cpu" if device is None else RUNTIME_DEVICE[device.name]


@pytest.mark.parametrize("size", ["qwen3_0.6b", "qwen3_4b", "qwen3_8b", "qwen3_32b"])
def test_parameters_are_those_of_the_model_without_norms(size: str) -> None:
    model = config(size, 1).model
    shape = Shape(**model.model_dump(exclude={"weights"}))
    norms = shape.num_layers * 2 * (shape.hidden_size + shape.head_dim) + shape.hidden_size
    assert rank_parameters(config(size, 1)) == shape.num_parameters() - norms
    assert rank_parameters(config(size, 8)) == rank_parameters(config(size, 1)) / 8


def test_key_and_value_heads_are_kept_on_several_ranks_when_there_are_fewer() -> None:
    # 8 heads on 32 ranks: each rank has a whole one, four times what an even division would give.
    model = config("qwen3_8b", 32).model
    whole = 2 * model.hidden_size * model.head_dim * model.num_layers
    even = rank_parameters(config("qwen3_8b", 1)) / 32
    assert rank_parameters(config("qwen3_8b", 32)) == even + whole * (1 - 8 / 32)


def test_bytes_are_those_that_a_mixed_precision_step_holds() -> None:
    """One layer in bf16 with fp32 master weights, moments and gradients, counted by PyTorch."""
    weights = nn.Linear(64, 64, bias=False).to(torch.bfloat16)
    master = weights.weight.detach().float().requires_grad_()
    optimizer = torch.optim.AdamW([master])
    master.grad = torch.ones_like(master)
    optimizer.step()
    moments = [v for v in optimizer.state[master].values() if v.numel() > 1]
    tensors = [weights.weight, master, master.grad, *moments]
    per_parameter = sum(t.numel() * t.element_size() for t in tensors) / weights.weight.numel()

    tiny = config("qwen3_0.6b", 1, "data.sequence_length=1", "train.micro_batch_size=1")
    activations = tiny.model.hidden_size * tiny.model.num_layers * 2
    assert state_bytes(tiny, 1) == per_parameter * rank_parameters(tiny) + activations


def test_zero_divides_the_optimizer_over_data_parallel_ranks() -> None:
    one = config("qwen3_0.6b", 1)
    saved = state_bytes(one, 1) - state_bytes(one, 4)
    assert saved == pytest.approx(12 * rank_parameters(one) * 3 / 4)


@pytest.mark.parametrize(
    ("size", "tp", "hardware", "nodes"),
    [
        ("qwen3_0.6b", 1, "trn1.2xlarge", 1),
        ("qwen3_1.7b", 2, "trn1.2xlarge", 1),
        ("qwen3_8b", 8, "trn1.32xlarge", 1),
        ("qwen3_8b", 32, "trn1.32xlarge", 1),
        ("qwen3_14b", 8, "trn1.32xlarge", 2),
        ("qwen3_32b", 32, "trn1n.32xlarge", 4),
        ("qwen3_32b", 64, "trn2.48xlarge", 1),
        ("qwen3_32b", 3, "cpu", 7),  # nothing is known of it
    ],
)
def test_what_fits(size: str, tp: int, hardware: str, nodes: int) -> None:
    found = config(size, tp, device=device_of(hardware))
    check_placement(found, find_instance(hardware), nodes)
    bound = find_instance(hardware).device
    assert bound is None or state_bytes(config(size, tp), 32) < 2 * bound.memory_bytes


@pytest.mark.parametrize(
    ("size", "tp", "hardware", "nodes", "message", "help_text"),
    [
        ("qwen3_8b", 4, "trn1.32xlarge", 4, "parallel.tp=4 is not", "there: 1, 2, 8, 32 (Neuron"),
        # 16 query heads, and 40: neither divides over 32.
        ("qwen3_0.6b", 32, "trn2.48xlarge", 1, "parallel.tp=32 is not", "there: 1, 4, 16 ("),
        ("qwen3_14b", 4, "trn1.32xlarge", 1, "parallel.tp=4 is not", "there: 1, 2, 8 ("),
        ("qwen3_14b", 32, "trn1.32xlarge", 4, "does not fit this model", "there: 1, 2, 8 ("),
        ("qwen3_1.7b", 32, "trn1.32xlarge", 4, "does not fit this model", "there: 1, 2, 8 ("),
        ("qwen3_8b", 2, "trn1.32xlarge", 4, "needs at least", "what fits: parallel.tp=8 on 1 node"),
        ("qwen3_32b", 8, "trn1.32xlarge", 4, "needs at least", "parallel.tp=32 on 2 nodes or more"),
        ("qwen3_4b", 2, "trn1.2xlarge", 1, "needs at least", "no tp fits on trn1.2xlarge"),
        ("qwen3_0.6b", 2, "trn1.2xlarge", 2, "has no EFA", "one node, or trn1.32xlarge"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(
    size: str, tp: int, hardware: str, nodes: int, message: str, help_text: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_placement(
            config(size, tp, device=device_of(hardware)), find_instance(hardware), nodes
        )
    assert message in caught.value.what
    assert help_text in caught.value.help
    assert "or more or more" not in caught.value.help


def test_the_device_follows_the_hardware_unless_somebody_says_otherwise() -> None:
    trn1 = find_instance("trn1.32xlarge")
    assert load_for("tiny", ["optim.lr=1"], trn1).config.runtime.device == "xla"
    assert load_for("tiny", ["optim.lr=1"], find_instance("cpu")).overrides == ("optim.lr=1",)
    loaded = load_for("qwen3_8b+pretrain", ["runtime.device=cpu"], trn1)
    with pytest.raises(UserError, match=r"would leave trn1.32xlarge's devices idle"):
        check_placement(loaded.config, trn1, 1, loaded.origins)


def test_what_is_predicted_and_from_what() -> None:
    eight = config("qwen3_8b", 8, device="xla")
    text = predict(eight, find_instance("trn1.32xlarge"), 4)
    # 8.19e9 parameters, 4 bytes of gradient and 2 of weight, 3/4 of them over 100 GB/s.
    assert "predicted, at least: " in text
    assert "; 369 ms a step for ZeRO's traffic at 800 Gbit/s a node" in text
    assert "ms a step" not in predict(eight, find_instance("trn1.32xlarge"), 1)


@pytest.mark.parametrize("hardware", [n for n, i in INSTANCES.items() if i.device is not None])
def test_groups_divide_a_node(hardware: str) -> None:
    """So every group lies inside one, and its ranks are neighbours."""
    instance = find_instance(hardware)
    assert all(instance.num_devices % tp == 0 for tp in instance.legal_tp)
    assert instance.legal_tp[-1] == instance.num_devices
