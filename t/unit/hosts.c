/* SPDX-License-Identifier: Apache-2.0 */
#include "tap.h"

#include "mem.h"
#include "pull/auth.h"
#include "pull/hosts.h"

static struct endpoint *e;
static size_t n;

static void ask(const struct hosts *h, const char *domain)
{
    struct err err = ERR_INIT;

    e = endpoints_free(e, n);
    n = 0;
    ok(hosts_endpoints(h, domain, "a/b", &e, &n, &err) == 0, "%s has endpoints %s", domain,
       err.text);
}

static void test_origins(void)
{
    static const struct {
        const char *domain, *base;
    } cases[] = {
        { "docker.io", "https://registry-1.docker.io/v2" },
        { "quay.io", "https://quay.io/v2" },
        { "reg.example:5000", "https://reg.example:5000/v2" },
        { "localhost:5000", "http://localhost:5000/v2" },
        { "127.0.0.1:5000", "http://127.0.0.1:5000/v2" },
        { "127.8.8.8", "http://127.8.8.8/v2" },
        { "[::1]:5000", "http://[::1]:5000/v2" },
        { "127.example.com", "https://127.example.com/v2" },
        { "localhost.example", "https://localhost.example/v2" },
        { "[::1:2]:5000", "https://[::1:2]:5000/v2" },
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ask(NULL, cases[i].domain);
        ok(n == 1, "one endpoint");
        is_str(e[0].base, cases[i].base, "origin");
        ok(!e[0].ns && !e[0].config, "the origin itself, nothing configured");
    }
}

static void test_mirrors(void)
{
    char *const hub[] = { (char[]){ "https://mirror.example" },
                          (char[]){ "http://127.0.0.1:5000/" },
                          (char[]){ "https://proxy.example/v2/hub/" }, NULL };
    char *const any[] = { (char[]){ "10.0.0.1:5000" }, (char[]){ "localhost:5001" }, NULL };
    char *const self[] = { (char[]){ "https://quay.io" }, (char[]){ "http://other:1" }, NULL };
    char *const wrong[] = { (char[]){ "ftp://x" }, NULL };
    char *const rules[] = { (char[]){ "^x/(.*)$" }, (char[]){ "y/$1" }, (char[]){ "^(a)/(.*)$" },
                            (char[]){ "hub/$2-$1" }, (char[]){ "b" }, (char[]){ "c" }, NULL };
    char *const spoil[] = { (char[]){ "/" }, (char[]){ "//" }, NULL };
    const struct hosts_mirror m[] = {
        { "*", any, NULL },      { "docker.io", hub, NULL },   { "quay.io", self, NULL },
        { "bad.x", wrong, NULL }, { "ghcr.io", self, rules }, { "spoilt", any, spoil },
        { "localhost:5001", any, rules },
    };
    const struct hosts_config c[] = { { .host = "registry-1.docker.io", .username = "u" },
                                      { .host = "https://mirror.example", .ca_file = "/ca" },
                                      { .host = "127.0.0.1:7", .ca_file = "/ca" } };
    const struct hosts h = { m, ARRAY_LEN(m), c, ARRAY_LEN(c) };
    struct err err = ERR_INIT;

    ask(&h, "docker.io");
    ok(n == 4, "three mirrors and the origin: %zu", n);
    is_str(e[0].base, "https://mirror.example/v2", "first mirror");
    is_str(e[0].ns, "docker.io", "is told which registry is meant");
    ok(e[0].config == &c[1] && e[0].tls, "its configuration is found by URL");
    is_str(e[1].base, "http://127.0.0.1:5000/v2", "second mirror");
    ok(!e[1].tls, "speaks plain HTTP");
    is_str(e[2].base, "https://proxy.example/v2/hub", "a path stays");
    is_str(e[3].base, "https://registry-1.docker.io/v2", "the origin is last");
    ok(!e[3].ns && e[3].config == &c[0], "with its configuration");
    ask(&h, "gcr.io");
    ok(n == 3, "others use what * says: %zu", n);
    is_str(e[0].base, "https://10.0.0.1:5000/v2", "no scheme: https");
    is_str(e[1].base, "http://localhost:5001/v2", "but http on loopback");
    ask(&h, "quay.io");
    ok(n == 2, "an origin among its mirrors is there once");
    is_str(e[0].base, "https://quay.io/v2", "where it was listed");
    ok(!e[0].ns, "and is the origin");
    is_str(e[0].path, "a/b", "with the repository's own name");
    ask(&h, "ghcr.io");
    ok(n == 3, "two mirrors that rewrite, and the origin: %zu", n);
    is_str(e[1].path, "hub/b-a", "the first rule that matches");
    is_str(e[2].path, "a/b", "but not for the origin");
    ask(&h, "localhost:5001");
    ok(n == 3 && strcmp(e[1].base, e[2].base) == 0, "an origin listed among its mirrors: %zu", n);
    is_str(e[1].path, "hub/b-a", "is asked for their name");
    is_str(e[2].path, "a/b", "and then for its own");
    ok(hosts_endpoints(&h, "spoilt", "a/b", &e, &n, &err) < 0 &&
           strstr(err.text, "'a/b' rewritten is 'a//b', no repository"),
       "a rewritten name that is none: %s", err.text);
    ask(&h, "127.0.0.1:7");
    ok(e[n - 1].tls, "a loopback registry with TLS configured speaks TLS");
    ok(hosts_endpoints(&h, "bad.x", "a", &e, &n, &err) < 0 && strstr(err.text, "ftp://x"),
       "not http: an error names it");
}

