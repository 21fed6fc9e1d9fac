"""Nodes find each other in a shared folder, then over the network: who reaches whom, whose clock.

    with Door() as door:                                      # answers the others while it is open
        seen = arrive(folder, "node1", nodes, door.port)      # -> ports by node; missing: not seen
        views = reach(seen)                                   # -> what came of each

What a node writes, the others have to see: that is the test of the shared file system.
"""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ndtrain.core.atomic import write_json

ARRIVAL_S = 20.0  # nodes start within this time of each other, or one of them does not start
CONNECT_S = 5.0
_POLL_S = 0.1
_CLOCK = struct.Struct("!d")  # seconds since 1970
_MOST_THREADS = 64


@dataclass(frozen=True)
class View:
    """What one node sees of another.

    error: why it could not be reached, "" if it could. ahead_s: how far its clock is ahead of
    ours, to within half of a round trip.
    """

    error: str
    ahead_s: float = 0.0


class Door:
    """Listens on a port that the system chooses, and tells whoever connects the time."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> "Door":
        threading.Thread(target=self._serve, name="door", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            with connection:
                try:
                    connection.sendall(_CLOCK.pack(time.time()))
                except OSError:
                    continue  # it went away, and will say so itself


def arrive(folder: Path, node: str, nodes: Iterable[str], port: int) -> dict[str, int]:
    """Tells the others the port and waits for theirs, ARRIVAL_S at the most. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{node}.arrived.json", {"port": port})
    return {name: value["port"] for name, value in wait_for(folder, nodes, "arrived", ARRIVAL_S)}


def wait_for(
    folder: Path, nodes: Iterable[str], kind: str, seconds: float
) -> list[tuple[str, dict]]:
    """What nodes have written as NODE.KIND.json, of those that have by then."""
    names = list(nodes)
    deadline = time.monotonic() + seconds
    while True:
        found = [(name, folder / f"{name}.{kind}.json") for name in names]
        found = [(name, file) for name, file in found if file.exists()]
        if len(found) == len(names) or time.monotonic() > deadline:
            return [(name, json.loads(file.read_bytes())) for name, file in found]
        time.sleep(_POLL_S)


def reach(ports: Mapping[str, int]) -> dict[str, View]:
    """Connects to all at once, by name, CONNECT_S at the most."""
    if not ports:
        return {}
    with ThreadPoolExecutor(min(len(ports), _MOST_THREADS)) as threads:
        views = threads.map(lambda name: look(name, ports[name]), ports)
        return dict(zip(ports, views, strict=True))


def look(host: str, port: int) -> View:
    began = time.time()
    try:
        with socket.create_connection((host, port), timeout=CONNECT_S) as connection:
            answer = connection.recv(_CLOCK.size, socket.MSG_WAITALL)
    except OSError as error:
        return View(str(error) or type(error).__name__)
    if len(answer) < _CLOCK.size:
        return View("it closed the connection")
    (theirs,) = _CLOCK.unpack(answer)
    return View("", theirs - (began + time.time()) / 2)
