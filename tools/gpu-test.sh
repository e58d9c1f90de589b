#!/usr/bin/env bash
# gpu-test.sh [BUILD] - all tests that need a GPU, in a few minutes: every op against its definition (checkops), the golden
# references, LoRA, every form of a model and the demo model on the device, the same bits twice, and compute-sanitizer on small
# runs where it is installed.
# BUILD is a folder that is built already; without it build-cuda is, by the preset `cuda`. Logs go to BUILD/gpu-test.
#
#     ONLY='LoRA|lora|form' tools/gpu-test.sh BUILD    steps whose name matches; of the demo model all or none
#     tools/gpu-test.sh --on-cpu [BUILD]    the same steps on the processor, to try this script; BUILD is `build` then
#
# Without a GPU it says so, tests nothing, and ends with 0. A GPU that the build cannot use is a failure.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C TERM=dumb
unset INK_MODEL INK_CPU INK_TRACE INK_CHECK INK_POISON
only=${ONLY:-}

tier=cuda
on=(--backend cuda)
host=(--backend cpu)
if [ "${1:-}" = --on-cpu ]; then
    tier=typed on=() host=()
    shift
    set -- "${1:-build}"
fi

if [ $tier = cuda ] && ! nvidia-smi -L >/dev/null 2>&1 && ! compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
    echo "skipped: all GPU tests: this machine has no NVIDIA GPU (no nvidia-smi, no /dev/nvidia*)"
    exit 0
fi

