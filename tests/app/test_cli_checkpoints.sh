#!/usr/bin/env bash
# test_cli_checkpoints.sh - tokenize, inspect, verify, --dump.
. "$(dirname "$0")/cli_testing.sh"

test_tokenize() {
    run tokenize -m "$tiny" "a red circle"
    expect "status 0" is "$status" 0
    expect "ids, one line" grep -qE '^[0-9]+( [0-9]+)*$' "$out"
    expect "one line" is "$(wc -l <"$out")" 1
    expect "nothing else" is "$(cat "$err")" ""
    cp "$out" ids
    mkdir only
    cp -r "$tiny/tokenizer" only
    run tokenize -m only "a red circle"
    expect "needs nothing but the tokenizer" cmp -s "$out" ids
    echo "a red circle" | "$cli" tokenize -m only --stdin >"$out" 2>"$err"
    expect "standard input" cmp -s "$out" ids
    run tokenize -m only --json "a red circle"
    expect "JSON" is "$(cat "$out")" "{\"ids\":[$(tr ' ' , <ids)]}"
    run tokenize -m only ""
    expect "no text, no ids" is "$(od -An -tx1 <"$out" | tr -d ' ')" 0a
    run tokenize -m only -- --json
    expect "a text that begins with a dash" is "$status" 0
    run tokenize -m only "<|im_start|>"
    expect "a special token is one id" is "$(wc -w <"$out" | tr -d ' ')" 1
}

