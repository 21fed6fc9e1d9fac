"""Python that the NKI compiler refuses: one kernel for each construct."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ndtrain import nkisim
from ndtrain.nkisim import frontend
from ndtrain.nkisim.errors import LanguageError

from .kernels import nisa, nl

LIMIT = 0


def uses_lambda(x: Any) -> None:
    (lambda: 0)()


def uses_list_comprehension(x: Any) -> None:
    print([i * i for i in range(2)])


def uses_generator(x: Any) -> None:
    sum(i for i in range(2))


def uses_dict_comprehension(x: Any) -> None:
    print({i: i + i for i in "ab"})


def uses_set(x: Any) -> None:
    print({1, 2})


def uses_try(x: Any) -> None:
    try:
        pass
    finally:
        pass


def uses_raise(x: Any) -> None:
    raise ValueError


def uses_yield(x: Any) -> Any:
    yield x


def uses_global(x: Any) -> None:
    global LIMIT
    LIMIT = 1


def uses_del(x: Any) -> None:
    y = x
    del y


def uses_walrus(x: Any) -> None:
    if y := x:
        print(y)


def uses_import(x: Any) -> None:
    import math

    math.sqrt(2)


def uses_class(x: Any) -> None:
    class Inner(nl.NKIObject):
        pass

    Inner()


def uses_loop_else(x: Any) -> None:
    for _ in range(2):
        pass
    else:
        pass


def uses_keyword_only(x: Any, *, flag: bool = True) -> None:
    pass


def uses_star_arguments(x: Any, *rest: Any) -> None:
    pass


def uses_is(x: Any) -> None:
    assert x.shape is x.shape


def uses_integer_keys(x: Any) -> None:
    print({1: 2})


def uses_open(x: Any) -> None:
    with open("file"):
        pass


def helper(x: Any) -> None:
    print([i * i for i in range(2)])


def calls_a_helper_that_does(x: Any) -> None:
    helper(x)


class NotAnNkiObject:
    pass


def uses_a_foreign_class(x: Any) -> None:
    NotAnNkiObject()


BAD = [f for n, f in list(globals().items()) if n.startswith(("uses_", "calls_"))]


@pytest.mark.parametrize("kernel", BAD, ids=[f.__name__ for f in BAD])
def test_refused(kernel: Callable[..., Any]) -> None:
    with pytest.raises(LanguageError) as caught:
        nkisim.run(kernel, np.zeros((2, 2), np.float32), target="trn2")
    assert "test_frontend.py:" in caught.value.where
    assert caught.value.help


class Config(nl.NKIObject):
    rows: int
    scale: float = 1.0


def accepted(x: Any, rows: tuple = (0, 1), scale: Any = None) -> Any:
    """What the guide describes: loops, branches, lists, dicts, classes, functions as values."""
    config = Config(rows=len(rows))
    names = {"first": rows[0]}
    chosen = []
    for row in rows:
        if scale is None:
            chosen.append(row + names["first"])
        elif row > 0:
            continue
    while config.rows > 2:
        config.rows -= 1
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)

    def body(i: Any) -> None:
        nisa.dma_copy(dst=out, src=x)

    with nl.no_reorder():
        assert len(chosen) == 2, f"rows {chosen}"
        nisa.dma_copy(dst=out, src=x)
    nl.fori_loop(0, 2, body)
    return out


def test_accepted() -> None:
    x = np.ones((2, 2), np.float32)
    np.testing.assert_array_equal(nkisim.run(accepted, x, target="trn2").outputs, x)


def test_a_list_argument_is_refused() -> None:
    with pytest.raises(LanguageError, match="is a list"):
        nkisim.run(accepted, np.ones((2, 2), np.float32), [0, 1], target="trn2")


def test_the_simulator_itself_is_not_checked() -> None:
    frontend.check(nl.load)
