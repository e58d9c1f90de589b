#!/usr/bin/env bash
# test_cli_bench.sh - bench on a network that takes no time: a table, lines of JSON, and what it refuses.
. "$(dirname "$0")/cli_testing.sh"

fast=(bench --synthetic tiny --size 32x32 --repeat 1)

test_table() {
    run "${fast[@]}" -s 2
    expect "done" is "$status" 0
    for word in "text encoder" "modulation of 2 steps" "step of 2 passes" forward block decode TFLOP/s "peak" "GB/s read"; do
        expect "tells of $word" prints "$word"
    done
    expect "nothing is extrapolated" is "$(grep -c extrapolated "$out")" 0
    run bench --synthetic tiny:1 --size 32x32 --repeat 1 --phases denoise
    expect "says what was not run" prints "not run: extrapolated to 2 blocks from 1"
    expect "times nothing else" is "$(grep -c 'decode' "$out")" 0
    expect "leaves no file" holds_only
}

# A line for each case, with the fields that other tools read.
test_json() {
    run "${fast[@]}" --size 48x32 --precision bf16,q4 --precision f32 --json -q -t 1
    expect "done" is "$status" 0
    expect "says nothing else" is "$(cat "$err")" ""
    expect "a line for each case" is "$(wc -l <"$out")" 6
    expect "lines of JSON" is "$(grep -c '^{.*}$' "$out")" 6
    for field in backend tier threads width height precision batch blocks seconds_per_forward seconds_per_block \
        seconds_per_forward_min tflops roofline_tflops peak_bytes process_peak_bytes text_seconds decode_seconds; do
        expect "every line has $field" is "$(grep -c "\"$field\":" "$out")" 6
    done
    expect "precisions in turn" is "$(sed 's/.*"precision":"\([a-z0-9]*\)".*/\1/' "$out" | tr '\n' ' ')" "bf16 bf16 q4 q4 f32 f32 "
    command -v jq >/dev/null || return 0
    expect "numbers" is "$(jq -s 'all(.seconds_per_block > 0 and .tflops > 0 and .peak_bytes > 0)' "$out")" true
}

test_picture() {
    run bench --synthetic tiny --size 32x32 --picture -s 3 --precision q4 --json -q
    expect "done" is "$status" 0
    expect "one line of JSON" is_json
    expect "a whole picture" prints '"picture":true'
    expect "all of it" is "$(grep -c '"total_seconds":null' "$out")" 0
    run bench --synthetic tiny --size 32x32 --picture -s 3
    expect "tells of the picture" prints "3 steps, all phases"
}

test_mistakes() {
    refuses 2 'what shall be timed?' bench
    refuses 2 'architecture "flux" is unknown' bench --synthetic flux
    refuses 2 'from 1 to 60' bench --synthetic qwen-image:61
    refuses 2 '--size 64: expected width and height' "${fast[@]}" --size 64
    refuses 2 '--size 64x: expected width and height' "${fast[@]}" --size 64x
    refuses 2 'width 50 is no multiple of 16' "${fast[@]}" --size 50x64
    refuses 2 '--precision q5: expected f32, bf16, fp8, q8, q4 or int8' "${fast[@]}" --precision q5
    refuses 2 '--precision bf16,: expected' "${fast[@]}" --precision bf16,
    refuses 2 '--vram-budget is of whole pictures' "${fast[@]}" --vram-budget 8G
    refuses 2 '--phases draw: expected text, modulation, denoise or decode' "${fast[@]}" --phases draw
    refuses 2 '--batch 3' "${fast[@]}" --batch 3
    refuses 2 '--repeat 0' "${fast[@]}" --repeat 0
    refuses 2 '--text-tokens 513' "${fast[@]}" --text-tokens 513
    refuses 2 '-s 0: expected a number of steps' "${fast[@]}" -s 0
    refuses 2 'leave --phases out' "${fast[@]}" --picture --phases text
    refuses 2 'leave --repeat out' "${fast[@]}" --picture
    refuses 2 'CPU tier "none"' "${fast[@]}" --cpu none
    run bench --help
    expect "help teaches" prints "inkstone bench --synthetic qwen-image:2"
}

run_tests