# Every form of tokenizer that draws.
test_tokenize_forms() {
    mkdir -p json/tokenizer flat
    cp "$golden/forms/mlx8/tokenizer/tokenizer.json" json/tokenizer
    run tokenize -m json "a red circle"
    expect "tokenizer.json" is "$status" 0
    cp "$out" ids
    cp "$golden"/forms/comfyui/*/*.safetensors "$golden/forms/mlx8/tokenizer/tokenizer.json" flat
    run tokenize -m flat "a red circle"
    expect "among single files" cmp -s "$out" ids
    rm flat/tokenizer.json
    refuses 2 'tokenizer' tokenize -m flat "a red circle"
}

test_inspect() {
    run inspect -m "$tiny"
    expect "status 0" is "$status" 0
    for part in QwenImagePipeline text_encoder transformer vae tokenizer scheduler F32; do
        expect "shows $part" prints "$part"
    done
    run inspect -m "$tiny" --json
    expect "JSON" is_json
    expect "usable" prints '"usable":true'
    expect "counts" prints '"missing":[],"unexpected":[],"problem":null'
}

# One tensor under another name is one missing and one unexpected.
# All that is wrong is told at once, and what can be described is.
test_inspect_several() {
    cp -r "$tiny" model
    rm model/vae/config.json model/tokenizer/vocab.json
    echo '{' >model/scheduler/scheduler_config.json
    run inspect -m model
    expect "status 1" is "$status" 1
    expect "the decoder" prints 'vae cannot be used: model/vae/config.json: cannot be opened'
    expect "the tokenizer" prints 'tokenizer cannot be used: model/tokenizer/vocab.json: cannot be opened'
    expect "the scheduler" prints 'scheduler cannot be used: model/scheduler/scheduler_config.json: '
    expect "its weights all the same" grep -qE '^vae .* F32 ' "$out"
    run inspect -m model --json
    expect "JSON" is_json
    expect "not usable" prints '"usable":false'
}

test_inspect_missing() {
    cp -r "$tiny" model
    sed -i.old 's/proj_out\.weight/proj_0ut.weight/' model/transformer/diffusion_pytorch_model.safetensors
    run inspect -m model
    expect "status 1" is "$status" 1
    expect "missing" prints 'transformer: 1 missing tensor:'
    expect "by name" prints '  proj_out.weight'
    expect "unexpected" prints 'transformer: 1 unexpected tensor:'
    expect "by name" prints '  proj_0ut.weight'
    run inspect -m model --json
    expect "JSON" is_json
    expect "in JSON" prints '"missing":["proj_out.weight"],"unexpected":["proj_0ut.weight"]'
    expect "not usable" prints '"usable":false'
    expect "status 1" is "$status" 1
    # A name with an escape sequence must not reach the terminal.
    sed -i.old "s/proj_0ut/pr\\\\u001b/" model/transformer/diffusion_pytorch_model.safetensors
    run inspect -m model
    expect "no escape sequences" is "$(cat "$out" "$err" | tr -d -c '\033' | wc -c)" 0
}

# Parts of a model from files of other programs, and a folder that holds such files.
test_model_files() {
    local forms=$golden/forms
    run inspect -m "$forms" --diffusion-model "$forms/gguf/forms_mixed.gguf"
    expect "status 0" is "$status" 0
    expect "place and container" prints "forms_mixed.gguf (GGUF): Q4_0, Q4_1, Q5_0, Q5_1 decoded while multiplying, F16 in place"
    run inspect -m "$forms/comfyui" --tokenizer "$forms/tokenizer" --json
    expect "JSON" is_json
    expect "what was chosen" prints '"notes":["3 files hold a transformer: '
    expect "no guess" is "$status" 1
    run inspect --vae "$forms/vae"
    expect "files alone" is "$status" 2
    expect "what else is needed" says "no text encoder: name one with --text-encoder"
    run -p "a cat" -m "$forms" -s 1 -W 32 -H 32 -S 1 -o plain.png
    run -p "a cat" -m "$forms" --diffusion-model "$forms/gguf/forms_mixed.gguf" --vae "$forms/comfyui/vae/forms_vae.safetensors" \
        -s 1 -W 32 -H 32 -S 1 -o mixed.png
    expect "draws" is "$status" 0
    expect "another picture" is "$(cmp -s plain.png mixed.png && echo same)" ""
    run --again mixed.png -o again.png
    expect "the same files again" cmp -s mixed.png again.png
    run --again mixed.png -m "$forms" -o other.png
    expect "another model, none of the files" cmp -s plain.png other.png
}

test_verify() {
    for reference in "$tiny"/ref_*.safetensors; do
        run verify -m "$tiny" "$reference"
        expect "passes" is "$status" 0
        expect "every stage" is "$(grep -c FAIL "$out")" 0
        expect "a table" grep -q '^stage .*shape .*max error .*rel. L2 .*PSNR' "$out"
        expect "the picture" grep -qE '^image +[0-9]+x[0-9]+x3 .*PASS' "$out"
    done
    run verify -m "$tiny" "$tiny/ref_plain.safetensors" --json
    expect "JSON" is_json
    expect "passes" prints '"passed":true'
    run verify -m "$tiny" "$tiny/ref_plain.safetensors" -q
    expect "quiet" silent
}

test_dump() {
    run "${small[@]}" -n blur -g 3 -o a.png --dump a.safetensors
    expect "drawn" is "$status" 0
    expect "both files" holds_only a.png a.safetensors
    run verify -m "$tiny" a.safetensors
    expect "verifies" is "$status" 0
    expect "with guidance" prints negative_embeds
    # The last bytes belong to some tensor: make them a number that nothing comes near.
    local size
    size=$(wc -c <a.safetensors)
    printf '\177\177' | dd of=a.safetensors bs=1 seek=$((size - 2)) conv=notrunc 2>/dev/null
    run verify -m "$tiny" a.safetensors
    expect "status 1" is "$status" 1
    expect "a stage that fails" grep -q 'FAIL' "$out"
    expect "a verdict" grep -qE '^FAIL: [0-9]+ of [0-9]+ stages agree$' "$out"
    run verify -m "$tiny" a.safetensors --json
    expect "JSON" is_json
    expect "fails" prints '"passed":false'
    expect "status 1" is "$status" 1
    head -c 500 a.safetensors >cut.safetensors
    refuses 1 'cut.safetensors' verify -m "$tiny" cut.safetensors
    refuses 1 'nowhere.safetensors' verify -m "$tiny" nowhere.safetensors
    refuses 1 'prompt' verify -m "$tiny" "$tiny/vae/diffusion_pytorch_model.safetensors"
}

# A number that is none spreads over the picture; it is drawn, as elsewhere, but not without a word.
test_damaged_weight() {
    cp -r "$tiny" model
    local file
    file=$(echo model/transformer/*.safetensors)
    printf '\377\177' | dd of=$file bs=1 seek=$(($(wc -c <$file) - 2)) conv=notrunc 2>/dev/null
    run -m model -p x -W 32 -H 32 -s 1 -S 1 -o x.png --json
    expect "drawn" is "$status" 0
    expect "says so" says 'pixels are no numbers, and black: a weight is damaged'
    expect "and how many" grep -q '"nan_pixels":[1-9]' "$out"
    run "${small[@]}" -o y.png --json
    expect "none elsewhere" prints '"nan_pixels":0'
}

run_tests
