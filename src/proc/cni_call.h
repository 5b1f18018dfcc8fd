/* SPDX-License-Identifier: Apache-2.0 */
/* struct cni, and one walk along a list of plugins. Internal to cni*.c. */
#ifndef CRICKET_CNI_CALL_H
#define CRICKET_CNI_CALL_H

#include "list.h"
#include "proc/cni.h"
#include "proc/cni_conf.h"
#include "proc/cni_hold.h"
#include "proc/cni_watch.h"
#include "reactor/child.h"

#define CNI_IFNAME "eth0"

struct cni {
    struct loop *loop;
    char **conf_dirs, **bin_dirs, *hold_dir;
    int64_t timeout_ms;
    struct cni_watch *watch;
    ev_io io;
    struct cni_conf *conf;           /* in force, or NULL */
    char *text;                      /* the same as JSON, or NULL */
    struct err load;                 /* of the last load */
    char *why;                       /* what cni_not_ready() said last */
    struct list calls;
    struct cni_call *gc;             /* ADDs wait for its end: it does not know them */
    struct {                         /* STATUS of conf, CNI 1.1.0 */
        struct cni_call *call;       /* while it is asked for */
        bool known;
        int64_t asked_ms;
        struct err err;
    } status;
};

enum cni_command { CNI_ADD, CNI_DEL, CNI_CHECK, CNI_STATUS, CNI_GC };

/* Takes over conf and extra (also on failure). a: NULL for STATUS and GC. */
int cni_call_start(struct cni *c, enum cni_command command, struct cni_conf *conf,
                   const struct cni_attach *a, json_t *extra, int64_t timeout_ms, cni_done_fn done,
                   void *arg, struct cni_call **ret, struct err *err);
/* done is not called. An ADD or DEL: its plugin goes on, the next call for the attachment waits for
 * it; else it is killed. */
void cni_call_drop(struct cni_call *call);
void cni_call_drop_all(struct cni *c);

#endif
