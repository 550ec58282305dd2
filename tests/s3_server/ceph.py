"""A real, durable S3 server for the tests: one-node Ceph (mon, osd, radosgw) on 127.0.0.1, from Debian's own packages.

1. configure   ports, keys and ceph.conf under one folder; nothing goes to /etc or /var/lib
2. make        monitor map, monitor store, disk file, first user: once per folder
3. start       mon -> osd -> radosgw, each waited for; about 5 s. Again after crash(): the data is still there
4. stop / crash / freeze / thaw   by recorded pid only
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.s3_server.daemon import Daemon

PACKAGES = ("ceph-mon", "ceph-osd", "radosgw")
PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
WAIT_SECONDS = 300.0
DISK_BYTES = 20 << 30  # of a sparse file: only what is written takes space
INSTALL_SWITCH = "REEMBED_TEST_S3"

CONF = """\
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{mon_port}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
# one machine, loopback, throw-away data: no keys between the daemons, hence no encrypted sessions either
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
keyring = {folder}/keyring
run_dir = {folder}/run
# no admin sockets: their paths may be no longer than 107 characters, and nothing here asks them
admin_socket =
log_file = {folder}/log/$type.log
# one copy on one disk; no manager, so nothing may wait for one
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0

[mon]
mon_data = {folder}/mon
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 2000
mon_data_avail_crit = 1
# no peers to wait for
paxos_propose_interval = 0.1
paxos_min_wait = 0.02

[osd]
osd_data = {folder}/osd
osd_objectstore = bluestore
bluestore_block_size = {disk_bytes}
bluestore_block_db_create = false
bluestore_block_wal_create = false
osd_memory_target = 1073741824
osd_crush_initial_weight = 1

