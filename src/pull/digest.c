/* SPDX-License-Identifier: Apache-2.0 */
/* Digests of what is small enough for the daemon (manifests, configs), by libcrypto. Layers are
 * hashed by the worker. */
#include "pull/digest.h"

#include "mem.h"
#include "str.h"

#include <assert.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

static const struct algo {
    const char *prefix;
    size_t hex;
    const EVP_MD *(*md)(void);
} algos[] = {
    { "sha256:", 64, EVP_sha256 },
    { "sha384:", 96, EVP_sha384 },
    { "sha512:", 128, EVP_sha512 },
};

struct digest {
    const struct algo *algo;
    EVP_MD_CTX *ctx;
};

static const struct algo *find(const char *s)
{
    for (size_t i = 0; i < ARRAY_LEN(algos); i++)
        if (str_starts(s, algos[i].prefix))
            return &algos[i];
    return NULL;
}

bool digest_valid(const char *s)
{
    const struct algo *a = s ? find(s) : NULL;

    if (!a)
        return false;
    s += strlen(a->prefix);
    return strlen(s) == a->hex && strspn(s, "0123456789abcdef") == a->hex;
}

struct digest *digest_new(const char *like)
{
    const struct algo *a = find(like);
    struct digest *d;

    if (!a)
        return NULL;
    d = mem_new(struct digest);
    d->algo = a;
    d->ctx = EVP_MD_CTX_new();
    if (!d->ctx || EVP_DigestInit_ex(d->ctx, a->md(), NULL) != 1)
        abort();                     /* libcrypto without SHA-2, or no memory */
    return d;
}

struct digest *digest_free(struct digest *d)
{
    if (d)
        EVP_MD_CTX_free(d->ctx);
    free(d);
    return NULL;
}

void digest_add(struct digest *d, const void *p, size_t n)
{
    int r = EVP_DigestUpdate(d->ctx, p, n);

    assert(r == 1);
    (void)r;
}

void digest_end(struct digest *d, char out[DIGEST_MAX])
{
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    size_t n = strlen(d->algo->prefix);
    int r = EVP_DigestFinal_ex(d->ctx, md, &len);

    assert(r == 1 && len * 2 == d->algo->hex);
    (void)r;
    memcpy(out, d->algo->prefix, n);
    for (unsigned i = 0; i < len; i++)
        snprintf(out + n + 2 * i, 3, "%02x", md[i]);
}

void digest_of(const void *p, size_t n, char out[DIGEST_MAX])
{
    struct digest *d = digest_new("sha256:");

    digest_add(d, p, n);
    digest_end(d, out);
    digest_free(d);
}
