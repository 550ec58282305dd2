"""The driver lock: at most one driver writes to an OUTPUT, and a resumed driver can take over from a dead one.

1. acquire    reads the highest generation n. Released, or its process dead -> take n + 1. Alive on this machine ->
              LockHeld at once. On another machine -> watch its `beat` by our own monotonic clock: if it changes,
              LockHeld; if it does not change for `takeover_seconds`, take n + 1
2. take       put_if_absent of generation n + 1: exactly one of several racing drivers succeeds. Nothing is deleted first
3. beat       a thread rewrites our claim every `beat_seconds` and checks for a higher generation. If there is one, or
              storage does not answer for `give_up_seconds`, `lost` is set and the driver must stop
4. guard      before every write: a driver whose last beat is old (frozen, or cut off) checks storage first
5. release    marks our claim as released, so that the next driver need not wait

A driver holds the lock as long as storage shows no higher generation, so a store that freezes for everybody costs no driver
its lock. No ordering depends on the clocks of two machines. The generation is the fencing token: epochs derive from it. If
the store cannot create atomically (`store.atomic_create` is False, as workers/storage/atomicity.py finds out), a driver that
has written its claim waits, and then reads back which driver's token is stored. Knows nothing of runs, shards or Ray.
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

BEAT_SECONDS = 3.0  # three fit into the 10 s within which a second driver must be refused
TAKEOVER_SECONDS = 20.0  # several beats: one slow request or a pause of the process does not lose the lock
EPOCHS_PER_DRIVER = 1 << 32  # so that epochs of a later driver are always larger
GIVE_UP_SECONDS = 180.0  # after so long without storage the run ends: it cannot write receipts
READ_BACK_SECONDS = 2.0  # on stores that cannot create atomically: longer than a put takes
_TRUST_SHARE = 0.8  # of the takeover time: within it, after a beat, no other driver can have taken over
_POLL_SECONDS = 0.5
_log = logging.getLogger("reembed")


class DriverLock:
    """The right to write to one output. `with DriverLock(store) as lock:` acquires and releases.

    `lost` is set when another driver has taken over or storage no longer answers; the run must then stop.
    """

    def __init__(
        self,
        store: Store,
        *,
        identity: Identity | None = None,
        beat_seconds: float = BEAT_SECONDS,
        takeover_seconds: float = TAKEOVER_SECONDS,
        give_up_seconds: float = GIVE_UP_SECONDS,
        read_back_seconds: float = READ_BACK_SECONDS,
    ) -> None:
        self.lost = threading.Event()
        self._store = store
        self._claims = Claims(store)
        self._identity = identity or Identity.mine()
        self._beat_seconds, self._takeover_seconds = beat_seconds, takeover_seconds
        self._give_up_seconds, self._read_back_seconds = give_up_seconds, read_back_seconds
        self._token = uuid.uuid4().hex
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._generation = 0
        self._beat = 0
        self._why = ""
        self._trouble = ""  # the last storage error, while beats fail
        self._presumed_dead: tuple[int, int] | None = None  # (generation, beat) that did not change for `takeover_seconds`
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
            LockHeld: another driver works on this output; names it.
            UsageError, TransientError: the store refused or did not answer.
        """
        if self._threads:
            return
        while not self._take(self._await_free()):
            pass  # another driver was faster: read the generations again
        for name, run in (("lock-beat", self._beating), ("lock-watch", self._watching)):
            self._threads.append(threading.Thread(target=run, daemon=True, name=name))
            self._threads[-1].start()
        self._clean()

    def refuse_if_held(self) -> None:
        """Check whether the lock is free, without writing: for refusing early. Raises: as acquire()."""
        self._await_free()

    @property
    def first_epoch(self) -> int:
        """Of this driver's attempts: larger than every epoch of an earlier driver."""
        return self.generation * EPOCHS_PER_DRIVER

    def raise_if_lost(self) -> None:
        """Makes no request, so any loop can call it in every turn. Raises: RunAborted if the lock is known to be lost."""
        if self.lost.is_set():
            raise RunAborted(f"{self._store.uri}: this driver no longer holds the output's lock: {self._why}")

    def guard(self) -> None:
        """Call before a write. Reads storage only if this driver's last beat is old.

        Raises:
            RunAborted: the lock is lost or not held. TransientError: storage does not answer, so it is not known.
        """
        if not self._threads or self._stop.is_set():
            raise RunAborted(f"{self._store.uri}: this driver does not hold the output's lock")
        if not self.lost.is_set() and time.monotonic() - self._beaten > self._takeover_seconds * _TRUST_SHARE:
            self._is_highest()
        self.raise_if_lost()

    def check(self) -> None:
        """As guard(), but always reads storage: for steps that cannot be undone."""
        self.guard()
        self._is_highest()
        self.raise_if_lost()

    def release(self) -> None:
        """Let the next driver acquire at once. Idempotent. If storage does not answer, it warns and the lock expires."""
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
        unchanged, looked = 0.0, time.monotonic()
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
            # a slow read counts as at most two polls: while storage hangs, the holder cannot beat either
            unchanged += min(time.monotonic() - looked, 2 * _POLL_SECONDS)
            looked = time.monotonic()
            if unchanged >= self._takeover_seconds:
                _log.warning("%s: taking over from %s: no sign of life for %.0f s", self._store.uri, claim, unchanged)
                self._presumed_dead = watched
                return highest + 1
            time.sleep(min(_POLL_SECONDS, self._takeover_seconds / 10))

    def _take(self, generation: int) -> bool:
        self._generation, self._beaten = generation, time.monotonic()
        if not self._claims.create(generation, self._claim(LockState.HELD)):
            return False
        if not self._store.atomic_create:
            time.sleep(self._read_back_seconds)
            claim = self._claims.read(generation)
            if claim is None or claim.token != self._token:
                return False
        # A driver frozen between its read and its put may have created a generation that was used and deleted meanwhile
        return self._claims.highest() == generation

    def _clean(self) -> None:
        """Delete the claims before the previous one. A driver that lost the lock can still read who took over."""
        self._claims.delete(old for old in self._claims.generations() if old < self._generation - 1)

    def _beating(self) -> None:
        while not self._stop.wait(self._beat_seconds) and not self.lost.is_set():
            began = time.monotonic()
            try:
                own = self._claims.read(self._generation)
                if own is not None and own.token != self._token:
                    self._lose(f"taken by {own}")
                if self._is_highest() and not self._stop.is_set():
                    self._beat += 1
                    self._claims.replace(self._generation, self._claim(LockState.HELD))
                    self._beaten, self._trouble = began, ""
            except (ReembedError, FileNotFoundError) as error:
                self._trouble = f"; last: {error}"
                _log.warning("a heartbeat of the lock failed, trying again: %s", error)

    def _watching(self) -> None:
        """A thread of its own, because the beat may hang inside a storage call."""
        while not self._stop.wait(min(1.0, self._beat_seconds / 3)) and not self.lost.is_set():
            if time.monotonic() - self._beaten > self._give_up_seconds:
                self._lose(f"storage could not be reached for {self._give_up_seconds:.0f} s{self._trouble}")

    def _is_highest(self) -> bool:
        """Whether this driver's generation is still the highest."""
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
