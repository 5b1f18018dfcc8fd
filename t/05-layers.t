#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Who may include whom: handlers -> proc, pull, store -> reactor -> src/*. The programs cricket-pod and
# cricket-worker are worlds of their own. An arrow that points up or sideways fails here.
. "${0%/*}/lib/tap.sh"
cd "$srcdir/src" || exit 1

# folder: what its files may include besides their own folder's headers
declare -A may=(
    [.]=''
    [compat]=''
    [reactor]='.'
    [proc]='. reactor proc/pod'
    [pull]='. reactor'
    [store]='. reactor'
    [handlers]='. reactor proc pull store'
    [proc/pod]=''
    [pull/worker]='.'
    [cricketctl]='.'
)

dir_of() { case $1 in */*) echo "${1%/*}" ;; *) echo . ;; esac; }

wrong=$(find . -name '*.[ch]' | sed 's|^\./||' | sort | while read -r f; do
    d=$(dir_of "$f")
    [ "$f" != cricketd.c ] || continue                       # the one file that knows every folder
    [ -n "${may[$d]+x}" ] || { echo "src/$f: what may the folder '$d' include? (t/05-layers.t)"; continue; }
    sed -n 's/^ *# *include *"\([^"]*\)".*/\1/p' "$f" | while read -r inc; do
        if [ -e "$d/$inc" ] && [ "$d" != . ] && [ ! -e "$inc" ]; then to=$d
        elif [ -e "$inc" ]; then to=$(dir_of "$inc")
        else continue; fi                                    # generated, or the system's
        [ "$to" = "$d" ] && continue
        case " ${may[$d]} " in *" $to "*) ;; *) echo "src/$f includes $inc" ;; esac
    done
done)
is "$wrong" "" "includes point down only"

# libh2o's insides stay behind struct rpc
wrong=$(grep -lE '^ *# *include *[<"]h2o' -r . | grep -vE '^\./(reactor/(h2o_[a-z0-9_]*\.[ch]|grpc_h2o\.[ch])|compat/.*)$')
is "$wrong" "" "only reactor/h2o_* include libh2o"

# what computes while the daemon waits is in the worker
wrong=$(grep -lE '^ *# *include *[<"](archive|seccomp|zstd|zlib|isa-l)' -r . | grep -vE '^\./(pull/worker/|reactor/spdy\.c)')
is "$wrong" "" "only the worker includes libarchive, libseccomp and the decompressors (but SPDY's headers are zlib)"
done_testing
