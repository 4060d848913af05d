"""A machine on which systemd is process 1, in namespaces of its own.

    with SystemdMachine(tmp_path) as machine:
        machine.write("/etc/systemd/system/hello.service", unit)
        machine.run("systemctl", "start", "hello")

Its root is an overlay over this machine's: it sees every file and changes none. /tmp, /run, /dev and /sys are its own,
and no unit is started but those a test starts: the clean-up that systemd does at a boot would be real.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from limits import LIVENESS_LIMIT
from shell import ROOT

BOOT = """
set -e
for tree in $TREES; do mkdir -p /sys/fs/cgroup/$tree/$NAME; echo $$ > /sys/fs/cgroup/$tree/$NAME/cgroup.procs; done
exec unshare --kill-child --fork --pid --mount --uts --ipc --net --cgroup --propagation private bash -ec "$INSIDE"
"""
INSIDE = """
ip link set lo up
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root
mount -t proc proc proc
for folder in run tmp dev sys; do mount -t tmpfs tmpfs $folder; done
mkdir -p run/systemd/system dev/shm sys/fs/cgroup old
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
ln -s pts/ptmx dev/ptmx
touch run/console dev/console; mount --bind run/console dev/console
if [ -z "$TREES" ]; then mount -t cgroup2 cgroup2 sys/fs/cgroup; else
  mount -t tmpfs tmpfs sys/fs/cgroup; mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
  mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
  mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
fi
mkdir -p opt/python opt/packages opt/rooms/rumormill opt/rumormill/bin
mount --bind "$PYTHON" opt/python; mount --bind "$PACKAGES" opt/packages; mount --bind "$CHECKOUT" opt/rooms/rumormill
printf '[Unit]\\nDefaultDependencies=no\\n' > run/systemd/system/only.target
pivot_root . old
cd /
umount -l /old
test -z "$(ls /tmp)"
export container=lxc
exec /lib/systemd/systemd --system --unit=only.target --log-target=console --show-status=no </dev/null
"""
LAUNCHER = """#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/rooms:/opt/packages
exec /opt/python/bin/python{version} -c 'from rumormill.{module} import main; main()' "$@"
"""


class MachineUnavailable(Exception):
    """No such machine can be made here; the text says why."""


class SystemdMachine:
    """A context manager. Files written to the machine are gone with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = f"rumormill{os.getpid()}"
        split = Path("/sys/fs/cgroup/unified").exists()
        self._trees = ["systemd", "unified"] if split else []
        self._boot: subprocess.Popen[bytes] | None = None
        self._init = 0

    def __enter__(self) -> SystemdMachine:
        if os.geteuid() != 0:
            raise MachineUnavailable("namespaces need root")
        if missing := [tool for tool in ("systemctl", "unshare", "nsenter", "ip") if shutil.which(tool) is None]:
            raise MachineUnavailable(f"{' and '.join(missing)} not found: apt-get install -y systemd iproute2")
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def run(self, *command: str, check: bool = True) -> str:
        """What a command on the machine says."""
        argv = ["nsenter", f"--target={self._init}", "--all", *command]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=LIVENESS_LIMIT
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.console()}"
        return done.stdout + done.stderr

    def write(self, path: str, text: str, mode: str = "644") -> None:
        argv = ["nsenter", f"--target={self._init}", "--all", "install", "-D", f"--mode={mode}", "/dev/stdin", path]
        subprocess.run(argv, input=text.encode(), check=True)

    def install(self, name: str, module: str) -> None:
        """Make ``main`` of one of our modules a program in /opt/rumormill/bin, with the packages of this environment.
        Its files are bound to /opt, because a unit sees no /home and no /root."""
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        self.write(f"/opt/rumormill/bin/{name}", LAUNCHER.format(version=version, module=module), "755")

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def console(self) -> str:
        """What systemd logs."""
        return self.run("cat", "/run/console", check=False)

    def _start(self) -> None:
        environment = {
            **os.environ,
            "TREES": " ".join(self._trees),
            "NAME": self._name,
            "INSIDE": INSIDE,
            "PYTHON": sys.base_prefix,
            "PACKAGES": next(place for place in sys.path if place.endswith("site-packages")),
            "CHECKOUT": str(ROOT),
        }
        log = self._folder / "boot.log"
        with log.open("wb") as out:
            self._boot = subprocess.Popen(
                ["bash", "-c", BOOT], env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        give_up = time.monotonic() + LIVENESS_LIMIT
        while not self._running():
            if self._boot.poll() is not None or time.monotonic() > give_up:
                raise MachineUnavailable(f"systemd does not start here: {log.read_text()}")
            time.sleep(0.1)
        self.install("rumormill", "cli.main")

    def _running(self) -> bool:
        assert self._boot is not None
        children = Path(f"/proc/{self._boot.pid}/task/{self._boot.pid}/children").read_text().split()
        if not children or Path(f"/proc/{children[0]}/comm").read_text().strip() != "systemd":
            return False
        self._init = int(children[0])
        return "running" in self.run("systemctl", "is-system-running", check=False)

    def close(self) -> None:
        """The kernel ends every process of the machine with its process 1."""
        if self._init:
            with suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGKILL)
        if self._boot is not None:
            self._boot.kill()
            self._boot.wait()
        for tree in self._trees:
            self._remove(Path("/sys/fs/cgroup", tree, self._name))

    def _remove(self, group: Path) -> None:
        """Remove a control group once the kernel has noted that its processes are gone."""
        give_up = time.monotonic() + LIVENESS_LIMIT
        while group.exists() and time.monotonic() < give_up:
            for folder, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)  # noqa: PTH106  a control group is no ordinary folder
            time.sleep(0.05)
