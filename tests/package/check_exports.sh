#!/usr/bin/env bash
# check_exports.sh NM LIBRARY HEADER - the shared library exports what the header declares, and nothing else.
set -euo pipefail

nm=$1 library=$2 header=$3

declared=$(sed -n 's/^INK_API .*[ *]\(ink_[a-z0-9_]*\)(.*/\1/p' "$header" | LC_ALL=C sort)
# Sanitizers add symbols of their own, which begin with two underscores.
exported=$("$nm" -D --defined-only "$library" | awk '{ print $NF }' | grep -v '^__' | LC_ALL=C sort || true)

if [ -z "$declared" ]; then
    echo "$header: no INK_API function found"
    exit 1
fi
missing=$(LC_ALL=C comm -23 <(echo "$declared") <(echo "$exported"))
extra=$(LC_ALL=C comm -13 <(echo "$declared") <(echo "$exported"))
[ -z "$missing" ] || printf 'declared but not in the library: %s\n' $missing
[ -z "$extra" ] || printf 'exported but not in the header: %s\n' $extra
[ -z "$missing$extra" ]
