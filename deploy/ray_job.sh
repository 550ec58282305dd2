#!/bin/sh
# The run as a Ray job, with reembed's own exit status. To be run where the configuration lies: in the repository's root, or,
# when the nodes' image has the wheel, in any folder:
#
#     RAY_API_SERVER_ADDRESS=http://head:8265 deploy/ray_job.sh CONFIG [key=value ...]
#
# `ray job submit` ends with 1 whatever was wrong, and with 0 when the job was stopped. What is on storage is the authority;
# overrides may therefore not name another output.uri.
#
# A local Ray of this machine (`make demo`, cluster.address: local) leaves a token in ~/.ray/auth_token, and a cluster that is
# started there later asks for it. `ray job submit` presents it only with RAY_AUTH_MODE=token.
set -u
if [ -z "${RAY_AUTH_MODE-}" ] && { [ -n "${RAY_AUTH_TOKEN-}${RAY_AUTH_TOKEN_PATH-}" ] || [ -f "${HOME-}/.ray/auth_token" ]; }; then
    export RAY_AUTH_MODE=token # a cluster without authentication ignores it
fi
${RAY:-ray} job submit --working-dir . -- python -m jobs.embed "$@"
submitted=$?
told=$(${REEMBED:-reembed} status "$1" --json) || exit 2 # nothing was ever begun there
state=$(printf %s "$told" | "${PYTHON:-python3}" -c 'import json, sys; print(json.load(sys.stdin)["state"])') || exit 2
case $submitted-$state in
    0-complete) exit 0 ;;
    *-refused) exit 3 ;;        # finished, not published: readers keep the snapshot before, a person decides
    *-complete) exit 2 ;;       # failed and left nothing behind: what storage tells of is the run before
    *) exit 4 ;;                # running, stopped, aborted: the same command resumes it
esac
