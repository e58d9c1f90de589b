#!/usr/bin/env bash
# fuzz.sh [TARGET|all] [SECONDS] - builds the fuzz targets with libFuzzer, address and undefined-behaviour sanitizers, and runs
# one or each of them for that long (60 seconds), from the committed corpus.
#
# New inputs go to build-fuzz/corpus/TARGET and are used again by the next run; a crash is left in build-fuzz/crashes/TARGET.
# An input worth keeping is copied by hand to tests/fuzz/corpus/TARGET, where every test run replays it.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=${1:-all}
seconds=${2:-60}

known=$(find tests/fuzz -maxdepth 1 -name 'fuzz_*.c' | sed 's|.*/fuzz_||; s|\.c$||' | sort)
if [ "$wanted" != all ] && ! grep -qx -- "$wanted" <<<"$known"; then
    echo "fuzz: there is no target $wanted; there are: $(tr '\n' ' ' <<<"$known")" >&2
    exit 2
fi
[ "$wanted" != all ] || wanted=$known
if [ -z "$wanted" ]; then
    echo "fuzz: there are no targets in tests/fuzz" >&2
    exit 1
fi

tools/bootstrap.sh build fuzz
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --parallel "${JOBS:-$(nproc)}"

failed=()
for target in $wanted; do
    corpus=build-fuzz/corpus/$target
    crashes=build-fuzz/crashes/$target
    log=build-fuzz/fuzz_$target.log
    seeds=tests/fuzz/corpus/$target
    mkdir -p "$corpus" "$crashes"
    options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$crashes/")
    [ ! -f "tests/fuzz/$target.dict" ] || options+=(-dict="tests/fuzz/$target.dict")
    if build-fuzz/tests/fuzz/fuzz_"$target" "${options[@]}" "$corpus" "$seeds" >"$log" 2>&1; then
        awk -v target="$target" '
            /^stat::number_of_executed_units:/ { runs = $2 }
            /^stat::average_exec_per_sec:/ { rate = $2 }
            / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") edges = $(i + 1) }
            END { printf "fuzz: %-20s %10d runs  %8d/s  %6d edges  no fault\n", target, runs, rate, edges }' "$log"
    else
        tail -n 40 "$log"
        echo "fuzz: $target failed; the input is in $crashes, all output in $log"
        failed+=("$target")
    fi
done
[ ${#failed[@]} -eq 0 ]
