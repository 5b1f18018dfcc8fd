/* SPDX-License-Identifier: Apache-2.0 */
/* libcurl, loaded when the first request is made: it brings thirty libraries and five megabytes
 * along, which a daemon that has its images already never needs. The loader resolves every function
 * at once, so a libcurl that lacks one is found out there. After this header the functions are
 * called by their ordinary names. */
#ifndef CRICKET_CURL_LIB_H
#define CRICKET_CURL_LIB_H

#include "err.h"

#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>

#define CURL_FUNCTIONS(X) \
    X(easy_cleanup) \
    X(easy_getinfo) \
    X(easy_header) \
    X(easy_init) \
    X(easy_pause) \
    X(easy_setopt) \
    X(easy_strerror) \
    X(getdate) \
    X(global_init) \
    X(multi_add_handle) \
    X(multi_assign) \
    X(multi_cleanup) \
    X(multi_info_read) \
    X(multi_init) \
    X(multi_remove_handle) \
    X(multi_setopt) \
    X(multi_socket_action) \
    X(slist_append) \
    X(slist_free_all) \
    X(version_info)

struct curl_lib {
#define X(name) __typeof__(curl_##name) *name;
    CURL_FUNCTIONS(X)
#undef X
};

extern struct curl_lib curl_lib;

/* Loads and initialises it; nothing to do when that has happened before. A few milliseconds, once.
 */
int curl_lib_load(struct err *err);

#undef curl_easy_getinfo
#undef curl_easy_setopt
#undef curl_multi_setopt
#define curl_easy_cleanup curl_lib.easy_cleanup
#define curl_easy_getinfo curl_lib.easy_getinfo
#define curl_easy_header curl_lib.easy_header
#define curl_easy_init curl_lib.easy_init
#define curl_easy_pause curl_lib.easy_pause
#define curl_easy_setopt curl_lib.easy_setopt
#define curl_easy_strerror curl_lib.easy_strerror
#define curl_getdate curl_lib.getdate
#define curl_multi_add_handle curl_lib.multi_add_handle
#define curl_multi_assign curl_lib.multi_assign
#define curl_multi_cleanup curl_lib.multi_cleanup
#define curl_multi_info_read curl_lib.multi_info_read
#define curl_multi_init curl_lib.multi_init
#define curl_multi_remove_handle curl_lib.multi_remove_handle
#define curl_multi_setopt curl_lib.multi_setopt
#define curl_multi_socket_action curl_lib.multi_socket_action
#define curl_slist_append curl_lib.slist_append
#define curl_slist_free_all curl_lib.slist_free_all
#define curl_version_info curl_lib.version_info

#endif
