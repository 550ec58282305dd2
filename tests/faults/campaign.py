"""One run under fire: its script is carried out, the command is started again until it exits 0, the oracle judges.

    prepare -> watch CURRENT.json -> starts with their strikes -> the same command until it exits 0 -> judge -> a record

The record is plain JSON: what was planned, what was injected, how each start ended, and what the oracle found.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.drivers import Driver, Ended, Leftovers
from tests.faults.oracle import Watch, judge, reader_of
from tests.faults.scene import Place
from tests.faults.script import Kind, Script, Start
from tests.faults.strikes import Striker
from tests.ray_nodes import RayNode
from tests.sessions import ROOT

BENT = Path(__file__).parent / "bent"
MOST_STARTS = 8
ABORTED = 4
RESUMABLE = (ABORTED, 130, 143, -2, -9, -15)
WIRED = (2,)  # the places do not answer as they should before anything is begun


class Ray:
    """A cluster of two nodes for the runs that lose one; started when it is first needed."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._head: RayNode | None = None
        self._node: RayNode | None = None

    def nodes(self) -> tuple[str, RayNode]:
        """Address of the cluster, and the node that may be killed: a fresh one where the last was."""
        if self._head is None:
            self._head = self._stack.enter_context(RayNode(1))
        if self._node is None or not self._node.running:
            self._node = self._stack.enter_context(RayNode(1, self._head))
        return self._head.address, self._node


def under_fire(place: Place, script: Script, ray: Ray) -> dict[str, Any]:
    """Carry a script out; returns its record. `ok`: the oracle found nothing."""
    began = time.monotonic()
    run = script.name
    place.prepare(run, script.night)
    address, node = ray.nodes() if script.cluster else ("local", None)
    config = place.configure(run, night=script.night, replicas=2 if script.cluster else script.replicas, address=address)
    fs, root = reader_of(place), place.output(run)
    fs.invalidate_cache()
    earlier = sum("/receipts/" in path for path in fs.find(f"{root}/runs")) if script.night > 1 else 0
    striker = Striker(place, run, config, earlier, place.calm(script.night).shards, node)
    if place.proxy:
        place.proxy.seed = script.name
        wire_before = Counter(place.proxy.injected)
    ends: list[tuple[int, float]] = []
    last: Ended | None = None
    leftovers = Leftovers()
    with Watch(place, run) as watch:
        for number in range(MOST_STARTS):
            start = script.starts[number] if number < len(script.starts) else _afterwards(script, number)
            last = _once(place, config, start, striker, leftovers)
            ends.append((last.rc, round(last.seconds, 1)))
            if last.rc == 0:
                break
            wired = last.rc in WIRED and _may_refuse(start)
            if not (last.rc in RESUMABLE or wired or _ray_was_killed(start) or last.before_our_first_line):
                striker.findings.append(f"start {number} ({start}) ended with {last.rc}: {last.log[-1500:]}")
        if place.proxy:
            place.proxy.calm()
        watch.look()
    injected = striker.injected
    if place.proxy:
        injected.update({str(kind): count for kind, count in (place.proxy.injected - wire_before).items()})
    record: dict[str, Any] = {
        "run": script.name,
        "place": place.name,
        "night": script.night,
        "cluster": script.cluster,
        "shards": place.calm(script.night).shards,
        "script": [str(start) for start in script.starts],
        "injected": dict(sorted(injected.items())),
        "starts": ends,
    }
    findings = striker.findings
    if last is None or last.rc != 0:
        findings.append(f"not over after {MOST_STARTS} starts: {last.log[-1500:] if last else ''}")
        verdict = {"losses": place.calm(script.night).rows.num_rows}
    else:
        # a driver that the store turned away half-way (a key that expired) could not clean up behind itself either
        turned_away = sum(rc == ABORTED for rc, _ in ends)
        judged = judge(place, run, script.night, config, last.summary, striker.kills + turned_away)
        findings += judged.findings
        verdict = asdict(judged)
        if watch.seen[-1:] != [last.summary["run_id"]]:
            findings.append(f"readers saw {watch.seen}, not {last.summary['run_id']} last")
    if left := leftovers.end():
        findings.append(f"left running: {left}")
    findings += [f"CURRENT.json: {words}" for words in watch.invalid]
    findings += [f"CURRENT.json was not watched to the end: {why}" for why in watch.broken]
    record |= verdict | {
        "invalid_current": len(watch.invalid),
        "looks": watch.looks,
        "findings": findings,
        "ok": not findings,
        "seconds": round(time.monotonic() - began, 1),
    }
    if not findings:
        place.remove(run)
        config.unlink()
    return record


def _afterwards(script: Script, number: int) -> Start:
    """No more strikes; the wire stays faulty once more."""
    wire = script.starts[-1].wire if number == len(script.starts) and script.place == "s3" else None
    return Start(wire=wire)


def _once(place: Place, config: Path, start: Start, striker: Striker, leftovers: Leftovers) -> Ended:
    """The command from its start to its end, whatever ends it."""
    env = dict(place.environment)
    if start.shift:
        env |= {"REEMBED_CLOCK_SHIFT": str(start.shift), "PYTHONPATH": f"{BENT}:{ROOT}"}
        striker.injected[str(Kind.CLOCK_OFF)] += 1
    if place.proxy:
        place.proxy.rates = dict(start.wire or {})
    with Driver(config, env=env) as driver:
        for strike in start.strikes:
            striker.strike(driver, strike)
        ended = driver.end()
        if left := leftovers.take(driver):
            striker.findings.append(f"left running: {left}")
    return ended


def _may_refuse(start: Start) -> bool:
    """Preflight looks at the places for seconds only; a clock that is off is refused."""
    return bool(start.wire) or bool(start.shift) or any(strike.kind in (
        Kind.SERVER_CRASHED, Kind.SERVER_FROZEN, Kind.KEY_SUSPENDED, Kind.TOKEN_EXPIRED, Kind.DISK_FULL
    ) for strike in start.strikes)  # fmt: skip


def _ray_was_killed(start: Start) -> bool:
    """Ray ends its driver in ways of its own when its local processes are gone."""
    return any(strike.kind in (Kind.RAYLET_KILLED, Kind.GCS_KILLED) for strike in start.strikes)
