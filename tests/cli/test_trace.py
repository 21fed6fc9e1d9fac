"""`ndtrain trace`: a profile in the documented form ends up in the run's trace."""

import json
from pathlib import Path

from ndtrain.core.spans import Span
from ndtrain.observe.run_directory import RunDirectory
from ndtrain.observe.trace import merge_traces, write_trace
from tests.cli.conftest import Run


def test_trace(run: Run, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "small")
    directory.trace_file(0).parent.mkdir(parents=True)
    write_trace(directory.trace_file(0), [Span("forward", "host", 0, 9000, 0)], 0, 0)
    merge_traces([directory.trace_file(0)], directory.merged_trace_file)
    instruction = {"timestamp": 7, "duration": 2000, "label": "Vector", "opcode": "ADD"}
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"instruction": [instruction]}))
    arguments = ("trace", str(directory.path), "--neuron-profile", str(profile))

    result = run(*arguments)
    assert result.code == 2
    assert "--align" in result.err
    result = run(*arguments, "--align", "forward")
    assert result == (0, f"wrote {directory.merged_trace_file}\n", "")
    assert '"ADD"' in directory.merged_trace_file.read_text()


def test_a_profile_has_to_be_given(run: Run, tmp_path: Path) -> None:
    result = run("trace", str(tmp_path))
    assert result.code == 2
    assert "--neuron-profile" in result.err
