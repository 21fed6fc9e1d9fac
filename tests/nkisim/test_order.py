"""Order that a kernel demands itself."""

from typing import Any

import pytest

from ndtrain import nkisim
from ndtrain.nkisim.errors import ApiError, DeadlockError, HardwareLimit

from .kernels import nisa, nki, nl, run, sbuf


def independent() -> Any:
    a, b = sbuf((32, 4)), sbuf((32, 4))
    first = nisa.memset(a, 1.0, name="first")
    second = nisa.memset(b, 2.0, name="second")
    return first, second


def test_independent_instructions_may_be_turned_round() -> None:
    def kernel() -> None:
        first, second = independent()
        first.depends_on(second)

    assert run(kernel).stream[0].after == [1]


def test_an_edge_against_the_data_is_a_deadlock() -> None:
    def kernel() -> None:
        a, b, c = sbuf((32, 4)), sbuf((32, 4)), sbuf((32, 4))
        write = nisa.memset(a, 1.0)
        nisa.tensor_copy(b, a)
        read = nisa.tensor_copy(c, b)
        write.depends_on(read)

    with pytest.raises(DeadlockError, match="3 instructions wait for each other"):
        run(kernel)


def test_no_reorder_is_an_order_too() -> None:
    def kernel() -> None:
        with nl.no_reorder():
            first, second = independent()
        first.depends_on(second)

    with pytest.raises(DeadlockError):
        run(kernel)


def test_a_schedule_by_name() -> None:
    @nki.jit
    def kernel() -> None:
        independent()

    def scheduled(*edges: Any) -> nkisim.Run:
        options = nkisim.Options(check_python=False)
        return nkisim.run(kernel.with_schedule(list(edges)), target="trn2", options=options)

    assert scheduled(("second", ["first"])).stream[1].after == [0]
    with pytest.raises(ApiError, match="`third`"):
        scheduled(("third", "first"))
    with pytest.raises(DeadlockError):
        scheduled(("second", "first"), ("first", "second"))


def test_an_edge_may_not_leave_a_dynamic_loop() -> None:
    def kernel() -> None:
        first, _ = independent()

        def body(i: Any) -> None:
            nisa.memset(sbuf((32, 4)), 0.0).depends_on(first)

        nl.fori_loop(0, 2, body)

    with pytest.raises(ApiError, match="another dynamic loop"):
        run(kernel)


def test_a_dynamic_loop_may_not_stand_in_no_reorder() -> None:
    def kernel() -> None:
        with nl.no_reorder():
            nl.fori_loop(0, 2, lambda i: None)

    with pytest.raises(HardwareLimit, match="no_reorder"):
        run(kernel)
