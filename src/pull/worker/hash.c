/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-2 by libcrypto, as digests are written: "sha256:<hex>". */
#include "mem.h"
#include "pull/worker/unpack.h"
#include "str.h"

#include <assert.h>
#include <openssl/evp.h>
#include <string.h>

struct hash {
    EVP_MD_CTX *ctx;
    const char *prefix;
};

struct hash *hash_new(const char *like)
{
    static const struct {
        const char *prefix;
        const EVP_MD *(*md)(void);
    } algos[] = { { "sha256:", EVP_sha256 }, { "sha384:", EVP_sha384 }, { "sha512:", EVP_sha512 } };

    for (size_t i = 0; i < ARRAY_LEN(algos); i++) {
        struct hash *h;

        if (!str_starts(like, algos[i].prefix))
            continue;
        h = mem_new(struct hash);
        h->prefix = algos[i].prefix;
        h->ctx = EVP_MD_CTX_new();
        if (!h->ctx || EVP_DigestInit_ex(h->ctx, algos[i].md(), NULL) != 1)
            abort();
        return h;
    }
    return NULL;
}

void hash_add(struct hash *h, const void *p, size_t n)
{
    if (EVP_DigestUpdate(h->ctx, p, n) != 1)
        abort();
}

void hash_end(struct hash *h, char out[UNPACK_DIGEST_MAX])
{
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    size_t n = strlen(h->prefix);

    if (EVP_DigestFinal_ex(h->ctx, md, &len) != 1)
        abort();
    assert(n + 2 * len < UNPACK_DIGEST_MAX);
    memcpy(out, h->prefix, n);
    for (unsigned i = 0; i < len; i++)
        snprintf(out + n + 2 * i, 3, "%02x", md[i]);
    EVP_MD_CTX_free(h->ctx);
    free(h);
}
