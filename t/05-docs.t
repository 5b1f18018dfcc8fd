#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What is written about the programs is what they do: options and keys of the manual pages, samples in etc/.
. "${0%/*}/lib/tap.sh"
[ -x "$build/cricketd" ] || { echo "Bail out! no cricketd in '$build'"; exit 1; }

options=$("$build/cricketd" --help | grep -oE -- '--[a-z-]+' | sort -u)
shown=$(sed -nE 's/^\.It Fl \\-([a-z-]+).*/--\1/p' "$srcdir/man/cricketd.8" | sort -u)
is "$shown" "$options" "cricketd(8) names every option"

keys=$(sed -nE 's/^    \{ "([a-z_.]+)", K_.*/\1/p' "$srcdir/src/conf.c" | sort)
[ -n "$keys" ] || echo "Bail out! no keys in src/conf.c"
is "$(sed -nE 's/^\.It Ic ([a-z_.]+) : Ar .*/\1/p' "$srcdir/man/cricket.yaml.5" | sort)" "$keys" "cricket.yaml(5) names every key"
sample=$(/usr/bin/python3 - "$srcdir/etc/config.yaml" <<'P'
import sys
path, found = [], set()
for line in open(sys.argv[1]):
    if line.startswith("#libexec_dir:"):     # its default depends on the build
        line = line[1:]
    text = line.split("#")[0].rstrip()
    if text.strip():
        depth = (len(text) - len(text.lstrip())) // 2
        key, _, value = text.strip().partition(":")
        path[depth:] = [key]
        if path[0] == "registries":
            found.add("registries")
        elif value.strip():
            found.add(".".join(path))
print("\n".join(sorted(found)))
P
)
is "$sample" "$(LC_ALL=C sort <<<"$keys")" "etc/config.yaml has every key"
run_ok "cricketd takes etc/config.yaml" "$build/cricketd" --check-config --config "$srcdir/etc/config.yaml" --config-dir "$tmp"

for f in "$srcdir"/man/*; do
    if command -v mandoc >/dev/null; then is "$(mandoc -T lint "$f" 2>&1 | grep -vE 'referenced manual not found|outdated mandoc.db')" "" "mandoc has nothing to say about ${f##*/}"
    else skip "needs mandoc"; fi
done
for f in "$srcdir"/etc/cni/*.conflist; do
    run_ok "${f##*/} is JSON" /usr/bin/python3 -c 'import json, sys; json.load(open(sys.argv[1]))["plugins"]' "$f"
done
is "$(sed -n 's/^runtime-endpoint: //p' "$srcdir/etc/crictl.yaml")" "$(sed -n 's/^listen: //p' "$srcdir/etc/config.yaml")" \
    "etc/crictl.yaml leads to the default socket"
packages=$(sed -n 's/#.*//; /^\[/d; s/^\([^[:space:]]\{1,\}\).*/\1/p' "$srcdir/packages.debian" | tr '|' '\n' | sort)
is "$(sed -n '/^## Packages/,/^## Licence/p' "$srcdir/README.md" | grep '^| ' | grep -oE '`[a-z0-9.+-]+`' | tr -d '\`' | grep -v '^\.' | sort)" \
    "$packages" "README.md names the packages of packages.debian"
done_testing
