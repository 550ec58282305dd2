"""Real Ray nodes on this machine, each a session of its own: `ray start --block`, ended by pid, never by name.

Every port is chosen here and the session folder is one of our own, so that nodes do not meet those of other people; a file
that Ray leaves for `address=auto` lies in that folder too.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.sessions import Session

AGENT_PORTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port", "runtime-env-agent-port")
START_SECONDS = 300.0
NOTICE_SECONDS = 25.0  # `ray start --block` ends its node half a minute after SIGTERM
NOTICE = """
import sys, time
from ray.autoscaler.v2.sdk import get_cluster_status
def draining():
    status = get_cluster_status(sys.argv[1])
    return any(node.node_status == "DRAINING" for node in (*status.active_nodes, *status.idle_nodes))
while not draining():
    time.sleep(0.2)
"""
LOG = "start.log"  # in the node's folder
# A head takes the token that lies in the home folder without being told, a node that joins does not.
TOKEN = {"RAY_AUTH_MODE": "token"}
# Half a minute to start and three seconds to stop a job are not enough beside two other runs on two cores.
PATIENCE = {"RAY_raylet_start_wait_time_s": "200", "RAY_JOB_STOP_WAIT_TIME_S": "20"}
_BIN = Path(sys.executable).parent  # not resolved: the environment's own folder


@dataclass(frozen=True)
class RayCluster:
    """A cluster that runs, whichever process started its head. Drivers connect to `address`."""

    address: str
    dashboard: str
    metrics_url: str
    folder: Path  # where Ray keeps the head's files
    session: int  # id of the head's process session

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> RayCluster:
        return cls(**told | {"folder": Path(told["folder"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"folder": str(self.folder)}

    def metrics(self) -> str:
        """What Prometheus would be given by the head now."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as answer:
            text: str = answer.read().decode()
        return text

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
        raise TimeoutError(f"no dashboard at {self.dashboard}:\n{(self.folder / LOG).read_text()[-2000:]}")


class RayNode:
    """A head, or with `head` a node that joins it.

    `env` is added to the node's environment. The node ends with this process, or with the process `owner`. A head has a
    `dashboard` for those who submit jobs: its processes take seconds to start.
    """

    def __init__(
        self,
        cpus: int,
        head: RayNode | None = None,
        *,
        env: Mapping[str, str] | None = None,
        owner: int | None = None,
        dashboard: bool = False,
    ) -> None:
        # Unix sockets lie below it: their paths must stay shorter than pytest's folders allow
        folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        gcs, api, client, *agents = _free_ports(7)
        options: dict[str, object] = {"num-cpus": cpus, "num-gpus": 0, "object-store-memory": 100_000_000}
        options["include-log-monitor"] = "false"  # it looks at all workers' files all the time, for drivers' consoles
        ports = dict(zip(AGENT_PORTS, agents, strict=True))
        # Workers bind to ports that the system chooses: the nodes of one machine would try the same ones at the same time.
        options |= ports | {"min-worker-port": 0, "max-worker-port": 0}
        if head:
            options |= {"address": head.address}
        else:
            options |= {
                "port": gcs,
                "node-ip-address": "127.0.0.1",
                "temp-dir": folder,
                "include-dashboard": str(dashboard).lower(),
            }
            options |= {"dashboard-host": "127.0.0.1", "dashboard-port": api, "ray-client-server-port": client}
        flags = ["--block", "--disable-usage-stats", *([] if head else ["--head"])]
        command = [_BIN / "ray", "start", *flags, *(f"--{name}={value}" for name, value in options.items())]
        # `python` in a job's entry point is this environment's, as on a cluster whose image holds it
        variables = os.environ | TOKEN | PATIENCE | {"PATH": f"{_BIN}:{os.environ['PATH']}"} | dict(env or {})
        self._session = Session(list(map(str, command)), variables, folder / LOG, owner=owner)
        self.cluster = RayCluster(
            address=head.address if head else f"127.0.0.1:{gcs}",
            dashboard=head.cluster.dashboard if head else f"http://127.0.0.1:{api}",
            metrics_url=f"http://127.0.0.1:{ports['metrics-export-port']}/metrics",
            folder=folder,
            session=self._session.process.pid,
        )
        self._wait("Ray runtime started")

    def __enter__(self) -> RayNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.cluster.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        return self.cluster.address

    def holds(self, pid: int) -> bool:
        """Whether a process belongs to this node."""
        return self._session.holds(pid)

    @property
    def running(self) -> bool:
        return self._session.process.poll() is None

    def terminate(self) -> None:
        """SIGTERM to `ray start --block`, as Kubernetes ends a pod: the node drains for half a minute, then ends."""
        os.kill(self._session.process.pid, signal.SIGTERM)

    def wait_for_notice(self) -> None:
        """Until the head reports a node that drains; it takes a moment from `terminate` to there."""
        command = [sys.executable, "-c", NOTICE, self.address]
        subprocess.run(command, env=os.environ | TOKEN, timeout=NOTICE_SECONDS, check=True)

    def kill(self) -> None:
        """SIGKILL to everything of this node: what a power cut does."""
        self._session.kill()

    def _wait(self, text: str) -> None:
        log = self.cluster.folder / LOG
        end = time.monotonic() + START_SECONDS
        while text not in log.read_text():
            if self._session.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"ray start did not come up:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, all different.

    They lie below those that the system gives to outgoing connections, and each worker of pytest-xdist has a range of its
    own: nothing takes one of them before Ray does.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 12
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            port = 20_000 + 1_000 * worker + random.SystemRandom().randrange(1_000)
            with suppress(OSError):
                one = stack.enter_context(socket.socket())
                one.bind(("127.0.0.1", port))
                found.append(port)
    return found
