"""A SLURM cluster on this machine: a controller and nodes, each in a network namespace of its own.

    with slurm_lab(tmp_path, num_nodes=3) as lab:
        lab.run("sbatch", "job.sbatch")           # as on a login node
        lab.on_node(2, "ip route ...")            # in the network of node2

A bridge joins them. All share this machine's processes and files, as nodes share a file system. The
daemons are Debian's slurm-wlm and munge, with keys, sockets and logs in the folder; nothing outside
of it is written, but /etc/hosts has the nodes' names in the daemons' mount namespace. Root only.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PACKAGES = ("slurm-wlm", "munge", "iproute2")
_TOOLS = ("slurmctld", "slurmd", "munged", "sbatch", "ip", "nsenter", "unshare")
_NETWORK = "10.214.0"
_CONTROLLER = f"{_NETWORK}.254"

_SLURM_CONF = """
ClusterName=lab
SlurmctldHost=ctl({controller})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5,socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=5
{nodes}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=all Nodes=ALL Default=YES MaxTime=30 State=UP PriorityTier=1 GraceTime=300
PartitionName=urgent Nodes=ALL MaxTime=30 State=UP PriorityTier=10
"""


def missing() -> str | None:
    """Why there can be no such cluster here; installs the packages if apt can."""
    if os.geteuid() != 0:
        return "a SLURM cluster needs root"
    if not all(map(shutil.which, _TOOLS)) and not _install():
        return f"{', '.join(_PACKAGES)} are not installed and apt cannot get them"
    probe = subprocess.run(["unshare", "-n", "-u", "-m", "true"], capture_output=True, check=False)
    return "no namespaces here" if probe.returncode else None


def _install() -> bool:
    if shutil.which("apt-get") is None:
        return False
    command = ["apt-get", "install", "-y", "--no-install-recommends", *_PACKAGES]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update"], command):
        subprocess.run(step, env=environment, capture_output=True, timeout=300, check=False)
    return all(map(shutil.which, _TOOLS))


class Lab:
    def __init__(self, folder: Path, num_nodes: int) -> None:
        self.folder = folder
        self.nodes = [f"node{number}" for number in range(1, num_nodes + 1)]
        self._prefix = f"ndlab{os.getpid()}"
        self._processes: list[subprocess.Popen] = []
        self._mounts = 0  # process id of the one that holds the mount namespace

    @property
    def hosts(self) -> list[str]:
        return [*self.nodes, "ctl"]

    def address(self, host: str) -> str:
        return _CONTROLLER if host == "ctl" else f"{_NETWORK}.{host.removeprefix('node')}"

    def run(self, *command: str, check: bool = True) -> str:
        """Runs a command where the controller is; returns what it printed."""
        done = self._done("ctl", command)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def on_node(self, node: str, *command: str) -> None:
        done = self._done(node, command)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def _done(self, host: str, command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._enter(host), *command],
            env=self._environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _environment(self) -> dict[str, str]:
        """Without variables that a launcher or a scheduler above the tests may have set."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM", "NDTRAIN", "RANK", "WORLD_SIZE", "MASTER_"))
        }
        # The nodes share two cores: ranks that spin for each other would keep all from working.
        return kept | {"SLURM_CONF": f"{self.folder}/slurm.conf", "OMP_NUM_THREADS": "1"}

    def _enter(self, host: str) -> list[str]:
        """nsenter and not `ip netns exec`, which hides the cgroups behind a new /sys."""
        return [
            "nsenter",
            f"--mount=/proc/{self._mounts}/ns/mnt",
            f"--net=/proc/{self._mounts}/root/run/netns/{self._prefix}-{host}",
            f"--wd={self.folder}",
            "--",
        ]

    def start(self) -> None:
        self._make_network()
        self._write_files()
        self._mounts = self._hold_mounts()
        self._daemon("ctl", "munged", *self._munge_options())
        wait_until(lambda: (self.folder / "munge.socket").exists(), 10, "munged is there")
        self._daemon("ctl", "slurmctld", "-D")
        for node in self.nodes:
            self._daemon(node, "slurmd", "-D")

        def is_idle() -> bool:
            return self.run("sinfo", "-h", "-t", "idle", "-o", "%D", check=False).strip() == str(
                len(self.nodes)
            )

        wait_until(is_idle, 60, "all nodes are idle")

    def stop(self) -> None:
        """Everything, whatever of it came to be; a second call does nothing."""
        if self._processes:
            self.run("scancel", "--user=root", "--signal=KILL", check=False)
        for process in reversed(self._processes):
            _end(process)
        self._processes.clear()
        for line in subprocess.run(
            ["ip", "netns", "list"], capture_output=True, text=True, check=False
        ).stdout.splitlines():
            name = line.split()[0]
            if name.startswith(f"{self._prefix}-"):
                _end_all_in(name)
                subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def _make_network(self) -> None:
        hub = f"{self._prefix}-ctl"
        _ip(f"netns add {hub}")
        _ip(f"-n {hub} link add bridge0 type bridge")
        _ip(f"-n {hub} addr add {_CONTROLLER}/24 dev bridge0")
        _ip(f"-n {hub} link set bridge0 up")
        _ip(f"-n {hub} link set lo up")
        for node in self.nodes:
            name = f"{self._prefix}-{node}"
            _ip(f"netns add {name}")
            _ip(f"-n {name} link add eth0 type veth peer name {node} netns {hub}")
            _ip(f"-n {name} addr add {self.address(node)}/24 dev eth0")
            _ip(f"-n {name} link set lo up")
            _ip(f"-n {name} link set eth0 up")
            _ip(f"-n {hub} link set {node} master bridge0 up")

    def _write_files(self) -> None:
        for name in ("state", *(f"spool-{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True)
        nodes = "\n".join(
            f"NodeName={node} NodeAddr={self.address(node)} CPUs=2" for node in self.nodes
        )
        text = _SLURM_CONF.format(controller=_CONTROLLER, folder=self.folder, nodes=nodes)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "cgroup.conf").write_text(_cgroup_conf())
        names = "".join(f"{self.address(host)} {host}\n" for host in self.hosts)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o400)

    def _munge_options(self) -> list[str]:
        """--force: the folder of a test lies below one that others may write to."""
        names = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid"}
        names |= {"log-file": "munge.log", "seed-file": "munge.seed"}
        paths = [f"--{option}={self.folder / name}" for option, name in names.items()]
        return ["--foreground", "--force", *paths]

    def _hold_mounts(self) -> int:
        program = (
            f"mount --bind {self.folder}/hosts /etc/hosts && echo ready && exec sleep infinity"
        )
        process = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", program],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process.pid

    def _daemon(self, host: str, *command: str) -> None:
        """In a UTS namespace of its own: slurmd is the node that its host name says."""
        program = f'hostname {host}; exec "$@"'
        with open(self.folder / f"{command[0]}-{host}.out", "w") as output:
            self._processes.append(
                subprocess.Popen(
                    [*self._enter(host), "unshare", "-u", "sh", "-c", program, "sh", *command],
                    env=self._environment(),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )


@contextmanager
def slurm_lab(folder: Path, num_nodes: int) -> Iterator[Lab]:
    lab = Lab(folder, num_nodes)
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def _cgroup_conf() -> str:
    """Machines that mount both versions of cgroups make slurmd refuse to choose."""
    kinds = {line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    if "cgroup" in kinds:
        return "CgroupPlugin=cgroup/v1\n"
    return "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\n"


def _ip(arguments: str) -> None:
    done = subprocess.run(["ip", *arguments.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {arguments}: {done.stderr}"


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_all_in(namespace: str) -> None:
    """Steps of jobs outlive the slurmd that started them."""
    found = subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False
    )
    for pid in found.stdout.split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
