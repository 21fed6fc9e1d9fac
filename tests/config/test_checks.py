"""Checks across sections: what they refuse, what they allow, and the legal values they list."""

import pytest

from ndtrain.config.checks import CHECKS, check, divisors, legal_tp, resolve, world_size
from ndtrain.config.load import load
from ndtrain.config.schema import Config
from ndtrain.core.errors import UserError, UserErrors


def config_of(*overrides: str) -> Config:
    return load("tiny+laptop", overrides).config


def errors_of(num_ranks: int | None, *overrides: str) -> list[UserError]:
    loaded = load("tiny+laptop", overrides)
    with pytest.raises(UserError) as caught:
        check(loaded.config, num_ranks, loaded.origins)
    return caught.value.errors if isinstance(caught.value, UserErrors) else [caught.value]


@pytest.mark.parametrize(
    ("num_ranks", "overrides", "what", "help_text"),
    [
        (
            None,
            ["model.num_kv_heads=3"],
            "model.num_kv_heads=3 does not divide num_heads=8",
            "legal num_kv_heads: 1, 2, 4, 8",
        ),
        (None, ["model.head_dim=33"], "model.head_dim=33 is odd", "values: 32 or 34"),
        (None, ["model.head_dim=1"], "model.head_dim=1 is odd", "values: 2"),
        (
            None,
            ["model.max_positions=256"],
            "data.sequence_length=512 exceeds model.max_positions=256",
            "at most 256",
        ),
        (
            None,
            ["parallel.tp=2", "model.intermediate_size=769"],
            "parallel.tp=2 does not divide model.intermediate_size=769",
            "sequence length: 1",
        ),
        (
            None,
            ["parallel.tp=2", "model.vocab_size=4097"],
            "parallel.tp=2 does not divide model.vocab_size=4097",
            "sequence length: 1",
        ),
        (
            None,
            ["parallel.tp=8", "data.sequence_length=500"],
            "parallel.tp=8 does not divide data.sequence_length=500",
            "sequence length: 1, 2, 4",
        ),
        (
            None,
            ["parallel.tp=16"],
            "parallel.tp=16 does not divide model.num_heads=8",
            "sequence length: 1, 2, 4, 8",
        ),
        (
            None,
            ["parallel.tp=4", "model.num_heads=12", "model.num_kv_heads=6"],
            "parallel.tp=4 neither divides nor is a multiple of model.num_kv_heads=6",
            "sequence length: 1, 2",
        ),
        (
            6,
            ["parallel.tp=4"],
            "parallel.tp=4 does not divide the world size 6",
            "legal tp for 6 ranks: 1, 2, 3, 6",
        ),
        (
            4,
            ["parallel.tp=2", "parallel.dp=1"],
            "parallel.tp=2 x parallel.dp=1 is not the world size 4",
            "set parallel.dp=2 or auto, or start 2 ranks",
        ),
        (
            None,
            ["train.global_batch_size=10"],
            "global_batch_size=10 is not a multiple of micro_batch_size=4",
            "values: 8, 12; or micro_batch_size: 1, 2, 5, 10",
        ),
        (
            4,
            ["train.global_batch_size=8"],
            "global_batch_size=8 is not a multiple of micro_batch_size=4 x dp=4",
            "at least 16; or micro_batch_size: 1, 2",
        ),
        (
            None,
            ["train.steps=5"],
            "optim.warmup_steps=10 exceeds train.steps=5",
            "at most 5 together",
        ),
        (
            None,
            ["optim.schedule=wsd", "optim.decay_steps=195"],
            "optim.warmup_steps=10 + optim.decay_steps=195 exceeds train.steps=200",
            "at most 200 together",
        ),
        (
            None,
            ["optim.decay_steps=3"],
            "optim.decay_steps=3 has no meaning for schedule=cosine",
            "set optim.decay_steps=0 or optim.schedule=wsd",
        ),
        (
            None,
            ["optim.schedule=wsd"],
            "optim.schedule=wsd without decay_steps",
            "set optim.decay_steps to 1 up to 190",
        ),
        (None, ["data.source=text"], "data.source=text needs data.paths", "e.g. data.paths="),
        (None, ["data.source=jsonl"], "data.source=jsonl needs data.paths", "e.g. data.paths="),
        (
            None,
            ["data.paths=[a]"],
            "data.paths is given, but data.source=stdlib does not read it",
            "set data.source to text or jsonl",
        ),
        (
            None,
            ["model.vocab_size=256"],
            "model.vocab_size=256 is too small to train a tokenizer",
            "at least 257",
        ),
        (
            None,
            ["data.held_out_fraction=0"],
            "train.eval_every=100 with data.held_out_fraction=0",
            "set train.eval_every=0",
        ),
        (
            None,
            ["observe.trace_steps=[3, 2]"],
            "observe.trace_steps=[3, 2] is not a range of steps",
            "two steps in order, at most train.steps=200",
        ),
        (
            None,
            ["observe.trace_steps=[3, 201]"],
            "observe.trace_steps=[3, 201] is not a range of steps",
            "at most train.steps=200",
        ),
    ],
)
def test_a_contradiction_is_refused_with_the_legal_values(
    num_ranks: int | None, overrides: list[str], what: str, help_text: str
) -> None:
    (error,) = errors_of(num_ranks, *overrides)
    assert what in error.what
    assert help_text in error.help
    assert "the command line" in error.where or num_ranks is not None


