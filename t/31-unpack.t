#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Layers on the disk: every kind of tar entry as it has to be for overlayfs, and archives that mean harm."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import errno  # noqa: E402
import gzip  # noqa: E402
import io  # noqa: E402
import stat  # noqa: E402
import struct  # noqa: E402
import subprocess  # noqa: E402
import tarfile  # noqa: E402
import tempfile  # noqa: E402

from cricket import done_testing, is_, libc, like, need, ok, skip  # noqa: E402
from images import Image, Layer, digest  # noqa: E402
from pulling import Drive, FakeRegistry, with_descriptors  # noqa: E402

need("root", "tar", "zstd")
reg = FakeRegistry()
d = Drive()
serial = 0


def entry(name, kind=tarfile.REGTYPE, data=b"", **fields):
    t = tarfile.TarInfo()
    t.name, t.type, t.size, t.mtime, t.mode = name, kind, len(data), 1700000000, 0o644
    for k, v in fields.items():
        setattr(t, k, v)
    return t, data


def tar(*entries, fmt=tarfile.PAX_FORMAT):
    """A layer of exactly these entries."""
    buf = io.BytesIO()
    with tarfile.open(fileobj=buf, mode="w", format=fmt, errors="surrogateescape") as f:
        for t, data in entries:
            f.addfile(t, io.BytesIO(data))
    return Layer(buf.getvalue())


def put(*layers):
    global serial
    serial += 1
    return reg.put(Image(list(layers), {"Cmd": [str(serial)]}), "unpack/%d" % serial)


def unpack(*layers):
    """Directories of the layers, lowest first."""
    return [d.layer(x["number"]) for x in d.pull(put(*layers))["layers"]]


def refused(pattern, name, *entries, fmt=tarfile.PAX_FORMAT):
    like(d.fails(put(tar(*entries, fmt=fmt))) or "(unpacked)", pattern, name)


def xattrs(path):
    return {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}


FILE, DIR, SYM, HARD, CHR, BLK, FIFO = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
                                        tarfile.BLKTYPE, tarfile.FIFOTYPE)

