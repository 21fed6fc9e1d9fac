"""A link of a chosen speed between ranks on one Linux machine.

    with shaped_link(num_ranks=2, megabits=1000) as link:
        results = link.run(function, arguments)

Each rank gets a network namespace of its own; a bridge in a further one joins them, and the token
bucket of each rank's end (tc's tbf) limits what it sends. Over loopback bytes cost compute and
hardly any time, so there is nothing to hide; such a link costs time. Needs root and iproute2.
"""

import ctypes
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ndtrain.core.errors import UserError

_CLONE_NEWNET = 0x40000000
_PORT = 29417
_TIMEOUT_S = 3600


@dataclass(frozen=True)
class ShapedLink:
    prefix: str
    num_ranks: int

    def namespace(self, rank: int) -> str:
        return f"{self.prefix}-{rank}"

    def run(self, function: Callable[..., Any], arguments: tuple) -> list[Any]:
        """Calls the function on all ranks with a gloo group between them; results by rank."""
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(self.num_ranks)]
        processes = [
            context.Process(
                target=_rank, args=(self, rank, pipes[rank][1], function, arguments), daemon=True
            )
            for rank in range(self.num_ranks)
        ]
        for process in processes:
            process.start()
        try:
            return [
                _result(ours, process) for (ours, _), process in zip(pipes, processes, strict=True)
            ]
        finally:
            for process in processes:
                process.join(timeout=10)
                process.kill()


def _result(connection: Connection, process: Any) -> Any:
    waited = 0
    while not connection.poll(1):
        waited += 1
        if waited > _TIMEOUT_S or not process.is_alive():
            raise RuntimeError(f"a rank of the benchmark ended with code {process.exitcode}")
    return connection.recv()


def _rank(
    link: ShapedLink,
    rank: int,
    connection: Connection,
    function: Callable[..., Any],
    arguments: tuple,
) -> None:
    enter_namespace(link.namespace(rank))
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(link.num_ranks),
        "LOCAL_WORLD_SIZE": str(link.num_ranks),
        "MASTER_ADDR": _address(0),
        "MASTER_PORT": str(_PORT),
        "GLOO_SOCKET_IFNAME": "eth0",
    }
    from ndtrain.bench.launch import as_launched_rank

    connection.send(as_launched_rank(function, arguments, link.num_ranks))


def enter_namespace(name: str) -> None:
    """Moves this process, which has one thread yet, to a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {name}")
    finally:
        os.close(descriptor)


def require_shaping() -> None:
    """Raises UserError where such a link cannot be made."""
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        what = f"`{missing[0]}` is not installed" if missing else "this user is not root"
        raise UserError(
            f"a shaped link cannot be made: {what}",
            "--link-mbits",
            "run as root with iproute2 installed, or leave --link-mbits out",
        )


@contextmanager
def shaped_link(num_ranks: int, megabits: int) -> Iterator[ShapedLink]:
    """Makes the namespaces and removes them. Raises UserError where that is not possible."""
    require_shaping()
    link = ShapedLink(f"ndtrain-{os.getpid()}", num_ranks)
    hub = f"{link.prefix}-hub"
    # They outlive a process that TERM ends without a word.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        _run(f"ip netns add {hub}")
        _run(f"ip -n {hub} link add bridge0 type bridge")
        _run(f"ip -n {hub} link set bridge0 up")
        for rank in range(num_ranks):
            _add_rank(link.namespace(rank), hub, rank, megabits)
        yield link
    finally:
        for name in [hub, *(link.namespace(rank) for rank in range(num_ranks))]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        signal.signal(signal.SIGTERM, before)


def _add_rank(namespace: str, hub: str, rank: int, megabits: int) -> None:
    _run(f"ip netns add {namespace}")
    _run(f"ip -n {namespace} link add eth0 type veth peer name port{rank} netns {hub}")
    _run(f"ip -n {namespace} addr add {_address(rank)}/24 dev eth0")
    _run(f"ip -n {namespace} link set lo up")
    _run(f"ip -n {namespace} link set eth0 up")
    _run(f"ip -n {hub} link set port{rank} master bridge0 up")
    # The burst is what passes at once: one large segment, small beside a chunk.
    bucket = f"tbf rate {megabits}mbit burst 256kb latency 50ms"
    _run(f"tc -n {namespace} qdisc add dev eth0 root {bucket}")


def _address(rank: int) -> str:
    return f"10.213.0.{rank + 1}"


def _run(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(
            f"the link could not be made: {done.stderr.strip()}",
            command,
            "the kernel lacks network namespaces, veth, bridge or tbf; leave --link-mbits out",
        )