@pytest.mark.parametrize(
    ("num_ranks", "overrides"),
    [
        (None, []),
        (2, ["train.global_batch_size=16"]),
        (8, ["parallel.tp=8"]),  # KV heads on two ranks each
        (16, ["parallel.tp=4", "train.global_batch_size=16"]),
        (None, ["optim.schedule=wsd", "optim.decay_steps=190"]),
        (None, ["optim.schedule=constant", "optim.warmup_steps=200"]),
        (None, ["observe.trace_steps=[200, 200]"]),
        (None, ["data.held_out_fraction=0", "train.eval_every=0"]),
        (None, ["model.vocab_size=100", "data.tokenizer=folder"]),
        (None, ["data.source=jsonl", "data.paths=[a]"]),
    ],
)
def test_what_fits_is_allowed(num_ranks: int | None, overrides: list[str]) -> None:
    config = config_of(*overrides)
    check(config, num_ranks)
    assert all(not list(find(config, num_ranks)) for find in CHECKS)


def test_all_contradictions_come_at_once_with_the_origin_of_each_value() -> None:
    errors = errors_of(3, "model.head_dim=7", "parallel.tp=2", "data.source=text")
    assert [error.what.partition("=")[0] for error in errors] == [
        "model.head_dim",
        "parallel.tp",
        "data.source",
    ]
    assert errors[2].where == "data.source from the command line, data.paths by default"


def test_the_origin_of_a_value_from_a_file_is_its_line() -> None:
    (error,) = errors_of(None, "parallel.tp=16")
    tp, heads = error.where.split(", ")
    assert tp == "parallel.tp from the command line"
    assert heads.startswith("model.num_heads from configs/sizes/tiny.yaml:")


def test_a_long_list_of_legal_values_keeps_the_powers_of_two() -> None:
    (error,) = errors_of(None, "train.micro_batch_size=11", "train.global_batch_size=5040")
    assert error.help == "the nearest legal values: 5038, 5049; or micro_batch_size: 1, 2, 4, 8, 16"


def test_auto_becomes_the_ranks_that_tp_leaves() -> None:
    config = config_of("parallel.tp=2")
    assert resolve(config, 8).parallel.dp == 4
    assert resolve(config_of("parallel.dp=3"), 3).parallel.dp == 3
    assert config.parallel.dp == "auto"


@pytest.mark.parametrize(("tp", "dp", "ranks"), [(2, "auto", 3), (2, "3", 8), (4, "auto", 2)])
def test_ranks_that_make_no_grid_cannot_be_resolved(tp: int, dp: str, ranks: int) -> None:
    with pytest.raises(UserError, match=f"world size {ranks}"):
        resolve(config_of(f"parallel.tp={tp}", f"parallel.dp={dp}"), ranks)


