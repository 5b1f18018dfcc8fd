#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The configuration as an admin meets it: each mistake is told with file, line and key, files that nobody wrote by hand
# do no harm, drop-ins and options win in their order, and the samples are taken as they are.
. "${0%/*}/lib/tap.sh"
[ -x "$build/cricketd" ] || { echo "Bail out! no cricketd in '$build'"; exit 1; }

# check FILE [ARGUMENT...]: what --check-config says on stderr and its status
check() { timeout 60 "$build/cricketd" --check-config --config "$@" 3>&1 >/dev/null 2>&3; echo "status $?"; }
says() {    # says TEXT PATTERN NAME
    local out; out=$(printf '%b' "$1" >"$tmp/c.yaml"; check "$tmp/c.yaml")
    tap_up=2 ok "$(grep -qE -- "$2" <<<"$out" && grep -qx 'status 1' <<<"$out" && echo 1)" "$3" || diag "$out"
}
fine() {    # fine FILE NAME
    is "$(check "$1")" "status 0" "$2"
}

# --- mistakes
says 'rot: /x\n' 'c.yaml:1: rot: unknown key' "an unknown key"
says '# a comment\ncni:\n  timeuot: 3s\n' 'c.yaml:3: cni.timeuot: unknown key' "an unknown key in a map"
says 'cni: /opt\n' 'c.yaml:1: cni: must be a map' "a value where a map belongs"
says 'root: [/a]\n' 'c.yaml:1: root: must be a single value, not a list' "a list where a value belongs"
says 'runtimes:\n  x:\n    path: crun\n' "c.yaml:3: runtimes.x.path: 'crun' is not an absolute path" "an OCI runtime by a relative path"
says 'runtimes: {cricket: {path: /usr/bin/crun}}\n' "runtimes.cricket: .*takes no path" "another launcher for the built-in handler"
says 'root: a\n' "c.yaml:1: root: 'a' is not an absolute path" "a relative path"
says 'listen: tcp://0.0.0.0:1\n' "c.yaml:1: listen: .* does not begin with unix://" "another kind of socket"
says 'shutdown: 10\n' "c.yaml:1: shutdown: '10' is not a time" "a time without unit"
says 'log: {line_max: 16k}\n' "c.yaml:1: log.line_max: '16k' is not a size" "a unit that is none"
says 'log: {level: loud}\n' "c.yaml:1: log.level: 'loud' is none of" "a level that is none"
says 'root: /a\nstate: /b\nroot: /c\n' "c.yaml:3: key 'root' is already on line 1" "a key twice"
says 'root: "/a\n' 'c.yaml:2: not valid YAML' "no YAML"
says 'registries:\n  configs:\n    a:\n      auth: {username: u, pasword: hunter2}\n' \
    'c.yaml:4: registries.configs.a.auth.pasword: unknown key' "a mistake next to a secret"
is "$(check "$tmp/c.yaml" | grep -c hunter2)" 0 "does not show the secret"
printf 'registries: {configs: {a: {auth: {username: u, password: hunter2}}}}\n' >"$tmp/c.yaml"
chmod 644 "$tmp/c.yaml"
ok "$(check "$tmp/c.yaml" | grep -q "level=warn .*c.yaml.*everybody may read it" && echo 1)" "a secret in a readable file is warned of"
chmod 600 "$tmp/c.yaml"
fine "$tmp/c.yaml" "not in one that only root reads"
chmod 644 "$tmp/c.yaml"

# --- hostile files
head -c 100000 /dev/urandom >"$tmp/c.yaml"
ok "$(check "$tmp/c.yaml" | grep -qE 'c.yaml:[0-9]+: not (a text file|valid YAML)' && echo 1)" "random bytes"
/usr/bin/python3 -c 'print("[" * 500000)' >"$tmp/c.yaml"
ok "$(check "$tmp/c.yaml" | grep -q 'c.yaml:1: nested deeper than 16 levels' && echo 1)" "half a million brackets"
/usr/bin/python3 -c 'print("a0: &a0 [x, x]")
for i in range(30): print("a%d: &a%d [*a%d, *a%d]" % (i + 1, i + 1, i, i))' >"$tmp/c.yaml"
ok "$(check "$tmp/c.yaml" | grep -q 'aliases are not supported' && echo 1)" "a bomb of aliases"
truncate -s 100M "$tmp/c.yaml"
ok "$(check "$tmp/c.yaml" | grep -q 'larger than 1024 KiB' && echo 1)" "100 MB"
ok "$(check /dev/zero | grep -q 'larger than 1024 KiB' && echo 1)" "/dev/zero"
mkfifo "$tmp/fifo"
is "$(check "$tmp/fifo")" "status 0" "a pipe that nobody writes is empty and does not hang"
ok "$(check "$tmp" | grep -q 'Is a directory' && echo 1)" "a directory"
ok "$(check "$tmp/none.yaml" | grep -q 'none.yaml: No such file' && echo 1)" "a file that is not there"

