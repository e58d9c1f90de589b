#!/usr/bin/env bash
# check_style.sh - the rules that a compiler does not hold: layers, banned calls, words, white space, sizes, symbols, format.
#
#   tools/check_style.sh               checks the tree; every finding is FILE:LINE: what is wrong; what to do
#   tools/check_style.sh --format      formats all C files
#   tools/check_style.sh --self-test   plants one violation of every rule and sees that it is found
#
#   --root DIR       another tree
#   --library FILE   the static library whose symbols are checked; without it build/libinkstone.a, if it is there
set -euo pipefail
export LC_ALL=C

MAX_FUNCTION_LINES=150
MAX_FILE_LINES=700

script=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
root=$(dirname "$(dirname "$script")")
library=
action=check

while [ $# -gt 0 ]; do
    case $1 in
    --root) root=$2 && shift ;;
    --library) library=$(realpath "$2") && shift ;;
    --format) action=format ;;
    --self-test) action=self_test ;;
    *)
        sed -n '2,9s/^# \{0,1\}//p' "$script" >&2
        exit 2
        ;;
    esac
    shift
done

# ---- files ----------------------------------------------------------------------------------------------------------------

# find_in FOLDERS TEST... - as find, in those of the folders that there are.
find_in() {
    local folder folders=()
    for folder in $1; do [ ! -d "$folder" ] || folders+=("$folder"); done
    shift
    [ ${#folders[@]} -eq 0 ] || find "${folders[@]}" -type f "$@" | sort
}

c_files() { find_in 'include src apps tests tools' -name '*.[ch]'; }

# What people wrote; not what was recorded or generated.
text_files() {
    c_files
    find_in 'cmake docs tools tests apps src .ci' \( -name '*.md' -o -name '*.sh' -o -name '*.py' -o -name '*.cmake' -o -name '*.in' \
        -o -name 'CMakeLists.txt' -o -path '.ci/run' \) ! -path 'tests/fuzz/corpus/*'
    find . -maxdepth 1 -type f \( -name '*.md' -o -name 'CMakeLists.txt' -o -name 'CMakePresets.json' -o -name Makefile \) | sed 's|^\./||' | sort
}

# Every line of C as FILE:LINE:CODE, comments gone and strings empty.
code_lines() {
    c_files | tr '\n' '\0' | xargs -0 -r awk '
        function code(line,    out) {
            out = ""
            while (line != "") {
                if (in_comment) {
                    if (!index(line, "*/")) return out
                    line = substr(line, index(line, "*/") + 2)
                    in_comment = 0
                    out = out " "
                } else if (!match(line, /["\047\/]/)) {
                    return out line
                } else {
                    out = out substr(line, 1, RSTART - 1)
                    line = substr(line, RSTART)
                    if (substr(line, 1, 2) == "/*") { in_comment = 1; line = substr(line, 3) }
                    else if (substr(line, 1, 2) == "//") return out
                    else if (match(line, /^"([^"\\]|\\.)*"/)) { out = out "\"\""; line = substr(line, RLENGTH + 1) }
                    else if (match(line, /^\047([^\047\\]|\\.)*\047/)) { out = out "0"; line = substr(line, RLENGTH + 1) }
                    else { out = out substr(line, 1, 1); line = substr(line, 2) }
                }
            }
            return out
        }
        FNR == 1 { in_comment = 0 }
        { print FILENAME ":" FNR ":" code($0) }'
}

# ---- rules: each prints its findings --------------------------------------------------------------------------------------

# The layers, on #include lines. A file sees the headers that `allowed` gives for the place where it lies.
check_layers() {
    c_files | tr '\n' '\0' | xargs -0 -r awk '/^[ \t]*#[ \t]*include[ \t]*"/ { print FILENAME ":" FNR ":" $0 }' | awk '
        function allowed(file) {
            if (file ~ /^include\//) return "^$"
            if (file ~ /^apps\/common\//) return "^(inkstone\\.h|common/.*)$"
            if (file ~ /^apps\//) { split(file, part, "/"); return "^(inkstone\\.h|(common|hub)/.*|" part[2] "/.*)$" }
            if (file ~ /^src\/ops\/cpu\/cpu_kernels_[^\/]*\.c$/) return "^ops/cpu/cpu_kernels[^/]*\\.h$"
            if (file ~ /^src\/ops\/ops_tiers\.c$/) return "^(inkstone\\.h|(base|tensor|ops)/.*)$"
            if (file ~ /^src\/base\//) return "^(inkstone\\.h|base/.*)$"
            if (file ~ /^src\/tensor\//) return "^(inkstone\\.h|(base|tensor)/.*)$"
            if (file ~ /^src\/ops\/(ref|cpu|cuda)\//) {
                split(file, part, "/")
                return "^(inkstone\\.h|(base|tensor)/.*|ops/[^/]*|ops/" part[3] "/.*)$"
            }
            if (file ~ /^src\/ops\//) return "^(inkstone\\.h|(base|tensor)/.*|ops/[^/]*)$"
            if (file ~ /^src\/model\//) return "^(inkstone\\.h|(base|tensor|model)/.*|ops/[^/]*)$"
            if (file ~ /^src\/(pipeline\/|api[^\/]*$)/) return "^(inkstone\\.h|(base|tensor|model|pipeline)/.*|ops/[^/]*)$"
            return "^inkstone\\.h$"
        }
        /^(include|src|apps)\// {
            match($0, /:[0-9]+:/)
            file = substr($0, 1, RSTART - 1)
            place = substr($0, 1, RSTART + RLENGTH - 2)
            header = substr($0, RSTART + RLENGTH)
            sub(/^[^"]*"/, "", header)
            sub(/".*/, "", header)
            if (header ~ /\.\.\//) {
                print place ": includes " header "; write the path from src/ or apps/, as in \"base/error.h\""
                next
            }
            if (header !~ /\// && header != "inkstone.h") { # lies beside the file
                folder = file
                sub(/^(src|apps)\//, "", folder)
                if (sub(/\/[^\/]*$/, "", folder)) header = folder "/" header
            }
            if (header !~ allowed(file))
                print place ": may not see " header "; the layers are apps -> inkstone.h; pipeline -> model -> ops -> tensor -> base; " \
                    "ops/ref, ops/cpu and ops/cuda apart; cpu_kernels_*.c see cpu_kernels*.h alone (CONTRIBUTING.md)"
        }'
    sed -nE '\%^src/ops/ops_tiers\.c:%d; s%^(src/[^:]*:[0-9]+):.*INK_HAVE_.*%\1: asks which tiers are built; only src/ops/ops_tiers.c may%p' "$code"
    c_files | sed 's|.*/||' | sort | uniq -d | while read -r name; do
        c_files | grep "/$name\$" | sed "s/\$/:1: another file is called $name too; rename one/"
    done
}

# report FOLDER EXCEPT CALLS ADVICE - calls of one of CALLS in the code of FOLDER.
report() {
    sed -nE "\\%^($2):%d; s%^($1[^:]*:[0-9]+):(.*[^A-Za-z0-9_])?($3)[[:space:]]*\\(.*%\\1: calls \\3; $4%p" "$code"
}

check_banned() {
    report 'src/' - 'printf|vprintf|puts|putchar|perror' 'the library never prints: fail with a sentence (base/error.h)'
    sed -nE 's%^(src/[^:]*:[0-9]+):(.*[^A-Za-z0-9_])?(stdout|stderr)([^A-Za-z0-9_].*)?$%\1: names \3; the library never prints: fail with a sentence (base/error.h)%p' "$code"
    report 'src/' - 'exit|_exit|_Exit|quick_exit|abort|assert' 'the library never ends the process: return a status'
    report 'src/' 'src/base/memory\.c' 'malloc|calloc|realloc|aligned_alloc|posix_memalign|free|strdup|strndup|asprintf|vasprintf' \
        'allocate by base/memory.h, so that tests can make it fail'
    report 'src/' - 'rand|srand|setlocale|alloca' 'it has hidden state or no bound'
    local folder
    for folder in src apps; do
        report $folder/ - 'strcpy|strcat|sprintf|vsprintf|gets' 'it knows no size: use snprintf or ink_format'
        report $folder/ - 'atoi|atol|atoll|atof' 'it takes anything for a number: use strtoll or strtod and look at the end'
        report $folder/ - 'strtok|system|popen' 'it has hidden state or runs a shell'
    done
}

check_words() {
    local words='TO''DO|FIX''ME|XX''X|HA''CK'
    text_files | tr '\n' '\0' | xargs -0 -r grep -nHwE "$words" | sed -E 's/^([^:]*:[0-9]+):.*/\1: a note for later; do it now or write it into an issue/' || true
    text_files | tr '\n' '\0' | xargs -0 -r grep -nHE '[[:space:]]+$' | sed -E 's/^([^:]*:[0-9]+):.*/\1: ends with white space; remove it/' || true
    c_files | tr '\n' '\0' | xargs -0 -r grep -nH "$(printf '\t')" | sed -E 's/^([^:]*:[0-9]+):.*/\1: holds a tab; indent by four spaces/' || true
    text_files | while read -r file; do
        [ -z "$(tail -c 1 "$file")" ] || echo "$file:$(wc -l <"$file"): does not end with a newline; add one"
    done
}

check_sizes() {
    awk -v most_function="$MAX_FUNCTION_LINES" -v most_file="$MAX_FILE_LINES" '
        function finish() {
            if (file != "" && number > most_file)
                print file ":" number ": the file has more than " most_file " lines; it has a second subject: split it"
        }
        {
            match($0, /:[0-9]+:/)
            here = substr($0, 1, RSTART - 1)
            if (here != file) { finish(); file = here; start = 0; open = 0 }
            number = substr($0, RSTART + 1, RLENGTH - 2) + 0
            line = substr($0, RSTART + RLENGTH)
            sub(/[ \t]+$/, "", line)
        }
        open && line ~ /^}/ {
            if (number - start + 1 > most_function)
                print file ":" start ": the function has more than " most_function " lines; split it into steps that have names"
            open = 0; start = 0; text = ""
            next
        }
        open { next }
        !start && line ~ /^[A-Za-z_]/ { start = number; text = "" }
        start { text = text " " line }
        start && line ~ /\{$/ {
            if (text ~ /\)[^=]*\{$/ && text !~ /=/) open = 1
            else { start = 0; text = "" }
            next
        }
        line ~ /[;}:]$/ || line ~ /^#/ { start = 0; text = "" }
        END { finish() }' <(grep -E '^(src|apps)/' "$code")
}

# Symbols that other objects see begin with ink_, and nothing that is not thread-local can be written to.
check_symbols() {
    [ -n "$library" ] || { [ ! -f build/libinkstone.a ] || library=$PWD/build/libinkstone.a; }
    if [ -z "$library" ]; then
        echo "style: no built library, so its symbols are not checked" >&2
        return
    fi
    nm -A -g --defined-only "$library" 2>/dev/null | awk '
        $NF !~ /^ink_/ {
            split($1, part, ":")
            print part[1] ":" part[2] ": exports " $NF "; make it static, or begin its name with ink_"
        }'
    nm -A -f sysv --defined-only "$library" 2>/dev/null | awk -F'|' '
        $4 ~ /OBJECT/ && $7 ~ /^(\.data|\.bss|\*COM\*)/ && $7 !~ /^\.data\.rel\.ro/ {
            split($1, part, ":")
            gsub(/ /, "", part[3])
            print part[1] ":" part[2] ": " part[3] " can be written to and is shared by all sessions; make it const, or part of a handle"
        }'
}

formatter() {
    if command -v clang-format-14 >/dev/null; then
        echo clang-format-14
    elif command -v clang-format >/dev/null && clang-format --version | grep -q 'version 14\.'; then
        echo clang-format
    fi
}

check_format() {
    local tool
    tool=$(formatter)
    if [ -z "$tool" ]; then
        echo "style: no clang-format 14, so the format is not checked" >&2
        return
    fi
    c_files | tr '\n' '\0' | xargs -0 -r "$tool" --dry-run -Werror 2>&1 | sed -nE \
        's/^([^ :]+:[0-9]+):[0-9]+: (error|warning): code should be clang-formatted.*/\1: is not formatted; run make format/p' | sort -u -t: -k1,1 || true
}

# ---- actions --------------------------------------------------------------------------------------------------------------

check() {
    cd "$root"
    code=$(mktemp)
    findings=$(mktemp)
    trap 'rm -f "$code" "$findings"' EXIT
    code_lines >"$code"
    check_layers >>"$findings"
    check_banned >>"$findings"
    check_words >>"$findings"
    check_sizes >>"$findings"
    check_symbols >>"$findings"
    check_format >>"$findings"
    if [ -s "$findings" ]; then
        cat "$findings"
        echo "style: $(wc -l <"$findings") findings"
        return 1
    fi
    echo "style: $(c_files | wc -l) C files are in order"
}

format() {
    cd "$root"
    local tool
    tool=$(formatter)
    if [ -z "$tool" ]; then
        echo "style: clang-format 14 is needed: tools/bootstrap.sh style" >&2
        return 1
    fi
    c_files | tr '\n' '\0' | xargs -0 -r "$tool" -i
}

n_planted=0
n_missed=0

# plant FILE EXPECTED < TEXT - a tree that holds FILE alone must give a finding that matches EXPECTED, or none if it is empty.
plant() {
    local tree output status=0
    tree=$(mktemp -d)
    mkdir -p "$tree/$(dirname "$1")"
    cp "$(dirname "$(dirname "$script")")/.clang-format" "$tree"
    cat >"$tree/$1"
    output=$("$script" --root "$tree" 2>&1) || status=$?
    rm -r "$tree"
    n_planted=$((n_planted + 1))
    if [ -z "$2" ]; then
        [ $status -ne 0 ] || return 0
        echo "self-test: $1: nothing is wrong here, but the check says: $output"
    else
        if [ $status -ne 0 ] && grep -qE "^$1:[0-9]+: .*$2" <<<"$output"; then return 0; fi
        echo "self-test: $1: expected a finding like '$2'; the check says: $output"
    fi
    n_missed=$((n_missed + 1))
}

repeat() { # N LINE
    for ((i = 0; i < $1; i++)); do echo "$2"; done
}

self_test() {
    plant src/base/a.c '' <<<'/* malloc(1) in a comment, "printf(" */ static const char *const a = "exit(1) // \" free(a)";'
    plant src/base/a.c '' <<<'static_assert(sizeof(int) == 4, "int");'
    plant src/model/a.c '' <<<'#include "ops/ops.h"'
    plant src/ops/ops_tiers.c '' <<<'#include "ops/cpu/cpu_linear.h"'
    plant src/base/a.c 'may not see tensor/tensor.h' <<<'#include "tensor/tensor.h"'
    plant src/tensor/a.c 'may not see ops/ops.h' <<<'#include "ops/ops.h"'
    plant src/ops/a.c 'may not see model/mmdit.h' <<<'#include "model/mmdit.h"'
    plant src/ops/cpu/a.c 'may not see ops/ref/ref_linear.h' <<<'#include "ops/ref/ref_linear.h"'
    plant src/ops/cpu/a.c 'may not see ops/cuda/cuda_state.h' <<<'#include "ops/cuda/cuda_state.h"'
    plant src/ops/cpu/cpu_kernels_avx2.c 'may not see ops/cpu/cpu_linear.h' <<<'#include "cpu_linear.h"'
    plant src/model/a.c 'may not see ops/cpu/cpu_linear.h' <<<'#include "ops/cpu/cpu_linear.h"'
    plant src/model/a.c 'write the path from' <<<'#include "../base/error.h"'
    plant src/pipeline/a.c 'asks which tiers' <<<'#ifdef INK_HAVE_AVX2'
    plant apps/cli/a.c 'may not see base/memory.h' <<<'#include "base/memory.h"'
    plant apps/common/a.c 'may not see cli/a.h' <<<'#include "cli/a.h"'
    plant apps/common/a.c 'may not see hub/a.h' <<<'#include "hub/a.h"'
    plant apps/hub/a.c 'may not see cli/a.h' <<<'#include "cli/a.h"'
    plant apps/cli/a.c '' <<<'#include "hub/a.h"'
    plant include/inkstone.h 'may not see base/error.h' <<<'#include "base/error.h"'
    plant src/base/a.c 'calls printf' <<<'static void a(void) { printf("a"); }'
    plant src/base/a.c 'names stderr' <<<'static void a(void) { fprintf(stderr, "a"); }'
    plant src/base/a.c 'calls assert' <<<'static void a(int b) { assert(b); }'
    plant src/base/a.c 'calls malloc' <<<'static void *a(void) { return malloc(1); }'
    plant src/base/a.c 'calls setlocale' <<<'static void a(void) { setlocale(0, ""); }'
    plant apps/cli/a.c 'calls strcpy' <<<'static void a(char *b) { strcpy(b, "c"); }'
    plant apps/cli/a.c 'calls atoi' <<<'static int a(char *b) { return atoi(b); }'
    plant apps/cli/a.c 'calls system' <<<'static void a(void) { system("b"); }'
    plant src/base/a.c 'a note for later' <<<"/* TO""DO: all of it */"
    plant docs/a.md 'ends with white space' <<<'a '
    plant src/base/a.c 'holds a tab' < <(printf 'static int\ta;\n')
    plant src/base/a.c 'does not end with a newline' < <(printf 'static int a;')
    plant src/base/a.c 'the function has more than' < <(
        echo 'static void a(int b) {'
        repeat "$MAX_FUNCTION_LINES" '    b++;'
        echo '}'
    )
    plant src/base/a.c '' < <(
        echo 'static const int a[] = {'
        repeat "$MAX_FUNCTION_LINES" '    1, //'
        echo '};'
    )
    plant src/base/a.c 'the file has more than' < <(repeat $((MAX_FILE_LINES + 1)) 'static int a;')
    if [ -n "$(formatter)" ]; then plant src/base/a.c 'is not formatted' <<<'static int  a ;'; fi
    self_test_names
    self_test_symbols
    echo "self-test: $n_planted trees, $n_missed of them misjudged"
    [ "$n_missed" -eq 0 ]
}

self_test_names() {
    local tree output
    tree=$(mktemp -d)
    mkdir -p "$tree/src/base" "$tree/apps/cli"
    touch "$tree/src/base/a.c" "$tree/apps/cli/a.c"
    n_planted=$((n_planted + 1))
    output=$("$script" --root "$tree" 2>&1 || true)
    if ! grep -q 'another file is called a.c' <<<"$output"; then
        echo "self-test: two files of one name were not found"
        n_missed=$((n_missed + 1))
    fi
    rm -r "$tree"
}

self_test_symbols() {
    local tree output
    tree=$(mktemp -d)
    n_planted=$((n_planted + 1))
    echo 'int stray(void); int stray(void) { return 1; } int ink_counter; _Thread_local int ink_mine; const int ink_constant = 1;' >"$tree/a.c"
    (cd "$tree" && ${CC:-cc} -c a.c && ar rc liba.a a.o)
    output=$("$script" --root "$tree" --library "$tree/liba.a" 2>&1 || true)
    if ! grep -q 'exports stray' <<<"$output" || ! grep -q 'ink_counter can be written' <<<"$output" || grep -qE 'ink_mine|ink_constant' <<<"$output"; then
        echo "self-test: symbols were misjudged: $output"
        n_missed=$((n_missed + 1))
    fi
    rm -r "$tree"
}

"$action"
