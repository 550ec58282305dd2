"""The ways in which one job is struck at one place in one night, each at an output of its own, and a record of each.

    calm          threads of the driver's process, nobody is killed: what all others must equal
    actors N      N actors on Ray, nobody is killed
    struck N      N actors, of which one is killed in every pass, before, during or after its work on a shard
    every pass    the driver is killed after every entry of the journal, then between the steps of its publication
    moment N      the driver is killed at a random moment; every tenth with two actors on Ray

All but the calm run keep one shard in memory at a time, and map the others from files.

The second night begins at the outputs of the first, so what a kill left behind in one night would show in the next. A job
that keeps no state begins anew every night; it is struck in the first, and its second is calm.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.commands.verify import verify_snapshot
from tests.faults.struck_jobs.command import Ended, Output, Stand, moments
from tests.faults.struck_jobs.made import Made, made_at
from tests.faults.struck_jobs.snapshot import JOBS

ACTORS = (1, 2, 3)
TRIES = 3  # at one moment, each at an output of its own, until it finds a driver at work
ON_RAY = 10  # of so many random moments one is with actors
SECOND_NIGHT_ACTORS = (2,)
SECOND_NIGHT_KILLS = 3  # at most
CALM_CACHE = 1 << 30  # bytes; all others have shards mapped from files
STRIKES = ("driver", "driver-random", "actors")


@dataclass(frozen=True)
class Stage:
    """A job at a place."""

    job: str
    place: str
    root: str  # URI of the folder of all its outputs
    folder: Path
    stand: Stand
    kills: int  # random moments
    actors: tuple[int, ...] = ACTORS  # none: without Ray
    struck: tuple[int, ...] = ACTORS  # numbers of actors of which one dies in every pass

    def output(self, way: str) -> Output:
        """By its way; the same in both nights."""
        name = way.replace(" ", "-")
        folder = self.folder / name
        return Output(JOBS[self.job], f"{self.root}/in", f"{self.root}/{name}", folder, self.stand)


def night(stage: Stage, number: int) -> Iterator[dict[str, Any]]:
    """A record of each way, the calm one first. Fewer ways in the second night."""
    calm, record = _carried_out(stage, number, "calm", None)
    yield record
    if calm is None or (number > 1 and not JOBS[stage.job].keeps):
        return
    later = number > 1  # with what the first night left
    actors = [count for count in stage.actors if count in SECOND_NIGHT_ACTORS or not later]
    dying = [count for count in stage.struck if stage.actors and (count in SECOND_NIGHT_ACTORS or not later)]
    kills = stage.kills if number == 1 else min(stage.kills, SECOND_NIGHT_KILLS)
    ways = [f"actors {count}" for count in actors] + [f"struck {count}" for count in dying]
    for way in (*ways, "every pass"):
        yield _carried_out(stage, number, way, calm)[1]
    yield from _at_random(stage, number, calm, record["working_seconds"], kills)


def _at_random(stage: Stage, number: int, calm: Made, seconds: float, kills: int) -> Iterator[dict[str, Any]]:
    """Records of drivers killed at random. `seconds`: that a driver works without actors."""
    known = {0: seconds}  # by actors
    for at, share in enumerate(moments(f"{stage.job} {stage.place} {number}", 1.0, kills)):
        actors = 2 if stage.actors and at >= kills - kills // ON_RAY else 0
        if actors not in known:
            known[actors] = _working_seconds(stage, number)
        for again in range(TRIES):
            way = " ".join([f"moment {at + 1}", *["again"] * again])
            _, record = _carried_out(stage, number, way, calm, share * known[actors], actors)
            yield record
            if record["strikes"]["driver-random"]:
                break
            # It was over before: the machine is faster than it was.
            known[actors] = min(known[actors], record.get("working_seconds", seconds))


def _working_seconds(stage: Stage, number: int) -> float:
    """Of a job with two actors, about: of the output where nobody was killed."""
    return float((stage.folder / "actors-2" / f"seconds-{number}").read_text())


def _carried_out(
    stage: Stage, number: int, way: str, calm: Made | None, kill_after: float | None = None, actors: int = 0
) -> tuple[Made | None, dict[str, Any]]:
    """What was made, and the record of it: strikes by name, and what differs from the calm run."""
    output, began = stage.output(way), time.monotonic()
    kind, _, count = way.partition(" ")
    actors = int(count) if kind in ("actors", "struck") else actors
    output.configure(actors, cache_bytes=CALM_CACHE if kind == "calm" else 0)
    _make_ready(output, kind)
    record: dict[str, Any] = {"job": stage.job, "place": stage.place, "night": number, "way": way, "actors": actors}
    findings, differences, made = [], [], None
    try:
        summary = output.until_done(kill_after)
        record["working_seconds"] = round(output.working_seconds(), 2)
        (output.folder / f"seconds-{number}").write_text(str(record["working_seconds"]))
        made = made_at(output.uri, summary)
        findings = [f"{path} was left" for path in made.left]
        findings += [f"verify: {finding}" for finding in verify_snapshot(output.uri, 0)["findings"][:3]]
        differences = made.differences(calm) if calm is not None else []
        record |= asdict(made) | {"attempts": summary["attempts"]}
    except Ended as error:
        findings.append(str(error))
    strikes = {name: [line for line in output.struck(name) if line] for name in STRIKES}
    findings += _missed(kind, strikes, output.struck("rounds"))
    record |= {"starts": output.starts, "seconds": round(time.monotonic() - began, 1), "strikes": strikes}
    return made, record | {"differences": differences, "findings": findings, "ok": not differences and not findings}


def _make_ready(output: Output, kind: str) -> None:
    """Files of strikes.py: nothing of an earlier night, and what is to be struck."""
    output.stand.target.unlink(missing_ok=True)
    for old in (*output.folder.glob("struck *"), *(output.folder / name for name in (*STRIKES, "rounds"))):
        old.unlink(missing_ok=True)
    if kind == "struck":
        (output.folder / "actors").touch()
    if kind == "every":
        (output.folder / "driver").touch()


def _missed(kind: str, strikes: dict[str, list[str]], rounds: list[str]) -> list[str]:
    """Strikes that should have been: an actor in every pass, a driver after every pass."""
    dead = [line.partition(",")[0] for line in strikes["actors"]]
    if kind == "struck" and dead != rounds:
        return [f"actors died in {dead}, the passes were {rounds}"]
    if kind == "every" and not strikes["driver"]:
        return ["no driver was killed"]
    return []
