"""The gate takes what is predicted to be shortest, and nothing where nothing is to be hidden."""

from dataclasses import replace

import pytest
import torch

from ndtrain.config.schema import Overlap
from ndtrain.core.errors import UserError
from ndtrain.overlap.candidates import CANDIDATES, Sizes, candidate, meta_inputs
from ndtrain.overlap.collective_matmul import HALVES, MODES, Mode
from ndtrain.overlap.gate import MARGIN, Choice, Decision, decide, needs_figures
from ndtrain.overlap.memory import held_bytes
from ndtrain.overlap.modes import OPERATIONS, Pass
from ndtrain.overlap.node_cost import Figures
from ndtrain.overlap.timeline import simulate

SIZES = Sizes(
    num_ranks=2,
    sequence_length=1024,
    batch_size=1,
    hidden=1024,
    widths={"qkv": 2048, "o": 1024, "gate_up": 3072, "down": 1536, "head": 4096},
)


def figures(link_bytes_per_s: float, **others: float) -> Figures:
    return Figures(
        matmul_flops=30e9,
        memory_bytes_per_s=5e9,
        link_bytes_per_s=link_bytes_per_s,
        **others,  # type: ignore[arg-type]
    )


def modes_of(decision: Decision) -> set[str]:
    return {choice.mode for choice in decision.choices}


def test_a_slow_link_is_hidden() -> None:
    decision = decide(Overlap(), SIZES, figures(125e6), torch.float32)
    assert "off" not in {c.mode for c in decision.choices if c.operation != "head"}
    for choice in decision.choices:
        assert choice.predicted_ms is not None
        assert choice.blocking_ms is not None
        assert choice.mode == "off" or choice.predicted_ms < (1 - MARGIN) * choice.blocking_ms


def test_a_link_that_costs_nothing_leaves_everything_blocking() -> None:
    decision = decide(Overlap(), SIZES, figures(float("inf")), torch.float32)
    assert modes_of(decision) == {"off"}


def test_a_device_that_cannot_send_to_a_neighbour_gets_no_ring() -> None:
    machine = figures(125e6)
    assert "ring" in modes_of(decide(Overlap(), SIZES, machine, torch.float32))
    without = decide(Overlap(), SIZES, machine, torch.float32, has_permute=False)
    assert "ring" not in modes_of(without)
    assert "chunk" in modes_of(without)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("operation", "when"), [c for c in CANDIDATES if c[0] != "head"])
def test_chunks_that_are_told_apart_by_data_are_copies_and_weighed_as_such(
    operation: str, when: Pass, mode: Mode
) -> None:
    """Of a ring; no other form has a chunk that depends on the rank."""
    tensors = meta_inputs(operation, when, SIZES, torch.float32)
    seconds, held = [], []
    for are_data in (False, True):
        schedule = candidate(operation, when, mode, SIZES, torch.float32, are_data)
        seconds.append(simulate(schedule, tensors, 2, figures(125e6)).makespan_s)
        held.append(held_bytes(schedule, tensors, 2))
    is_ring = mode in HALVES
    assert (seconds[1] > seconds[0]) == is_ring
    assert held[1] >= held[0]
    if not is_ring:
        assert (seconds[1], held[1]) == (seconds[0], held[0])


def test_a_ring_that_gains_less_than_its_copies_cost_is_not_chosen_where_it_makes_them() -> None:
    machine = replace(figures(2e9), matmul_flops=300e9)
    for are_data in (False, True):
        decision = decide(Overlap(), SIZES, machine, torch.float32, places_are_data=are_data)
        assert are_data == modes_of(decision).isdisjoint(HALVES)


def test_overheads_that_exceed_the_gain_leave_it_blocking() -> None:
    decision = decide(Overlap(), SIZES, figures(125e6, node_overhead_s=0.5), torch.float32)
    assert "ring" not in modes_of(decision)
    assert "chunk" not in modes_of(decision)


@pytest.mark.parametrize("mode", MODES)
def test_a_fixed_mode_is_followed_without_figures(mode: str) -> None:
    settings = Overlap(mode=mode, o="off")  # type: ignore[arg-type]
    assert not needs_figures(settings)
    decision = decide(settings, SIZES, None, torch.float32)
    for choice in decision.choices:
        if choice.operation == "o":
            assert choice.mode == "off"
        elif choice.operation != "head":
            assert choice.mode == mode
    head = next(c.mode for c in decision.choices if c.operation == "head")
    assert head == ("chunk" if mode in ("chunk", "ring", "ring2") else "off")


def test_serial_is_the_plan_of_auto_one_node_at_a_time() -> None:
    auto = decide(Overlap(), SIZES, figures(125e6), torch.float32)
    serial = decide(Overlap(mode="serial"), SIZES, figures(125e6), torch.float32)
    assert tuple(replace(choice, serial=False) for choice in serial.choices) == auto.choices
    assert (auto.modes.serial, serial.modes.serial) == (frozenset(), frozenset(OPERATIONS))
    assert serial.overlapped == set()


