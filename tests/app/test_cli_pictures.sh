#!/usr/bin/env bash
# test_cli_pictures.sh - drawing: formats, names, metadata, repetition, and what is printed.
. "$(dirname "$0")/cli_testing.sh"

test_formats() {
    run "${small[@]}" -o a.png
    expect "status 0" is "$status" 0
    expect "prints the name" is "$(cat "$out")" a.png
    expect "PNG" is_png a.png
    for suffix in jpg JPEG; do
        run "${small[@]}" -o "a.$suffix" -q
        expect "JPEG" is "$(head -c 3 "a.$suffix" | od -An -tx1 | tr -d ' \n')" ffd8ff
    done
    run "${small[@]}" -o a.webp
    expect "WebP" is "$(head -c 4 a.webp)-$(head -c 15 a.webp | tail -c 7)" RIFF-WEBPVP8
    expect "nothing else" holds_only a.png a.jpg a.JPEG a.webp
}

test_what_is_said() {
    run "${small[@]}" -o a.png
    expect "the request" says 'picture: 32 x 32, 2 steps, no guidance, seed 1'
    expect "the memory before" grep -qE '^memory: .* needed \(weights .*, scratch .*\), .* available$' "$err"
    expect "the steps" grep -qE '^drawing: step 2/2 +[0-9.]+ s/step$' "$err"
    expect "the times" grep -qE '^time: .* s \(load .*, text .*, prepare .*, denoise .*, decode .*\)' "$err"
    expect "the peak" grep -qE '^memory: .* at the peak' "$err"
    expect "no escape sequences" is "$(tr -d -c '\033\r' <"$err" | wc -c)" 0
    run "${small[@]}" -o a.png -q
    expect "quiet" silent
    run "${small[@]}" -g 3 -o a.png
    expect "guidance needs a negative prompt" says 'note: guidance is off without a negative prompt; -n " " turns it on'
    run "${small[@]}" -g 3 -n " " -o a.png
    expect "guidance" says 'guidance 3, seed 1'
    expect "no note" is "$(grep -c note: "$err")" 0
    run "${small[@]}" -g 1 -n blur -o a.png
    expect "no guidance" says 'no guidance'
    expect "a note" says 'note: the negative prompt has no effect'
    run "${small[@]}" -n blur -p "$(printf 'red\033[31m')" -m "$tiny" -o "$(printf 'a\033.png')"
    expect "no escape sequences from outside" is "$(tr -d -c '\033' <"$err" | wc -c)" 0
}

test_json() {
    run "${small[@]}" -o a.png --json -q
    expect "one line of JSON" is_json
    expect "nothing else" is "$(cat "$err")" ""
    for part in '"file":"a.png"' '"width":32' '"height":32' '"seed":1,' '"prompt":"a red circle"' '"negative_prompt":null' \
        '"steps":2' '"precision":"f32"' '"threads":' '"cpu":"' '"phase_seconds":{"load":' '"total_seconds":' '"peak_bytes":'; do
        expect "has $part" prints "$part"
    done
    run "${small[@]}" -o "$(printf '\377.png')" -S 18446744073709551615 -p "$(printf 'red "circle"\n\342\202\254')" --json
    expect "odd names and texts" is_json
    expect "a seed that numbers of JSON would round" prints '"seed":"18446744073709551615"'
}

test_names() {
    run "${small[@]}" -p "A red, RED circle!"
    expect "a name from the prompt" is "$(cat "$out")" a-red-red-circle-1.png
    run "${small[@]}" -p "A red, RED circle!"
    expect "no picture is replaced unasked" is "$(cat "$out")" a-red-red-circle-1-2.png
    run "${small[@]}" -p "$(printf '\345\234\206')"
    expect "no letters" is "$(cat "$out")" inkstone-1.png
    run "${small[@]}" -p "../../etc/passwd"
    expect "no folders" is "$(cat "$out")" etc-passwd-1.png
    run "${small[@]}" -p ""
    expect "an empty prompt is one" is "$status" 0
    run "${small[@]}" -p "one two three four five six seven eight nine ten eleven"
    expect "whole words" is "$(cat "$out")" one-two-three-four-five-six-seven-eight-1.png
    run -m "$tiny" -p seedless -W 32 -H 32 -s 2
    local seed
    seed=$(sed -n 's/^picture: .* seed \([0-9]*\) (random)$/\1/p' "$err")
    expect "a random seed, printed" is "$(cat "$out")" "seedless-$seed.png"
}

test_replace() {
    run "${small[@]}" -o a.png -q
    cp a.png first.png
    (umask 027 && "$cli" "${small[@]}" -S 2 -o a.png -q)
    expect "replaced" is "$(cmp -s a.png first.png && echo same)" ""
    expect "with the permissions of a new file" is "$(stat -c %a a.png 2>/dev/null || stat -f %Lp a.png)" 640
    expect "nothing else" holds_only a.png first.png
}