static void test_challenges(void)
{
    struct challenge c = { 0 };

    challenge_add(
        &c,
        "Bearer realm=\"https://auth.x/token\",service=\"reg \\\"x\\\"\", scope=\"repository:a/b:pull,push\"");
    ok(c.bearer && !c.basic, "bearer");
    is_str(c.realm, "https://auth.x/token", "realm");
    is_str(c.service, "reg \"x\"", "service, quoted");
    is_str(c.scope, "repository:a/b:pull,push", "scope, with a comma");
    challenge_deinit(&c);
    challenge_add(&c, "basic realm=\"x\", bearer realm=https://t.x, error = \"invalid_token\"");
    ok(c.bearer && c.basic && c.stale, "two schemes in one header, any case, spaces");
    is_str(c.realm, "https://t.x", "the realm of bearer, unquoted");
    challenge_deinit(&c);
    challenge_add(&c, "Negotiate");
    challenge_add(&c, "Basic");
    ok(c.basic && !c.bearer, "several headers");
    challenge_deinit(&c);
    static const char *const odd[] = { "",
                                       ",",
                                       "=",
                                       "\"",
                                       "Bearer realm=\"unterminated",
                                       "Bearer ,,, realm",
                                       "Bearer =x",
                                       "\xff\xfe",
                                       "Bearer realm=\"\\" };

    for (size_t i = 0; i < ARRAY_LEN(odd); i++) {
        challenge_add(&c, odd[i]);
        challenge_deinit(&c);
    }
    ok(1, "odd ones do no harm");
}

static void test_creds(void)
{
    struct creds c;
    struct err err = ERR_INIT;

    ok(creds_set(&c, NULL, NULL, "dXNlcjpwYTpzcw==", NULL, NULL, &err) == 0, "auth is decoded");
    is_str(c.user, "user", "user");
    is_str(c.password, "pa:ss", "password, with a colon");
    creds_deinit(&c);
    ok(creds_set(&c, NULL, NULL, "dXNlcjpwYTpzcw", NULL, NULL, &err) == 0, "without padding");
    is_str(c.password, "pa:ss", "the same");
    creds_deinit(&c);
    ok(creds_set(&c, "u", NULL, "!!", NULL, NULL, &err) == 0, "a user name wins over auth");
    is_str(c.password, "", "no password is an empty one");
    creds_deinit(&c);
    static const char *const bad[] = { "!!!!", "dXNlcg==", "OnB3", "=", "====" };

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        ok(creds_set(&c, NULL, NULL, bad[i], NULL, NULL, &err) < 0, "'%s' is refused", bad[i]);
        ok(!strstr(err.text, bad[i]), "and not shown");
    }
    ok(creds_set(&c, "", "", "", "", "", &err) == 0 && creds_empty(&c), "nothing is anonymous");
    creds_deinit(&c);
}

int main(void)
{
    test_origins();
    test_mirrors();
    test_challenges();
    test_creds();
    e = endpoints_free(e, n);
    return done_testing();
}