def test_the_ranks_a_config_asks_for() -> None:
    assert world_size(config_of("parallel.tp=4")) == 4
    assert world_size(config_of("parallel.tp=4", "parallel.dp=3")) == 12


def test_divisors_and_legal_tp() -> None:
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    assert divisors(1) == [1]
    assert legal_tp(config_of("model.num_heads=24", "model.num_kv_heads=8")) == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("overrides", "what", "help_text"),
    [
        (
            ["parallel.tp=2", "overlap.mode=serial"],
            "overlap.mode=serial on xla",
            "auto, off, bulk, chunk, ring",
        ),
        (["overlap.o=serial"], "overlap.o=serial on xla", "auto, off, bulk, chunk, ring"),
        (["overlap.data_parallel=serial"], "overlap.data_parallel=serial on xla", "auto, on, off"),
        (["observe.trace_steps=[1, 2]"], "observe.trace_steps on xla", "the device's profiler"),
        (["train.offload_activations=true"], "train.offload_activations on xla", "false"),
    ],
)
def test_what_a_traced_step_cannot_do_is_refused(overrides, what: str, help_text: str) -> None:
    (error,) = errors_of(None, "runtime.device=xla", *overrides)
    assert error.what.startswith(what)
    assert help_text in error.help


@pytest.mark.parametrize("mode", ["auto", "off", "bulk", "chunk", "ring"])
def test_a_traced_step_has_every_form_and_the_table_s_choice(mode: str) -> None:
    check(config_of("runtime.device=xla", "parallel.tp=2", f"overlap.mode='{mode}'"), 2)


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_a_traced_step_has_recompute(mode: str) -> None:
    check(config_of("runtime.device=xla", "parallel.tp=2", f"train.recompute={mode}"), 2)


@pytest.mark.parametrize(
    ("overrides", "what", "help_text"),
    [
        (["overlap.mode=ring"], "overlap.mode=ring on neuron", "auto, serial, off, bulk, chunk;"),
        (["overlap.o=ring"], "overlap.o=ring on neuron", "legal on neuron: auto, serial, off,"),
        (["observe.trace_steps=[1, 2]"], "observe.trace_steps on neuron", "device's profiler"),
    ],
)
def test_what_a_device_without_neighbours_or_times_cannot_do_is_refused(
    overrides: list[str], what: str, help_text: str
) -> None:
    (error,) = errors_of(None, "runtime.device=neuron", *overrides)
    assert error.what.startswith(what)
    assert help_text in error.help


@pytest.mark.parametrize(
    ("overrides", "what", "help_text"),
    [
        (["runtime.device=xla"], "runtime.compile on xla", "set it to false"),
        (
            ["runtime.device=neuron", "ops.attention=nkilib"],
            "ops.attention=nkilib in a compiled graph on neuron",
            "legal: auto, nki, reference",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused(
    overrides: list[str], what: str, help_text: str
) -> None:
    (error,) = errors_of(None, "runtime.compile=true", *overrides)
    assert error.what.startswith(what)
    assert help_text in error.help


@pytest.mark.parametrize("device", ["cpu", "neuron"])
def test_recompute_offload_and_overlap_go_together_with_compilation(device: str) -> None:
    on = ["train.recompute=full", "train.offload_activations=true", "overlap.mode=chunk"]
    check(config_of(f"runtime.device={device}", "parallel.tp=2", "runtime.compile=true", *on), 2)


@pytest.mark.parametrize("mode", ["auto", "serial", "off", "bulk", "chunk"])
def test_a_device_with_streams_has_recompute_and_offload(mode: str) -> None:
    on = ["train.recompute=full", "train.offload_activations=true", f"overlap.mode='{mode}'"]
    check(config_of("runtime.device=neuron", "parallel.tp=2", *on), 2)
