"""What a node's script asks: addresses, interfaces, and what torchrun can be told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ndtrain.cluster import node, rank
from ndtrain.cluster.node import address_towards, interface_of, ipv4_of
from ndtrain.cluster.variable_names import PERMUTES
from ndtrain.core.errors import UserError
from ndtrain.hardware.instances import HARDWARE, INSTANCES

ROOT = Path(__file__).parents[2]


def test_the_way_to_a_host() -> None:
    assert ipv4_of("localhost") == "127.0.0.1"
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert interface_of("127.0.0.1") in ("lo", "lo0")
    assert interface_of("192.0.2.1") is None  # of TEST-NET-1, which nobody has


def test_a_host_that_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="has no IPv4 address"):
        ipv4_of("no-such-host.invalid")
    assert node.main(["no-such-host.invalid"]) == UserError.exit_code
    assert "in DNS or in /etc/hosts" in capsys.readouterr().err


def test_a_host_to_which_no_way_leads() -> None:
    with pytest.raises(UserError, match="there is no route to `255"):
        address_towards("255.255.255.255")  # everybody, which a socket has to ask for


def test_a_line_that_the_shell_reads_without_torch() -> None:
    program = (
        "import sys; from ndtrain.cluster import node; code = node.main(['127.0.0.1']);"
        "sys.exit('torch' if 'torch' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    address, head, interface, signals = done.stdout.split()
    assert (address, head) == ("127.0.0.1", "127.0.0.1")
    assert interface.startswith("lo")
    assert signals == ("SIGINT,SIGHUP,SIGQUIT" if node.can_choose_signals() else "-")


def test_torchrun_takes_the_option_if_and_only_if_it_is_said_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.distributed.run import get_args_parser

    options = get_args_parser().format_help()
    assert node.can_choose_signals() == ("--signals-to-handle" in options)
    monkeypatch.setattr(node.importlib.util, "find_spec", lambda name: None)
    assert not node.can_choose_signals()


def test_a_rank_announces_its_process_while_it_lives(tmp_path: Path) -> None:
    file = tmp_path / "rank_3.pid"
    with rank.announced(str(tmp_path), "3"):
        assert int(file.read_text()) == os.getpid()
    assert not file.exists()
    with rank.announced(None, "3"):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("hardware", "arguments", "message"),
    [
        ("trn1.32xlarge", ["tiny"], "runtime.device=cpu would leave the devices of trn1.32xlarge"),
        ("trn2.48xlarge", ["tiny", "runtime.device=xla"], "set runtime.device=neuron"),
        ("trn1.32xlarge", ["no-such-config"], "no-such-config"),
        ("trn9", ["tiny"], "there is no instance `trn9`"),
    ],
)
def test_a_rank_meant_for_a_device_does_not_train_on_a_cpu(
    hardware: str,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(HARDWARE, hardware)
    assert rank.main(arguments) == UserError.exit_code
    assert message in capsys.readouterr().err


def test_rings_are_not_undone_by_a_variable_of_other_trainers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HARDWARE, "trn1.32xlarge")
    monkeypatch.setenv(PERMUTES, "1")
    assert rank.main(["tiny", "runtime.device=xla"]) == UserError.exit_code
    assert "all-gathers of the hops of rings" in capsys.readouterr().err


def test_every_instance_of_a_device_has_a_runtime() -> None:
    devices = {one.device.name for one in INSTANCES.values() if one.device is not None}
    assert devices <= rank.RUNTIME_DEVICE.keys()


def test_a_rank_s_work_is_to_train_or_to_precompile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(rank.WORK, "precompile")
    assert rank.main(["tiny"]) == UserError.exit_code
    assert "runtime.device=cpu has no compile cache to fill" in capsys.readouterr().err
    monkeypatch.setenv(rank.WORK, "precompil")
    assert rank.main(["tiny"]) == UserError.exit_code
    assert "there is no work `precompil` for a rank" in capsys.readouterr().err
