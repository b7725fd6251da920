#!/bin/sh
# Standard input into a stream file, and the file to standard output: what comes out is what went in.
set -eu
millstream=${MILLSTREAM:-millstream}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
printf 'one\ntwo, with a [bracket]\n\nfour\n' | "$millstream" relay stdio: "file://$folder/lines.ss/lines"
"$millstream" relay "file://$folder/lines.ss/lines" 'stdio:?format=raw' --until-end
