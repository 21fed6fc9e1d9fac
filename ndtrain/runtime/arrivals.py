"""Bytes that have arrived at this process over TCP, as the kernel counts them.

    arrivals = Arrivals()           # of the connections that exist now; Linux
    before = arrivals.count()
    ...
    arrivals.count() - before
    arrivals.close()

A transfer is under way from its start until its end, whether anything moves or not. This count says
what moved: gloo sends nothing but headers before the other side has asked for the bytes.
"""

import os
import socket
import stat
import struct
import sys
from pathlib import Path

# tcpi_bytes_received of struct tcp_info (linux/tcp.h, since Linux 4.1): 64 bits after 128 bytes.
_OFFSET, _SIZE = 128, 136


def can_count_arrivals() -> bool:
    return sys.platform == "linux" and Path("/proc/self/fd").exists()


class Arrivals:
    def __init__(self) -> None:
        """Looks at what the descriptors are; they stay whose they were."""
        self._connections: list[socket.socket] = []
        for entry in os.listdir("/proc/self/fd"):
            connection = _tcp_connection(int(entry))
            if connection is not None:
                self._connections.append(connection)

    def count(self) -> int:
        """About a microsecond for each connection."""
        return sum(map(_received, self._connections))

    def close(self) -> None:
        """Afterwards nothing more is counted."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()


def _tcp_connection(descriptor: int) -> socket.socket | None:
    """A second descriptor of a connection between processes; None for anything else."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return None
        connection = socket.socket(fileno=os.dup(descriptor))
    except OSError:  # closed meanwhile
        return None
    is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
    try:
        if is_tcp and connection.type == socket.SOCK_STREAM and connection.getpeername():
            return connection
    except OSError:  # it listens
        pass
    connection.close()
    return None


def _received(connection: socket.socket) -> int:
    information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
    if len(information) < _SIZE:
        return 0
    (number,) = struct.unpack_from("=Q", information, _OFFSET)
    return int(number)
