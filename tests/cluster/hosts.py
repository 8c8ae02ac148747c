"""Several hosts on one machine, each a set of Linux namespaces with a sshd of its own.

    with Hosts({"laptop": [...], "head": [...]}, cover=[...], folder=folder) as hosts:
        hosts.run("laptop", "ssh -i KEY 10.77.0.2 hostname")

A host has its own network address, host name, processes, shared memory, /tmp and /root; Ray on two
of them cannot tell that the machine is one. They are plugged into a switch (a bridge in a network
namespace of its own, so the machine's network is not touched), and `cut` pulls a host's plug.

Left out: a kernel, CPUs, memory and disks of their own, and a way to the internet (the default route,
without which Ray takes 127.0.0.1 for its address, leads nowhere). Needs root, iproute2 and OpenSSH. One
set of hosts at a time: starting removes what a killed run has left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conftest import PATIENCE

TOOLS = ("ip", "unshare", "nsenter", "sshd", "ssh", "ssh-keygen", "rsync")
PREFIX = "cluster-test-"  # of the network namespaces' names: how leftovers are found
SWITCH = f"{PREFIX}switch"
NETWORK = "10.77.0"

# Process 1 of a host. Covered folders are empty, but for the kept ones, which stay at their own paths: they
# are held in sshd's folder while what is above them is covered. The shell stays process 1, since it reaps
# what daemons leave behind.
INIT = r"""
set -eu
hostname "$NAME"
mkdir -p /run/sshd
mount -t tmpfs -o mode=755 none /run/sshd
held() { printf '/run/sshd/%s' "$(printf %s "$1" | tr / _)"; }
for folder in $KEEP; do mkdir "$(held "$folder")"; mount --rbind "$folder" "$(held "$folder")"; done
for folder in /tmp /root /dev/shm $COVER; do mkdir -p "$folder"; mount -t tmpfs none "$folder"; done
for folder in $KEEP; do mkdir -p "$folder"; mount --rbind "$(held "$folder")" "$folder"; done
mount --bind "$HOSTS" /etc/hosts
mount --bind /dev/null /etc/resolv.conf
ssh-keygen -q -t ed25519 -N '' -f /run/sshd/key
/usr/sbin/sshd -f /dev/null -h /run/sshd/key \
    -o AuthorizedKeysFile="$KEY.pub" -o StrictModes=no -o UsePAM=yes -o PidFile=none
while :; do sleep 1000 & wait $!; done
"""


def missing() -> str:
    """What stands in the way of hosts here; empty if nothing does."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    absent = [tool for tool in TOOLS if not shutil.which(tool)]
    if absent:
        return f"needs {', '.join(absent)} (`make test-cluster` installs them)"
    tried = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--mount-proc", "true"]
    made = subprocess.run(tried, capture_output=True, text=True, check=False)
    return f"no namespaces can be made here ({made.stderr.strip()})" if made.returncode else ""


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def leftovers() -> list[str]:
    """Network namespaces of hosts, of this run or a former one."""
    return [
        line.split()[0] for line in _output("ip", "netns", "list").splitlines() if line.startswith(PREFIX)
    ]


def clean() -> None:
    """End every process of every host, and remove the hosts."""
    for namespace in leftovers():
        while pids := _output("ip", "netns", "pids", namespace).split():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)
        _output("ip", "netns", "del", namespace)  # takes its interfaces, and the bridge, with it


