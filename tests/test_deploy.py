"""The scheduling examples: each runs the right command, and each exit status leads where deploy/README.md says."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"

_STUB = """#!/bin/sh
# ends with the next status of the list; `status` prints what storage is to say
echo "$(basename "$0") $*" >>{folder}/calls
if [ "$1" = status ]; then cat {folder}/told; exit 0; fi
status=$(head -n 1 {folder}/statuses)
sed -i 1d {folder}/statuses
echo "log of status $status" >&2
echo '{{"run_id": "r1", "rows": 7, "reused_rows": 5, "data": "d", "published": true}}'
exit "$status"
"""


class Stub:
    """`reembed` and `ray` on a PATH of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / ".venv" / "bin"
        self.bin.mkdir(parents=True)
        for name in ("reembed", "ray"):
            (self.bin / name).write_text(_STUB.format(folder=shlex.quote(str(folder))))
            (self.bin / name).chmod(0o755)

    def run(self, command: list[str], statuses: list[int], told: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "statuses").write_text("".join(f"{status}\n" for status in statuses))
        (self.folder / "told").write_text(told)
        path = f"{self.bin}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "PAUSE": "0", "LOG": str(self.folder / "log"), "PYTHON": sys.executable}
        return subprocess.run(
            command, cwd=self.folder, env=environment | env, capture_output=True, text=True, timeout=400, check=False
        )

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    return Stub(tmp_path)


@pytest.mark.parametrize(
    ("statuses", "ends", "says"),
    [
        ([0], 0, ""),
        ([2], 2, "cannot be carried out"),
        ([3], 3, "not published; readers keep the snapshot before"),
        ([4, 0], 0, ""),
        ([4, 3], 3, "not published"),
        ([4, 4, 4], 4, "aborted 3 times"),
        ([143], 143, "ended with status 143; the next run resumes it"),
        ([130], 130, "resumes it"),
    ],
)
def test_a_night(stub: Stub, statuses: list[int], ends: int, says: str) -> None:
    done = stub.run([str(DEPLOY / "nightly.sh"), "night.yaml", "run.reuse=auto"], statuses)
    assert done.returncode == ends, done.stderr
    assert stub.calls == ["reembed embed night.yaml run.reuse=auto"] * len(statuses)
    assert says in done.stdout
    assert bool(done.stdout) == (ends != 0), "cron mails what is printed"
    assert (f"log of status {ends}" in done.stdout) == (ends != 0)
    assert done.stderr == ""


def test_the_cron_line(stub: Stub) -> None:
    """As cron runs it: by sh, with its own short PATH. Only the folder is another one."""
    (line,) = (line for line in (DEPLOY / "crontab").read_text().splitlines() if line.startswith("15 2"))
    schedule, command = re.match(r"((?:\S+ ){5})(.*)", line).groups()  # type: ignore[union-attr]
    assert schedule.split() == ["15", "2", "*", "*", "*"]
    assert "%" not in command, "cron takes it for a line break"
    (stub.folder / "deploy").symlink_to(DEPLOY)
    command = command.replace("/srv/reembed", str(stub.folder)).replace("/var/log", str(stub.folder))
    for status in (0, 3):
        done = stub.run(["/bin/sh", "-c", command], [status], PATH="/usr/bin:/bin")
        assert (done.returncode, bool(done.stdout)) == (status, status != 0), done.stderr
    (config,) = {call.removeprefix("reembed embed ") for call in stub.calls}
    assert (ROOT / config).is_file()


@pytest.mark.parametrize(
    ("submitted", "state", "ends"),
    [
        (0, "complete", 0),
        (1, "refused", 3),
        (1, "aborted", 4),
        (1, "running", 4),
        (0, "stopped", 4),  # `ray job stop`: the submission itself ends well
        (1, "complete", 2),  # of the night before
        (1, None, 2),
    ],
)
def test_a_ray_job(stub: Stub, submitted: int, state: str | None, ends: int) -> None:
    told = f'{{"state": "{state}"}}' if state else "reembed: no run was ever begun there"
    done = stub.run([str(DEPLOY / "ray_job.sh"), "night.yaml", "run.reuse=off"], [submitted], told)
    assert done.returncode == ends, done.stderr
    assert stub.calls == [
        "ray job submit --working-dir . -- python -m jobs.embed night.yaml run.reuse=off",
        "reembed status night.yaml --json",
    ]


