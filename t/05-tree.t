#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The tree and what is said about it: every source is in Makefile.am, every test is listed and executable, every
# file says its licence, every path that ARCHITECTURE.md's tree names is there.
. "${0%/*}/lib/tap.sh"
cd "$srcdir" || exit 1
git() { command git -c safe.directory='*' "$@"; }
git ls-files --error-unmatch Makefile.am >/dev/null 2>&1 || skip_all "not in a git tree"

missing=$(git ls-files 'src/*.c' 'src/*.h' 't/unit/*.h' 't/*.t' | while read -r f; do
    grep -qwF -- "$f" Makefile.am || echo "$f"
done)
is "$missing" "" "Makefile.am lists every source and test"

missing=$(git ls-files 't/unit/*.c' | while read -r f; do
    grep -qE "(^|[[:space:]])${f%.c}([[:space:]]|$)" Makefile.am || echo "$f"
done)
is "$missing" "" "Makefile.am lists every unit test"

missing=$(sed 's|^#.*||' Makefile.am | grep -oE '\b(src|t|etc|man|proto)/[A-Za-z0-9_./-]+\.[a-z0-9]+\b' | grep -v 'pb-c' | sort -u |
    while read -r f; do [ -e "$f" ] || [ -e "$f.in" ] || grep -qE "^$f:" Makefile.am || echo "$f"; done)
is "$missing" "" "what Makefile.am lists is there"

is "$(git ls-files -s 't/*.t' | grep -v ^100755)" "" "tests are executable"

bad=$(git ls-files | grep -vE '^(LICENSE|.*\.(md|json|yaml|yml|txt|mod|sum|proto)|\.git.*|\.editorconfig|\.clang-format|etc/.*|t/fuzz/corpus/.*)$' |
    while read -r f; do
        head -n 3 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0' || echo "$f"
    done)
is "$bad" "" "files say their licence first"

long=$(git ls-files 'src/*.c' | while read -r f; do
    n=$(wc -l <"$f"); [ "$n" -le 1000 ] || echo "$f: $n lines"
done)
is "$long" "" "a source is one subject, readable in one sitting (at most 1000 lines)"

# the tree in ARCHITECTURE.md: a block of code whose lines begin with a path
named=$(awk '/^```/ { inside = !inside; next } inside' ARCHITECTURE.md |
    sed -nE 's/^ *((\.?[A-Za-z0-9_.-]+\/)+[A-Za-z0-9_.-]*|[A-Za-z0-9_.-]+\.(am|ac|md|debian)|runtests|quickstart)([[:space:]].*|$)/\1/p')
missing=$(for f in $named; do [ -e "$f" ] || [ -e "$f.in" ] || grep -qE "^$f:" Makefile.am || echo "$f"; done)
is "$missing" "" "every path that ARCHITECTURE.md's tree begins a line with is there"
if [ -n "$named" ]; then
    missing=$(git ls-files src t | xargs -n1 dirname | sort -u | grep -v corpus | while read -r dir; do
        printf '%s\n' "$named" | grep -qxE "$dir/?" || echo "$dir/"
    done)
    is "$missing" "" "and it names every folder of src and t"
fi
done_testing
