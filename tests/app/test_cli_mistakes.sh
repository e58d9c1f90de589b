#!/usr/bin/env bash
# test_cli_mistakes.sh - every wrong way to ask: one clear sentence, an exit status that is not zero, nothing half-written.
. "$(dirname "$0")/cli_testing.sh"

test_usage() {
    run
    expect "a hint and status 2" is "$status" 2
    expect "shows an example" says 'inkstone -p "'
    refuses 2 'what should be drawn?' -m "$tiny"
    refuses 2 'unknown command "draw"; to draw it: inkstone -p "draw"' draw
    refuses 2 'did you mean tokenize?' tokenise
    refuses 2 'unknown command "tokenise"' help tokenise
    refuses 2 'did you mean --height?' "${small[@]}" --heigth 16
    refuses 2 'unexpected argument "circle"; give the prompt with -p' -m "$tiny" -p red circle
    refuses 2 'unexpected argument "plan"; a command comes first: inkstone plan' -m "$tiny" plan
    refuses 2 'unexpected argument "there"; name the model with -m' inspect there
    run help --json there
    expect "options of help are no commands" says 'unknown command "there"'
    run help help
    expect "help of help is the overview" is "$(cat "$out")" "$("$cli" --help)"
    refuses 2 '-W needs a value' "${small[@]}" -W
    refuses 2 'which text?' tokenize -m "$tiny"
    refuses 2 'which reference?' verify -m "$tiny"
    refuses 2 'contradict' "${small[@]}" -n blur --no-negative
}

test_numbers() {
    refuses 2 '-W 500: width 500 is no multiple of 16: the nearest are 496 and 512' "${small[@]}" -W 500
    refuses 2 '-H 7: height 7 is no multiple of 16: the nearest is 16' "${small[@]}" -H 7
    refuses 2 '-W 0: width 0 is out of range' "${small[@]}" -W 0
    refuses 2 '-H -16' "${small[@]}" -H -16
    refuses 2 '-W 31632' "${small[@]}" -W 31632 -H 31632
    refuses 2 '-W 9999999999999999999: expected a whole number' "${small[@]}" -W 9999999999999999999
    refuses 2 '-W 32px: expected a whole number' "${small[@]}" -W 32px
    refuses 2 '-s 0: 0 steps' "${small[@]}" -s 0
    refuses 2 '-s -1' "${small[@]}" -s -1
    refuses 2 '-g nan' "${small[@]}" -g nan
    refuses 2 '-g inf' "${small[@]}" -g inf
    refuses 2 '-g much: expected a number' "${small[@]}" -g much
    refuses 2 '-S -1: expected a whole number from 0 to 18446744073709551615' "${small[@]}" -S -1
    refuses 2 '-S 18446744073709551616' "${small[@]}" -S 18446744073709551616
    refuses 2 '-t 0' "${small[@]}" -t 0
    refuses 2 'threads' "${small[@]}" -t 1000000
}

test_choices() {
    refuses 2 'torch-cpu' "${small[@]}" --rng dice
    refuses 2 'torch-cpu' "${small[@]}" --rng torch-cuda:0
    refuses 2 'f32, bf16, fp8, q8, q4, int8 or auto' "${small[@]}" --precision f16
    refuses 2 'f32, bf16 or auto' "${small[@]}" --noise-dtype f64
    refuses 2 'CPU tier "none"' "${small[@]}" --cpu none
    refuses 2 'back end "gpu"' "${small[@]}" --backend gpu
    refuses 2 'back end "cuda:x": expected auto, cpu, cuda or cuda:N' "${small[@]}" --backend cuda:x
    refuses 2 'back end "cudatoolkit"' "${small[@]}" --backend cudatoolkit
    INK_CUDA_MODULE=/nowhere/module.so refuses 1 'back end cuda cannot be used: /nowhere/module.so' "${small[@]}" --backend cuda
}

test_prompts() {
    refuses 2 '-p: the prompt: the text is not valid UTF-8 at byte offset 4' -m "$tiny" -p "$(printf 'red \377\376')"
    refuses 2 '-n: the negative prompt' "${small[@]}" -n "$(printf '\303')"
    refuses 2 'not valid UTF-8' tokenize -m "$tiny" "$(printf '\355\240\200')"
    last="prompt on standard input"
    status=0
    printf 'a\0b' | "$cli" -m "$tiny" -p - >"$out" 2>"$err" || status=$?
    expect "refuses a zero byte" says 'holds a zero byte'
    expect "status 2" is "$status" 2
    status=0
    head -c 1100000 /dev/zero | tr '\0' a | "$cli" -m "$tiny" -p - >"$out" 2>"$err" || status=$?
    expect "refuses a huge prompt" says 'longer than 1 MiB'
    expect "no file" holds_only
}

test_models() {
    refuses 1 'there is no such folder' -m nowhere -p x
    refuses 1 'has no model_index.json' -m "$scratch" -p x
    refuses 1 'is a file' -m "$cli" -p x
    mkdir other
    echo '{"_class_name": "StableDiffusionPipeline"}' >other/model_index.json
    refuses 1 'StableDiffusionPipeline' -m other -p x
    refuses 1 'StableDiffusionPipeline' inspect -m other
    refuses 1 'tokenizer' tokenize -m other x
    cp -r "$tiny" damaged
    head -c 1000 "$tiny/vae/diffusion_pytorch_model.safetensors" >damaged/vae/diffusion_pytorch_model.safetensors
    refuses 1 'damaged/vae/' -m damaged -p x
    rm damaged/vae/diffusion_pytorch_model.safetensors
    refuses 1 'damaged/vae' -m damaged -p x
}

