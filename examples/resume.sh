#!/bin/sh
# A consumer that is killed goes on where it was: nothing is missing from its output, and nothing is there twice.
set -eu
millstream=${MILLSTREAM:-millstream}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export MILLSTREAM_STATE_DIR="$folder/state"
input="file://$folder/numbers.ss/numbers" output="file://$folder/out.txt"

seq 1 1000 | "$millstream" produce "$input"
"$millstream" -q relay "$input" "$output" --resume numbers &
until [ -s "$folder/out.txt" ]; do sleep 0.02; done
kill -9 $! && wait $! 2>/dev/null || true

seq 1001 2000 | "$millstream" produce "$input"
"$millstream" -q relay "$input" "$output" --resume numbers --until-end
seq 1 2000 | cmp - "$folder/out.txt" && echo "2000 numbers, each once, in order"
