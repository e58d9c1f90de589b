#!/usr/bin/env bash
# check_install.sh CMAKE BUILD LIBDIR - installs a build into a folder, moves that folder, and there builds and runs a small
# program by pkg-config, by the CMake package with the shared library, and with the static one.
set -euo pipefail

cmake=$1 build=$2 libdir=$3
consumer=$(cd "$(dirname "$0")/consumer" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$cmake" --install "$build" --prefix "$work/first" >"$work/install.log"
mv "$work/first" "$work/prefix"
prefix=$work/prefix

echo "pkg-config"
export PKG_CONFIG_PATH=$prefix/$libdir/pkgconfig
# shellcheck disable=SC2046,SC2086 # flags are words
$CC $CFLAGS "$consumer/consumer.c" $(pkg-config --cflags --libs inkstone) -o "$work/consumer"
LD_LIBRARY_PATH=$prefix/$libdir "$work/consumer"

echo "CMake package"
"$cmake" -G Ninja -S "$consumer" -B "$work/build" -DCMAKE_PREFIX_PATH="$prefix" >"$work/configure.log"
"$cmake" --build "$work/build" >"$work/build.log" || { cat "$work/build.log"; exit 1; }
"$work/build/consumer_shared"
"$work/build/consumer_static"

if [ -x "$prefix/bin/inkstone" ]; then
    echo "program"
    "$prefix/bin/inkstone" --version
fi
