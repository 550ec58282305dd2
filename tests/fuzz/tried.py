"""Mutants by their seeds, each planned and read in an isolated process: a crash or a hang is one mutant's, and is counted.

One that ends its process while it is read is read again as a replica reads a suspect shard: the object must be found and
named.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutations import mutant
from tests.fuzz.trial import Corpus, Outcome, Verdict, judge, one_isolated_process
from workers.errors import ObjectError
from workers.host.isolated_process import IsolatedProcess, ProcessEnded
from workers.replica.poison import check_for_poison

_READING = "reading"  # a file that says how far it came
_footers = IsolatedProcess()  # of an isolated process: for all its mutants


@dataclass(frozen=True)
class Told:
    seed: int
    original: str
    kind: str
    where: str
    verdict: Verdict
    seconds: float


def try_seeds(seeds: Sequence[int], names: Sequence[str], deadline: float, processes: int = 2) -> list[Told]:
    """One Told a seed, in order."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(processes) as pool:
        turns = [seeds[number::processes] for number in range(processes)]
        told = pool.map(lambda some: list(_in_turn(some, names, deadline, Path(folder))), turns)
        return sorted((item for part in told for item in part), key=lambda item: item.seed)


def _in_turn(seeds: Sequence[int], names: Sequence[str], deadline: float, folder: Path) -> Iterator[Told]:
    with IsolatedProcess(deadline) as isolated:
        for seed in seeds:
            began, place = time.monotonic(), folder / str(seed)
            made = mutant(seed, names)
            try:
                verdict = isolated.call(_judge, seed, names, place)
            except ProcessEnded as error:
                verdict = _ended(seed, names, place, isolated, str(error))
            shutil.rmtree(place, ignore_errors=True)
            yield Told(seed, made.original, made.kind, made.where, verdict, time.monotonic() - began)


def _ended(seed: int, names: Sequence[str], place: Path, isolated: IsolatedProcess, how: str) -> Verdict:
    """By a hang, by a death of the driver, or by a replica's, which must be explained."""
    if "did not end" in how:
        return Verdict(Outcome.HUNG, how)
    if not (place / _READING).exists():
        return Verdict(Outcome.CRASHED, how)
    return isolated.call(_explain, seed, names, place)


def _judge(seed: int, names: Sequence[str], place: Path) -> Verdict:
    """In an isolated process."""
    logging.disable(logging.CRITICAL)
    made = mutant(seed, names)
    (place / _READING).unlink(missing_ok=True)
    try:
        with one_isolated_process(_footers):
            return judge(made, place / "corpus", (place / _READING).touch)
    except Exception as error:  # noqa: BLE001 - whatever it is, it would have ended the driver or been blamed on the shard
        return Verdict(Outcome.CRASHED, f"{type(error).__name__}: {error}")


def _explain(seed: int, names: Sequence[str], place: Path) -> Verdict:
    """As a replica that is told that another one died of this shard."""
    made = mutant(seed, names)
    with one_isolated_process(_footers):
        corpus = Corpus.planned(made, place / "corpus")
    for shard in corpus.shards:
        try:
            check_for_poison(shard, corpus.plan, {})
        except ObjectError as error:
            if error.object_uri == f"file://{corpus.damaged}":
                return Verdict(Outcome.REPLICA, error.reason)
    return Verdict(Outcome.CRASHED, "reading it ends a replica, and the object is not found")