# --- order
mkdir "$tmp/o" "$tmp/o/config.d"
echo 'root: /main' >"$tmp/o/config.yaml"
echo 'root: rel' >"$tmp/o/config.d/50-x.yaml"
ok "$(check "$tmp/o/config.yaml" | grep -q "o/config.d/50-x.yaml:1: root: 'rel'" && echo 1)" "drop-ins beside the file are read"
fine_dir=$(mktemp -d "$tmp/d-XXX")
is "$(check "$tmp/o/config.yaml" --config-dir "$fine_dir")" "status 0" "another folder of drop-ins instead"
ok "$(check "$tmp/o/config.yaml" --config-dir "$tmp/none" | grep -q "none" && echo 1)" "which must be there"
mv "$tmp/o/config.d/50-x.yaml" "$tmp/o/config.d/50-x.yaml~"
fine "$tmp/o/config.yaml" "other names are not drop-ins"
ok "$(check /dev/null --root rel | grep -q "option --root: 'rel' is not an absolute path" && echo 1)" "a bad option is told as such"
ok "$(check /dev/null --listen tcp://x | grep -q "option --listen: .*unix://" && echo 1)" "--listen takes unix:// only"

# --- samples
fine /dev/null "the defaults"
fine "$srcdir/etc/config.yaml" "etc/config.yaml"
fine "$srcdir/etc/config.d/50-example.yaml" "etc/config.d/50-example.yaml"
sed 's/^\( *\)#  /\1/; s/^  mirrors: {}/  mirrors:/; s/^  configs: {}/  configs:/' "$srcdir/etc/config.yaml" |
    sed 's/^  \(docker.io\|mirror.example.com\):/    \1:/; s/^    \(endpoint\|auth\|tls\):/      \1:/' >"$tmp/c.yaml"
ok "$(grep -q '^      endpoint:' "$tmp/c.yaml" && echo 1)" "the registries of etc/config.yaml are commented out"
chmod 600 "$tmp/c.yaml"
fine "$tmp/c.yaml" "and are right as well"
cat >"$tmp/registries.yaml" <<'Y'
mirrors:
  docker.io:
    endpoint:
      - "https://mirror.example.com:5000"
  "*":
    endpoint:
      - "http://127.0.0.1:5000"
configs:
  "mirror.example.com:5000":
    auth:
      username: xxxxxx
      password: xxxxxx
    tls:
      cert_file: /etc/ssl/certs/cert
      key_file: /etc/ssl/private/key
      ca_file: /etc/ssl/certs/ca
Y
chmod 600 "$tmp/registries.yaml"
echo "registries_file: $tmp/registries.yaml" >"$tmp/c.yaml"
fine "$tmp/c.yaml" "k3s's registries.yaml"
echo '    rewrite: {"^rancher/(.*)": "mirror/$1"}' | sed -i '4r /dev/stdin' "$tmp/registries.yaml"
fine "$tmp/c.yaml" "and its rewriting of names"
sed -i '5s/(/(?:/' "$tmp/registries.yaml"
ok "$(check "$tmp/c.yaml" | grep -q "registries_file: .*registries.yaml:5: registries.mirrors.docker.io.rewrite" && echo 1)" \
    "what cannot be done of it is an error with file and line"
examples=$(sed -n '/^\.Sh EXAMPLES/,/^\.Sh/{/^\.Bd/,/^\.Ed/p}' "$srcdir/man/cricket.yaml.5" | grep -v '^\.')
printf '%s\n' "$examples" >"$tmp/c.yaml"
ok "$([ -n "$examples" ] && echo 1)" "cricket.yaml(5) has an example"
fine "$tmp/c.yaml" "which is right"
done_testing