class Hosts:
    """Hosts that run as long as the context lasts.

    Args:
        keep: by host name (up to 15 letters), folders of the machine that stay in sight in covered ones.
        cover: folders no host sees, beside /tmp and /root.
        folder: an empty folder for the ssh key.

    Attributes:
        addresses: by host name.
        key: a private key that opens every host for root.
    """

    def __init__(self, keep: Mapping[str, Sequence[Path]], cover: Sequence[Path], folder: Path) -> None:
        self.keep, self.cover, self.folder = keep, cover, folder
        self.addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(keep, start=1)}
        self.key = folder / "key"
        self._processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Hosts:
        clean()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    def _start(self) -> None:
        _output("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self.addresses.items())]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n")
        _output("ip", "netns", "add", SWITCH)
        _output("ip", "-n", SWITCH, "link", "add", "switch", "type", "bridge")
        _output("ip", "-n", SWITCH, "link", "set", "switch", "up")
        for name, address in self.addresses.items():
            namespace = f"{PREFIX}{name}"
            _output("ip", "netns", "add", namespace)
            plug = f"link add {name} type veth peer name eth0 netns {namespace}"
            _output("ip", "-n", SWITCH, *plug.split())
            _output("ip", "-n", SWITCH, *f"link set {name} master switch up".split())
            for setting in (
                f"address add {address}/24 dev eth0",
                "link set lo up",
                "link set eth0 up",
                f"route add default via {NETWORK}.254",
            ):
                _output("ip", "-n", namespace, *setting.split())
            self._processes[name] = self._boot(name, namespace)
        for name in self.addresses:
            self.wait(name, "true < /dev/tcp/127.0.0.1/22")

    def _boot(self, name: str, namespace: str) -> subprocess.Popen:
        given = {
            "NAME": name,
            "KEEP": " ".join(map(str, self.keep[name])),
            "COVER": " ".join(map(str, self.cover)),
            "HOSTS": str(self.folder / "hosts"),
            "KEY": str(self.key),
        }
        command = f"ip netns exec {namespace} unshare --mount --pid --uts --ipc --fork --mount-proc bash -c"
        with (self.folder / f"{name}.log").open("w") as log:
            return subprocess.Popen(
                [*command.split(), INIT],
                env=os.environ | given,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def command(self, name: str, script: str) -> list[str]:
        """The command that runs a bash script on a host, as root in a fresh environment."""
        above = self._processes[name].pid
        first = Path(f"/proc/{above}/task/{above}/children").read_text().split()
        if not first:
            raise RuntimeError(f"{name} is not up: {(self.folder / f'{name}.log').read_text()}")
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return [
            *f"nsenter --target {first[0]} --mount --pid --uts --ipc --net".split(),
            *f"env -i HOME=/root USER=root LANG=C.UTF-8 TERM=dumb PATH={path}".split(),
            *("bash", "-c", f"cd; {script}"),
        ]

    def start(self, name: str, script: str) -> subprocess.Popen:
        """Start a script on a host; its output is in the process's `stdout`."""
        return subprocess.Popen(
            self.command(name, script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, name: str, script: str) -> subprocess.CompletedProcess:
        """Run a script on a host to its end; `stdout` has all it said."""
        process = self.start(name, script)
        try:
            said, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(script, process.returncode, said)

    def wait(self, name: str, script: str) -> None:
        """Run a script on a host until it succeeds."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                done = self.run(name, script)
                if done.returncode == 0:
                    return
                problem = done.stdout
            except RuntimeError as error:
                problem = str(error)
            if time.monotonic() > end:
                raise TimeoutError(f"{name}: `{script}` did not succeed within {PATIENCE} s: {problem}")
            time.sleep(0.2)

    def processes(self, name: str) -> list[str]:
        """The command lines of all processes of a host, the one that asks aside."""
        lines = self.run(name, "exec ps -e -o args=").stdout.splitlines()
        return [line for line in lines if line and not line.startswith("ps ")]

    def cut(self, name: str) -> None:
        """Cut a host off: nothing reaches it, and nobody is told."""
        _output("ip", "-n", SWITCH, "link", "set", name, "down")

    def restore(self, name: str) -> None:
        """Undo `cut`."""
        _output("ip", "-n", SWITCH, "link", "set", name, "up")

    def stop(self) -> None:
        """Remove the hosts, whatever they are doing."""
        clean()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()
