"""The text of an HLO module as a graph: operands, labels, groups, reachability."""

import pytest

from ndtrain.overlap.hlo import HloGraph, Reach

TEXT = """HloModule IrToHlo.18, entry_computation_layout={(f32[8,8]{1,0}, f32[])->(f32[4,8]{1,0})}

%AddComputation.20 (x.1: f32[], y.2: f32[]) -> f32[] {
  %x.1 = f32[] parameter(0)
  ROOT %add.3 = f32[] add(f32[] %x.1, f32[] %y.2)
}

ENTRY %IrToHlo.18 (p0.1: f32[8,8], p1.2: f32[]) -> (f32[4,8]) {
  %p1.2 = f32[] parameter(1)
  %p0.1 = f32[8,8]{1,0} parameter(0), metadata={op_type="xla__device_data" op_name="xla__device_data"}
  %constant.6 = f32[] constant(-nan), metadata={op_name="a.b.9/prim__Constant"}
  %all-gather.5 = f32[16,8]{1,0} all-gather(f32[8,8]{1,0} %p0.1), replica_groups={{0,1},{2,3}}, dimensions={0}, metadata={op_name="outer.1/layer.qkv.gather.12/xla__all_gather"}
  %tuple.11 = (f32[8,8]{1,0}, f32[16,8]{1,0}) tuple(f32[8,8]{1,0} %p0.1, f32[16,8]{1,0} %all-gather.5)
  %opt-barrier.12 = (f32[8,8]{1,0}, f32[16,8]{1,0}) opt-barrier((f32[8,8]{1,0}, f32[16,8]{1,0}) %tuple.11)
  %get-tuple-element.13 = f32[8,8]{1,0} get-tuple-element((f32[8,8]{1,0}, f32[16,8]{1,0}) %opt-barrier.12), index=0
  %dot.15 = f32[8,8]{0,1} dot(f32[8,8]{1,0} %get-tuple-element.13, f32[8,8]{1,0} %p0.1), lhs_contracting_dims={1}, metadata={op_name="layer.qkv.product.3/aten__mm.2/aten__mm"}
  %dot.16 = f32[8,8]{0,1} dot(f32[8,8]{1,0} %p0.1, f32[8,8]{1,0} %p0.1), metadata={op_name="aten__mm"}
  %collective-permute.69 = f32[8,8]{1,0} collective-permute(f32[8,8]{1,0} %dot.16), source_target_pairs={{0,1},{1,0}}, metadata={op_name="x.1/y"}
  %reduce-scatter.7 = f32[4,8]{1,0} reduce-scatter(f32[8,8]{1,0} %dot.16), replica_groups={{0,1}}, to_apply=%AddComputation.20
  ROOT %tuple.17 = (f32[8,8]{0,1}, f32[4,8]{1,0}) tuple(f32[8,8]{0,1} %dot.15, f32[4,8]{1,0} %reduce-scatter.7)
}
"""  # noqa: E501


def test_instructions_have_opcode_operands_label_and_groups() -> None:
    found = HloGraph.read(TEXT).instructions
    assert len(found) == 12  # of the entry alone
    gather = found["all-gather.5"]
    assert (gather.opcode, gather.operands) == ("all-gather", ("p0.1",))
    assert gather.label == "layer.qkv.gather"  # the innermost scope, without torch-xla's number
    assert gather.groups == ((0, 1), (2, 3))
    assert found["collective-permute.69"].groups == ((0, 1), (1, 0))
    assert found["opt-barrier.12"].opcode == "opt-barrier"
    assert found["reduce-scatter.7"].operands == ("dot.16",)  # not the computation it applies
    assert found["constant.6"].operands == ()
    assert found["dot.16"].label == ""
    assert [one.name for one in HloGraph.read(TEXT).labelled("layer.qkv.product")] == ["dot.15"]


def test_a_barrier_makes_everything_behind_it_wait() -> None:
    graph = HloGraph.read(TEXT)
    assert graph.before("all-gather.5", "dot.15")  # through the barrier, no data of it
    assert not graph.before("all-gather.5", "dot.16")
    assert not graph.before("dot.15", "all-gather.5")
    assert graph.before("dot.16", "reduce-scatter.7")


def test_reach_is_transitive_and_strict() -> None:
    reach = Reach({"a": [], "b": ["a"], "c": ["b"], "d": []})
    assert reach.before("a", "c")
    assert not reach.before("c", "a")
    assert not reach.before("a", "d")
    assert not reach.before("a", "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("HloModule nothing", "no entry"),
        ("ENTRY %e () -> f32[] {\n  gibberish\n}", "not an HLO instruction"),
        ("ENTRY %e () -> f32[] {\n  %a.1 = f32[] negate(f32[] %b.2)\n}", "not above it"),
        ("ENTRY %e () -> f32[] {\n  %a.1 = f32[] negate(f32[] %b.2\n}", "without an end"),
    ],
)
def test_what_is_not_hlo_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HloGraph.read(text)