[client]
log_file = {folder}/log/rgw.log
rgw_data = {folder}/rgw
# after 1 s of silence (not 10) ask for a new cluster map: quick recovery from a crash
objecter_tick_interval = 0.5
objecter_timeout = 1
# without tcp_nodelay every small request costs 40 ms
rgw_frontends = beast endpoint=127.0.0.1:{s3_port} tcp_nodelay=1
rgw_enable_apis = s3, sts, iam, admin
# local keys first, so that a wrong key or secret gets the error code that AWS gives
rgw_s3_auth_use_sts = true
rgw_s3_auth_order = local, sts
rgw_sts_key = {sts_key}
# deleted data leaves the disk after a minute, not after two hours
rgw_gc_obj_min_wait = 60
rgw_gc_processor_period = 60
"""


class Unavailable(Exception):
    """This machine has no Ceph, and we may not or cannot install it; the message says what to do."""


class CephServer:
    """One server whose whole state (data, logs, pids, keys) lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "ceph.conf"
        self._ours = folder / ".reembed-s3"  # only a folder with this mark is ever filled again or deleted
        self._daemons = {name: Daemon(name, folder / "run") for name in ("mon", "osd", "rgw")}
        self._guard: subprocess.Popen[bytes] | None = None
        self._env = os.environ | {"LC_ALL": "C", "CEPH_ARGS": ""}

    def install(self) -> None:
        """Make sure that the programs are there. apt is used by root alone, and only when asked for.

        Raises:
            Unavailable: they are not there.
        """
        if all(map(shutil.which, PROGRAMS)):
            return
        if os.environ.get(INSTALL_SWITCH) != "install" or os.geteuid() != 0 or not shutil.which("apt-get"):
            raise Unavailable(
                "no S3 server here. Set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of one, or install "
                f"{' '.join(PACKAGES)} (Debian, as root: `{INSTALL_SWITCH}=install make test` does it)"
            )
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "install", "-y", "--no-install-recommends", *PACKAGES]
        for command in (install, ["apt-get", "-qq", "update"], install):  # package lists may be missing or stale
            done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if command is install and done.returncode == 0:
                return
        raise Unavailable(f"apt-get could not install {' '.join(PACKAGES)}: {done.stderr.strip()[-300:]}")

    def start(self, *, owner: int | None = None) -> None:
        """Create it if need be, start what is not running, wait for an answer. It ends with the process `owner`, if given.

        Raises:
            RuntimeError: the folder holds something else; a daemon died or did not answer in time (with its last log lines).
        """
        if self.folder.exists() and any(self.folder.iterdir()) and not self._ours.exists():
            raise RuntimeError(f"{self.folder} is not empty and holds no server of ours")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ours.touch()
        for name in ("run", "log"):
            (self.folder / name).mkdir(exist_ok=True)
        if owner is not None and self._guard is None:
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "tests.s3_server", "guard", self.folder, str(owner)],
                cwd=Path(__file__).resolve().parents[2],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        made = self.folder / "made"
        if not made.exists():
            self._configure()
        self._up("mon", ["ceph-mon", "-f", "-c", self.conf, "-i", "a"])
        if not made.exists():
            self._make_disk()
        self._up("osd", ["ceph-osd", "-f", "-c", self.conf, "-i", "0"])
        if not made.exists():
            keys = self.environment()
            key, secret = keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"]
            user = ("--uid=test", "--display-name=test", "--caps=user-policy=*;roles=*")
            self.admin("user", "create", *user, f"--access-key={key}", f"--secret-key={secret}")
            made.touch()
        self._up("rgw", ["radosgw", "-f", "-c", self.conf, "-n", "client.rgw"])
        self._until(self.answers, "rgw")

    def environment(self) -> dict[str, str]:
        """What clients need in their environment."""
        return dict(line.split("=", 1) for line in (self.folder / "env").read_text().splitlines())

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.environment()["AWS_ENDPOINT_URL"], timeout=3) as reply:
                return bool(reply.status == 200)
        except urllib.error.HTTPError as error:
            return error.code == 403
        except OSError:
            return False

    def stop(self) -> None:
        """In the order rgw, osd, mon; data kept."""
        for name in ("rgw", "osd", "mon"):
            self._daemons[name].stop()

    def crash(self, *names: str) -> None:
        """SIGKILL of mon, osd, rgw, or all of them; data kept. start() brings back what is missing."""
        for name in names or ("rgw", "osd", "mon"):
            self._daemons[name].crash()

    def freeze(self, name: str = "osd") -> None:
        """SIGSTOP: a server that hangs (osd: accepts requests and never answers)."""
        self._daemons[name].send(signal.SIGSTOP)

    def thaw(self, name: str = "osd") -> None:
        self._daemons[name].send(signal.SIGCONT)

    def wipe(self) -> None:
        """Stop, and delete the folder."""
        self.stop()
        if self._ours.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            self._guard = None

    def admin(self, *arguments: str) -> str:
        """radosgw-admin: quotas, suspended users, removed keys. Returns its stdout.

        Raises:
            RuntimeError: it failed.
        """
        return self._call("radosgw-admin", "-c", self.conf, "-n", "client.rgw", *arguments)

    def _configure(self) -> None:
        self.stop()
        for name in ("mon", "osd", "rgw"):  # leftovers of a start that broke off
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
        fsid, (s3_port, mon_port) = uuid.uuid4(), _free_ports()
        self.conf.write_text(CONF.format(folder=self.folder, fsid=fsid, mon_port=mon_port, s3_port=s3_port,
                                         disk_bytes=DISK_BYTES, sts_key=secrets.token_hex(8)))  # fmt: skip
        env = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
            "AWS_ACCESS_KEY_ID": secrets.token_hex(10).upper(),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            # Debian's Ceph predates the trailing checksums that SDKs send since 2025 (uploads would end in HTTP 411)
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
        (self.folder / "env").touch(mode=0o600)
        (self.folder / "env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
        (self.folder / "keyring").touch(mode=0o600)
        (self.folder / "osd.uuid").write_text(str(uuid.uuid4()))
        monmap = self.folder / "monmap"
        self._call(
            "monmaptool", "--create", "--clobber", "--fsid", str(fsid), "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", monmap
        )
        self._call("ceph-mon", "-c", self.conf, "-i", "a", "--mkfs", "--monmap", monmap)

    def _make_disk(self) -> None:
        disk = (self.folder / "osd.uuid").read_text()

        def registered() -> bool:
            command = ["ceph", "-c", str(self.conf), "--connect-timeout", "5", "osd", "new", disk]
            return subprocess.run(command, env=self._env, capture_output=True, check=False).returncode == 0

        self._until(registered, "mon")
        self._call("ceph-osd", "-c", self.conf, "-i", "0", "--mkfs", "--osd-uuid", disk)

    def _up(self, name: str, command: list[str | Path]) -> None:
        if not self._daemons[name].alive():
            self._daemons[name].spawn(command, self._env)

    def _until(self, ready: Callable[[], bool], name: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not ready():
            if not self._daemons[name].alive() or time.monotonic() > deadline:
                tail = self._daemons[name].tail()
                self.stop()
                raise RuntimeError(f"ceph {name} died or was not ready within {WAIT_SECONDS:.0f} s; its log ends:\n{tail}")
            time.sleep(0.1)

    def _call(self, *command: str | Path) -> str:
        done = subprocess.run(
            list(map(str, command)), env=self._env, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed ({done.returncode}): {(done.stderr or done.stdout).strip()[-1000:]}")
        return done.stdout


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:  # both held at once, so that they differ
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
