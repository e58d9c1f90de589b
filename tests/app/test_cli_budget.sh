#!/usr/bin/env bash
# test_cli_budget.sh - --ram-budget: the program keeps within it, the picture is the same, and mistakes are told.
. "$(dirname "$0")/cli_testing.sh"

dim=768 blocks=8 joint=56
header=$scratch/header data_bytes=0

# tensor NAME SHAPE ELEMENTS - the next one of a bf16 file
tensor() {
    printf '%s"%s":{"dtype":"BF16","shape":[%s],"data_offsets":[%d,%d]}' "${comma:-}" "$1" "$2" "$data_bytes" \
        $((data_bytes + 2 * $3)) >>"$header"
    data_bytes=$((data_bytes + 2 * $3)) comma=,
}

linear() { tensor "$1.weight" "$2,$3" $(($2 * $3)) && tensor "$1.bias" "$2" "$2"; }

# little_endian NUMBER - eight bytes
little_endian() {
    local n=$1
    for _ in 1 2 3 4 5 6 7 8; do
        printf "\\x$(printf %02x $((n & 255)))"
        n=$((n >> 8))
    done
}

# A transformer of 340 MB between the other parts of a tiny model: numbers that repeat, so that it is made quickly.
make_model() {
    local i layer name file=$scratch/model/transformer/diffusion_pytorch_model.safetensors
    cp -r "$golden/published" "$scratch/model"
    rm "$scratch"/model/transformer/*.safetensors*
    sed -i "s/\"num_layers\": 3/\"num_layers\": $blocks/; s/\"num_attention_heads\": 3/\"num_attention_heads\": 32/" \
        "$scratch/model/transformer/config.json"
    printf '{' >"$header"
    linear img_in $dim 64
    linear txt_in $dim $joint
    tensor txt_norm.weight $joint $joint
    linear time_text_embed.timestep_embedder.linear_1 $dim 256
    linear time_text_embed.timestep_embedder.linear_2 $dim $dim
    for ((i = 0; i < blocks; i++)); do
        for name in to_q to_k to_v to_out.0 add_q_proj add_k_proj add_v_proj to_add_out; do
            linear transformer_blocks.$i.attn.$name $dim $dim
        done
        for name in norm_q norm_k norm_added_q norm_added_k; do tensor transformer_blocks.$i.attn.$name.weight 24 24; done
        for name in img txt; do
            linear transformer_blocks.$i.${name}_mlp.net.0.proj $((4 * dim)) $dim
            linear transformer_blocks.$i.${name}_mlp.net.2 $dim $((4 * dim))
            linear transformer_blocks.$i.${name}_mod.1 $((6 * dim)) $dim
        done
    done
    linear norm_out.linear $((2 * dim)) $dim
    linear proj_out 64 $dim
    printf '}' >>"$header"
    # Between -0.03 and 0.03.
    for ((i = 0; i < 251; i++)); do printf "\\x$(printf %02x $((i * 7 % 256)))\\x$([ $((i % 2)) = 0 ] && echo 3c || echo bc)"; done \
        >"$scratch/numbers"
    for ((i = 0; i < 12; i++)); do
        cat "$scratch/numbers" "$scratch/numbers" >"$scratch/twice"
        mv "$scratch/twice" "$scratch/numbers"
    done
    {
        little_endian "$(stat -c %s "$header")"
        cat "$header"
        while cat "$scratch/numbers"; do :; done 2>/dev/null | head -c $data_bytes
    } >"$file"
}

# The program's peak in MiB, with all pages that it had of files.
peak() { echo $(($(sed 's/.*"resident_bytes":\([0-9]*\).*/\1/' "$out") >> 20)); }

# A sanitizer's own memory is no concern of a budget.
measures() { ! grep -q -e __asan_init -e __tsan_init "$cli"; }

big=(-m "$scratch/model" -p "a red circle" -W 64 -H 64 -s 2 -S 1)

test_budget_holds() {
    run "${big[@]}" --json -o all.png
    expect "draws" is "$status" 0
    local without
    without=$(peak)
    run "${big[@]}" --json -o some.png --ram-budget 150M
    expect "draws within a budget" is "$status" 0
    if measures; then
        expect "needs more without: $without MiB" test "$without" -gt 200
        expect "keeps within: $(peak) MiB" test "$(peak)" -le 150
    fi
    expect "the same picture" cmp -s all.png some.png
    expect "says what is read again" \
        grep -qE '^memory: .*, [1-8] of 8 blocks read again at each step \(.*\), all within 150\.0 MiB' "$err"
}

# A block that comes and goes is converted each time.
test_budget_holds_converted() {
    local precision size
    while read -r precision size; do
        run "${big[@]}" --json -s 1 -o all.png --precision "$precision"
        expect "draws with $precision" is "$status" 0
        run "${big[@]}" --json -s 1 -o some.png --precision "$precision" --ram-budget "$size"
        expect "draws with $precision within $size" is "$status" 0
        expect "says what is read again" grep -qE '^memory: .*, [1-8] of 8 blocks read again' "$err"
        if measures; then expect "$precision keeps within $size: $(peak) MiB" test "$(peak)" -le "${size%M}"; fi
        expect "the same picture with $precision" cmp -s all.png some.png
        rm all.png some.png
    done <<<"f32 250M
fp8 110M
int8 110M
q8 110M
q4 80M"
}

test_mistakes() {
    refuses 1 'a budget of 20 MiB is too small for this picture: the least possible is' "${big[@]}" --ram-budget 20M -o no.png
    expect "names the option" grep -q '^inkstone: --ram-budget 20M: a budget' "$err"
    local least
    least=$(sed -n 's/.*the least possible is \([0-9]*\) MiB.*/\1/p' "$err")
    run "${big[@]}" -o least.png --ram-budget "$((least + 4))M"
    expect "draws with the least that it named, and pages of a few libraries" is "$status" 0
    refuses 1 'is too small for this picture' "${big[@]}" --ram-budget "$((least - 4))M" -o no.png
    # Enough for this picture, though not for one of the usual size: something else is wrong.
    refuses 1 'nowhere.safetensors' "${big[@]}" --ram-budget "$((least + 4))M" --lora nowhere.safetensors -o no.png
    for size in "" 0 -1 8Q G 1e9 "8 G" .; do
        refuses 2 'expected a size such as 8G, 1.5G or 500M' "${small[@]}" --ram-budget "$size"
    done
}

says_no_nothing() { ! grep -q '^Nothing here fits' "$out"; }

test_plan() {
    run plan -m "$scratch/model" -W 64 -H 64 --precision bf16 --ram-budget 150M
    expect "exit status" is "$status" 0
    expect "names the blocks" grep -qE 'fits, [1-8] of 8 blocks \(.*\) read again at each step' "$out"
    run plan -m "$scratch/model" -W 64 -H 64 --precision bf16 --ram-budget 20M
    expect "names the least" grep -q 'does not fit: the least is' "$out"
    run plan -m "$scratch/model" -W 64 -H 64 --ram-budget 1M
    expect "nothing fits" prints 'Nothing here fits that --ram-budget; the least is'
    local least
    least=$(sed -n 's/.*the least is \([0-9]*\)[0-9.]* MiB, in .*/\1/p' "$out")
    # What the process itself has, which counts, is not the same in every run.
    run plan -m "$scratch/model" -W 64 -H 64 --ram-budget "$((least + 4))M"
    expect "and what it names is enough" prints 'fits'
    expect "for one" says_no_nothing
}

make_model
run_tests
