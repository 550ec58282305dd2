"""Calls in an isolated process: answers, errors, deaths, hangs; and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from workers.host import isolated_process
from workers.host.isolated_process import IsolatedProcess, ProcessEnded


def test_answers_and_errors_come_back() -> None:
    with IsolatedProcess() as beside:
        assert beside.call(divmod, 17, 5) == (3, 2)
        with pytest.raises(ZeroDivisionError):
            beside.call(divmod, 1, 0)
        elsewhere = beside.call(os.getpid)
        assert elsewhere not in (os.getpid(), None)
        assert beside.call(os.getpid) == elsewhere, "one process for all calls"
    assert not psutil.pid_exists(elsewhere)


class Odd(Exception):
    """Its constructor takes other arguments than `args` has: its pickle cannot be loaded."""

    def __init__(self, number: int, name: str) -> None:
        super().__init__(f"{number} of {name}")


class Holding(Exception):
    """It holds what no pickle can."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def raise_odd() -> None:
    raise Odd(3, "four")


def raise_holding() -> None:
    raise Holding("busy")


def test_an_error_that_no_pickle_takes_arrives_as_its_words() -> None:
    with IsolatedProcess() as beside:
        with pytest.raises(RuntimeError, match=r"^Odd: 3 of four$"):
            beside.call(raise_odd)
        with pytest.raises(RuntimeError, match=r"^Holding: busy$"):
            beside.call(raise_holding)
        assert beside.call(len, "abc") == 3


def test_what_is_not_known_there_is_an_error_and_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    only_here = types.ModuleType("only_here")
    exec("def call(): pass", only_here.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", only_here)
    with IsolatedProcess() as beside:
        with pytest.raises(ModuleNotFoundError):
            beside.call(only_here.call)
        assert beside.call(len, "abc") == 3


def test_a_call_that_ends_its_process_says_how_and_harms_no_other(tmp_path: Path) -> None:
    with IsolatedProcess() as beside:
        before = beside.call(os.getpid)
        with pytest.raises(ProcessEnded, match="ended the process by SIGABRT"):
            beside.call(os.abort)
        with pytest.raises(ProcessEnded, match="ended the process with status 7"):
            beside.call(os._exit, 7)
        assert beside.call(os.getpid) != before
        # an accident: the process was killed before the call, which is tried again and answered
        os.kill(beside.call(os.getpid), signal.SIGKILL)
        last = beside.call(os.getpid)
    assert not psutil.pid_exists(last)


@pytest.mark.slow
def test_a_call_that_does_not_come_back() -> None:
    with IsolatedProcess(patience=1.0) as beside:
        beside.call(len, "")
        began = time.monotonic()
        with pytest.raises(ProcessEnded, match="did not end within 1 s"):
            beside.call(time.sleep, 600)
        assert time.monotonic() - began < 30
        assert beside.call(len, "abc") == 3


def test_many_threads_share_it() -> None:
    with IsolatedProcess() as beside, ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda number: beside.call(divmod, number, 7), range(200))) == [
            divmod(number, 7) for number in range(200)
        ]


def test_it_ends_with_its_owner_even_a_killed_one(tmp_path: Path) -> None:
    code = (
        "import os, time; from workers.host.isolated_process import IsolatedProcess; isolated = IsolatedProcess(); "
        "print(isolated.call(os.getpid), flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert psutil.pid_exists(pid)
        owner.kill()
    gone = threading.Event()
    end = time.monotonic() + 20
    while time.monotonic() < end and not gone.wait(0.05):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            gone.set()
    assert gone.is_set()


def test_interrupts_are_the_owners_business() -> None:
    with IsolatedProcess() as beside:
        pid = beside.call(os.getpid)
        os.kill(pid, signal.SIGINT)
        time.sleep(0.2)
        assert beside.call(os.getpid) == pid


def test_a_process_that_cannot_be_started_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_process, "_START", "raise SystemExit(3)  # {path} {socket}")
    with IsolatedProcess() as broken, pytest.raises(RuntimeError, match="could not be started"):
        broken.call(len, "abc")
