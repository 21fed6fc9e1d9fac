"""The engine budgets in the docstrings of the attention kernels, recomputed from their streams.

Cycles of one instruction, as documented for trn2 (docstrings of nki.isa in NKI 0.1, and
trainium2_arch.rst for VectorE's double rate): an estimate of throughput, not a measurement.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from ndtrain import nkisim
from ndtrain.nkisim.trace import Instruction, Operand
from tests.kernels.kernel_cases import BF16, FOLDER, run

LEAST = 64  # the initiation interval of any instruction
GHZ = {"TensorE": 2.4, "VectorE": 0.96, "ScalarE": 1.2}
ENGINES = {"tensor": "TensorE", "vector": "VectorE", "scalar": "ScalarE"}


def free(operand: Operand) -> int:
    return math.prod(operand.shape[1:])


def cycles(instruction: Instruction) -> int:
    operands = (*instruction.writes, *instruction.reads)
    named = {operand.role: operand for operand in operands}
    if instruction.opcode == "nc_matmul":
        return max(min(LEAST, free(named["stationary"])), free(named["moving"]))
    if instruction.opcode == "nc_transpose":
        return max(named["data"].shape[0], min(LEAST, free(named["data"])))
    elements = max(free(operand) for operand in operands)
    if instruction.opcode == "activation_reduce":
        return max(LEAST, elements) + LEAST  # reads the accumulator out
    if instruction.opcode == "tensor_copy" and all(o.dtype.itemsize == 2 for o in operands):
        return max(LEAST, elements // 2)  # one side in PSUM, 16-bit
    return max(LEAST, elements)


def total(name: str, query_tiles: int, keys: int) -> Counter[str]:
    """Cycles of each engine; every key is visible."""
    q = np.zeros((128 * query_tiles, 1, 1, 128), BF16)
    k = np.zeros((keys, 1, 1, 128), BF16)
    arguments: tuple[Any, ...] = (q, k, k)
    if name == "attention_backward":
        arguments = (q, q, k, k, q, np.zeros((1, 1, len(q)), np.float32))
    settings = nkisim.Options(arithmetic=False)
    result = run(name, *arguments, offset=keys, options=settings)
    spent: Counter[str] = Counter()
    for instruction in result.stream:
        if instruction.engine in ENGINES:
            spent[ENGINES[instruction.engine]] += cycles(instruction)
    return spent


@pytest.mark.parametrize("name", ["attention_forward", "attention_backward"])
def test_budget(name: str) -> None:
    """The part of the cost that grows with queries x keys, for 128 x 512 of them."""
    keys = 2048  # VectorE's share of the evictions repeats after four banks
    spent = Counter(total(name, 2, 2 * keys))
    spent.subtract(total(name, 1, 2 * keys))
    spent.subtract(total(name, 2, keys))
    spent.update(total(name, 1, keys))
    docstring = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    stated = re.findall(r"(\w+E) +(\d+) cycles +(\d\.\d\d) us", docstring or "")
    assert [engine for engine, _, _ in stated] == list(GHZ)
    for engine, number, microseconds in stated:
        assert int(number) == spent[engine] * 512 // keys
        assert float(microseconds) == pytest.approx(int(number) / GHZ[engine] / 1e3, abs=0.006)
