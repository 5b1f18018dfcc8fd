#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Credentials and TLS, against Debian's docker-registry: its own CA, htpasswd, a token server; and who gets to see what."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import base64  # noqa: E402
import http.client  # noqa: E402
import http.server  # noqa: E402
import json  # noqa: E402
import shutil  # noqa: E402
import ssl  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
import urllib.parse  # noqa: E402

from cricket import DockerRegistry, HostNet, done_testing, is_, like, need, ok  # noqa: E402
from images import Image, Layer, Registry  # noqa: E402
from pulling import Answer, Drive, FakeRegistry  # noqa: E402

need("root", "docker-registry", "openssl", "htpasswd")
tmp = tempfile.mkdtemp(prefix="cricket-auth-")
serial = 0


def sh(*argv, data=None):
    return subprocess.run(argv, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, cwd=tmp).stdout


def image():
    global serial
    serial += 1
    return Image([Layer().file("f", "x%d" % serial)], {"Cmd": [str(serial)]})


def b64(data, url=False):
    text = base64.urlsafe_b64encode(data).rstrip(b"=") if url else base64.b64encode(data)
    return text.decode()


def basic(user, password):
    return "Basic " + b64(("%s:%s" % (user, password)).encode())


def registry(name, **more):
    """A docker-registry with more configuration."""
    original = json.dump

    def dump(doc, f):
        doc["log"]["accesslog"]["disabled"] = True
        for key, value in more.items():
            doc[key] = dict(doc.get(key, {}), **value)
        original(doc, f)
    json.dump = dump
    try:
        return DockerRegistry(HostNet(), tmp + "/" + name)
    finally:
        json.dump = original


