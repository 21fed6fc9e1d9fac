"""What one node can say of itself: devices, driver, EFA, packages, names, ports. None raises.

findings = examine_node(instance, is_multi_node=True, is_head=False, port=29400)
"""

import json
import os
import platform
import resource
import shutil
import socket
import subprocess
from pathlib import Path

import ndtrain
from ndtrain.cluster.finding import Finding
from ndtrain.cluster.neuron_packages import stack
from ndtrain.hardware.instances import Instance
from ndtrain.runtime.neuron_packages import installed

_DRIVER = Path("/sys/module/neuron/version")
_FABRIC = Path("/sys/class/infiniband")
_OPEN_FILES = 65535  # what the Neuron SDK's scripts ask for
_TIMEOUT_S = 10
# Where torch-xla makes the Neuron runtimes of all ranks meet (torch_xla/_internal/neuron.py).
_ROOT_PORT = 62182


def examine_node(
    instance: Instance, is_multi_node: bool, is_head: bool, port: int
) -> list[Finding]:
    """is_head: whether all nodes meet at this one, at `port`."""
    findings = [versions()]
    if is_multi_node:
        findings.append(own_name())
    if is_head:
        needs_root = instance.device is not None and instance.device.name == "trn1"
        findings.append(ports((port, _ROOT_PORT) if needs_root else (port,)))
    if instance.device is not None:
        findings += [driver(), devices(instance), *stack(installed(), instance.device.name)]
        findings += [host(instance), open_files()]
        if is_multi_node:
            findings.append(efa(instance))
    return findings


def versions() -> Finding:
    """The same text on all nodes, or they run different programs."""
    packages = {"torch": None, "numpy": None} | installed(("torch", "numpy"))
    shown = [f"python {platform.python_version()}", f"ndtrain {ndtrain.__version__}"]
    shown += [f"{name} {version}" for name, version in packages.items()]
    return Finding("ok", "versions", ", ".join(shown))


def own_name() -> Finding:
    """Others are told this name: an address of the loopback would lead them to themselves."""
    name = socket.gethostname()
    try:
        address = str(socket.getaddrinfo(name, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        help_text = "put the names of all nodes into DNS or into /etc/hosts"
        return Finding("fail", "own name", f"{name} has no IPv4 address: {error}", help_text)
    if address.startswith("127."):
        help_text = f"remove {name} from the line of {address} in /etc/hosts"
        return Finding("fail", "own name", f"{name} is {address}, the loopback", help_text)
    return Finding("ok", "own name", f"{name} is {address}")


def ports(wanted: tuple[int, ...]) -> Finding:
    """Whether ranks can listen there; what is left of another job often does."""
    for port in wanted:
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            help_text = f"`ss -ltnp 'sport = :{port}'` shows who listens there"
            return Finding("fail", "ports", f"{port}: {os.strerror(error.errno or 0)}", help_text)
    return Finding("ok", "ports", f"{' and '.join(map(str, wanted))} free")


def host(instance: Instance) -> Finding:
    """Compilers and data of all ranks live in the host's memory; a cgroup may give less of it."""
    cpus = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    detail = f"{cpus} CPUs, {memory:.0f} GiB; {instance.name} has {instance.num_cpus} and "
    detail += f"{instance.host_memory_gib}"
    # Half of the CPUs where hyperthreading is off; the kernel keeps some memory.
    if cpus < instance.num_cpus // 2 or memory < 0.9 * instance.host_memory_gib:
        return Finding("fail", "host", detail, "is this the instance that --hardware says?")
    return Finding("ok", "host", detail)


def open_files() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < _OPEN_FILES:
        help_text = "raise LimitNOFILE of slurmd.service, or nofile in limits.conf"
        return Finding("warn", "open files", f"at most {hard}", help_text)
    return Finding("ok", "open files", "unlimited" if hard < 0 else f"at most {hard}")


def driver() -> Finding:
    try:
        return Finding("ok", "driver", f"neuron {_DRIVER.read_text().strip()}")
    except OSError:
        help_text = "install aws-neuronx-dkms, then `sudo modprobe neuron`"
        return Finding("fail", "driver", "the kernel has no module neuron", help_text)


def devices(instance: Instance) -> Finding:
    """By neuron-ls, whose JSON lists chips with their cores and the processes that hold them."""
    tool = shutil.which("neuron-ls") or "/opt/aws/neuron/bin/neuron-ls"
    if not os.access(tool, os.X_OK):
        return Finding("fail", "devices", "there is no neuron-ls", "install aws-neuronx-tools")
    try:
        done = subprocess.run(
            [tool, "-j"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
        chips = json.loads(done.stdout)
        cores = sum(chip["nc_count"] for chip in chips)
        holders = [
            process["pid"]
            for chip in chips
            for process in chip.get("neuron_processes") or ()
            if Path(process.get("command", "").partition(" ")[0]).name != "neuron-ls"
        ]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        what = f"neuron-ls gave no answer: {type(error).__name__}"
        return Finding("fail", "devices", what, "run `neuron-ls` on the node")
    found = f"{len(chips)} chips, {cores} cores"
    if holders:
        help_text = f"end what is left of another job: {', '.join(map(str, sorted(set(holders))))}"
        return Finding("fail", "devices", f"{found}, held by processes", help_text)
    # At LNC=2 it may count either kind of core.
    wanted = (instance.num_devices, instance.num_devices * instance.cores_per_device)
    if len(chips) != instance.num_chips or cores not in wanted:
        what = f"{found}; {instance.name} has {instance.num_chips} and {wanted[1]}"
        return Finding("fail", "devices", what, "`dmesg | grep -i neuron`; replace the node")
    return Finding("ok", "devices", found)


def efa(instance: Instance) -> Finding:
    """By the drivers behind the kernel's fabric devices."""
    paths = sorted(_FABRIC.glob("*/device/driver"))
    found = [path for path in paths if path.resolve().name == "efa"]
    detail = f"{len(found)} of {instance.num_efa} devices"
    if len(found) != instance.num_efa:
        help_text = "start the instance with all its EFA interfaces; install the EFA driver"
        return Finding("fail", "efa", detail, help_text)
    return Finding("ok", "efa", detail)
