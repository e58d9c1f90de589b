#!/usr/bin/env bash
# test_quantize.sh - quantize and plan: the new model draws, and a run that does not end leaves nothing that looks whole.
. "$(dirname "$0")/cli_testing.sh"

demo=$(realpath "$INK_TEST_SOURCE_DIR")/models/demo

test_written_model_draws_the_same() {
    run quantize -m "$demo" -o new --precision q4
    expect "done" is "$status" 0
    expect "every matrix is listed" prints transformer_blocks.0.attn.to_q.weight
    expect "the sum is last" is "$(tail -n 1 "$out" | cut -c -5)" "new: "
    run -m new -p "a red circle" -s 2 -S 1 --no-metadata -o written.png
    run -m "$demo" --precision q4 -p "a red circle" -s 2 -S 1 --no-metadata -o loaded.png
    expect "the same picture" cmp -s written.png loaded.png
    run quantize -m new -o again --precision q4
    expect "what is small stays" prints "0 of "
    run quantize -m new -o third --precision q4 -q
    expect "quiet" silent
    rm -r third
    run -m again -p "a red circle" -s 2 -S 1 --no-metadata -o again.png
    expect "the same picture once more" cmp -s again.png loaded.png
    expect "leaves nothing else" holds_only new again written.png loaded.png again.png
}

# Of a form without scales, too.
test_errors() {
    run quantize -m "$tiny" -o new --precision bf16 --json
    expect "done" is "$status" 0
    expect "matrices in f32 lose what bf16 has not" grep -q '"weight_error":0.001' "$out"
    expect "and no more" is "$(grep -oE '"weight_error":[^,]*' "$out" | awk -F: '$2 == "null" || $2 > 0.01' | wc -l)" 0
}

# A folder with the tokenizer in it may hold anything.
test_tokenizer_alone() {
    cp -r "$demo" model
    cp model/vae/*.safetensors model/tokenizer/
    echo x >model/tokenizer/README.md
    run quantize -m model -o new --precision q8
    expect "done" is "$status" 0
    expect "nothing but the tokenizer" is "$(ls new/tokenizer)" "$(ls "$demo/tokenizer")"
}

test_refused_at_once() {
    local forms=$golden/forms
    refuses 2 'the tokenizer lies in a GGUF file' quantize -m "$forms" --text-encoder "$forms/gguf/forms_text_bf16.gguf" -o new \
        --precision bf16
    refuses 1 '.: cannot be replaced by a folder of that name' quantize -m "$demo" -o . --precision q4
}

test_json() {
    run quantize -m "$demo" -o new --precision q8 --json --calibrate off --keep "*.attn.*=bf16" -q
    expect "one line of JSON" is_json
    expect "says nothing else" is "$(cat "$err")" ""
    run plan -m "$demo" -W 256 -H 256 --json
    expect "one line of JSON" is_json
    expect "all precisions" is "$(grep -o '"precision":' "$out" | wc -l)" 6
    run plan -m new --json
    expect "a mixed model is best as it is" prints '"best":"auto"'
}

test_plan() {
    run plan -m "$demo"
    expect "done" is "$status" 0
    expect "names the best" prints "Best here: bf16, as the model is stored."
    run plan -m "$demo" --precision q4
    expect "says how" prints "inkstone quantize -m $demo -o NEW_FOLDER --precision q4"
    expect "leaves nothing" holds_only
    refuses 2 "width 100000000 is out of range" plan -m "$demo" -W 100000000
}

test_mistakes() {
    mkdir full && touch full/file
    refuses 2 "where to?" quantize -m "$demo" --precision q4
    refuses 2 "in which precision?" quantize -m "$demo" -o new
    refuses 2 "bf16, fp8, q8, q4 or int8" quantize -m "$demo" -o new --precision f32
    refuses 2 "PATTERN=bf16" quantize -m "$demo" -o new --precision q4 --keep "*.attn.*"
    refuses 2 "fits no tensor" quantize -m "$demo" -o new --precision q4 --keep "nothing=bf16"
    refuses 2 "on or off" quantize -m "$demo" -o new --precision q4 --calibrate maybe
    refuses 1 "is not empty" quantize -m "$demo" -o full --precision q4
    refuses 1 "cannot be created" quantize -m "$demo" -o none/new --precision q4
    [ "$(id -u)" = 0 ] && return 0
    mkdir sealed && chmod a-w sealed
    refuses 1 "Permission denied" quantize -m "$demo" -o sealed/new --precision q4
}

# A disk that is full, as far as the program can tell.
test_no_room() {
    status=0
    (ulimit -f 200 && exec "$cli" quantize -m "$demo" -o new --precision q4) >"$out" 2>"$err" </dev/null || status=$?
    last="quantize with files of at most 200 blocks"
    expect "fails" is "$status" 1
    expect "says why" says "cannot be written"
    expect "leaves nothing" holds_only
}

has_partial() { compgen -G 'new.partial-*' >/dev/null; }

# stop SIGNAL - starts a run, and stops it as soon as there is something to see.
stop() {
    local i
    "$cli" quantize -m "$demo" -o new --precision q4 --calibrate on -t 1 >"$out" 2>"$err" </dev/null &
    local child=$!
    for ((i = 0; i < 2000; i++)); do
        has_partial && break
        sleep 0.005
    done
    kill "-$1" $child 2>/dev/null
    status=0
    wait $child || status=$?
    last="quantize, stopped by $1"
}

test_interrupted() {
    stop INT
    expect "status 130" is "$status" 130
    expect "says so" says "interrupted; nothing was written"
    expect "leaves nothing" holds_only
}

test_killed() {
    stop KILL
    expect "no folder of that name" [ ! -e new ]
    run -m "$(echo new.partial-*)" -p x -o x.png
    expect "what is left is no model" is "$status" 1
    run quantize -m "$demo" -o new --precision q4
    expect "what is left is not in the way" is "$status" 0
}

run_tests
