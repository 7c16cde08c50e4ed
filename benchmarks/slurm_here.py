"""A SLURM cluster in a folder, on this machine: a controller and some nodes on loopback, for tests and benchmarks.

python benchmarks/slurm_here.py start FOLDER [NODES]    prints `export SLURM_CONF=...`
python benchmarks/slurm_here.py stop FOLDER

It needs slurmctld, slurmd and sbatch (Debian's slurmctld, slurmd and slurm-client), and the rights of root: daemons of
several nodes on one machine kill processes of jobs. There is no accounting and no authentication, so that nothing else
needs to run: never offer it to others.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
_CONF = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=100000,bf_interval=2
ReturnToService=2
SlurmdTimeout={patience}
InactiveLimit=0
KillWait=5
MinJobAge=10
OverTimeLimit=0
JobRequeue=1
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def lacking() -> str:
    """What is not here for a cluster, in words; "" if it can be started."""
    if missing := [name for name in NEEDED if _program(name) is None]:
        return f"SLURM is not installed here: no {', '.join(missing)}"
    return "" if os.geteuid() == 0 else "a SLURM cluster on one machine needs the rights of root"


class Slurm:
    """A cluster in a folder.

    Args:
        folder: Where its state, logs and settings lie.
        nodes: How many nodes of one core each.
        patience: Seconds after which the controller takes a silent node for down.
    """

    def __init__(self, folder: Path, nodes: int = 2, *, cores: int = 1, patience: int = 15) -> None:
        self.folder = folder.resolve()
        key = hashlib.sha256(str(self.folder).encode()).hexdigest()[:6]  # no other cluster's nodes have these names
        self.nodes = [f"here{key}n{k}" for k in range(nodes)]
        self.conf = self.folder / "slurm.conf"
        host, ports = platform.node(), _free_ports(nodes + 1)
        lines = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} RealMemory=1000"
            for name, port in zip(self.nodes, ports[1:], strict=True)
        ]
        self._text = _CONF.format(
            host=host, port=ports[0], folder=self.folder, nodes="\n".join(lines), patience=patience
        )
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}

    def start(self, seconds: float = 60.0) -> None:
        """Start the daemons, and wait until all nodes are idle.

        Raises:
            RuntimeError: If they are not in time; the message has the end of the controller's log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "state").mkdir(exist_ok=True)
        self.conf.write_text(self._text)
        self._daemon("slurmctld", "-c")
        for name in self.nodes:
            self.start_node(name)
        until = time.monotonic() + seconds
        while self.idle() < len(self.nodes):
            if time.monotonic() > until:
                log = self.folder / "slurmctld.log"
                said = log.read_text()[-2000:] if log.is_file() else "no log"
                self.stop()
                raise RuntimeError(f"no {len(self.nodes)} idle nodes within {seconds:g} s: {said}")
            time.sleep(0.2)

    def start_node(self, name: str) -> None:
        """Start one node's daemon."""
        self._daemon("slurmd", "-N", name)

    def kill_node(self, name: str) -> None:
        """Kill a node: its daemon, and with it the jobs that ran there and what they started."""
        jobs = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _node_of(pid) == name]
        victims = {_pid(self.folder / f"{name}.pid"), *jobs, *filter(_is_stepd, map(_parent, jobs))}
        for pid in victims:
            _kill(pid)

    def kill_daemon(self, name: str) -> None:
        """Kill a node's daemon alone; jobs there go on."""
        _kill(_pid(self.folder / f"{name}.pid"))

    def run(self, *words: str) -> str:
        """A command of SLURM's.

        Raises:
            RuntimeError: If it fails.
        """
        found = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        if found.returncode:
            raise RuntimeError(f"{' '.join(words)}: {found.stderr}")
        return found.stdout

    def idle(self) -> int:
        """How many nodes could take a job."""
        with suppress(RuntimeError):
            return self.run("sinfo", "-h", "-N", "-o", "%T").split().count("idle")
        return 0

    def stop(self) -> None:
        """Cancel all jobs and end the daemons."""
        with suppress(RuntimeError):
            if jobs := self.run("squeue", "-h", "-o", "%A").split():
                self.run("scancel", *jobs)
            until = time.monotonic() + 15
            while self.run("squeue", "-h", "-o", "%A").split() and time.monotonic() < until:
                time.sleep(0.2)
        daemons = [_pid(self.folder / f"{name}.pid") for name in ("slurmctld", *self.nodes)]
        for pid in daemons:
            _kill(pid, signal.SIGTERM)
        until = time.monotonic() + 10
        while any(map(_runs, daemons)) and time.monotonic() < until:
            time.sleep(0.1)
        for name in self.nodes:
            self.kill_node(name)

    def _daemon(self, program: str, *words: str) -> None:
        path = _program(program)
        assert path is not None
        found = subprocess.run(
            [path, *words], env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False
        )
        if found.returncode:
            raise RuntimeError(f"{program} does not start: {found.stderr or found.stdout}")


@contextmanager
def cluster(folder: Path, nodes: int = 2, **how: int) -> Iterator[Slurm]:
    """A cluster that runs meanwhile, and that SLURM's commands of this process find."""
    slurm, before = Slurm(folder, nodes, **how), os.environ.get("SLURM_CONF")
    slurm.start()
    os.environ["SLURM_CONF"] = str(slurm.conf)
    try:
        yield slurm
    finally:
        slurm.stop()
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _pid(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


def _kill(pid: int, kind: int = signal.SIGKILL) -> None:
    if pid > 1:
        with suppress(ProcessLookupError):
            os.kill(pid, kind)


def _runs(pid: int) -> bool:
    with suppress(OSError):
        return pid > 1 and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _node_of(pid: int) -> str:
    """The node that a process of a job runs on; "" for any other process."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return next((word[16:].decode() for word in words if word.startswith(b"SLURMD_NODENAME=")), "")
    return ""


def _parent(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _is_stepd(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().startswith("slurmstepd")
    return False


def main() -> None:
    """Start or stop one from the command line."""
    action, folder = sys.argv[1], Path(sys.argv[2])
    slurm = Slurm(folder, int(sys.argv[3]) if len(sys.argv) > 3 else 2)
    if action == "stop":
        slurm.stop()
    elif action == "start" and not lacking():
        slurm.start()
        print(f"export SLURM_CONF={slurm.conf}")
    else:
        raise SystemExit(lacking() or __doc__)


if __name__ == "__main__":
    main()
