"""Several simulated hosts on one machine, each with its own network address, processes, home and /dev/shm.

A host is a set of Linux namespaces whose first process is sshd. All hosts see the same file system, as if they had the
same image and shared storage, except for /tmp/ray, /run, the home folder and shared memory. A bridge connects them, and
a test can unplug a host's cable. The network is not routed, so no packet leaves this machine.
"""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_SETUP = """\
set -e
read -r _  # until the network is set up
hostname {name}
mount --make-rprivate /
mount --bind {folder}/passwd /etc/passwd
mount --bind {hosts} /etc/hosts
mkdir -p /tmp/ray /run/sshd
mount --bind {folder}/ray /tmp/ray
mount -t tmpfs -o size=1g shm /dev/shm
mount -t tmpfs run /run
mkdir /run/sshd
cd /
exec /usr/sbin/sshd -D -e -f {folder}/sshd_config
"""
_SSHD_CONFIG = """\
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {key}.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
PidFile none
SetEnv {environment}
"""
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "RAY_worker_niceness": "0",  # as elsewhere in the tests: workers with a lower priority would starve
}


def why_not() -> str | None:
    """Why hosts cannot be simulated on this machine; None if they can."""
    if os.geteuid() != 0:
        return "several hosts need network namespaces, and those need root"
    missing = [name for name in ("ip", "unshare", "nsenter", "sshd", "rsync") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (packages iproute2, util-linux, openssh-server, rsync)"
    return None


class Host:
    """One simulated host. `crash` simulates a power failure, `unplug` pulls its network cable."""

    def __init__(self, name: str, address: str, gateway: str, bridge: str, folder: Path, key: Path) -> None:
        """Create, but do not start, a host that `key` gives access to.

        Next to the key are its public half and `hosts`, the host's /etc/hosts.
        """
        self.name, self.address, self.home = name, address, folder / "home"
        self._gateway, self._bridge, self._folder, self._key = gateway, bridge, folder, key
        self._cable = f"{bridge}-{address.rpartition('.')[2]}"
        self._process: subprocess.Popen[bytes] | None = None
        self.home.mkdir(parents=True)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host_key")

    def boot(self) -> None:
        """Start with an empty /tmp/ray and the home as it was."""
        shutil.rmtree(self._folder / "ray", ignore_errors=True)
        (self._folder / "ray").mkdir()
        (self._folder / "passwd").write_text(
            f"root:x:0:0:root:{self.home}:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        )
        environment = " ".join(f"{name}={value}" for name, value in _ENVIRONMENT.items())
        config = _SSHD_CONFIG.format(address=self.address, folder=self._folder, key=self._key, environment=environment)
        (self._folder / "sshd_config").write_text(config)
        namespaces = ["--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child"]
        script = _SETUP.format(name=self.name, folder=self._folder, hosts=self._key.with_name("hosts"))
        with (self._folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", *namespaces, "bash", "-c", script], stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        _wait(lambda: psutil.Process(self._process.pid).children(), f"{self.name} did not start")
        _run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", str(self._init))
        _run("ip", "link", "set", self._cable, "master", self._bridge, "up")
        for command in (
            "ip link set lo up",
            f"ip address add {self.address}/24 dev eth0",
            "ip link set eth0 up",
            f"ip route add default via {self._gateway}",  # programs find their own address by it
        ):
            _run("nsenter", "--target", str(self._init), "--net", *command.split())
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.close()
        _wait(lambda: b"Server listening" in (self._folder / "sshd.log").read_bytes(), f"{self.name}: no sshd")

    def crash(self) -> None:
        """End all its processes at once, as a power failure does."""
        assert self._process is not None
        os.kill(self._init, signal.SIGKILL)
        self._process.wait(timeout=30)
        (self._folder / "sshd.log").unlink()
        self._process = None

    @property
    def is_up(self) -> bool:
        return self._process is not None

    def unplug(self) -> None:
        _run("ip", "link", "set", self._cable, "down")

    def plug_in(self) -> None:
        _run("ip", "link", "set", self._cable, "up")

    def popen(self, *command: str | Path, **options: object) -> subprocess.Popen[str]:
        """Start a command on this host as its user would."""
        line = shlex.join(map(str, command))
        return subprocess.Popen(
            ["nsenter", "--target", str(self._init), "--all", "bash", "-c", f"cd ~ && exec {line}"],
            env={**_ENVIRONMENT, "HOME": str(self.home), "PATH": os.environ["PATH"], "USER": "root", "LANG": "C.UTF-8"},
            text=True,
            **options,  # type: ignore[call-overload]
        )

    def run(self, *command: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        process = self.popen(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise AssertionError(f"{command} on {self.name} took over {timeout} s: {output}") from None
        return subprocess.CompletedProcess(command, process.returncode, output)

    def processes(self, word: str) -> list[psutil.Process]:
        """This host's processes whose command line contains the word."""
        found = []
        for process in psutil.Process(self._init).children(recursive=True):
            try:
                if word in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    @property
    def _init(self) -> int:
        """The process id of the host's first process, as seen from this machine."""
        assert self._process is not None, f"{self.name} is down"
        return int(psutil.Process(self._process.pid).children()[0].pid)


@contextmanager
def hosts(names: list[str], folder: Path) -> Iterator[dict[str, Host]]:
    """Hosts on a separate network, with one key for all of them; they and their processes end with the context."""
    number = os.getpid() % 200 + 20
    bridge, network = f"ossft{number}", f"10.77.{number}"
    key = folder / "key"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    by_name = {
        name: Host(name, f"{network}.{place}", f"{network}.1", bridge, folder / name, key)
        for place, name in enumerate(names, start=2)
    }
    addresses = "".join(f"{host.address} {host.name}\n" for host in by_name.values())
    key.with_name("hosts").write_text(f"127.0.0.1 localhost\n{addresses}")
    _run("ip", "link", "add", bridge, "type", "bridge")
    try:
        _run("ip", "address", "add", f"{network}.1/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        for host in by_name.values():
            host.boot()
        yield dict(by_name)
    finally:
        for host in by_name.values():
            if host.is_up:
                host.crash()
        _run("ip", "link", "delete", bridge)


def _run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def _wait(condition: Callable[[], object], message: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.05)
