"""`python -m tests.s3_server VERB FOLDER [mon|osd|rgw]`: the tests' S3 server by hand.

eval "$(python -m tests.s3_server start /tmp/my-s3)"     # exports the endpoint and the keys
python -m tests.s3_server crash /tmp/my-s3 [rgw]         # also: freeze, thaw, stop, wipe
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.s3_server.ceph import CephServer, Unavailable
from tests.sessions import wait_for_end


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    verb, folder, *names = arguments
    server = CephServer(Path(folder).resolve())
    if verb == "start":
        try:
            server.install()
        except Unavailable as error:
            print(error, file=sys.stderr)
            return 2
        server.start()
        for name, value in server.environment().items():
            print(f"export {name}={value}")
    elif verb == "guard":  # until its owner has ended, however that was
        wait_for_end(int(names[0]))
        server.wipe()
    elif verb in ("stop", "crash", "freeze", "thaw", "wipe"):
        getattr(server, verb)(*names)
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
