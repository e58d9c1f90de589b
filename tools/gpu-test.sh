#!/usr/bin/env bash
# gpu-test.sh [BUILD] - all tests that need a GPU, in a few minutes: every op against its definition (checkops), the golden
# references and the demo model on the device, the same bits twice, and compute-sanitizer on small runs where it is installed.
# BUILD is a folder that is built already; without it build-cuda is, by the preset `cuda`. Logs go to BUILD/gpu-test.
#
#     tools/gpu-test.sh --on-cpu [BUILD]    the same steps on the processor, to try this script; BUILD is `build` then
#
# Without a GPU it says so, tests nothing, and ends with 0. A GPU that the build cannot use is a failure.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C TERM=dumb
unset INK_MODEL INK_CPU INK_TRACE INK_CHECK INK_POISON

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

# step NAME COMMAND... - runs it, with what it says in a log; its last lines are shown when it fails.
step() {
    local name=$1 began=$SECONDS status=0
    local log=$logs/${name//[^A-Za-z0-9_-]/_}.log
    shift
    timeout 900 "$@" >"$log" 2>&1 </dev/null || status=$?
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

# ---- the demo model ----------------------------------------------------------------------------------------------------------

request=(-m models/demo -p "a red circle above the word INK on a white background" -S 7)
if [ -f models/demo/model_index.json ]; then
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

# ---- what runs touch ---------------------------------------------------------------------------------------------------------

tiny=(bench --synthetic tiny "${on[@]}" --size 48x32 --repeat 1 --precision bf16)
for precision in f32 bf16 fp8 q8 q4; do
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
    done
fi

echo "$n_failed failed, $n_skipped skipped; logs in $logs"
[ $n_failed -eq 0 ]
