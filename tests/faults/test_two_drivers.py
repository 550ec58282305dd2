"""Two drivers of one output started at the same instant: one works, the other refuses with a status of its own.

`REEMBED_RACES=20` for as many as the promise names. Once on a store that ignores If-None-Match: that is said at start, and
the lock settles it by reading back.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.drivers import Driver, Ended
from tests.faults.conftest import LONG
from tests.faults.oracle import Watch, judge
from tests.faults.proxy import FaultyProxy
from tests.faults.scene import Place
from tests.faults.wire import Message

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SEED = 20261122
RACES = int(os.environ.get("REEMBED_RACES", "1"))


def race(place: Place, run: str, apart: float) -> tuple[Path, Ended, Ended]:
    """Two drivers, the second started so many seconds after the first: the one that worked, the one that did not."""
    place.prepare(run, 1)
    config = place.configure(run)
    with Driver(config, env=place.environment) as one:
        time.sleep(apart)
        with Driver(config, env=place.environment) as other:
            first = one if not one.running else other
            while one.running and other.running:
                time.sleep(0.02)
            first, second = (one, other) if other.running else (other, one)
            early, late = first.end(), second.end()
    return config, late, early


@pytest.mark.timeout(900 + 60 * RACES)
@LONG
@pytest.mark.parametrize("where", ["local", pytest.param("s3", marks=pytest.mark.s3)])
def test_one_works_the_other_refuses(where: str, request: pytest.FixtureRequest) -> None:
    place: Place = request.getfixturevalue(f"{where}_place")
    chance = random.Random(f"{SEED} {where}")
    for number in range(RACES):
        run, apart = f"race-{number}", chance.choice((0.0, chance.uniform(0, 0.5)))
        with Watch(place, run) as watch:
            config, worked, refused = race(place, run, apart)
            watch.look()
        print(f"seed {SEED} {where} race {number}, {apart:.2f} s apart: exits {worked.rc} and {refused.rc}")
        assert (worked.rc, refused.rc) == (0, 4), worked.log + refused.log
        assert "works on this output; nothing was changed" in refused.summary["error"]
        assert worked.summary["attempts"] == worked.summary["shards"]["planned"], "nothing was done twice"
        assert judge(place, run, 1, config, worked.summary, kills=0).findings == []
        assert watch.invalid == []
        place.remove(run)


class Unconditional(FaultyProxy):
    """An S3 server that takes every PUT, whatever its condition: the header is removed, the request signed again."""

    def __init__(self, endpoint: str, key: str, secret: str, region: str) -> None:
        super().__init__(endpoint)
        self._signer = S3SigV4Auth(Credentials(key, secret), "s3", region)

    def change(self, request: Message) -> Message:
        if request.header("If-None-Match") is None:
            return request
        self.injected.update(["condition ignored"])
        kept = {name: request.header(name) or "" for name in ("Host", "Content-Length", "Content-Type", "Content-MD5")}
        headers = {name: value for name, value in kept.items() if value}
        signed = AWSRequest(request.method, f"{self.endpoint}{request.target}", headers, request.body)
        self._signer.add_auth(signed)
        lines = [f"{name}: {value}" for name, value in signed.headers.items()]
        head = f"{request.method} {request.target} HTTP/1.1\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
        return Message(head.encode(), request.body)


@pytest.fixture
def unconditional(s3_place: Place) -> Iterator[Unconditional]:
    """The same place, its server not atomic for the time of a test."""
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
    with Unconditional(*(os.environ[name] for name in names)) as proxy:
        before, s3_place.proxy = s3_place.proxy, proxy
        yield proxy
        s3_place.proxy = before


@LONG
@pytest.mark.s3
def test_a_store_without_conditional_puts(s3_place: Place, unconditional: Unconditional) -> None:
    config, worked, refused = race(s3_place, "unconditional", 0.0)
    assert (worked.rc, refused.rc) == (0, 4), worked.log + refused.log
    said = r"conditional put is not atomic here"
    assert said in worked.log
    assert "the lock settles and reads back instead" in worked.log
    assert unconditional.injected["condition ignored"] > 0  # type: ignore[index]
    assert judge(s3_place, "unconditional", 1, config, worked.summary, kills=0).findings == []
