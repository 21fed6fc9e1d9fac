"""launch/README.md: its commands run, on the configuration that it shows, and its files exist."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Run, run  # noqa: F401

LAUNCH = Path(__file__).parents[2] / "launch"
TEXT = (LAUNCH / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition("  #")[0].partition(" > ")[0]
    for block in BLOCKS
    for line in block.splitlines()
    if line.startswith(("ndtrain slurm", "ndtrain validate"))
]


def config() -> str:
    (block,) = [block for block in BLOCKS if block.startswith("extends:")]
    return block


def test_the_configuration_and_the_cluster_are_yaml() -> None:
    (cluster,) = [block for block in BLOCKS if block.startswith("Region:")]
    assert yaml.safe_load(cluster)["Scheduling"]["Scheduler"] == "slurm"
    assert yaml.safe_load(config())["run"]["name"] == "first"


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_run(
    command: str,
    run: Run,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(config(), "utf-8")
    result = run(*shlex.split(command)[1:])
    assert (result.code, result.err) == (0, "")
    assert result.out


def test_all_commands_are_found() -> None:
    assert len(COMMANDS) == 4


def test_every_script_has_its_line() -> None:
    texts = {file: file.read_bytes() for file in LAUNCH.iterdir() if file.is_file()}
    scripts = {file.name for file, text in texts.items() if text.startswith(b"#!")}
    assert {name for name in scripts if f"`{name}" not in TEXT} == set()
    assert len(scripts) >= 4