# a CA, a certificate for 127.0.0.1, a key that signs tokens
sh("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA")
sh("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "srv.key", "-out", "srv.csr", "-subj", "/CN=127.0.0.1")
with open(tmp + "/ext", "w") as f:
    f.write("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
sh("openssl", "x509", "-req", "-in", "srv.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "srv.pem", "-days", "2", "-extfile", "ext")
sh("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "sign.key", "-out", "sign.pem", "-days", "2", "-subj", "/CN=tokens")

# --- TLS
tls = registry("tls", http={"tls": {"certificate": tmp + "/srv.pem", "key": tmp + "/srv.key"}})
context = ssl.create_default_context(cafile=tmp + "/ca.pem")
client = Registry(tls.host, connect=lambda: http.client.HTTPSConnection(tls.host, context=context))
img = image()
client.push(img, "a/b", "1")
d = Drive("--config", tls.host + "#ca_file=" + tmp + "/ca.pem")
is_(d.pull(tls.host + "/a/b:1")["image_id"], img.id, "TLS with a CA of its own")
d.close()
d = Drive("--config", tls.host + "#insecure=yes")
ok(d.pull(tls.host + "/a/b:1"), "TLS unverified, as configured")
d.close()
d = Drive("--config", tls.host + "#ca_file=" + tmp + "/sign.pem")
like(d.fails(tls.host + "/a/b:1"), "certificate", "another CA: refused")
d.close()
d = Drive("--config", tls.host + "#ca_file=/nonexistent")
like(d.fails(tls.host + "/a/b:1"), "/nonexistent|certificate", "a CA file that is not there")
d.close()
d = Drive("--mirror", "reg.example=https://" + tls.host, "--config", tls.host + "#ca_file=" + tmp + "/ca.pem")
ok(d.pull("reg.example/a/b:1"), "a mirror over TLS")
like(d.fails(tls.host.replace("127.0.0.1", "localhost") + "/a/b:1"), "400|HTTP", "plain HTTP to it is an error")
d.close()

d = Drive("--mirror", "reg.example=https://" + tls.host)
like(d.fails("reg.example/a/b:1"), "certificate", "a CA that the system does not know")
d.close()
os.mkdir(tmp + "/certs")
name = sh("openssl", "x509", "-in", "ca.pem", "-noout", "-subject_hash").decode().strip() + ".0"
shutil.copy(tmp + "/ca.pem", tmp + "/certs/" + name)
d = Drive("--mirror", "reg.example=https://" + tls.host, limits=("unshare", "--mount", "--", "sh", "-c",
                                                                "mount --bind %s/certs /etc/ssl/certs && exec \"$@\"" % tmp, "sh"))
ok(d.pull("reg.example/a/b:1"), "one that it knows")
d.close()

# --- Basic
with open(tmp + "/passwd", "wb") as f:
    f.write(sh("htpasswd", "-Bbn", "alice", "s3cret:x"))
reg = registry("basic", auth={"htpasswd": {"realm": "test", "path": tmp + "/passwd"}})
img = image()
Registry(reg.host, auth=basic("alice", "s3cret:x")).push(img, "p/q", "1")
ref = reg.host + "/p/q:1"
d = Drive()
like(d.fails(ref), "authorization failed", "no credentials")
like(d.fails(ref, user="alice", password="wrong"), "authorization failed", "a wrong password")
ok("wrong" not in d.stderr() and "wrong" not in d.last.text, "which is in no message")
is_(d.pull(ref, user="alice", password="s3cret:x")["image_id"], img.id, "user and password")
like(d.fails(ref), "authorization failed", "the next pull without them is refused: they were his")
ok(d.pull(ref, auth=b64(b"alice:s3cret:x")), "auth: both in base64")
ok(d.pull(ref, user="alice", password="s3cret:x", server_address=reg.host), "server_address is this registry")
ok(d.pull(ref, user="alice", password="s3cret:x", server_address="http://%s/v2/" % reg.host), "as a URL too")
like(d.fails(ref, user="alice", password="s3cret:x", server_address="other.example"), "authorization failed", "another server_address: not used")
like(d.fails(ref, auth="!!"), "auth: not base64", "auth that is none")
is_(d.last.grpc, 3, "is InvalidArgument")
ok("s3cret" not in d.stderr(), "the password is not logged")
d.close()
d = Drive("--config", reg.host + "#username=alice", "--config", reg.host + "#password=s3cret:x")
ok(d.pull(ref), "credentials of the configuration")
like(d.fails(ref, user="alice", password="wrong"), "authorization failed", "those of the request come first")
d.close()
d = Drive("--mirror", "reg.example=http://" + reg.host, "--config", reg.host + "#username=alice", "--config", reg.host + "#password=s3cret:x")
ok(d.pull("reg.example/p/q:1", user="bob", password="for-the-origin"), "a mirror gets its own credentials, not the request's")
d.close()


# --- tokens
class Tokens:
    """A token server. `post`: what a POST is answered with, None for a token."""

    def __init__(self):
        self.log, self.post, self.life, self.lies = [], 405, 60, {}
        tokens = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(self, status, doc):
                body = json.dumps(doc).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                query = urllib.parse.parse_qs(self.path.partition("?")[2])
                auth = self.headers.get("Authorization")
                tokens.log.append(("GET", query, auth))
                if auth not in (None, basic("alice", "s3cret:x")):
                    return self.answer(401, {"details": "incorrect username or password"})
                return self.grant(query, "token", auth is not None)

            def do_POST(self):
                form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                tokens.log.append(("POST", form, None))
                if tokens.post:
                    return self.answer(tokens.post, {})
                good = (form.get("password") == ["s3cret:x"] and form["grant_type"] == ["password"]) or \
                    (form.get("refresh_token") == ["refresh-me"] and form["grant_type"] == ["refresh_token"])
                return self.grant(form, "access_token", True) if good else self.answer(401, {})

            def grant(self, query, key, known):
                access = []
                for scope in query.get("scope", []):
                    kind, name, actions = scope.split(":")
                    if known or name.startswith("public/"):
                        access.append({"type": kind, "name": name, "actions": actions.split(",")})
                self.answer(200, dict({key: tokens.make(access, query["service"][0]), "expires_in": tokens.life}, **tokens.lies))

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = "http://127.0.0.1:%d/token" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def make(access, service="test-service"):
        der = sh("openssl", "x509", "-in", "sign.pem", "-outform", "DER")
        head = {"typ": "JWT", "alg": "RS256", "x5c": [b64(der)]}
        now = int(time.time())
        claims = {"iss": "test-issuer", "sub": "alice", "aud": service, "exp": now + 300, "nbf": now - 10, "iat": now - 10,
                  "jti": "1", "access": access}
        part = b64(json.dumps(head).encode(), True) + "." + b64(json.dumps(claims).encode(), True)
        return part + "." + b64(sh("openssl", "dgst", "-sha256", "-sign", "sign.key", data=part.encode()), True)


tokens = Tokens()
reg2 = registry("token", auth={"token": {"realm": tokens.url, "service": "test-service", "issuer": "test-issuer",
                                         "rootcertbundle": tmp + "/sign.pem"}})


def push(repo):
    img = image()
    token = Tokens.make([{"type": "repository", "name": repo, "actions": ["pull", "push"]}])
    Registry(reg2.host, auth="Bearer " + token).push(img, repo, "1")
    return "%s/%s:1" % (reg2.host, repo)


public, private = push("public/x"), push("private/x")
d = Drive()
ok(d.pull(public), "a token for nobody in particular")
is_(tokens.log, [("GET", {"service": ["test-service"], "scope": ["repository:public/x:pull"]}, None)],
    "one request, by GET, for this scope; the blobs used the same token")
like(d.fails(private), "authorization failed", "which is not enough for a private image")
del tokens.log[:]
ok(d.pull(private, user="alice", password="s3cret:x"), "with user and password")
is_([x[0] for x in tokens.log], ["POST", "GET"], "asked by POST, and by GET where the server has no POST")
form = tokens.log[0][1]
is_((form["grant_type"], form["username"], form["password"], form["scope"], form["client_id"]),
    (["password"], ["alice"], ["s3cret:x"], ["repository:private/x:pull"], ["cricket"]), "the form of oauth2")
del tokens.log[:]
ok(d.pull(private, user="alice", password="s3cret:x") and not tokens.log, "the token is kept")
like(d.fails(private), "authorization failed", "for those who have the same credentials")
like(d.fails(private, user="alice", password="no"), "authorization failed: token server .* says 401", "a wrong password")
tokens.post = None
del tokens.log[:]
more = push("private/y")
ok(d.pull(more, user="alice", password="s3cret:x"), "a server that knows POST")
is_([x[0] for x in tokens.log], ["POST"], "is asked once")
ok(d.pull(push("private/z"), identity_token="refresh-me"), "an identity token is a refresh token")
like(d.fails(push("private/w"), identity_token="stale"), "authorization failed", "a bad one")
token = Tokens.make([{"type": "repository", "name": "private/v", "actions": ["pull"]}])
del tokens.log[:]
ok(d.pull(push("private/v"), registry_token=token) and not tokens.log, "a registry token is sent as it is")
like(d.fails(push("private/u"), registry_token=token), "authorization failed", "one for another repository")
tokens.life = 1
del tokens.log[:]
short = push("private/short")
ok(d.pull(short, user="alice", password="s3cret:x") and d.pull(short, user="alice", password="s3cret:x"), "tokens that end at once")
ok(len(tokens.log) >= 2, "are fetched again")
tokens.life = 60
for lie, pattern in (({"access_token": ""}, "no token in its reply"), ({"access_token": "a\r\nX-Evil: 1"}, "no token in its reply"),
                     ({"access_token": 7}, "no token in its reply")):
    tokens.lies = lie
    like(d.fails(push("private/lie%d" % serial), user="alice", password="s3cret:x"), pattern, "a token server that answers %r" % lie)
tokens.lies = {}
log = d.stderr()
ok("s3cret" not in log and "refresh-me" not in log and token not in log, "nothing secret is logged")
d.close()

# --- a token that runs out in the middle of a pull
fake, store = FakeRegistry(), FakeRegistry()
img = image()
ref = fake.put(img, "exp/x", "1")
state = {"n": 0, "good": "one to come"}


def guard(q):
    if q.path == "/auth":
        state["n"] += 1
        state["good"] = "Bearer t%d" % state["n"]
        return Answer(200, {}, json.dumps({"token": "t%d" % state["n"], "expires_in": 3600}).encode())
    if q.auth != state["good"]:
        return Answer(401, {"WWW-Authenticate": 'Bearer realm="http://%s/auth",service="s",error="invalid_token"' % fake.host})
    if "/blobs/" in q.path and state["n"] == 1:
        state["good"] = "another"                      # it has expired now
        return Answer(401, {"WWW-Authenticate": 'Bearer realm="http://%s/auth",service="s",error="invalid_token"' % fake.host})
    return None


fake.rule(guard)
d = Drive()
ok(d.pull(ref), "a token that runs out in the middle of a pull")
is_(state["n"], 2, "is fetched once more")

# --- who gets to see the credentials
img = image()
ref = fake.put(img, "redir/x", "1")
layer = "/v2/redir/x/blobs/" + [k for k, v in fake.blobs.items() if v == img.blobs[0]][0]
store.blobs[layer.rsplit("/", 1)[1]] = img.blobs[0]
fake.always.clear()
fake.rule(lambda q: Answer(401, {"WWW-Authenticate": 'Basic realm="x"'}) if not q.auth else None)
fake.rule(lambda q: Answer(307, {"Location": "http://%s%s" % (store.host, layer)}) if q.path == layer else None)
ok(d.pull(ref, user="alice", password="s3cret:x"), "a redirect to another host")
is_([q.auth for q in store.requests()], [None], "goes without the header")
fake.always.clear()
fake.rule(lambda q: Answer(401, {"WWW-Authenticate": "Negotiate"}))
like(d.fails(ref), "neither Basic nor Bearer", "a scheme that nobody knows")
fake.always.clear()
fake.rule(lambda q: Answer(401, {"WWW-Authenticate": 'Bearer realm="file:///etc/passwd"'}))
like(d.fails(ref, user="alice", password="x"), "no usable token server", "a realm that is a file")
fake.always.clear()
fake.rule(lambda q: Answer(401, {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:1/token"'}))
like(d.fails(ref, user="alice", password="x"), "^RegistryUnavailable: .*token server", "a token server that is not there")
secure = FakeRegistry(tls=(tmp + "/srv.pem", tmp + "/srv.key"))
secure.rule(lambda q: Answer(401, {"WWW-Authenticate": 'Bearer realm="%s"' % tokens.url}))
s = Drive("--config", secure.host + "#ca_file=" + tmp + "/ca.pem")
del tokens.log[:]
like(s.fails(secure.host + "/x", user="alice", password="s3cret:x"), "credentials sent over plain HTTP", "a TLS registry with a plain token server")
is_(tokens.log, [], "does not get the password sent there")
secure.always.clear()
ref = secure.put(image(), "down", "1")
secure.rule(lambda q: Answer(302, {"Location": "http://%s%s" % (store.host, q.path)}) if "/manifests/" in q.path else None)
like(s.fails(ref), "redirects from https to http", "a manifest does not come from TLS by plain HTTP")
ok(s.close() and d.close(), "the drivers end well")
for r in (tls, reg, reg2):
    r.stop()
for r in (fake, store, secure):
    r.close()
tokens.server.shutdown()
tokens.server.server_close()
shutil.rmtree(tmp)
done_testing()
