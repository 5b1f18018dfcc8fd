/* SPDX-License-Identifier: Apache-2.0 */
/* Looking into an image without mounting it: a path is resolved over stacked layer directories with
 * overlay's rules (whiteouts, opaque directories, symbolic links across layers, nothing leaves the
 * root). */
#ifndef CRICKET_LOWER_H
#define CRICKET_LOWER_H

#include "err.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* layers: directories, top first. Opens the regular file (or, with O_PATH|O_DIRECTORY in flags, the
 * directory). -ENOENT when absent. */
int lower_open(const char *const *layers, size_t n, const char *path, int flags, int *ret_fd,
               struct err *err);
/* Whole file, at most max bytes (more: -EFBIG). */
int lower_read(const char *const *layers, size_t n, const char *path, size_t max, char **ret,
               size_t *ret_len, struct err *err);

struct user {
    uid_t uid;
    gid_t gid;                       /* primary */
    gid_t *groups;                   /* supplementary of the image's group file, without gid */
    size_t n_groups;
    char *home;                      /* "/" when passwd does not know */
    char *name;                      /* NULL when passwd does not know the uid */
};

/* spec: "", "1000", "www-data", "user:group", "1000:1000" (image USER syntax). A name that passwd
 * or group does not know: GRPC_INVALID_ARGUMENT
 * ("unable to find user nope: no matching entries in passwd file"). passwd/group: file contents or
 * NULL. */
int user_resolve(const char *passwd, const char *group, const char *spec, struct user *ret,
                 struct err *err);
/* The same for a request that says which of the two it means; gid: of the process, -1 for the one
 * in passwd. A name has to be in passwd, a number need not. */
int user_by_name(const char *passwd, const char *group, const char *name, int64_t gid,
                 struct user *ret, struct err *err);
void user_by_uid(const char *passwd, const char *group, uid_t uid, int64_t gid, struct user *ret);
void user_deinit(struct user *u);

#endif
