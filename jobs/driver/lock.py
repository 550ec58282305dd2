"""Keeps a second driver out of one OUTPUT, and lets a resumed one in.

1. acquire    looks at the highest generation n: released, or its process dead -> take n + 1. Alive on this machine ->
              LockHeld at once. Elsewhere -> watch its `beat` on our own monotonic clock: it moves -> LockHeld; it stands
              still for `takeover_seconds` -> take n + 1
2. take       put_if_absent of generation n + 1: of racing drivers exactly one succeeds. Nothing is deleted to make room
3. beat       a thread rewrites its own object every `beat_seconds` and looks for a higher generation: there is one, or
              storage stays away for `give_up_seconds` -> `lost`, and the driver must stop
4. guard      before every write: a driver that has not beaten for a while (frozen, cut off) looks at storage first
5. release    marks the own object; the next driver gets in without waiting

A driver holds the lock as long as storage shows no higher generation, so a store that freezes for all costs nobody the
lock. No ordering rests on the clocks of two machines. The generation is the fence: epochs are made of it. Where the store
cannot create atomically (`store.atomic_create` is False, as claims.probe_atomic_create finds out), a taker settles and reads
back whose token stands. Knows nothing of runs, shards or Ray.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from jobs.driver.claims import Claim, Claims, LockState
from jobs.driver.process_identity import Identity, Life
from workers.errors import LockHeld, ReembedError, RunAborted
from workers.storage.store import Store

BEAT_SECONDS = 3.0  # three of them fit into the 10 s in which a second driver must have its answer
TAKEOVER_SECONDS = 20.0  # several beats: a slow request or a pause of the process does not cost the lock
GIVE_UP_SECONDS = 180.0  # storage away for so long: a run that cannot write its receipts had better end
SETTLE_SECONDS = 2.0  # longer than a put lasts, on stores that cannot create atomically
_TRUST_SHARE = 0.8  # of the takeover time: for so long after a beat nobody can have taken over
_POLL_SECONDS = 0.5
_log = logging.getLogger("reembed")


class DriverLock:
    """The right to write below one output. `with DriverLock(store) as lock:` acquires and releases.

    `lost` is set when another driver has taken over, or storage is gone: the run must stop.
    """

    def __init__(
        self,
        store: Store,
        *,
        identity: Identity | None = None,
        beat_seconds: float = BEAT_SECONDS,
        takeover_seconds: float = TAKEOVER_SECONDS,
        give_up_seconds: float = GIVE_UP_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self.lost = threading.Event()
        self._store = store
        self._claims = Claims(store)
        self._identity = identity or Identity.mine()
        self._beat_seconds, self._takeover_seconds = beat_seconds, takeover_seconds
        self._give_up_seconds, self._settle_seconds = give_up_seconds, settle_seconds
        self._token = uuid.uuid4().hex
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._generation = 0
        self._beat = 0
        self._why = ""
        self._trouble = ""  # what storage said last, while beats failed
        self._presumed_dead: tuple[int, int] | None = None  # (generation, beat) that stood still for long enough
        self._beaten = 0.0  # monotonic: when the last beat that reached storage began
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def generation(self) -> int:
        """Grows with every driver of this output; 0 before acquire()."""
        return self._generation

    def acquire(self) -> None:
        """Take the lock and start the heartbeat. Takes 0 to `takeover_seconds`.

        Raises:
            LockHeld: another driver works here; names it. UsageError, TransientError: the store refused or did not answer.
        """
        if self._threads:
            return
        while not self._take(self._await_free()):
            pass  # another driver was quicker: look at what it is now
        for name, run in (("lock-beat", self._beating), ("lock-watch", self._watching)):
            self._threads.append(threading.Thread(target=run, daemon=True, name=name))
            self._threads[-1].start()
        self._clean()

    def refuse_if_held(self) -> None:
        """Look, take nothing, write nothing: for refusing early. Raises: as acquire()."""
        self._await_free()

    def raise_if_lost(self) -> None:
        """Costs nothing, for every turn of a loop. Raises: RunAborted when the lock is known to be lost."""
        if self.lost.is_set():
            raise RunAborted(f"{self._store.uri}: this driver no longer holds the output's lock: {self._why}")

    def guard(self) -> None:
        """Before a write; looks at storage only when this driver has not beaten for a while.

        Raises:
            RunAborted: the lock is lost or not held. TransientError: it cannot be told, storage does not answer.
        """
        if not self._threads or self._stop.is_set():
            raise RunAborted(f"{self._store.uri}: this driver does not hold the output's lock")
        if not self.lost.is_set() and time.monotonic() - self._beaten > self._takeover_seconds * _TRUST_SHARE:
            self._look()
        self.raise_if_lost()

    def check(self) -> None:
        """As guard(), but always looks at storage: before steps that cannot be taken back."""
        self.guard()
        self._look()
        self.raise_if_lost()

    def release(self) -> None:
        """Let the next driver in at once. Idempotent; a store that does not answer is only logged: the lock runs out."""
        if not self._threads or self._stop.is_set():
            return
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=self._takeover_seconds)
        if self.lost.is_set():
            return
        try:
            if self._threads[0].is_alive():  # its put could overwrite the release
                raise RunAborted("storage does not answer")
            self._claims.replace(self._generation, self._claim(LockState.RELEASED))
        except (ReembedError, FileNotFoundError) as error:
            _log.warning("%s: the lock was not released, it runs out by itself: %s", self._store.uri, error)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def _await_free(self) -> int:
        """The generation that may be taken. Raises: LockHeld."""
        watched: tuple[int, int] | None = None
        still, looked = 0.0, time.monotonic()
        while True:
            highest = self._claims.highest()
            claim = self._claims.read(highest)
            if claim is None and highest:
                continue  # deleted by hand between listing and reading
            if claim is None or claim.state is LockState.RELEASED or claim.token == self._token:
                return highest + 1
            if self._presumed_dead == (highest, claim.beat):
                return highest + 1
            life = self._identity.life_of(claim.holder)
            if life is Life.DEAD:
                _log.warning("%s: taking over from %s, which is no longer running", self._store.uri, claim)
                return highest + 1
            if life is Life.ALIVE or watched not in (None, (highest, claim.beat)):
                mend = f"stop it (kill {claim.holder.pid})" if life is Life.ALIVE else "stop it there"
                raise LockHeld(
                    f"{self._store.uri}: {claim} works on this output; nothing was changed; {mend} or wait for its end"
                )
            if watched is None:
                watched, looked = (highest, claim.beat), time.monotonic()
                _log.warning(
                    "%s: looking for signs of life of %s, at most %.0f s", self._store.uri, claim, self._takeover_seconds
                )
            # a look that took long counts little: while storage hangs, the holder cannot beat either
            still += min(time.monotonic() - looked, 2 * _POLL_SECONDS)
            looked = time.monotonic()
            if still >= self._takeover_seconds:
                _log.warning("%s: taking over from %s: no sign of life for %.0f s", self._store.uri, claim, still)
                self._presumed_dead = watched
                return highest + 1
            time.sleep(min(_POLL_SECONDS, self._takeover_seconds / 10))

    def _take(self, generation: int) -> bool:
        self._generation, self._beaten = generation, time.monotonic()
        if not self._claims.create(generation, self._claim(LockState.HELD)):
            return False
        if not self._store.atomic_create:
            time.sleep(self._settle_seconds)
            claim = self._claims.read(generation)
            if claim is None or claim.token != self._token:
                return False
        # One frozen between its look and its put may have created a generation that was used and deleted meanwhile
        return self._claims.highest() == generation

    def _clean(self) -> None:
        """The own generation and the one before stay: a fallen holder still reads by whom it was followed."""
        self._claims.delete(old for old in self._claims.generations() if old < self._generation - 1)

    def _beating(self) -> None:
        while not self._stop.wait(self._beat_seconds) and not self.lost.is_set():
            began = time.monotonic()
            try:
                own = self._claims.read(self._generation)
                if own is not None and own.token != self._token:
                    self._lose(f"taken by {own}")
                if self._look() and not self._stop.is_set():
                    self._beat += 1
                    self._claims.replace(self._generation, self._claim(LockState.HELD))
                    self._beaten, self._trouble = began, ""
            except (ReembedError, FileNotFoundError) as error:
                self._trouble = f"; last: {error}"
                _log.warning("a heartbeat of the lock failed, trying again: %s", error)

    def _watching(self) -> None:
        """Apart from the beat, which may hang inside a storage call."""
        while not self._stop.wait(min(1.0, self._beat_seconds / 3)) and not self.lost.is_set():
            if time.monotonic() - self._beaten > self._give_up_seconds:
                self._lose(f"storage could not be reached for {self._give_up_seconds:.0f} s{self._trouble}")

    def _look(self) -> bool:
        """Whether this driver still is the highest generation."""
        highest = self._claims.highest()
        if highest > self._generation:
            self._lose(f"taken over by {self._claims.read(highest) or f'generation {highest}'}")
        return not self.lost.is_set()

    def _lose(self, why: str) -> None:
        if not self.lost.is_set():
            self._why = why
            self.lost.set()
            _log.error("%s: the lock is lost: %s", self._store.uri, why)

    def _claim(self, state: LockState) -> Claim:
        return Claim(token=self._token, holder=self._identity, since=self._since, beat=self._beat, state=state)
