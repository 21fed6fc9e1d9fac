"""`ndtrain data show`: what a run would train on, dimmed on a terminal and bracketed elsewhere."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from ndtrain.cli.data import data

CHATS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in [("one?", "first answer"), ("two?", "second answer"), ("three?", "\x1b[31mthird")]
]


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    records = tmp_path / "chat.jsonl"
    records.write_text("".join(json.dumps(record) + "\n" for record in CHATS))
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {vocab_size: 300}\n"
        "data:\n"
        "  source: jsonl\n"
        f"  paths: [{records}]\n"
        f"  cache_directory: {tmp_path / 'cache'}\n"
        "  sequence_length: 128\n"
        "  held_out_fraction: 0.0\n"
        "  shuffle: false\n"
    )
    return ["show", str(config)]


def test_rows_are_bracketed_in_a_file(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    data([*arguments, "-n", "2"], standalone_mode=False)
    out, err = capsys.readouterr()
    assert out.count("=== row ") == 2
    assert (
        "[[<|im_start|>user\none?<|im_end|>\n<|im_start|>assistant\n]]"
        "<think>\n\n</think>\n\nfirst answer<|im_end|>[[\n]]\n" in out
    )
    assert "\\x1b[31mthird" in out
    assert "\x1b" not in out
    assert "`messages` records" in err
    assert "% filled; 0 of 3 conversations cut" in err


def test_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    data([*arguments, "data.train_on=all", "-n", "1", "--json"], standalone_mode=False)
    (row,) = json.loads(capsys.readouterr().out)
    (document, *_) = row["documents"]
    assert [run["counted"] for run in document["runs"]] == [False, True]
    assert document["runs"][0]["text"] == "<|im_start|>"
    assert row["num_counted"] == row["num_tokens"] - len(row["documents"])


@pytest.mark.parametrize("no_colour", [False, True])
def test_masked_tokens_are_dim_on_a_terminal(arguments: list[str], no_colour: bool) -> None:
    script = "import sys; from ndtrain.cli.data import data; data(sys.argv[1:])"
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    if no_colour:
        environment["NO_COLOR"] = "1"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", script, *arguments, "-n", "1"]
    with subprocess.Popen(
        command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        os.close(theirs)
        out = b""
        while chunk := _read(ours):
            out += chunk
    os.close(ours)
    assert process.returncode == 0
    dim, bracketed = b"\x1b[2m<|im_start|>user" in out, b"[[<|im_start|>user" in out
    assert (dim, bracketed) == (not no_colour, no_colour)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux reports the end of a pseudo-terminal as EIO
        return b""
