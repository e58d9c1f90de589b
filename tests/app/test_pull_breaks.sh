#!/usr/bin/env bash
# test_pull_breaks.sh - everything that can go wrong on the way and must end well: cuts, lies, silence, wrong bytes, SIGKILL.
. "$(dirname "$0")/pull_testing.sh"

# survives NAME RULE... - one pull against a server that misbehaves so must end well. Runs beside others, in a subshell.
survives() {
    local name=$1 arguments=() rule
    shift
    mkdir "$name" && cd "$name" || exit 1
    for rule in "$@"; do arguments+=(--rule "$rule"); done
    start_hub "${network[@]}" "${arguments[@]}" --seed "$((RANDOM + 1))"
    if ! timeout 50 "$cli" pull test/Mini --timeout 1 --tries 6 >stdout 2>stderr || ! complete models/mini; then
        echo "$name: $(tail -n 1 stderr)" >>"$scratch/unsurvived"
    fi
    stop_hub
}

test_misbehaviour() {
    local cut='*/resolve/*.safetensors cut 2900000'
    survives cuts "*/resolve/*.safetensors cut 900000 8" &
    survives cuts-everywhere '* cut 100 2' '*.safetensors cut 900000 4' &
    survives silence '*/resolve/*.safetensors stall 70000' &
    survives silent-listing '/api/* cut 10' '/api/* stall 10' &
    survives wrong-byte '*/resolve/*.safetensors flip' &
    survives wrong-byte-in-config '*/config.json flip' &
    survives too-many '* status 429 2' &
    survives broken-hub '/api/* status 500' '*/resolve/* status 502' '*.safetensors status 503' &
    survives no-such-range "$cut" '*.safetensors status 416' &
    survives no-ranges "$cut" '*.safetensors noranges x -1' &
    survives part-unsaid "$cut" '*.safetensors norange' &
    survives part-shifted "$cut" '*.safetensors shift 1000' &
    survives part-of-another "$cut" '*.safetensors total 1000' &
    survives longer '*.safetensors longer 1000' &
    survives shorter '*.safetensors shorter 1000' &
    survives promise-unkept '*.safetensors promise 1000' &
    survives more-than-said '*.safetensors extra 1000' &
    survives hotel '*/resolve/*.safetensors page' "$cut" '*.safetensors page' &
    survives elsewhere '/test/* redirect cdn -1' '/cdn/* cut 900000 5' '/cdn/* status 403' &
    survives moved "/api/models/test/Mini/* redirect /api/models/test/Other/revision/main" &
    wait
    expect "all is survived: $(cat "$scratch/unsurvived" 2>/dev/null)" [ ! -e "$scratch/unsurvived" ]
}

test_fifty_cuts() {
    start_hub "${bare[@]}" --file "vae/diffusion_pytorch_model.safetensors 200000000 lfs 7" \
        --rule "*/resolve/*.safetensors cut 7000000 50" --seed $$
    run pull test/Mini
    expect "status 0" is "$status" 0
    expect "the right bytes" complete models/mini
    expect "51 requests, each for the rest" is "$(n_requests safetensors)" 51
    expect "each goes on further" [ "$(grep safetensors requests | sed 's/.*from=\([0-9]*\).*/\1/' | sort -n -u | wc -l)" = 51 ]
    stop_hub
}

test_killed() {
    local files=() i
    for i in 1 2 3 4 5 6 7 8; do files+=(--file "transformer/diffusion_pytorch_model-0000$i-of-00008.safetensors 6000000 lfs $i"); done
    start_hub "${bare[@]}" --file "transformer/diffusion_pytorch_model.safetensors.index.json 900 git 4" "${files[@]}" \
        --rule "*/resolve/*.safetensors slow 4000000 -1"
    for i in $(seq 20); do
        "$cli" pull test/Mini -q >"$out" 2>"$err" &
        sleep "0.$((RANDOM % 25 + 5))"
        kill -KILL $! 2>/dev/null
        wait $! 2>/dev/null
        expect "after kill $i no wrong file has a final name" nothing_wrong_in models/mini
    done
    run pull test/Mini
    expect "status 0" is "$status" 0
    expect "the right bytes" complete models/mini
    expect "it had gone on" grep -q 'from=[1-9]' requests
    stop_hub
}

test_interrupted() {
    start_hub "${network[@]}" --rule "*/resolve/*.safetensors slow 1000000"
    "$cli" pull test/Mini >"$out" 2>"$err" &
    sleep 0.7
    kill -INT $!
    status=0
    wait $! || status=$?
    expect "status 130" is "$status" 130
    expect "says how to go on" says "interrupted; what arrived is kept, and inkstone pull test/Mini goes on"
    expect "what arrived is kept" [ -s "$weights.partial" ]
    run pull test/Mini
    expect "the right bytes" complete models/mini
    expect "by a range" grep -q 'safetensors from=[1-9]' requests
    stop_hub
}

test_damaged_partial() {
    start_hub "${network[@]}"
    mkdir -p models/mini/transformer
    head -c 1000000 /dev/zero >"$weights.partial"
    run pull test/Mini
    expect "other bytes than the server's are found by the hash" complete models/mini
    rm "$weights"
    head -c 4000000 /dev/zero >"$weights.partial"
    run pull test/Mini
    expect "more bytes than the file has are dropped" complete models/mini
    stop_hub
}

run_tests