build=${1:-build-cuda}
if [ $# -eq 0 ]; then
    cmake --preset cuda >/dev/null && cmake --build "$build" --parallel "${JOBS:-$(nproc)}" || {
        echo "FAIL: there is a GPU, but the preset cuda does not build"
        exit 1
    }
fi
build=$(realpath "$build")
for program in "$build/inkstone" "$build/tests/checkops"; do
    [ -x "$program" ] || { echo "FAIL: there is no $program" && exit 1; }
done
cli=$build/inkstone
logs=$build/gpu-test
rm -rf "$logs"
mkdir -p "$logs"

n_failed=0
n_skipped=0

# step NAME COMMAND... - runs it (a program, or a function of this script), with what it says in a log; its last lines are shown
# when it fails.
step() {
    local name=$1 began=$SECONDS status=0 limit=(timeout 900)
    local log=$logs/${name//[^A-Za-z0-9_-]/_}.log
    shift
    [[ $name =~ $only ]] || return 0
    [ "$(type -t "$1")" != function ] || limit=()
    "${limit[@]}" "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ $status -eq 0 ]; then
        printf 'ok    %-56s %4d s\n' "$name" $((SECONDS - began))
        return 0
    fi
    n_failed=$((n_failed + 1))
    printf 'FAIL  %-56s %4d s, exit status %d, %s\n' "$name" $((SECONDS - began)) $status "$log"
    grep -hE 'FAIL|ERROR SUMMARY|^inkstone: |^checkops: ' "$log" | head -12 | cut -c1-300 | sed 's/^/      /'
    tail -4 "$log" | cut -c1-300 | sed 's/^/      /'
    return 1
}

skip() {
    n_skipped=$((n_skipped + 1))
    echo "skipped: $*"
}

# alike LEAST FLAGS... - draws what FLAGS say on the processor, by its plainest tier, repeats that on the device, and fails when
# the two pictures differ by more than LEAST dB say. Flags behind -- are for drawing only: what they ask for is in the recording.
alike() {
    local least=$1 dump=$logs/alike.safetensors report=$logs/alike.txt model=() drawing=()
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do model+=("$1") && shift; done
    drawing=(-p "a red circle on a blue background" -n "猫" -g 4 -S 11 -W 64 -H 48 -s 3 --noise-dtype f32 "${@:2}")
    rm -f "$dump"
    timeout 300 "$cli" "${model[@]}" "${drawing[@]}" "${host[@]}" --cpu c --dump "$dump" -o "$logs/alike.png" || return 1
    timeout 300 "$cli" verify "${model[@]}" "$dump" "${on[@]}" >"$report" # the limits of verify are for references, and not asked here
    cat "$report"
    awk -v least="$least" '
        $1 == "image" && NF > 5 { found = 1; near = $5 == "inf" || $5 + 0 >= least; print "image: " $5 " dB, at least " least }
        END { if (!found) print "FAIL: nothing was compared"; else if (!near) print "FAIL: too far"; exit !(found && near) }
    ' "$report"
}

# step_alike NAME LEAST FLAGS... - with what the pictures differ by.
step_alike() {
    [[ $1 =~ $only ]] || return 0
    step "$1" alike "${@:2}" && sed -n 's/^image: \(.*\)/      \1/p' "$logs/${1//[^A-Za-z0-9_-]/_}.log"
}

# What the table of `inkstone verify` says of the picture.
picture_of() { awk -v name="$1" '$1 == "image" { print "      " name ": PSNR " $5 " dB" }' "$2"; }

[ $tier = typed ] || nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || true

# ---- ops ---------------------------------------------------------------------------------------------------------------------

# If the device cannot be opened at all, nothing else is worth its time.
if ! step "checkops --tier $tier --op copy" "$build/tests/checkops" --tier $tier --op copy; then
    echo "FAIL: the device cannot be used"
    exit 1
fi
step "checkops --tier $tier" "$build/tests/checkops" --tier $tier
if ctest --test-dir "$build" -N -L gpu 2>/dev/null | grep -q 'Test *#'; then
    step "ctest -L gpu" ctest --test-dir "$build" -L gpu --output-on-failure
fi

# ---- golden references -------------------------------------------------------------------------------------------------------

for reference in tests/golden/*/ref_*.safetensors; do
    model=$(dirname "$reference")
    name=$(basename "$model")/$(basename "$reference" .safetensors)
    step "verify $name, f32" "$cli" verify -m "$model" "$reference" "${on[@]}"
    case $reference in
    */ref_bf16*) step "verify $name, bf16" "$cli" verify -m "$model" "$reference" --precision bf16 "${on[@]}" ;;
    esac
done

# ---- LoRA --------------------------------------------------------------------------------------------------------------------

# What diffusers and PEFT drew with them, to the limits of verify.
for reference in tests/golden/lora/run_*.safetensors; do
    for precision in f32 bf16; do
        step "verify lora/$(basename "$reference" .safetensors), $precision" \
            "$cli" verify -m tests/golden/tiny "$reference" --precision $precision "${on[@]}"
    done
done

# ---- forms -------------------------------------------------------------------------------------------------------------------

# The least likeness, in dB: f32 is one picture but for rounding; where weights have less than f32, the device rounds to 16 bits
# what it multiplies, and to 8 where weights are 8-bit floats. A wrong term in these small random networks costs more.
f32_least=90 bf16_least=36 fp8_least=26
loras=tests/golden/lora
for lora in rank4.safetensors lokr-full loha; do
    step_alike "merged LoRA $lora, f32" $f32_least -m tests/golden/tiny --precision f32 -- --lora "$loras/$lora:0.5" --lora-merge
done
for precision in bf16 q8 q4; do
    step_alike "LoRA beside $precision" $bf16_least -m tests/golden/tiny --precision $precision -- --lora $loras/rank16.safetensors
done
step_alike "LoRA beside fp8" $fp8_least -m tests/golden/tiny --precision fp8 -- --lora $loras/rank16.safetensors
for model in forms head128; do
    for precision in q8 q4; do
        step_alike "$model in $precision" $bf16_least -m tests/golden/$model --precision $precision
    done
    step_alike "$model in fp8" $fp8_least -m tests/golden/$model --precision fp8
done
forms=tests/golden/forms
while read -r part file least; do
    step_alike "form ${file%.*}" "$least" -m $forms --$part $forms/$file --precision auto
done <<END
diffusion-model comfyui/diffusion_models/forms_bf16.safetensors $bf16_least
diffusion-model comfyui/diffusion_models/forms_fp8_e4m3fn.safetensors $fp8_least
diffusion-model comfyui/diffusion_models/forms_fp8_scaled.safetensors $fp8_least
text-encoder comfyui/text_encoders/forms_text_fp8_scaled.safetensors $fp8_least
vae comfyui/vae/forms_vae.safetensors $bf16_least
diffusion-model gguf/forms_q8_0.gguf $bf16_least
diffusion-model gguf/forms_mixed.gguf $bf16_least
text-encoder gguf/forms_text_bf16.gguf $bf16_least
diffusion-model mlx4/transformer $bf16_least
diffusion-model mlx8/transformer $bf16_least
text-encoder mlx8/text_encoder $bf16_least
vae mlx8/vae $bf16_least
END

# ---- bands -------------------------------------------------------------------------------------------------------------------

# More pixels than a device decodes at a time.
step_alike "decoding in bands, f32" $f32_least -m tests/golden/tiny --precision f32 -- -W 1600 -H 1344 -s 1 -g 1

# ---- the demo model ----------------------------------------------------------------------------------------------------------

request=(-m models/demo -p "a red circle above the word INK on a white background" -S 7)
if [[ ! demo =~ $only ]]; then
    : # its steps follow from each other
elif [ -f models/demo/model_index.json ]; then
    recorded=$logs/demo.safetensors
    step "demo on the processor, recorded" "$cli" "${request[@]}" "${host[@]}" --precision f32 --dump "$recorded" -o "$logs/cpu.png"
    for precision in f32 bf16; do
        step "demo against the processor in f32, $precision" "$cli" verify -m models/demo "$recorded" --precision $precision "${on[@]}"
        picture_of "in $precision" "$logs/demo_against_the_processor_in_f32__$precision.log"
    done
    # What 8 bits cost is the model's own affair, so it is only told; the device should cost about as much as the processor.
    for place in processor device; do
        where=("${on[@]}")
        [ $place = device ] || where=("${host[@]}")
        "$cli" verify -m models/demo "$recorded" --precision fp8 "${where[@]}" >"$logs/fp8-$place.log" 2>&1 </dev/null
        picture_of "in fp8 on the $place against the processor in f32" "$logs/fp8-$place.log" | grep . ||
            step "demo in fp8 on the $place" cat "$logs/fp8-$place.log" /nothing-was-compared
    done
    for precision in f32 bf16; do
        drawn=0
        for run in 1 2; do
            step "demo drawn in $precision, run $run" "$cli" "${request[@]}" --precision $precision "${on[@]}" \
                -o "$logs/$precision-$run.png" || drawn=1
        done
        [ $drawn -ne 0 ] || step "the same bytes twice, $precision" cmp "$logs/$precision-1.png" "$logs/$precision-2.png"
    done
else
    skip "the demo model: there is no models/demo"
fi

# ---- blocks that come and go --------------------------------------------------------------------------------------------------

# streams MODEL PRECISION - with as little of the GPU's memory as can be, blocks come and go, and the file has the same bytes.
streams() {
    local model=$1 precision=$2 least
    local name="$(basename "$model"), $precision"
    local stem=$logs/streamed-$(basename "$model")-$precision
    local asked=(-m "$model" -p "a red circle" -n blue -g 3 -W 64 -H 64 -s 4 -S 7 --precision "$precision" "${on[@]}")
    least=$("$cli" plan -m "$model" -n blue -g 3 -W 64 -H 64 -s 4 --precision "$precision" --json "${on[@]}" |
        grep -o '"gpu":{.*' | grep -o '"least_bytes":[0-9]*' | cut -d: -f2)
    [ "$model" != tests/golden/static-shift ] || few=$least
    step "drawn with all blocks there: $name" "$cli" "${asked[@]}" -o "$stem-all.png" || return
    step "drawn within $least bytes: $name" "$cli" "${asked[@]}" -o "$stem.png" --vram-budget "$least" || return
    step "blocks came and went: $name" grep -E '^memory of the GPU: .* blocks come and go: ' "$logs/drawn_within_${least}_bytes__${name//[^A-Za-z0-9_-]/_}.log"
    step "the same bytes, whatever stays: $name" cmp "$stem-all.png" "$stem.png"
}

if [ $tier = typed ]; then
    skip "blocks that come and go: this is the processor"
else
    for precision in f32 bf16; do
        for model in tests/golden/static-shift tests/golden/published models/demo; do
            [ ! -f $model/model_index.json ] || streams $model $precision
        done
    done
    for precision in fp8 q8 q4; do streams models/demo $precision; done
    # Where matrices are as large as the published ones and all stay, they come while the host goes on, and the first step takes each
    # block as it comes.
    wide=$logs/wide
    step "a checkpoint of full width" python3 tools/make_synthetic.py "$wide" --blocks 8 --text-layers 2
    [ ! -d "$wide" ] || streams "$wide" bf16
    rm -rf "$wide"
fi

# ---- what runs touch ---------------------------------------------------------------------------------------------------------

tiny=(bench --synthetic tiny "${on[@]}" --size 48x32 --repeat 1 --precision bf16)
for precision in f32 bf16 fp8 q8 q4 int8; do
    step "bench --synthetic tiny, $precision" "$cli" "${tiny[@]:0:$((${#tiny[@]} - 1))}" $precision
done
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
if [ $tier = typed ]; then
    skip "compute-sanitizer: this is the processor"
elif [ -z "$sanitizer" ]; then
    skip "compute-sanitizer memcheck and racecheck: it is not installed (it comes with the CUDA toolkit)"
else
    # Of races in cuDNN's own kernels the tool tells as well; ours are to be found.
    for tool in memcheck racecheck; do
        watched=("$sanitizer" --tool $tool --error-exitcode 99)
        [ $tool = memcheck ] || watched+=(--kernel-regex-exclude kns=cudnn)
        step "$tool: bench --synthetic tiny" "${watched[@]}" "$cli" "${tiny[@]}"
        [ ! -f models/demo/model_index.json ] ||
            step "$tool: demo, 2 steps" "${watched[@]}" "$cli" "${request[@]}" -s 2 "${on[@]}" -o "$logs/$tool.png"
        # Under racecheck the attention of these heads does not come to an end (half a minute for what takes a second under memcheck).
        [ $tool = racecheck ] ||
            step "$tool: heads of 128, two blocks of keys" "${watched[@]}" "$cli" -m tests/golden/head128 -p "a red circle" -W 256 -H 256 \
                -s 2 -S 7 --precision bf16 "${on[@]}" -o "$logs/$tool-head128.png"
        step "$tool: blocks come and go" "${watched[@]}" "$cli" -m tests/golden/static-shift -p "a red circle" -W 64 -H 64 -s 3 -S 7 \
            --precision bf16 "${on[@]}" --vram-budget "${few:-1700M}" -o "$logs/$tool-streamed.png"
    done
fi

echo "$n_failed failed, $n_skipped skipped; logs in $logs"
[ $n_failed -eq 0 ]
