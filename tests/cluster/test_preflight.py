"""The examination itself: nodes are processes of this machine, under names of its loopback."""

import multiprocessing
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from ndtrain.cluster import meeting, preflight
from ndtrain.cluster.judge import judge
from ndtrain.cluster.meeting import Door, look, reach
from ndtrain.cluster.preflight import Node, NodeReport, examine
from ndtrain.hardware.instances import CPU

# Names that every system resolves to itself.
NODES = ("127.0.0.1", "127.0.0.2")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def examine_as(name: str, folder: Path, port: int) -> None:
    examine(Node(name, NODES, folder, CPU, port))


@pytest.mark.slow
def test_two_nodes_meet_and_send_each_other_a_tensor(tmp_path: Path) -> None:
    context, port = multiprocessing.get_context("spawn"), free_port()
    processes = [
        context.Process(target=examine_as, args=(name, tmp_path, port), daemon=True)
        for name in NODES
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        assert process.exitcode == 0
    judged = judge(NODES, tmp_path)
    for name in NODES:
        report = NodeReport.read(tmp_path / f"{name}.report.json")
        assert [view.error for view in report.views.values()] == [""]
        assert report.receives_gbits is not None
        assert report.receives_gbits > 0
        # The name of this machine may be the loopback's: here that is right.
        names = {finding.name for finding in judged.findings[name] if finding.state != "ok"}
        assert names <= {"own name"}


def test_a_node_waits_for_the_others_no_longer_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "ARRIVAL_S", 0.3)
    monkeypatch.setattr(preflight, "CONNECT_S", 0.1)
    monkeypatch.setattr(preflight, "_LINGER_S", 0.1)
    report = examine(Node(NODES[0], NODES, tmp_path, CPU, free_port()))
    assert report.unseen == [NODES[1]]
    assert report.receives_gbits is None
    judged = judge(NODES, tmp_path)
    assert NODES[1] in judged.bad_nodes


def test_who_is_reached_and_who_is_not() -> None:
    with Door() as door:
        views = reach({"127.0.0.1": door.port, "localhost": free_port()})
    assert views["127.0.0.1"].error == ""
    assert abs(views["127.0.0.1"].ahead_s) < 1
    assert "refused" in views["localhost"].error
    assert reach({}) == {}


def test_a_name_that_nobody_knows_is_an_error_of_the_view() -> None:
    assert look("no-such-host.invalid", 1).error


def test_a_clock_that_is_ahead() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(struct.pack("!d", time.time() + 100))

        threading.Thread(target=serve, daemon=True).start()
        view = look("127.0.0.1", listener.getsockname()[1])
    assert view.ahead_s == pytest.approx(100, abs=5)


def test_one_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        assert look("127.0.0.1", listener.getsockname()[1]).error == "it closed the connection"
