/* SPDX-License-Identifier: Apache-2.0 */
/* Proving who we are to a registry: Basic, or a Bearer token fetched from the realm that the 401
 * names. Headers that worked are kept per endpoint, repository and credentials until they expire.
 * See RFC 7235, and the distribution project's token and oauth2 specifications. */
#ifndef CRICKET_AUTH_H
#define CRICKET_AUTH_H

#include "err.h"
#include "pull/hosts.h"
#include "pull/http.h"

#include <stdbool.h>
#include <stddef.h>

/* All NULL: anonymous. */
struct creds {
    char *user, *password;
    char *identity_token;            /* a refresh token for the token server */
    char *registry_token;            /* sent as it is */
};

/* From the parts of an AuthConfig or of a registry's configuration; `auth` is base64 of
 * user:password and counts when there is no user name. -EINVAL if it cannot be decoded (the text
 * does not show it). */
int creds_set(struct creds *c, const char *user, const char *password, const char *auth,
              const char *identity_token, const char *registry_token, struct err *err);
void creds_deinit(struct creds *c);
bool creds_empty(const struct creds *c);

/* A 401 as its WWW-Authenticate headers say it. */
struct challenge {
    bool basic, bearer;
    char *realm, *service, *scope;   /* of bearer */
    bool stale;                      /* error="invalid_token" */
};

void challenge_add(struct challenge *c, const char *header);
void challenge_deinit(struct challenge *c);

struct auth;
struct auth_req;

struct auth *auth_new(struct http *h, const struct hosts *hosts);
struct auth *auth_free(struct auth *a);

/* The header to send without being asked ("Authorization: ..."), or NULL. Valid until the loop
 * turns. */
const char *auth_cached(struct auth *a, const struct endpoint *e, const char *path,
                        const struct creds *c);
/* It was refused. */
void auth_forget(struct auth *a, const struct endpoint *e, const char *path, const struct creds *c);

/* Answers a challenge: *ret_header at once (caller frees), or a request whose callback brings the
 * header, or NULL with err. err->code is -EACCES where the registry or its token server says no.
 * path is the repository, c is copied. */
typedef void (*auth_fn)(void *arg, const char *header, const struct err *err,
                        enum http_fault fault);
int auth_start(struct auth *a, const struct endpoint *e, const char *path, const struct creds *c,
               const struct challenge *ch, auth_fn fn, void *arg, char **ret_header,
               struct auth_req **ret, struct err *err);
void auth_cancel(struct auth_req *r);

#endif