test_outputs() {
    refuses 1 'there is no folder missing/' "${small[@]}" -o missing/x.png
    refuses 2 'must end in .png, .jpg, .jpeg or .webp' "${small[@]}" -o x.gif
    refuses 2 'must end in' "${small[@]}" -o x
    refuses 2 'must end in' "${small[@]}" -o -
    refuses 2 'expected a name' "${small[@]}" -o ""
    mkdir folder.png
    refuses 1 'it is a folder' "${small[@]}" -o folder.png
    : >plain
    refuses 1 'cannot write plain/x.png' "${small[@]}" -o plain/x.png
    refuses 1 'there is no folder missing/' "${small[@]}" -o x.png --dump missing/d.safetensors
    refuses 1 'it is a folder' "${small[@]}" -o x.png --dump folder.png
    refuses 2 'cannot hold both' "${small[@]}" -o x.png --dump x.png
    refuses 2 'cannot hold both' "${small[@]}" -o x.png --dump ./folder.png/../x.png
    refuses 2 'at most 16383 pixels' "${small[@]}" -W 16384 -o x.webp
    # Found before the work: a picture that would take hours is refused at once.
    local start=$SECONDS
    refuses 1 'there is no folder missing/' -m "$tiny" -p x -W 2048 -H 2048 -s 10000 -o missing/x.png
    expect "refused before the work" [ $((SECONDS - start)) -lt 10 ]
    if [ "$(id -u)" != 0 ]; then
        mkdir locked
        chmod 555 locked
        refuses 1 'no file can be made in locked/' "${small[@]}" -o locked/x.png
        : >old.png
        chmod 444 old.png
        refuses 1 'write-protected' "${small[@]}" -o old.png
    fi
}

# What is said has nowhere to go, and must not go into the files that are opened.
test_closed_streams() {
    local i
    for ((i = 0; i < 5; i++)); do
        status=0
        "$cli" "${small[@]}" -o x.png 2>&- >"$out" </dev/null || status=$?
        expect "without standard error: status 0" is "$status" 0
        expect "a picture" is_png x.png
        status=0
        "$cli" "${small[@]}" -o x.png <&- >&- 2>"$err" || status=$?
        expect "without the others: a picture" is_png x.png
    done
    expect "nothing else" holds_only x.png
}

# A file that may not grow stands for a full disk.
test_full_disk() {
    (
        ulimit -f 1
        "$cli" "${small[@]}" -o x.png --dump d.safetensors >"$out" 2>"$err"
    )
    expect "says which file, by its own name" says 'inkstone: d.safetensors: cannot be written'
    expect "leaves nothing" holds_only
    (
        ulimit -f 1
        "$cli" "${small[@]}" -W 128 -H 128 -o x.png >"$out" 2>"$err"
        echo $? >"$scratch/status"
    )
    status=$(cat "$scratch/status")
    expect "status 1" is "$status" 1
    expect "says which file" says 'cannot write x.png: '
    expect "leaves nothing" holds_only
    [ -e /dev/full ] || return
    "$cli" tokenize -m "$tiny" x >/dev/full 2>"$err"
    status=$?
    expect "a result that is not written is a failure" is "$status" 1
    expect "and is told" says 'cannot write the result'
}

test_memory() {
    (ulimit -v 400000 && "$cli" --version) >/dev/null 2>&1 || return 0 # sanitizers need all addresses
    (
        ulimit -v 400000
        "$cli" "${small[@]}" -W 4096 -H 4096 -o x.png >"$out" 2>"$err"
        echo $? >"$scratch/status"
    )
    status=$(cat "$scratch/status")
    expect "status 1" is "$status" 1
    expect "says so" grep -q '^inkstone: .*memory' "$err"
    expect "leaves nothing" holds_only
}

test_again() {
    refuses 1 'cannot open nowhere.png' --again nowhere.png
    echo text >text.png
    refuses 1 'text.png is no PNG file' --again text.png
    : >empty.png
    refuses 1 'empty.png is no PNG file' --again empty.png
    run "${small[@]}" -o good.png
    head -c 100 good.png >cut.png
    refuses 1 'damaged PNG file' --again cut.png
    run "${small[@]}" -o bare.png --no-metadata
    refuses 1 'holds no record' --again bare.png
    run "${small[@]}" -o good.jpg
    refuses 1 'is no PNG file' --again good.jpg
    cp -r "$tiny" model
    run "${small[@]}" -m model -o moved.png
    rm -r model
    refuses 1 'name its folder with -m DIR' --again moved.png
    refuses 2 '-W 50: width 50' --again good.png -W 50
    refuses 1 'not made by inkstone' --again "$INK_TEST_SOURCE_DIR/tests/fuzz/corpus/png_metadata/other_chunks.png"
}

test_errors_as_json() {
    run "${small[@]}" -W 500 --json
    expect "one line of JSON" is_json
    expect "the status" prints '{"error":{"status":"argument","message":"-W 500: '
    expect "status 2" is "$status" 2
    run --json --nonsense
    expect "one line of JSON" is_json
    run --json -m "$(printf 'no\377where')" -p x
    expect "any bytes in a name" is_json
    expect "the status" prints '"status":"io"'
    expect "status 1" is "$status" 1
}

run_tests
