"""Real Ray nodes on this machine, each a session of its own: `ray start --block`, ended by pid, never by name.

Every port is chosen here and the session folder is one of our own, so that nodes do not meet those of other people; a file
that Ray leaves for `address=auto` lies in that folder too.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from tests.sessions import Session

AGENT_PORTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port", "runtime-env-agent-port")
START_SECONDS = 120.0
# A head takes the token that lies in the home folder without being told, a node that joins does not.
TOKEN = {"RAY_AUTH_MODE": "token"}
_BIN = Path(sys.executable).parent  # not resolved: the environment's own folder


class RayNode:
    """A head, or with `head` a node that joins it. Drivers connect to `address`, jobs are submitted to `dashboard`."""

    def __init__(self, cpus: int, head: RayNode | None = None) -> None:
        # Unix sockets lie below it: their paths must stay shorter than pytest's folders allow
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        gcs, dashboard, client, *agents = _free_ports(7)
        self.address: str = head.address if head else f"127.0.0.1:{gcs}"
        self.dashboard: str = head.dashboard if head else f"http://127.0.0.1:{dashboard}"
        options: dict[str, object] = {"num-cpus": cpus, "num-gpus": 0, "object-store-memory": 100_000_000}
        ports = dict(zip(AGENT_PORTS, agents, strict=True))
        self.metrics_url = f"http://127.0.0.1:{ports['metrics-export-port']}/metrics"
        options |= ports
        if head:
            options |= {"address": head.address}
        else:
            options |= {"port": gcs, "node-ip-address": "127.0.0.1", "temp-dir": self._folder, "include-dashboard": "true"}
            options |= {"dashboard-host": "127.0.0.1", "dashboard-port": dashboard, "ray-client-server-port": client}
        flags = ["--block", "--disable-usage-stats", *([] if head else ["--head"])]
        command = [_BIN / "ray", "start", *flags, *(f"--{name}={value}" for name, value in options.items())]
        self._log = self._folder / "start.log"
        # `python` in a job's entry point is this environment's, as on a cluster whose image holds it
        env = os.environ | TOKEN | {"PATH": f"{_BIN}:{os.environ['PATH']}"}
        self._session = Session(list(map(str, command)), env, self._log)
        self._wait("Ray runtime started")

    def __enter__(self) -> RayNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def holds(self, pid: int) -> bool:
        """Whether a process belongs to this node."""
        return self._session.holds(pid)

    @property
    def running(self) -> bool:
        return self._session.process.poll() is None

    @property
    def folder(self) -> Path:
        """Where Ray keeps this head's files."""
        return self._folder

    def wait_for_dashboard(self) -> None:
        """Until jobs may be submitted."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.dashboard}/api/version", timeout=5):
                    return
            except urllib.error.HTTPError:
                return  # it wants a token: it is there
            except OSError:
                time.sleep(0.2)
        raise TimeoutError(f"no dashboard at {self.dashboard}:\n{self._log.read_text()[-2000:]}")

    def terminate(self) -> None:
        """SIGTERM to `ray start --block`, as Kubernetes ends a pod: the node drains for half a minute, then ends."""
        os.kill(self._session.process.pid, signal.SIGTERM)

    def metrics(self) -> str:
        """What Prometheus would be given by this node now."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def kill(self) -> None:
        """SIGKILL to everything of this node: what a power cut does."""
        self._session.kill()

    def _wait(self, text: str) -> None:
        end = time.monotonic() + START_SECONDS
        while text not in self._log.read_text():
            if self._session.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"ray start did not come up:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