@pytest.mark.parametrize(
    ("token", "env", "mode"),
    [
        (False, {}, ""),
        (True, {}, "token"),
        (True, {"RAY_AUTH_MODE": "disabled"}, "disabled"),
        (False, {"RAY_AUTH_TOKEN": "secret"}, "token"),
    ],
)
def test_a_token_of_an_earlier_local_ray_is_presented(stub: Stub, token: bool, env: dict[str, str], mode: str) -> None:
    (stub.folder / ".ray").mkdir()
    if token:
        (stub.folder / ".ray" / "auth_token").write_text("secret")
    (stub.bin / "ray").write_text('#!/bin/sh\necho "mode=${RAY_AUTH_MODE-}"\n')
    clean = {"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "", "HOME": str(stub.folder)}
    done = stub.run([str(DEPLOY / "ray_job.sh"), "night.yaml"], [0], '{"state": "complete"}', **clean | env)
    assert f"mode={mode}\n" in done.stdout


@pytest.mark.parametrize("name", ["airflow_dag.py", "dagster_asset.py", "prefect_flow.py"])
def test_a_flow_runs_the_command_and_knows_its_statuses(name: str) -> None:
    tree = ast.parse((DEPLOY / name).read_text())
    lists = [[item.value for item in node.elts if isinstance(item, ast.Constant)]
             for node in ast.walk(tree) if isinstance(node, ast.List)]  # fmt: skip
    assert ["reembed", "embed", "--json"] in lists
    (table,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FOR_GOOD"
    )
    assert set(ast.literal_eval(table)) == {2, 3}
    raised = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.If)]
    assert any("in FOR_GOOD" in text for text in raised)
    assert any("!= 0" in text for text in raised)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("prefect") is None, reason="prefect is not installed; see deploy/README.md")
@pytest.mark.parametrize(("statuses", "well"), [([0], True), ([3], False)])
def test_the_prefect_flow_runs(stub: Stub, statuses: list[int], well: bool) -> None:
    command = [sys.executable, str(DEPLOY / "prefect_flow.py"), "night.yaml"]
    slow = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120"}  # of its own server, on a busy machine
    done = stub.run(command, statuses, PREFECT_HOME=str(stub.folder / "prefect"), DO_NOT_TRACK="1", **slow)
    assert (done.returncode == 0) == well, done.stdout + done.stderr
    assert stub.calls == ["reembed embed night.yaml --json"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("dagster") is None, reason="dagster is not installed; see deploy/README.md")
@pytest.mark.parametrize(("statuses", "well"), [([0], True), ([4, 0], True), ([3], False)])
def test_the_dagster_asset_is_made(stub: Stub, statuses: list[int], well: bool) -> None:
    (stub.folder / "home").mkdir()
    home = {"DAGSTER_HOME": str(stub.folder / "home"), "DAGSTER_DISABLE_TELEMETRY": "1", "REEMBED_CONFIG": "night.yaml"}
    script = "import runpy, sys, dagster; asset = runpy.run_path(sys.argv[1]); "
    script += "sys.exit(not dagster.materialize([asset['embeddings']], raise_on_error=False).success)"
    done = stub.run([sys.executable, "-c", script, str(DEPLOY / "dagster_asset.py")], statuses, **home)
    assert (done.returncode == 0) == well, done.stdout + done.stderr
    assert stub.calls == ["reembed embed night.yaml --json"] * len(statuses)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("airflow") is None, reason="airflow is not installed; see deploy/README.md")
@pytest.mark.parametrize(("statuses", "well"), [([0], True), ([3], False)])
def test_the_airflow_dag_runs(stub: Stub, statuses: list[int], well: bool) -> None:
    home = {"AIRFLOW_HOME": str(stub.folder / "airflow"), "AIRFLOW__CORE__DAGS_FOLDER": str(DEPLOY),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false", "REEMBED_CONFIG": "night.yaml"}  # fmt: skip
    airflow = str(Path(sys.executable).parent / "airflow")
    migrated = stub.run([airflow, "db", "migrate"], [], **home)
    assert migrated.returncode == 0, migrated.stderr[-3000:]
    done = stub.run([airflow, "dags", "test", "reembed_nightly"], statuses, **home)
    assert (done.returncode == 0) == well, done.stdout[-3000:] + done.stderr[-3000:]
    assert stub.calls == ["reembed embed night.yaml --json"]
