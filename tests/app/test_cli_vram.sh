#!/usr/bin/env bash
# test_cli_vram.sh - --vram-budget: what the plan says before anything is loaded, the same file whatever comes and goes, and what is
# refused. The GPU is a stand-in (lagging_device.h) of 4 GiB, of which a plan leaves one and a half to libraries.
. "$(dirname "$0")/cli_testing.sh"

export INK_CUDA_MODULE=$INK_TEST_GPU
unset INK_BACKEND
model=$golden/static-shift # five blocks
size=(-W 32 -H 32)
picture=(-m "$model" -p "a red circle on a blue background" -n blue -g 3 "${size[@]}" -s 3 -S 1 --precision f32 --backend cuda)

test_same_file() {
    run "${picture[@]}" -o all.png
    expect "draws" is "$status" 0
    expect "all stays" grep -qE '^memory of the GPU: .* needed \(weights [^,]*, scratch [^,]*\), 4\.0 GiB available$' "$err"
    expect "with the stand-in" grep -q ' threads, lagging$' "$err"
    run "${picture[@]}" -o no.png --vram-budget 1M
    expect "refuses" is "$status" 1
    local least
    least=$(sed -n 's/.*needs \([0-9]*\) MiB of the GPU.s memory at the least.* and may use 1 MiB: .*/\1/p' "$err")
    expect "names the least" test "${least:-0}" -gt 1536
    run plan -m "$model" "${size[@]}" -s 3 -n blue -g 3 --precision f32 --json
    least=$(grep -o '"gpu":{.*' "$out" | grep -o '"least_bytes":[0-9]*' | cut -d: -f2)
    for budget in "$least" $((least + 120000)); do
        run "${picture[@]}" -o some.png --vram-budget "$budget"
        expect "draws within $budget" is "$status" 0
        expect "says what comes and goes" grep -qE \
            '^memory of the GPU: .*, one network at a time, scratch .*\), [1-5] of 5 blocks come and go: .* to the GPU at each step, .* of the host.s memory, .* available$' "$err"
        expect "the same file" cmp -s all.png some.png
        rm some.png
    done
    run "${picture[@]}" -o no.png --vram-budget $((least - 1))
    expect "a byte less is refused" is "$status" 1
    expect "nothing is left" holds_only all.png
}

test_plan() {
    run plan -m "$model" "${size[@]}"
    expect "exit status" is "$status" 0
    expect "a table of the GPU" prints 'The GPU; 4.0 GiB of its memory available'
    expect "all fits" is "$(grep -cE '^(f32|bf16|q8|fp8|q4) .*  fits$' "$out")" 10
    expect "the best" prints 'Best on the GPU: bf16, as the model is stored.'
    run plan -m "$model" "${size[@]}" --precision f32 --json
    expect "one line of JSON" is_json
    expect "the GPU's numbers" prints '"gpu":{"weight_bytes":'
    expect "the best" prints '"best_gpu":"f32"'
    local least
    least=$(grep -o '"gpu":{.*' "$out" | grep -o '"least_bytes":[0-9]*' | cut -d: -f2)
    run plan -m "$model" "${size[@]}" --precision f32 --vram-budget "$least"
    expect "says what comes and goes" grep -qE '^f32 .*  fits, 5 of 5 blocks come and go: .* to the GPU at each step, .* of the host' "$out"
    run plan -m "$model" "${size[@]}" --precision f32 --vram-budget 1M
    expect "too small a budget is no mistake" is "$status" 0
    expect "and is told" prints 'does not fit'
    expect "and advice" prints 'Nothing here fits the GPU'
}

test_bench() {
    run bench --synthetic tiny --size 32x32 --picture -s 2 --backend cuda --vram-budget 2G --precision f32
    expect "draws random weights" is "$status" 0
    expect "within a budget" prints 'picture '
}

test_plan_without_gpu() {
    run plan -m "$model" "${size[@]}" --backend cpu
    expect "exit status" is "$status" 0
    expect "no GPU" is "$(grep -c GPU "$out")" 0
    run plan -m "$model" "${size[@]}" --backend cpu --json
    expect "no GPU in JSON" is "$(grep -c gpu "$out")" 0
    INK_CUDA_MODULE=/nowhere run plan -m "$model" "${size[@]}"
    expect "exit status" is "$status" 0
    expect "none that can be used" is "$(grep -c GPU "$out")" 0
    refuses 1 'back end cuda:1 cannot be used' plan -m "$model" --backend cuda:1
}

# notes SENTENCES FLAGS... - draws a small picture, and expects these notes about the processor and the GPU, each with a | behind it.
notes() {
    local wanted=$1
    shift
    run -m "$model" -p "a red circle" "${size[@]}" -s 1 -S 1 "$@" -o some.png
    expect "draws with $*" is "$status" 0
    expect "notes with $*" is "$(grep -E '^note: .*(GPU|budget)' "$err" | tr '\n' '|')" "$wanted"
    rm -f some.png
}

# Who asked for a GPU, or for less of its memory, is told that there is none.
test_notes() {
    local none='note: the processor is used, and no GPU: /nowhere: cannot open shared object file: No such file or directory|'
    local vram='note: --vram-budget has no effect on the processor; --ram-budget limits its memory|'
    notes "" --backend auto
    notes "" --vram-budget 3G
    notes 'note: --ram-budget has no effect on a GPU; --vram-budget limits its memory|' --ram-budget 3G
    INK_CUDA_MODULE=/nowhere notes "$none" --backend auto
    INK_CUDA_MODULE=/nowhere notes "$none$vram" --vram-budget 3G
    INK_CUDA_MODULE=/nowhere notes "$vram" --backend cpu --vram-budget 3G
    INK_CUDA_MODULE=/nowhere notes "" -q --backend auto
}

run_tests
