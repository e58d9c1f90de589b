#!/usr/bin/env bash
# bootstrap.sh [build|style|fuzz|aarch64]... - installs what is missing, on Debian and Ubuntu; elsewhere says what is missing.
#
# It looks for the tools and libraries themselves, not for package names, so what was installed in another way counts too.
# With everything there it installs nothing and asks for no rights. The libraries that an aarch64 build links are not installed:
# they are unpacked into build-aarch64-root/, and the system never hears of a second architecture.
set -euo pipefail

missing=() # "package|what for"

need() { # PACKAGE REASON COMMAND...
    local package=$1 reason=$2
    shift 2
    "$@" >/dev/null 2>&1 || missing+=("$package|$reason")
}

has_compilers() { echo '#include <stdio.h>' | cc -fsyntax-only -x c - && echo '#include <cstdio>' | c++ -fsyntax-only -x c++ -; }
has_library() { command -v pkg-config && pkg-config --exists "$1"; }
has_cmake() { cmake --version | awk 'NR == 1 { split($3, v, "."); exit !(v[1] > 3 || (v[1] == 3 && v[2] >= 25)) }'; }
has_formatter() { command -v clang-format-14 || clang-format --version | grep -q 'version 14\.'; }
has_cross_libc() { echo '#include <stdio.h>' | aarch64-linux-gnu-gcc -fsyntax-only -x c -; }
has_libfuzzer() {
    local folder
    folder=$(mktemp -d)
    echo 'int LLVMFuzzerTestOneInput(const char *data, unsigned long size) { return !data && size; }' >"$folder/probe.c"
    local status=0
    clang -fsanitize=fuzzer,address,undefined "$folder/probe.c" -o "$folder/probe" || status=1
    rm -r "$folder"
    return $status
}

look_for_build() {
    need build-essential "C compiler; its C++ one checks that the header works there too" has_compilers
    need make "the front door" command -v make
    need cmake "the build, 3.25 or later" has_cmake
    need ninja-build "what CMake drives" command -v ninja
    need pkg-config "finds the libraries" command -v pkg-config
    need libjansson-dev "JSON of configs and tensor headers" has_library jansson
    need libutf8proc-dev "Unicode normalisation of prompts" has_library libutf8proc
    need libpng-dev "PNG pictures" has_library libpng
    need libjpeg-dev "JPEG pictures" has_library libjpeg
    need libwebp-dev "WebP pictures" has_library libwebp
    need libcurl4-openssl-dev "loading models" has_library libcurl
    need libssl-dev "checking what was loaded" has_library libcrypto
    need libcmocka-dev "unit tests" has_library cmocka
}

look_for_style() {
    need clang-format-14 "the format of the code" has_formatter
}

look_for_fuzz() {
    need clang "the compiler that has libFuzzer" command -v clang
    need libclang-rt-dev "libFuzzer and its sanitizers" has_libfuzzer
}

look_for_aarch64() {
    need gcc-aarch64-linux-gnu "cross compiler" command -v aarch64-linux-gnu-gcc
    need libc6-dev-arm64-cross "the C library to link with there" has_cross_libc
    need qemu-user "runs the tests of that build" command -v qemu-aarch64
}

look_for_all() {
    missing=()
    local group
    for group in "$@"; do "look_for_$group"; done
}

aarch64_root=$(cd "$(dirname "$0")/.." && pwd)/build-aarch64-root

# The system's package archive, asked for another architecture: with state of its own, so that nothing of the system's changes,
# and checked against the system's keys as ever.
apt_arm64() { # PROGRAM ARGUMENTS...
    local program=$1 state=$aarch64_root.tmp
    shift
    local options=(-q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Acquire::Retries=3 -o "Dir::State=$state"
        -o "Dir::Cache=$state" -o Dir::State::status=/dev/null)
    [ "$(id -u)" -ne 0 ] || options+=(-o APT::Sandbox::User=root) # another user may not reach this folder
    if grep -q '^ID=ubuntu' /etc/os-release; then                 # its archive of this architecture is elsewhere
        echo "deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] http://ports.ubuntu.com/ubuntu-ports" \
            "$(. /etc/os-release && echo "$VERSION_CODENAME") main universe" >"$state/sources.list"
        options+=(-o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=-)
    fi
    "$program" "${options[@]}" "$@"
}

unpack_aarch64_libraries() {
    local state=$aarch64_root.tmp file packages
    echo "bootstrap: unpacking jansson, utf8proc and cmocka for aarch64 into build-aarch64-root/"
    rm -rf "$state"
    mkdir -p "$state/lists/partial" "$state/archives/partial" "$state/root"
    apt_arm64 apt-get update
    # What is linked, and the packages that these depend on for the shared libraries.
    packages=$(apt_arm64 apt-cache depends --important libjansson-dev libutf8proc-dev libcmocka-dev |
        sed -nE 's/^(  Depends: )?(lib(jansson|utf8proc|cmocka)[^ ]*)$/\2/p' | sort -u)
    # shellcheck disable=SC2086
    (cd "$state" && apt_arm64 apt-get download $packages)
    for file in "$state"/*.deb; do dpkg-deb -x "$file" "$state/root"; done
    mv "$state/root" "$aarch64_root"
    rm -r "$state"
}

wants_aarch64_libraries() { # GROUPS...
    [[ " $* " == *" aarch64 "* ]] && [ ! -d "$aarch64_root" ]
}

list_missing() {
    local entry
    for entry in "${missing[@]}"; do printf '  %-18s %s\n' "${entry%%|*}" "${entry#*|}"; done
}

[ $# -gt 0 ] || set -- build
for group in "$@"; do
    case $group in
    build | style | fuzz | aarch64) ;;
    *)
        echo "usage: tools/bootstrap.sh [build|style|fuzz|aarch64]..." >&2
        exit 2
        ;;
    esac
done

install_missing() { # GROUPS...
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "bootstrap: install these as root and run again (there is no sudo here):" >&2
            list_missing >&2
            exit 1
        fi
        as_root=(sudo)
    fi

    echo "bootstrap: installing from the system's package archive:"
    list_missing
    local packages=("${missing[@]%%|*}")
    "${as_root[@]}" apt-get -q -o Acquire::Retries=3 update
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y -o Acquire::Retries=3 install --no-install-recommends "${packages[@]}"

    look_for_all "$@"
    if [ ${#missing[@]} -ne 0 ]; then
        echo "bootstrap: still missing after the installation (an older release of the system? Debian 12 or Ubuntu 24.04 is needed):" >&2
        list_missing >&2
        exit 1
    fi
}

look_for_all "$@"
if [ ${#missing[@]} -eq 0 ] && ! wants_aarch64_libraries "$@"; then
    echo "bootstrap: everything is there"
    exit 0
fi

if ! command -v apt-get >/dev/null; then
    echo "bootstrap: this is neither Debian nor Ubuntu; install these (Debian's names) and run again:" >&2
    list_missing >&2
    ! wants_aarch64_libraries "$@" || echo "  jansson, utf8proc and cmocka for aarch64, below $aarch64_root" >&2
    exit 1
fi

[ ${#missing[@]} -eq 0 ] || install_missing "$@"
if wants_aarch64_libraries "$@"; then unpack_aarch64_libraries; fi