def test_an_operation_is_weighed_or_serial_on_its_own() -> None:
    """Blocking but for two; and a form of its own does not take one out of a serial run."""
    settings = Overlap(mode="off", gate_up="auto", down="serial")
    assert needs_figures(settings)
    auto = decide(Overlap(), SIZES, figures(125e6), torch.float32)
    mixed = decide(settings, SIZES, figures(125e6), torch.float32)
    for choice, weighed in zip(mixed.choices, auto.choices, strict=True):
        if choice.operation in ("gate_up", "down"):
            # A head start is for two that both run beside something.
            expected = replace(weighed, serial=choice.operation == "down", early=False)
            assert replace(choice, extra_bytes=0) == replace(expected, extra_bytes=0)
        else:
            assert (choice.mode, choice.serial) == ("off", False)
    assert mixed.overlapped == {"gate_up"}
    assert mixed.modes.serial == {"down"}
    assert f"{choice_of(mixed, 'down', 'forward').mode}, one node at a time" in "".join(
        mixed.lines()
    )
    whole = decide(Overlap(mode="serial", o="ring"), SIZES, figures(125e6), torch.float32)
    assert choice_of(whole, "o", "forward").mode == "ring"
    assert whole.modes.serial == frozenset(OPERATIONS)


def test_one_rank_hides_nothing() -> None:
    alone = Sizes(
        num_ranks=1, sequence_length=8, batch_size=1, hidden=8, widths=dict.fromkeys(OPERATIONS, 8)
    )
    assert modes_of(decide(Overlap(mode="ring"), alone, None, torch.float32)) == {"off"}


def test_a_decision_survives_json() -> None:
    decision = decide(Overlap(), SIZES, figures(125e6), torch.float32)
    assert Decision.from_json(decision.to_json()) == decision
    assert all(
        choice.operation in line
        for choice, line in zip(decision.choices, decision.lines(), strict=True)
    )


def test_shards_of_an_odd_number_of_rows_are_never_cut_in_sub_chunks() -> None:
    odd = replace(SIZES, sequence_length=1026)
    decision = decide(Overlap(), odd, figures(125e6), torch.float32)
    assert modes_of(decision).isdisjoint({"chunk", "ring2"})
    for mode in ("chunk", "ring2"):
        with pytest.raises(UserError, match=f"as {mode} needs .* multiple of 4"):
            decide(Overlap(mode=mode), odd, None, torch.float32)  # type: ignore[arg-type]


def choice_of(decision: Decision, operation: str, when: str) -> Choice:
    return next(c for c in decision.choices if (c.operation, c.when) == (operation, when))


def test_forms_above_the_limit_of_memory_are_not_chosen_and_the_line_says_so() -> None:
    free = choice_of(decide(Overlap(), SIZES, figures(125e6), torch.float32), "o", "forward")
    assert free.extra_bytes > 0
    assert f"{free.extra_bytes / 1e6:.1f} MB more" in free.line()
    below = Overlap(max_extra_megabytes=(free.extra_bytes - 1) / 1e6)
    bound = choice_of(decide(below, SIZES, figures(125e6), torch.float32), "o", "forward")
    assert free.mode in bound.too_large
    assert bound.mode != free.mode
    assert bound.extra_bytes < free.extra_bytes
    assert f"{free.mode}" in bound.line().split(";")[1]
    assert bound.line().endswith("above overlap.max_extra_megabytes")
    at = Overlap(max_extra_megabytes=free.extra_bytes / 1e6)
    assert choice_of(decide(at, SIZES, figures(125e6), torch.float32), "o", "forward") == free


def starts_early(settings: Overlap) -> set[str]:
    decision = decide(settings, SIZES, figures(125e6), torch.float32)
    early = {choice.operation for choice in decision.choices if choice.early}
    assert early == {c.operation for c in decision.choices if ", begun in " in c.line()}
    assert early == decision.modes.early
    return early


def test_a_column_has_a_head_start_where_it_and_its_row_run_beside_something() -> None:
    assert starts_early(Overlap(mode="bulk")) == {"qkv", "gate_up"}
    assert starts_early(Overlap(mode="serial")) == {"qkv", "gate_up"}
    assert starts_early(Overlap(mode="ring", o="off")) == {"gate_up"}
    assert starts_early(Overlap(mode="ring", gate_up="off")) == {"qkv"}
    assert starts_early(Overlap(mode="auto", down="serial")) == {"qkv"}
    assert starts_early(Overlap(mode="off")) == set()
    data = decide(Overlap(), SIZES, figures(125e6), torch.float32, places_are_data=True)
    assert data.modes.early == frozenset()  # a traced graph leaves the gather free anyway


def test_a_head_start_above_the_limit_of_memory_is_left_out() -> None:
    """In a wide layer, SwiGLU's gradients are the most that is held, and the gathered x beside."""
    widths = SIZES.widths | {"gate_up": 16384, "down": 8192}
    wide = replace(SIZES, sequence_length=8192, widths=widths)

    def gate_up(megabytes: float | None) -> Choice:
        settings = Overlap(mode="bulk", max_extra_megabytes=megabytes)
        return choice_of(decide(settings, wide, None, torch.float32), "gate_up", "backward")

    gathered = wide.sequence_length * wide.batch_size * wide.hidden * 4
    assert gate_up(None) == gate_up(gathered / 1e6)
    assert (gate_up(None).early, gate_up(None).extra_bytes) == (True, gathered)
    less = gate_up((gathered - 1) / 1e6)
    assert not less.early
    assert less.extra_bytes < gathered


def test_a_form_that_was_asked_for_and_is_above_the_limit_is_refused() -> None:
    settings = Overlap(mode="ring", max_extra_megabytes=0.0)
    with pytest.raises(UserError, match="above the blocking form, and the limit is 0 MB"):
        decide(settings, SIZES, None, torch.float32)


def test_a_plan_of_before_the_limit_is_still_read() -> None:
    old = {"operation": "qkv", "when": "forward", "mode": "ring"}
    for serial in (False, True):  # then of all operations together
        decision = Decision.from_json({"choices": [old], "serial": serial})
        assert decision.choices == (Choice("qkv", "forward", "ring", serial=serial),)
