/* SPDX-License-Identifier: Apache-2.0 */
/* Frames between the daemon and the durable writer; see store_msg.h. */
#include "store_msg.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* In the order of enum store_table (store/store.h): meta, sandbox, container, image, layer. */
static const char letters[] = "mscil";

struct change_head {
    uint8_t op;                      /* 'P' or 'D' */
    uint8_t table;
    uint16_t key_len;
    uint32_t val_len;
};

/* Castagnoli's polynomial, four bits at a time: 64 bytes of table are enough for this much. */
uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
    static const uint32_t t[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
        0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
        0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };
    const uint8_t *b = p;

    crc = ~crc;
    while (n--) {
        crc ^= *b++;
        crc = crc >> 4 ^ t[crc & 15];
        crc = crc >> 4 ^ t[crc & 15];
    }
    return ~crc;
}

void store_msg_begin(struct str *s, enum store_msg_kind kind, uint64_t seq)
{
    struct store_msg_head h = { STORE_MSG_MAGIC, kind, 0, 0, seq };

    str_reset(s);
    str_add(s, &h, sizeof h);
}

static void add_change(struct str *s, char op, unsigned table, const char *key, const void *val,
                       size_t len)
{
    size_t klen = strlen(key);
    struct change_head c = { (uint8_t)op, (uint8_t)table, (uint16_t)klen, (uint32_t)len };

    assert(klen > 0 && klen <= STORE_KEY_MAX && len <= STORE_MSG_MAX && table < strlen(letters));
    str_add(s, &c, sizeof c);
    str_add(s, key, klen);
    str_add(s, val, len);
}

void store_msg_put(struct str *s, unsigned table, const char *key, const void *val, size_t len)
{
    add_change(s, 'P', table, key, val, len);
}

void store_msg_del(struct str *s, unsigned table, const char *key)
{
    add_change(s, 'D', table, key, NULL, 0);
}

void store_msg_status(struct str *s, int status, const char *text)
{
    int32_t v = status;

    str_add(s, &v, sizeof v);
    str_puts(s, text);
}

void store_msg_end(struct str *s)
{
    struct store_msg_head h;

    memcpy(&h, s->p, sizeof h);
    h.len = (uint32_t)(s->len - sizeof h);
    memcpy(s->p, &h, sizeof h);
    h.crc = crc32c(0, s->p, s->len);
    memcpy(s->p, &h, sizeof h);
}

int store_msg_head(const void *p, size_t n, struct store_msg_head *ret)
{
    struct store_msg_head h, zero;

    if (n < sizeof h)
        return 0;
    memcpy(&h, p, sizeof h);
    if (h.magic != STORE_MSG_MAGIC || h.len > STORE_MSG_MAX)
        return -EBADMSG;
    if (n - sizeof h < h.len)
        return 0;
    zero = h;
    zero.crc = 0;
    if (crc32c(crc32c(0, &zero, sizeof zero), (const char *)p + sizeof h, h.len) != h.crc)
        return -EBADMSG;
    *ret = h;
    return 1;
}

int store_msg_next(const char **p, size_t *n, struct store_change *ret)
{
    struct change_head c;

    if (*n == 0)
        return 0;
    if (*n < sizeof c)
        return -EBADMSG;
    memcpy(&c, *p, sizeof c);
    if ((c.op != 'P' && c.op != 'D') || c.table >= strlen(letters) || c.key_len == 0 ||
        c.key_len > STORE_KEY_MAX || *n - sizeof c < (size_t)c.key_len + c.val_len)
        return -EBADMSG;
    ret->del = c.op == 'D';
    ret->table = c.table;
    memcpy(ret->key, *p + sizeof c, c.key_len);
    ret->key[c.key_len] = '\0';
    ret->val = *p + sizeof c + c.key_len;
    ret->len = c.val_len;
    *p += sizeof c + c.key_len + c.val_len;
    *n -= sizeof c + c.key_len + c.val_len;
    return 1;
}

uint32_t store_rec_crc(const char *dbkey, size_t key_len, const void *val, size_t len)
{
    return crc32c(crc32c(0, dbkey, key_len), val, len);
}

size_t store_rec_key(char *buf, unsigned table, const char *key)
{
    size_t n = strlen(key);

    assert(n <= STORE_KEY_MAX && table < strlen(letters));
    buf[0] = letters[table];
    buf[1] = '/';
    memcpy(buf + 2, key, n + 1);
    return n + 2;
}

int store_rec_table(char letter)
{
    const char *p = letter ? strchr(letters, letter) : NULL;

    return p ? (int)(p - letters) : -1;
}