test_same_request_same_file() {
    run "${small[@]}" -o one.png -t 1
    run "${small[@]}" -o two.png -t 2
    expect "any number of threads" cmp -s one.png two.png
    run "${small[@]}" -o three.png -S 2
    expect "another seed, another picture" is "$(cmp -s one.png three.png && echo same)" ""
    run "${small[@]}" -o four.png --rng torch-cuda
    expect "another generator, another picture" is "$(cmp -s one.png four.png && echo same)" ""
    echo "a red circle" | "$cli" "${small[@]}" -p - -o five.png -q 2>"$err"
    expect "the prompt on standard input" cmp -s one.png five.png
    INK_MODEL=$tiny "$cli" -p "a red circle" -W 32 -H 32 -s 2 -S 1 -o six.png -q 2>"$err"
    expect "the model from the environment" cmp -s one.png six.png
    run generate "${small[@]}" --output=seven.png
    expect "with the name of the command" cmp -s one.png seven.png
}

test_again() {
    run "${small[@]}" -p "$(printf 'a "red"\n\360\237\246\212')" -n "" -g 2.1 -S 18446744073709551615 --rng torch-cuda:82x1536 \
        --noise-dtype bf16 -o first.png
    expect "drawn" is "$status" 0
    run --again first.png
    expect "status 0" is "$status" 0
    expect "the source stays" is "$(cat "$out")" a-red-18446744073709551615.png
    expect "the same file" cmp -s first.png a-red-18446744073709551615.png
    run --again first.png -o second.png -t 1
    expect "the same file under a given name" cmp -s first.png second.png
    run --again first.png -S 7 -s 3 --json -q
    expect "options beside it count" prints '"steps":3,"guidance":2.1'
    expect "options beside it count" prints '"seed":7,'
    run --again first.png --no-negative -q --json
    expect "the negative prompt can be dropped" prints '"negative_prompt":null'
    run --again first.png -S random -o third.png
    expect "another seed" says '(random)'
    (
        cp -r "$tiny" elsewhere
        "$cli" --again first.png -m elsewhere -q -o fourth.png
    )
    run --again fourth.png -q -o fifth.png
    expect "another folder" is "$status" 0
    local precision
    for precision in bf16 fp8 q8 q4 int8; do
        run "${small[@]}" --precision $precision -o "$precision.png" -q
        run --again "$precision.png" -o again.png
        expect "the precision" says ", $precision"
        expect "the same file" cmp -s "$precision.png" again.png
    done
}

test_metadata() {
    run "${small[@]}" -n blur -g 3 -o a.png
    expect "the text of web interfaces" grep -qa 'Negative prompt: blur' a.png
    expect "its values" grep -qa '^Steps: 2, Sampler: Euler, CFG scale: 3, Seed: 1, Size: 32x32, Model: tiny' a.png
    expect "the record" grep -qa '"format":1,"version":"' a.png
    run "${small[@]}" -o a.jpg
    expect "a comment in JPEG" grep -qa 'Steps: 2, Sampler: Euler' a.jpg
    run "${small[@]}" -o b.png --no-metadata
    expect "no record" is "$(grep -ca 'red circle' b.png)" 0
}

test_progress_on_a_terminal() {
    command -v script >/dev/null && script -qc true /dev/null >/dev/null 2>&1 || return 0
    TERM=xterm script -qc "'$cli' -m '$tiny' -p x -W 32 -H 32 -s 3 -o a.png" /dev/null </dev/null >"$out" 2>"$err"
    expect "a bar" grep -q 'drawing .*\[#*\.*\]  step [0-3]/3' "$out"
    NO_COLOR=1 TERM=xterm script -qc "'$cli' -m nowhere -p x" /dev/null </dev/null >"$out" 2>"$err"
    expect "no colours" is "$(tr -d -c '\033' <"$out" | wc -c)" 0
}

# The model that is used without -m: beside an installed program, then the one of the source tree.
test_default_model() {
    mkdir -p prefix/bin prefix/share/inkstone/models
    cp "$cli" prefix/bin/inkstone
    cp -r "$tiny" prefix/share/inkstone/models/demo
    last="installed"
    prefix/bin/inkstone -p x -W 32 -H 32 -s 2 -o a.png --json >"$out" 2>"$err"
    status=$?
    expect "status 0" is "$status" 0
    expect "the installed model" prints 'prefix/bin/../share/inkstone/models/demo"'
    if [ -f "$INK_TEST_SOURCE_DIR/models/demo/model_index.json" ]; then
        run -p "a red circle" -s 2 -o b.png -q
        expect "the model of the source tree" is "$status" 0
    else
        run -p "a red circle"
        expect "says what to do" says 'name a model folder with -m DIR'
    fi
}

test_help() {
    run --help
    expect "status 0" is "$status" 0
    for command in generate tokenize inspect verify; do
        expect "lists $command" prints "  $command "
    done
    run help generate
    expect "explains the options" prints '-W, --width PIXELS'
    cp "$out" help
    run generate --help
    expect "both ways" cmp -s "$out" help
    expect "fits a terminal" is "$(awk 'length > 80' "$out" | wc -l)" 0
    run --version
    expect "version" grep -qE '^inkstone [0-9]+\.[0-9]+\.[0-9]+$' "$out"
    run --help-env
    expect "variables" prints INK_MODEL
}

run_tests
