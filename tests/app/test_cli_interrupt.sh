#!/usr/bin/env bash
# test_cli_interrupt.sh - Ctrl-C and its kin: the run ends soon and leaves nothing.
. "$(dirname "$0")/cli_testing.sh"

# wait_for COMMAND... - until it succeeds, or ten seconds have passed.
wait_for() {
    local i
    for ((i = 0; i < 200; i++)); do
        "$@" && return 0
        sleep 0.05
    done
    return 1
}

has_temporary() { [ -n "$(find . -name '.inkstone-*.tmp')" ]; }

# interrupt STATUS SIGNALS... - starts a long run, sends the signals, and looks at what is left.
interrupt() {
    local wanted=$1 signal
    shift
    last="interrupted by $*"
    "$cli" -m "$tiny" -p x -W 256 -H 256 -s 10000 -o x.png --dump x.safetensors >"$out" 2>"$err" </dev/null &
    local child=$! start=$SECONDS
    expect "the place is tried before the work" wait_for has_temporary
    sleep 0.3
    for signal in "$@"; do
        kill "-$signal" $child 2>/dev/null
        sleep 0.01
    done
    wait $child
    status=$?
    expect "exit status $wanted" is "$status" "$wanted"
    expect "soon" [ $((SECONDS - start)) -lt 30 ]
    expect "leaves nothing" holds_only
    expect "prints nothing" is "$(cat "$out")" ""
}

test_interrupt() {
    interrupt 130 INT
    expect "says so" says 'interrupted; nothing was written'
}

test_terminate() { interrupt 143 TERM; }

test_hangup() {
    [ -z "$(trap -p HUP)" ] || return 0 # ignored on entry, by nohup: the program leaves it so
    interrupt 129 HUP
}

# The second signal ends the program wherever it is.
test_twice() { interrupt 130 INT INT INT; }

test_old_picture_stays() {
    run "${small[@]}" -o x.png
    cp x.png copy.png
    "$cli" -m "$tiny" -p x -W 256 -H 256 -s 10000 -o x.png >"$out" 2>"$err" </dev/null &
    local child=$!
    wait_for has_temporary
    kill -INT $child
    wait $child
    expect "the old picture is untouched" cmp -s x.png copy.png
    expect "leaves nothing" holds_only x.png copy.png
}

# The end of a mapped file is gone, as when somebody loads a newer model into the same folder.
test_model_becomes_shorter() {
    cp -r "$tiny" model
    last="a model that becomes shorter"
    "$cli" -m model -p x -W 256 -H 256 -s 10000 --cpu ref -o x.png >"$out" 2>"$err" </dev/null &
    local child=$!
    wait_for grep -q '^memory: ' "$err"
    sleep 0.3
    for file in model/transformer/*.safetensors; do truncate -s 4096 "$file"; done
    wait_for is_gone $child || kill -KILL $child
    wait $child
    status=$?
    expect "status 1" is "$status" 1
    expect "says why" says 'inkstone: a file of the model can no longer be read'
    expect "leaves nothing" holds_only model
}

is_gone() { ! kill -0 "$1" 2>/dev/null; }

test_while_reading() {
    mkfifo pipe
    "$cli" -m "$tiny" -p - >"$out" 2>"$err" <pipe &
    local child=$!
    exec 3>pipe
    # The shell starts it with SIGINT ignored; only what comes after its first steps is heard.
    interrupted() { kill -INT $child 2>/dev/null && return 1 || return 0; }
    expect "ends" wait_for interrupted
    wait $child
    status=$?
    exec 3>&-
    expect "status 130" is "$status" 130
    expect "leaves nothing" holds_only pipe
}

test_verify() {
    run -m "$tiny" -p x -W 256 -H 256 -s 3 -o x.png --dump x.safetensors
    : >"$err" # the run before left its lines there
    "$cli" verify -m "$tiny" x.safetensors --cpu ref >"$out" 2>"$err" </dev/null &
    local child=$!
    wait_for grep -q '^model: ' "$err"
    kill -INT $child
    wait $child
    status=$?
    expect "status 130" is "$status" 130
    expect "prints nothing" is "$(cat "$out")" ""
}

run_tests
