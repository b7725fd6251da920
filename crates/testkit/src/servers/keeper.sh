# Keeps one server for a test: a process, and the folder that it works in. Both are gone when standard input ends, and that
# ends however the test does: well, by a panic, by kill -9.
#
# First prints the folder. Then takes lines, and answers each with one:
#   start LOG     runs the file `start` of the folder, what it prints goes to the file LOG there; answers with the process id
#   signal NAME   sends the process a signal
#   reap          waits until the process has ended, all of its threads

# Caught, not ignored: what is ignored here, the server would ignore too. HUP comes when the test dies while the server is
# stopped, PIPE when it dies before it has heard an answer.
trap : HUP INT TERM PIPE

folder=$(mktemp -d "${TMPDIR:-/tmp}/millstream-$1-XXXXXX") || exit 1
echo "$folder"
pid=

reap() {
    # A signal to us ends `wait` early.
    while [ -n "$pid" ] && kill -s 0 "$pid" 2>/dev/null; do wait "$pid"; done
    pid=
}

while read -r word argument; do
    case $word in
    start)
        sh "$folder/start" >"$folder/$argument" 2>&1 </dev/null &
        pid=$!
        echo "$pid"
        ;;
    signal)
        [ -n "$pid" ] && kill -s "$argument" "$pid"
        echo "$argument"
        ;;
    reap)
        reap
        echo reaped
        ;;
    esac
done
[ -n "$pid" ] && kill -s KILL "$pid"
reap
rm -rf "$folder"
