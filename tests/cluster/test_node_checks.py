"""What a node says of itself, on machines that have what this one has not."""

import json
import resource
import socket
from pathlib import Path

import pytest

from ndtrain.cluster import node_checks
from ndtrain.cluster.node_checks import (
    devices,
    driver,
    efa,
    examine_node,
    host,
    open_files,
    own_name,
    ports,
)
from ndtrain.hardware.instances import CPU, TRN1_32XLARGE, TRN2_48XLARGE, Instance


def neuron_ls(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int = 0) -> None:
    tool = folder / "neuron-ls"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def chips(number: int, cores: int, **more: object) -> str:
    return json.dumps([{"neuron_device": i, "nc_count": cores, **more} for i in range(number)])


def test_all_devices_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    neuron_ls(tmp_path, monkeypatch, chips(16, 2))
    assert devices(TRN1_32XLARGE) == ("ok", "devices", "16 chips, 32 cores", "")
    # It may count itself among the processes.
    itself = {"pid": 9, "command": "/opt/aws/neuron/bin/neuron-ls -j"}
    for processes in ([itself], None):
        neuron_ls(tmp_path, monkeypatch, chips(16, 2, neuron_processes=processes))
        assert devices(TRN1_32XLARGE).state == "ok"
    # Physical or logical: neuron-ls may count either.
    for cores in (4, 8):
        neuron_ls(tmp_path, monkeypatch, chips(16, cores))
        assert devices(TRN2_48XLARGE).state == "ok"


@pytest.mark.parametrize(
    ("answer", "code", "detail"),
    [
        (chips(15, 2), 0, "15 chips, 30 cores; trn1.32xlarge has 16 and 32"),
        (chips(16, 2, neuron_processes=[{"pid": 77}]), 0, "held by processes"),
        (chips(16, 2, neuron_processes=[{"pid": 7, "command": "python x"}]), 0, "held by"),
        ("no devices found", 0, "neuron-ls gave no answer: JSONDecodeError"),
        ("[]", 3, "neuron-ls gave no answer: CalledProcessError"),
        ('{"a": 1}', 0, "neuron-ls gave no answer: TypeError"),
    ],
)
def test_devices_that_are_not_right(
    answer: str, code: int, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    neuron_ls(tmp_path, monkeypatch, answer, code)
    finding = devices(TRN1_32XLARGE)
    assert finding.state == "fail"
    assert detail in finding.detail
    assert finding.help


def test_without_the_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(node_checks.os, "access", lambda path, mode: False)
    assert devices(TRN1_32XLARGE).help == "install aws-neuronx-tools"


def test_efa_devices_are_counted_by_their_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_checks, "_FABRIC", tmp_path)
    for name in ("efa", "mlx5_core"):
        (tmp_path / "drivers" / name).mkdir(parents=True)
    for number in range(8):
        folder = tmp_path / f"rdmap{number}" / "device"
        folder.mkdir(parents=True)
        driver_name = "efa" if number else "mlx5_core"
        (folder / "driver").symlink_to(tmp_path / "drivers" / driver_name)
    assert efa(TRN1_32XLARGE)[:3] == ("fail", "efa", "7 of 8 devices")
    (tmp_path / "rdmap0/device/driver").unlink()
    (tmp_path / "rdmap0/device/driver").symlink_to(tmp_path / "drivers" / "efa")
    assert efa(TRN1_32XLARGE) == ("ok", "efa", "8 of 8 devices", "")


def test_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_checks, "_DRIVER", tmp_path / "version")
    assert driver().state == "fail"
    (tmp_path / "version").write_text("2.21.37\n")
    assert driver() == ("ok", "driver", "neuron 2.21.37", "")


@pytest.mark.parametrize(
    ("address", "state"), [("127.0.1.1", "fail"), ("10.0.0.7", "ok"), (None, "fail")]
)
def test_a_name_that_leads_others_to_themselves(
    address: str | None, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(name: str, *arguments: object) -> list:
        if address is None:
            raise socket.gaierror("not known")
        return [(socket.AF_INET, 0, 0, "", (address, 0))]

    monkeypatch.setattr(node_checks.socket, "getaddrinfo", resolve)
    assert own_name().state == state


@pytest.mark.parametrize(
    ("cpus", "gib", "state"),
    [(128, 496, "ok"), (64, 496, "ok"), (32, 496, "fail"), (128, 64, "fail")],
)
def test_a_host_that_is_smaller_than_the_instance(
    cpus: int, gib: int, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": gib * 2**18}
    monkeypatch.setattr(node_checks.os, "cpu_count", lambda: cpus)
    monkeypatch.setattr(node_checks.os, "sysconf", pages.__getitem__)
    assert host(TRN1_32XLARGE).state == state


def test_few_files_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {1024: "warn", 65535: "ok", resource.RLIM_INFINITY: "ok"}
    for hard, state in limits.items():
        monkeypatch.setattr(node_checks.resource, "getrlimit", lambda which, hard=hard: (0, hard))
        assert open_files().state == state


def test_a_port_that_somebody_listens_at() -> None:
    with socket.create_server(("", 0)) as listener:
        taken = int(listener.getsockname()[1])
        finding = ports((taken,))
    assert (finding.state, finding.detail) == ("fail", f"{taken}: Address already in use")
    assert f":{taken}'` shows who" in finding.help
    assert ports((taken,)) == ("ok", "ports", f"{taken} free", "")


def names(instance: Instance, is_multi_node: bool, is_head: bool = False) -> list[str]:
    return [f.name for f in examine_node(instance, is_multi_node, is_head, 0)]


def test_cpus_are_asked_for_nothing_of_neuron() -> None:
    assert names(CPU, is_multi_node=False) == ["versions"]
    assert names(CPU, is_multi_node=True) == ["versions", "own name"]
    assert {"driver", "devices", "neuron packages", "efa"} <= set(names(TRN1_32XLARGE, True))


def test_only_where_all_meet_ports_have_to_be_free() -> None:
    assert names(CPU, is_multi_node=True, is_head=True) == ["versions", "own name", "ports"]
    of_trn1 = examine_node(TRN1_32XLARGE, is_multi_node=True, is_head=True, port=0)
    assert [f.detail for f in of_trn1 if f.name == "ports"] == ["0 and 62182 free"]
