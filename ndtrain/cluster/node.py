"""What `launch/torchrun.sh` asks about the node that it runs on, without importing torch.

    python -m ndtrain.cluster.node HEAD      # -> "10.0.0.7 10.0.0.5 eth0 SIGINT,SIGHUP,SIGQUIT"

Its address on the way to HEAD, HEAD's own, the interface, and the signals that torchrun shall
answer, `-` where this torch's torchrun cannot be told. HEAD is a host name or an address.
"""

import fcntl
import importlib.util
import socket
import struct
import sys
from pathlib import Path

from ndtrain.core.errors import UserError

_GET_ADDRESS = 0x8915  # SIOCGIFADDR of Linux's ioctl: the IPv4 address of an interface
# Not TERM: torchrun answers it by killing its workers after 30 s, and they listen themselves.
_SIGNALS = "SIGINT,SIGHUP,SIGQUIT"


def ipv4_of(host: str) -> str:
    """Raises UserError where the name has no IPv4 address."""
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        raise UserError(
            f"the host `{host}` has no IPv4 address: {error}",
            socket.gethostname(),
            "names of nodes have to be in DNS or in /etc/hosts of every node",
        ) from None


def address_towards(host: str) -> str:
    """This node's IPv4 address on the way to the host; no packet is sent.

    Raises UserError where there is no way.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ipv4_of(host), 9))
        except OSError as error:
            raise UserError(
                f"there is no route to `{host}`: {error}",
                socket.gethostname(),
                "compare `ip route` with a node that works",
            ) from None
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """The interface with this IPv4 address; None where none has it."""
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
            try:
                answer = fcntl.ioctl(query, _GET_ADDRESS, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an address
        if socket.inet_ntoa(answer[20:24]) == address:
            return name
    return None


def can_choose_signals() -> bool:
    """Whether torchrun has --signals-to-handle, which came after torch 2.9."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    program = Path(spec.origin).parent / "distributed" / "run.py"
    return "--signals-to-handle" in program.read_text("utf-8")


def main(arguments: list[str]) -> int:
    (head,) = arguments
    try:
        address, head_address = address_towards(head), ipv4_of(head)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    interface = interface_of(address)
    assert interface is not None, "the system gave out this address"
    print(address, head_address, interface, _SIGNALS if can_choose_signals() else "-")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