# --- what every entry says about itself
cap = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
where, = unpack(tar(
    entry("./", DIR, mode=0o700, uid=7, gid=8, mtime=1600000000),
    entry("./d", DIR, mode=0o2750, uid=1000, gid=1001, mtime=1500000000.25, pax_headers={"mtime": "1500000000.123456789"}),
    entry("./d/f", data=b"hello", mode=0o4755, uid=1234567, gid=7654321, pax_headers={"mtime": "1400000000.987654321"}),
    entry("d/cap", data=b"x", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": cap.decode("latin-1"),
                                                      "SCHILY.xattr.user.note": "a=b\nc"}),
    entry("d/link", SYM, linkname="../../outside", uid=5, gid=6, mtime=1300000000),
    entry("d/hard", HARD, linkname="./d/f"),
    entry("d/tty", CHR, mode=0o666, devmajor=5, devminor=0),
    entry("d/loop", BLK, mode=0o660, gid=6, devmajor=7, devminor=300),
    entry("d/pipe", FIFO, mode=0o622),
    entry("/abs/olute", data=b"in the layer"),
    entry("d/sticky", DIR, mode=0o1777),
))
st = os.lstat(where)
is_((oct(st.st_mode), st.st_uid, st.st_gid, st.st_mtime), ("0o40700", 7, 8, 1600000000.0), "the root's owner, mode, time")
st = os.lstat(where + "/d")
is_((oct(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns), ("0o42750", 1000, 1001, 1500000000123456789),
    "a directory, its time to the nanosecond although files came later")
st = os.lstat(where + "/d/f")
is_((oct(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns, st.st_nlink), ("0o104755", 1234567, 7654321, 1400000000987654321, 2),
    "a set-user-ID file with a hard link")
is_(os.lstat(where + "/d/hard").st_ino, st.st_ino, "the hard link is the same file")
is_(xattrs(where + "/d/cap"), {"security.capability": cap, "user.note": b"a=b\nc"}, "xattrs, capabilities among them")
st = os.lstat(where + "/d/link")
is_((os.readlink(where + "/d/link"), st.st_uid, st.st_gid, st.st_mtime), ("../../outside", 5, 6, 1300000000.0), "a symbolic link as it is")
for name, kind, mode, dev in (("tty", stat.S_IFCHR, 0o666, (5, 0)), ("loop", stat.S_IFBLK, 0o660, (7, 300))):
    st = os.lstat(where + "/d/" + name)
    is_((stat.S_IFMT(st.st_mode), stat.S_IMODE(st.st_mode), (os.major(st.st_rdev), os.minor(st.st_rdev))), (kind, mode, dev), "device " + name)
is_(oct(os.lstat(where + "/d/pipe").st_mode), "0o10622", "a FIFO")
is_(oct(os.lstat(where + "/d/sticky").st_mode), "0o41777", "a sticky directory")
is_(open(where + "/abs/olute").read(), "in the layer", "an absolute name is one in the layer")

# --- names
long = "n" * 200 + "/" + "m" * 150 + "/" + "o" * 99
for fmt, word in ((tarfile.PAX_FORMAT, "PAX"), (tarfile.GNU_FORMAT, "GNU")):
    where, = unpack(tar(entry(long, data=b"long"), entry("to", HARD, linkname=long), entry("sym", SYM, linkname=long),
                        entry("sn\u00f6w/\u2603", data=b"snow"), entry("sn\u00f6w/x", HARD, linkname="sn\u00f6w/\u2603"), fmt=fmt))
    is_((os.lstat(where + "/to").st_ino, os.readlink(where + "/sym")), (os.lstat(where + "/" + long).st_ino, long), word + " long names")
    is_(open(where + "/sn\u00f6w/x").read(), "snow", word + " names in UTF-8")
raw = b"caf\xe9-" + bytes(range(0x80, 0x90))
where, = unpack(tar(entry(os.fsdecode(raw), data=b"raw"), fmt=tarfile.GNU_FORMAT))
is_(os.listdir(os.fsencode(where)), [raw], "names that are no UTF-8 stay bytes")
where, = unpack(tar(entry("a/./b//c/../d", data=b"x"), entry("././e", data=b"y")))
is_(sorted(os.listdir(where + "/a/b") + os.listdir(where)), ["a", "d", "e"], "names are cleaned")
where, = unpack(tar(entry("new\nline\ttab \\ 'quote", data=b"odd")))
is_(os.listdir(where), ["new\nline\ttab \\ 'quote"], "odd characters")

# --- sparse files
with tempfile.TemporaryDirectory() as tmp:
    with open(tmp + "/sparse", "wb") as f:
        f.write(b"begin")
        f.seek(5 << 20)
        f.write(b"middle")
        f.truncate(20 << 20)
    for option in ("--format=gnu", "--format=pax"):
        data = subprocess.run(["tar", "-C", tmp, "-S", option, "-cf", "-", "sparse"], stdout=subprocess.PIPE, check=True).stdout
        where, = unpack(Layer(data))
        st = os.lstat(where + "/sparse")
        same = open(where + "/sparse", "rb").read() == open(tmp + "/sparse", "rb").read()
        ok(same and st.st_blocks * 512 < 1 << 20, "a sparse file stays sparse " + option, st)

# --- whiteouts, and what the same layer has by the name
where, = unpack(tar(
    entry("a/.wh.gone"), entry("b", DIR), entry("b/.wh..wh..opq"), entry("b/kept", data=b"k"), entry(".wh.top"),
    entry("own", data=b"mine"), entry(".wh.own"), entry(".wh.dir"), entry("dir/new", data=b"n"), entry(".wh.file"),
    entry("file", data=b"again"), entry("had", DIR), entry("had/x", data=b"x"), entry(".wh.had"), entry(".wh..wh.plnk", DIR),
    entry(".wh..wh.aufs", data=b"1"), entry("c/.wh.d"), entry("c/d", DIR, mode=0o711)))


def is_whiteout(path):
    st = os.lstat(path)
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def opaque(path):
    return xattrs(path).get("trusted.overlay.opaque") == b"y"


ok(is_whiteout(where + "/a/gone") and is_whiteout(where + "/top"), "a whiteout is overlayfs's device 0:0")
ok(opaque(where + "/b") and os.listdir(where + "/b") == ["kept"], "an opaque directory is marked, its own files stay")
is_(open(where + "/own").read(), "mine", "a whiteout does not hide what the same layer has")
ok(opaque(where + "/dir") and os.listdir(where + "/dir") == ["new"], "a directory after its whiteout hides the lower one")
is_(open(where + "/file").read(), "again", "a file after its whiteout")
ok(opaque(where + "/had") and os.listdir(where + "/had") == ["x"], "a whiteout after its directory")
ok(opaque(where + "/c/d") and oct(os.lstat(where + "/c/d").st_mode) == "0o40711", "a directory entry after its whiteout")
ok(not [n for n in os.listdir(where) if n.startswith(".wh.")], "nothing of aufs is left")

# --- the same name twice
where, = unpack(tar(
    entry("f", data=b"1", mode=0o600), entry("f", data=b"two", mode=0o640), entry("d", DIR, mode=0o700), entry("d/x", data=b"x"),
    entry("d", DIR, mode=0o755), entry("tree", DIR), entry("tree/a/b/c", data=b"c"), entry("tree", data=b"now a file"),
    entry("was", data=b"file"), entry("was", DIR), entry("was/in", data=b"i"), entry("l", SYM, linkname="d"), entry("l", DIR),
    entry("l/y", data=b"y"), entry("h", HARD, linkname="f"), entry("h", HARD, linkname="f"), entry("f", HARD, linkname="f"),
    entry("s", data=b"old"), entry("s", SYM, linkname="f"), entry("s", data=b"new")))
is_((open(where + "/f").read(), oct(os.lstat(where + "/f").st_mode)), ("two", "0o100640"), "the later file wins")
is_((oct(os.lstat(where + "/d").st_mode), os.listdir(where + "/d")), ("0o40755", ["x"]), "a directory twice keeps its files")
is_(open(where + "/tree").read(), "now a file", "a file instead of a tree")
is_(os.listdir(where + "/was"), ["in"], "a directory instead of a file")
ok(not os.path.islink(where + "/l") and os.listdir(where + "/l") == ["y"], "a directory instead of a link to one")
is_(open(where + "/s").read(), "new", "a file instead of a link to another: the other stays")
is_(os.lstat(where + "/h").st_ino, os.lstat(where + "/f").st_ino, "hard links to themselves")

# --- directories without an entry
low, mid, top = unpack(
    tar(entry("./", DIR, mode=0o711, uid=3), entry("tmp", DIR, mode=0o1777, mtime=1234567890), entry("home/u", DIR, mode=0o700, uid=1000, gid=1000),
        entry("opt", DIR, mode=0o750, pax_headers={"SCHILY.xattr.user.k": "v"}), entry("gone", DIR, mode=0o700), entry("x/y", DIR, mode=0o701)),
    tar(entry("etc/e", data=b"e"), entry(".wh.gone"), entry("x/.wh..wh..opq")),
    tar(entry("tmp/t", data=b"t"), entry("home/u/f", data=b"f"), entry("opt/o", data=b"o"), entry("gone/g", data=b"g"), entry("new/n", data=b"n"),
        entry("x/y/z", data=b"z")))
st = os.lstat(top + "/tmp")
is_((oct(st.st_mode), st.st_mtime), ("0o41777", 1234567890.0), "/tmp without an entry stays sticky")
st = os.lstat(top + "/home/u")
is_((oct(st.st_mode), st.st_uid, st.st_gid), ("0o40700", 1000, 1000), "a home stays its owner's")
is_((oct(os.lstat(top + "/opt").st_mode), xattrs(top + "/opt")), ("0o40750", {"user.k": b"v"}), "xattrs too")
is_(oct(os.lstat(top + "/gone").st_mode), "0o40755", "not those of a directory that a layer between removed")
is_(oct(os.lstat(top + "/x/y").st_mode), "0o40755", "nor of one behind an opaque directory")
is_(oct(os.lstat(top + "/new").st_mode), "0o40755", "a new one is 0755")
is_([(oct(os.lstat(p).st_mode), os.lstat(p).st_uid) for p in (mid, top)], [("0o40711", 3)] * 2, "the root too")

# --- directories without an entry that are links below
low, top = unpack(
    tar(entry("usr/lib", DIR, mode=0o751), entry("usr/lib/old", data=b"o"), entry("lib", SYM, linkname="usr/lib"), entry("lib64", SYM, linkname="/lib"),
        entry("var/run", SYM, linkname="../run"), entry("dangling", SYM, linkname="not/there"), entry("self", SYM, linkname="self"),
        entry("explicit", SYM, linkname="usr"), entry("out", SYM, linkname="../../../etc")),
    tar(entry("lib/so/deep/x", data=b"x"), entry("usr/lib/so/y", data=b"y", mtime=5), entry("lib64/z", data=b"z"), entry("var/run/pid", data=b"p"),
        entry("dangling/d", data=b"d"), entry("self/s", data=b"s"), entry("explicit", DIR), entry("explicit/e", data=b"e"), entry("out/o", data=b"o")))
is_(sorted(os.listdir(top + "/usr/lib") + os.listdir(top + "/usr/lib/so")), ["deep", "so", "y", "z"], "what was meant for lib is in usr/lib")
is_(oct(os.lstat(top + "/usr/lib").st_mode), "0o40751", "which looks as below")
is_(sorted(os.listdir(top)), ["etc", "explicit", "not", "run", "self", "usr", "var"], "nothing hides the links; what has an entry stays")
is_((os.listdir(top + "/run"), os.listdir(top + "/var"), os.listdir(top + "/not/there"), os.listdir(top + "/etc")), (["pid"], [], ["d"], ["o"]),
    "relative links, dangling ones, and those that lead out")

# --- along symbolic links, but never out
secret = tempfile.mkdtemp(prefix="cricket-secret-")
with open(secret + "/file", "w") as f:
    f.write("untouched")
where, = unpack(tar(
    entry("usr/lib", DIR), entry("lib", SYM, linkname="usr/lib"), entry("lib/so", data=b"so"), entry("abs", SYM, linkname="/usr"),
    entry("abs/share/s", data=b"s"), entry("late", SYM, linkname="not/yet"), entry("late/x", data=b"x"),
    entry("up", SYM, linkname="../../../../usr/up"), entry("up/u", data=b"u"), entry("esc", SYM, linkname=secret),
    entry("esc/file", data=b"changed"), entry("esc2", SYM, linkname="../" * 20 + secret[1:]), entry("esc2/file2", data=b"made"),
    entry("hl", HARD, linkname="lib/so")))
ok(os.path.exists(where + "/usr/lib/so") and os.path.islink(where + "/lib"), "a parent that is a link is followed")
ok(os.path.exists(where + "/usr/share/s"), "an absolute one within the layer")
ok(os.path.exists(where + "/not/yet/x"), "what it leads to is made")
ok(os.path.exists(where + "/usr/up/u"), ".. stops at the root")
is_((open(secret + "/file").read(), os.listdir(secret)), ("untouched", ["file"]), "nothing outside is touched")
is_(open(where + secret + "/file").read(), "changed", "it landed in the layer")

refused("leads out of the layer", "..", entry("../evil", data=b"x"))
refused("leads out of the layer", "a/../../evil", entry("a/../../evil", data=b"x"))
refused("leads out of the layer", "a whiteout with ..", entry("../.wh.evil"))
refused("leads out of the layer", "a hard link with ..", entry("h", HARD, linkname="../../etc/passwd"))
refused("which this layer does not have", "a hard link to a host file", entry("h", HARD, linkname="/etc/hostname"))
refused("which this layer does not have", "a hard link through a link out", entry("l", SYM, linkname=secret), entry("h", HARD, linkname="l/file"))
refused("hard link to the root", "a hard link to /", entry("h", HARD, linkname="/"))
refused("whiteout of nothing", "a whiteout of nothing", entry("a/.wh."))
refused("whiteout of nothing", "a whiteout of ..", entry("a/.wh..."))
refused("Too many levels of symbolic links", "a loop of links", entry("a", SYM, linkname="b"), entry("b", SYM, linkname="a"), entry("a/x", data=b"x"))
refused("Not a directory", "a file as parent", entry("f", data=b"x"), entry("f/x", data=b"x"))
refused("too long", "a path over PATH_MAX", entry("/".join(["d" * 200] * 25), data=b"x"))
refused("too long", "a name over NAME_MAX", entry("n" * 300, data=b"x"))
refused("owner", "an owner that is none", entry("f", data=b"x", uid=1 << 40))
refused("root is no directory", "a root that is a file", entry(".", data=b"x"))
where, = unpack(tar(entry("f", data=b"x", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.trusted.overlay.opaque": "y",
                                                       "SCHILY.xattr.user.overlay.metacopy": "", "SCHILY.xattr.user.ok": "1"})))
is_(list(xattrs(where + "/f")), ["user.ok"], "overlayfs's own xattrs are not the layer's to set")

# --- archives that are cut, padded, or too much
good = tar(entry("f", data=b"x" * 3000)).bytes()
for cut in (100, 512, 600, 1500, 3000):
    like(d.fails(put(Layer(good[:cut]))) or "(unpacked)", "'f'|tar:" if cut != 512 else "'f'|tar", "cut after %d bytes" % cut)
where, = unpack(Layer(good[:512 + 3072]))
is_(os.listdir(where), ["f"], "no end mark: everything is there")
where, = unpack(Layer(b""))
is_(os.listdir(where), [], "an empty blob")
where, = unpack(Layer(b"\0" * 1024))
is_(os.listdir(where), [], "an empty archive")
where, = unpack(Layer(good + b"\0" * 100000))
is_(os.listdir(where), ["f"], "padding behind it belongs to the diff id")
like(d.fails(put(Layer(good + b"\0" * (17 << 20)))), "more than 16 MiB behind the end", "but not without end")
like(d.fails(put(Layer(b"MZ" + b"\x90" * 2000))), "tar", "not an archive")
where, = unpack(Layer(tar(entry("a", data=b"1")).bytes()))
layer = tar(entry("multi", data=b"m" * 100000))
raw = layer.bytes()
for name, blob in (("gzip members", gzip.compress(raw[:5000]) + gzip.compress(raw[5000:5001]) + gzip.compress(raw[5001:])),
                   ("gzip and zero bytes", gzip.compress(raw) + b"\0" * 512),
                   ("zstd frames", b"".join(subprocess.run(["zstd", "-qc"], input=p, stdout=subprocess.PIPE, check=True).stdout
                                            for p in (raw[:5000], raw[5000:]))),
                   ("a zstd skippable frame first", b"\x50\x2a\x4d\x18\x04\0\0\0abcd" +
                    subprocess.run(["zstd", "-qc"], input=raw, stdout=subprocess.PIPE, check=True).stdout)):
    image = with_descriptors(Image([layer], {"Cmd": [name]}), lambda m, b=blob: m["layers"][0].update(digest=digest(b), size=len(b)))
    image.blobs[0] = blob
    other = Drive()
    r = other.pull(reg.put(image, "comp/" + name.replace(" ", "-").lower()))
    is_(os.path.getsize(other.layer(r["layers"][0]["number"]) + "/multi"), 100000, name)
    other.close()

# --- a full disk: says so, leaves nothing, harms nobody
full = tempfile.mkdtemp(prefix="cricket-full-")
if libc.mount(b"tmpfs", full.encode(), b"tmpfs", 0, b"size=24m,mode=755") != 0:
    skip("cannot mount a tmpfs", 5)
else:
    try:
        e = Drive(root=full)
        bomb = Layer(tar(entry("zeros", data=b"\0" * (200 << 20))).bytes())
        ref = put(bomb)
        like(e.fails(ref), "No space left on device", "a bomb of 200 MiB in 200 kB: no space")
        is_(e.last.code, errno.ENOSPC, "as ENOSPC")
        ok(os.statvfs(full).f_bavail > 0, "the reserve was not touched")
        while os.listdir(full + "/l"):
            os.sched_yield()
        is_(os.listdir(full + "/l"), [], "nothing is left of it")
        ok(e.pull(put(tar(entry("small", data=b"s")))), "a small image fits afterwards")
        many = tar(*[entry("i%d" % i) for i in range(20000)])
        like(e.fails(put(many)) if os.statvfs(full).f_ffree < 19000 else "No space", "No space|no inodes", "nor are inodes")
        ok(e.close(), "the driver ends well")
    finally:
        libc.umount2(full.encode(), 2)
os.rmdir(full)

# --- the same bytes from tar(1), compared as a whole
with tempfile.TemporaryDirectory() as tmp:
    data = subprocess.run(["tar", "-C", "/usr/share", "--xattrs", "-cf", "-", "perl5", "keyrings"], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=False).stdout
    if len(data) > 20000:
        where, = unpack(Layer(data))
        subprocess.run(["tar", "-C", tmp, "--same-owner", "-xpf", "-"], input=data, check=True)
        a, b = ([subprocess.run("find . -printf '%p %y %m %U %G %s %l %T@\\n' | grep -v '^\\. ' | sed 's/ d \\([0-9]*\\) \\([0-9]*\\) \\([0-9]*\\) [0-9]* / d \\1 \\2 \\3 0 /' | sort; "
                                "find . -type f -exec sha256sum {} + | sort", shell=True, cwd=p, stdout=subprocess.PIPE, check=True).stdout] for p in (where, tmp))
        ok(a == b, "a big tree is what tar(1) makes of it")
    else:
        skip("nothing to compare with here")

for name in os.listdir(secret):
    os.unlink(secret + "/" + name)
os.rmdir(secret)
ok(d.close(), "the driver ends well")
reg.close()
done_testing()
