#!/bin/sh
# One night's run, for cron and for any scheduler that knows exit statuses: silent when all is well.
#
#     deploy/nightly.sh CONFIG [key=value ...]
#
#   0         published, or nothing to do             says nothing
#   2         the request cannot be carried out       says so; trying again would not help
#   3         a check refused to publish              says so; readers keep the snapshot before, a person decides
#   4         aborted, or another driver is at work   the same command again, TRIES times in all, PAUSE seconds apart
#   130, 143  stopped by a signal                     says so; the next night resumes it
#
# LOG takes what the command prints. REEMBED is the command, e.g. .venv/bin/reembed.
set -u
log=${LOG:-reembed.log}
try=1
while :; do
    ${REEMBED:-reembed} embed "$@" >>"$log" 2>&1 && exit 0
    status=$?
    [ "$status" -eq 4 ] && [ "$try" -lt "${TRIES:-3}" ] || break
    try=$((try + 1))
    sleep "${PAUSE:-300}"
done
case $status in
    2) echo "reembed: cannot be carried out; mend what is named below" ;;
    3) echo "reembed: not published; readers keep the snapshot before; see 'reembed snapshots' and 'reembed publish'" ;;
    4) echo "reembed: aborted $try times; the same command resumes it" ;;
    *) echo "reembed: ended with status $status; the next run resumes it" ;;
esac
tail -n 12 "$log"
exit "$status"
