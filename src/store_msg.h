/* SPDX-License-Identifier: Apache-2.0 */
/* What cricketd and `cricket-worker store` say to each other about the state store: frames of
 *
 *      head { magic, kind, length, checksum, sequence }   payload
 *
 * A BATCH or ROWS payload is a row of changes: { op, table, key length, value length } key value.
 * An ACK or FAIL payload is an int32 status (negative errno, 0) and a text. Numbers are in the
 * machine's order: both ends are on it. The layout stays: a daemon that was upgraded on disk starts
 * a newer worker.
 *
 * The record format of the stores is here too, because both sides make records. */
#ifndef CRICKET_STORE_MSG_H
#define CRICKET_STORE_MSG_H

#include "str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    STORE_SCHEMA = 1,                /* of proto/state.proto; a newer one is refused */
    STORE_MSG_MAGIC = 0x314d5343,
    STORE_MSG_MAX = 64 * 1024 * 1024,    /* bytes of payload */
    STORE_KEY_MAX = 255,             /* LMDB's own bound is 511 */
};

enum store_msg_kind {
    STORE_MSG_BATCH = 1,             /* daemon -> writer */
    STORE_MSG_ACK,                   /* writer -> daemon: on disk, or why not */
    STORE_MSG_ROWS,                  /* reader -> daemon */
    STORE_MSG_END,                   /* reader -> daemon: that was all */
    /* reader -> daemon: status -EBADMSG says that the store is damaged */
    STORE_MSG_FAIL,
};

struct store_msg_head {
    uint32_t magic, kind, len, crc;  /* crc: CRC-32C of head (with crc 0) and payload */
    uint64_t seq;
};

struct store_change {
    bool del;
    uint8_t table;
    char key[STORE_KEY_MAX + 1];
    const void *val;                 /* inside the payload */
    size_t len;
};

void store_msg_begin(struct str *s, enum store_msg_kind kind, uint64_t seq);
void store_msg_put(struct str *s, unsigned table, const char *key, const void *val, size_t len);
void store_msg_del(struct str *s, unsigned table, const char *key);
void store_msg_status(struct str *s, int status, const char *text);
void store_msg_end(struct str *s);               /* s holds this frame only */

/* The head of what is in p: 1 and *ret when head and payload are complete and right, 0 when more
 * bytes are needed, -EBADMSG. The payload begins at p + sizeof *ret. */
int store_msg_head(const void *p, size_t n, struct store_msg_head *ret);
/* The next change: 1, 0 at the end, -EBADMSG. Moves *p and *n on. */
int store_msg_next(const char **p, size_t *n, struct store_change *ret);

/* A record's key in LMDB is "T/key" with a letter per table, its value a checksum of table, key and
 * bytes, and the bytes: LMDB itself has no checksums. */
enum { STORE_REC_HEAD = 4 };
uint32_t store_rec_crc(const char *dbkey, size_t key_len, const void *val, size_t len);
size_t store_rec_key(char *buf, unsigned table, const char *key);    /* buf: STORE_KEY_MAX + 3 */
int store_rec_table(char letter);                /* or -1 */

uint32_t crc32c(uint32_t crc, const void *p, size_t n);              /* begin with 0 */

#endif
