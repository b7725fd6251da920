#!/bin/sh
# A clock writes into a stream file; at the same time a reader prints each tick as it comes.
set -eu
millstream=${MILLSTREAM:-millstream}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$millstream" clock "file://$folder/clock.ss/clock" --interval 50ms --count 5 &
"$millstream" consume "file://$folder/clock.ss/clock" --count 5 --format raw
wait
