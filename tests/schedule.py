"""In which order tests run, and on which worker of pytest-xdist.

1. pure tests          they fail within seconds
2. the rest            real processes, Ray and storage; the longest first, so that the workers end together
3. tests marked alone  they measure time: one after the other on one worker, when no other worker is at work

The pure tests of a file stay on one worker, and so do its others, because each worker makes its module's fixtures. Not so
where the mark `spread` says that they share nothing dear. A mark `xdist_group` keeps tests of several files together.

Workers tell their groups in a file: pytest-xdist 3.8 would append them to node ids, which pytest 9.2 no longer allows.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from xdist.workermanage import parse_tx_spec_config

ALONE = "alone"
HEAVY = ("ray", "slow", "s3")
# Groups that take longest (`pytest --durations=0`), in this order; others follow in the order of their names.
LONGEST = (
    "s3-harmed",
    "tests/faults/test_kill_night.py (heavy)",
    "tests/integration/test_ray_job_outcomes.py::test_stopped_in_three_ways_and_submitted_again",
    "tests/integration/test_ray_job.py (heavy)",
    "tests/test_packaging.py (heavy)",
    "secrets-replica",
    "tests/integration/test_metrics.py (heavy)",
    "tests/security/test_secrets.py (heavy)",
    "faults-local",
    "tests/security/test_sockets.py (heavy)",
    "tests/test_scale.py (heavy)",
    "tests/integration/test_preemption.py (heavy)",
    "tests/integration/test_traps_config.py (heavy)",
    "traps-jsonl",
    "secrets-key",
    "tests/jobs/passes/test_actors.py (heavy)",
    "tests/readers/test_readers.py (heavy)",
    "tests/fuzz/test_settings.py (heavy)",
    "tests/jobs/evaluate/candidates/test_grid.py (heavy)",
    "tests/workers/engine/test_encoder_reference.py (heavy)",
    "tests/workers/model/test_odd_folders.py (heavy)",
    "tests/workers/engine/test_families.py (heavy)",
    "tests/compat/test_earlier_version.py (heavy)",
    "tests/jobs/evaluate/test_gate.py (heavy)",
    "tests/workers/engine/test_encoder.py (heavy)",
    "tests/workers/reading/formats/test_foreign_parquet.py (heavy)",
    "tests/workers/replica/test_golden_reference.py (heavy)",
    "tests/fuzz/test_large_input.py (heavy)",
    "tests/jobs/embed/test_nights.py (heavy)",
    "tests/workers/model/test_transformer_settings.py (heavy)",
)


def group_of(item: pytest.Item) -> str:
    """Name of the group that an item is scheduled with: its mark's, or the pure or the other half of its file, or itself."""
    if mark := item.get_closest_marker("xdist_group"):
        return str(mark.args[0])
    if item.get_closest_marker("spread"):
        return item.nodeid
    return item.nodeid.partition("::")[0] + (" (heavy)" if is_heavy(item) else "")


def is_heavy(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in HEAVY)


def rank(item: pytest.Item) -> tuple[int, int, str]:
    """Sort key of an item. Sorting is stable: items of one group keep their order."""
    group = group_of(item)
    phase = 2 if group == ALONE else int(is_heavy(item))
    return phase, LONGEST.index(group) if group in LONGEST else len(LONGEST), group


def write_groups(folder: Path, items: Sequence[pytest.Item]) -> None:
    """Called in every worker; all of them write the same."""
    draft = folder / f"groups-{os.getpid()}"
    draft.write_text(json.dumps({item.nodeid: group_of(item) for item in items}))
    draft.replace(folder / "groups")


class GroupsThenAlone:
    """Scheduler of pytest-xdist (its `Scheduling` protocol). `folder` is where the workers write the groups.

    A worker starts a test when it knows the one after it, or that there is none. It therefore gets the next group while it
    holds one test. The last worker gets the first test marked alone in that place, and the others when no other worker
    holds a test.
    """

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        self._folder = folder
        self._group_of: dict[str, str] = {}
        self._expected = len(parse_tx_spec_config(config))
        self._collections: dict[Any, list[str]] = {}
        self._held: dict[Any, list[int]] = {}  # worker -> tests that were sent to it and have not ended
        self._groups: deque[list[int]] = deque()
        self._alone: deque[int] = deque()
        self._last: Any = None
        self._begun = False

    @property
    def nodes(self) -> list[Any]:
        """Workers."""
        return list(self._held)

    @property
    def collection_is_completed(self) -> bool:
        return len(self._collections) >= self._expected

    @property
    def has_pending(self) -> bool:
        return bool(self._groups or self._alone or any(self._held.values()))

    @property
    def tests_finished(self) -> bool:
        waits = self._groups or self._alone or any(len(tests) > 1 for tests in self._held.values())
        return self.collection_is_completed and not waits

    def add_node(self, node: Any) -> None:
        self._held[node] = []

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        for other, known in self._collections.items():
            if known != list(collection):
                different = sorted(set(known) ^ set(collection))[:3]
                raise RuntimeError(f"{node.gateway.id} and {other.gateway.id} have collected different tests: {different}")
        self._collections[node] = list(collection)

    def schedule(self) -> None:
        """Called when all workers have collected, and for each worker that replaces one that crashed."""
        if not self._begun:
            self._begun = True
            self._group_of = json.loads((self._folder / "groups").read_text())
            groups: dict[str, list[int]] = {}
            for number, name in enumerate(next(iter(self._collections.values()))):
                groups.setdefault(self._group_of[name], []).append(number)
            self._alone.extend(groups.pop(ALONE, []))
            self._groups.extend(groups.values())
        self._feed()

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        self._held[node].remove(item_index)
        self._feed()

    def remove_node(self, node: Any) -> str | None:
        """A worker has ended. Returns the test that it ran when it crashed; the others it held are sent again."""
        held = self._held.pop(node)
        if node is self._last:
            self._last = None
        if not held:
            return None
        crashed, *rest = (self._collections[node][number] for number in held)
        again = dict(zip(rest, held[1:], strict=True))
        self._alone.extendleft(reversed([number for name, number in again.items() if self._group_of[name] == ALONE]))
        if others := [number for name, number in again.items() if self._group_of[name] != ALONE]:
            self._groups.appendleft(others)
        self._feed()
        return crashed

    def mark_test_pending(self, item: str) -> None:
        """For schedulers that run a crashed test again."""
        raise NotImplementedError

    def remove_pending_tests_from_node(self, node: Any, indices: Sequence[int]) -> None:
        """For schedulers that steal."""
        raise NotImplementedError

    def _feed(self) -> None:
        for node in self.nodes:
            while not node.shutting_down and len(self._held[node]) <= 1 and self._send(node):
                pass

    def _send(self, node: Any) -> bool:
        """Send a worker what comes next, or that nothing does. False: it has to wait."""
        if self._groups:
            self._give(node, self._groups.popleft())
        elif self._last is node:
            if any(tests for other, tests in self._held.items() if other is not node):
                return False
            if self._alone:
                self._give(node, list(self._alone))
                self._alone.clear()
            else:
                node.shutdown()
        elif self._alone and self._last is None:
            self._last = node
            self._give(node, [self._alone.popleft()])
        else:
            node.shutdown()
        return True

    def _give(self, node: Any, numbers: list[int]) -> None:
        self._held[node] += numbers
        node.send_runtest_some(numbers)
