# cli_testing.sh - what the tests of the command line share. Sourced by test_*.sh, which ctest runs with INK_TEST_CLI (the
# program) and INK_TEST_SOURCE_DIR (the tree). A test is a function whose name begins with `test_`; each runs in an empty
# folder of its own, and says with `expect` what must be so.
set -uo pipefail
export LC_ALL=C TERM=dumb
unset INK_MODEL INK_CPU INK_TRACE INK_CHECK INK_POISON INK_CUDA_MODULE
export INK_BACKEND=cpu # also where there is a GPU: tools/gpu-test.sh is for that

cli=$(realpath "$INK_TEST_CLI")
golden=$(realpath "$INK_TEST_SOURCE_DIR")/tests/golden
tiny=$golden/tiny
scratch=$(mktemp -d)
# A background job that a signal ends before it has become the program runs this trap too.
shell=$BASHPID
trap '[ $BASHPID != $shell ] || rm -rf "$scratch"' EXIT

# A picture that takes no time.
small=(-m "$tiny" -p "a red circle" -W 32 -H 32 -s 2 -S 1)

out=$scratch/stdout
err=$scratch/stderr
status=0
n_failed=0

# run ARGS... - runs the program; leaves $status and the files $out and $err.
run() {
    status=0
    "$cli" "$@" >"$out" 2>"$err" </dev/null || status=$?
    last="inkstone $*"
}

# expect WHAT COMMAND... - the command must succeed.
expect() {
    local what=$1
    shift
    "$@" && return 0
    n_failed=$((n_failed + 1))
    echo "$test: $what"
    printf '    after: %.300s\n' "${last:-}"
    echo "    exit status $status"
    head -c 2000 "$out" | sed 's/^/    stdout: /'
    head -c 2000 "$err" | sed 's/^/    stderr: /'
    return 0
}

is() { [ "$1" = "$2" ]; }
says() { grep -qF -- "$1" "$err"; }
prints() { grep -qF -- "$1" "$out"; }
silent() { [ ! -s "$out" ] && [ ! -s "$err" ]; }
is_png() { [ "$(head -c 8 "$1" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a ]; }

# Nothing in the folder but these, hidden files included.
holds_only() { [ "$(find . -mindepth 1 -maxdepth 1 | sed 's|^\./||' | sort | tr '\n' ' ')" = "$([ $# -eq 0 ] || printf '%s\n' "$@" | sort | tr '\n' ' ')" ]; }

# One line of JSON on standard output.
is_json() {
    [ "$(wc -l <"$out")" = 1 ] && grep -q '^{.*}$' "$out" || return 1
    ! command -v jq >/dev/null || jq -e . "$out" >/dev/null
}

# refuses STATUS SENTENCE ARGS... - ends with the status and one sentence that holds SENTENCE, prints nothing, and leaves
# the folder as it is.
refuses() {
    local wanted=$1 sentence=$2 before
    shift 2
    before=$(ls -A)
    run "$@"
    expect "exit status $wanted" is "$status" "$wanted"
    expect "one sentence" is "$(grep -c '^inkstone: ' "$err")" 1
    expect "says: $sentence" says "$sentence"
    expect "prints nothing" is "$(cat "$out")" ""
    expect "leaves no file" is "$(ls -A)" "$before"
}

run_tests() {
    for test in $(declare -F | sed -n 's/^declare -f \(test_.*\)/\1/p'); do
        mkdir "$scratch/$test"
        cd "$scratch/$test" || exit 1
        "$test"
    done
    [ $n_failed -eq 0 ] || { echo "$n_failed expectations failed" && exit 1; }
    echo "all passed"
}
