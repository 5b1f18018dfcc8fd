/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/curl_lib.h"

#include "log.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* The ABI that curl/curl.h describes; libcurl has kept it since 2006. */
#define CURL_SONAME "libcurl.so.4"

struct curl_lib curl_lib;

/* dlsym() gives an object pointer for what is a function: POSIX has them alike, C does not. */
static bool resolve(void *so, const char *name, void *ret_fn)
{
    void *p = dlsym(so, name);

    memcpy(ret_fn, &p, sizeof p);
    return p != NULL;
}

int curl_lib_load(struct err *err)
{
    static bool loaded;
    struct curl_lib l;
    void *so;

    if (loaded)
        return 0;
    so = dlopen(CURL_SONAME, RTLD_NOW | RTLD_LOCAL);
    if (!so)
        return err_set(err, -ENOENT, "load " CURL_SONAME ": %s", dlerror());
#define X(name) \
    if (!resolve(so, "curl_" #name, &l.name)) \
        return err_set(err, -ENOENT, CURL_SONAME " has no curl_" #name);
    CURL_FUNCTIONS(X)
#undef X
    if (l.global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return err_set(err, -ENOMEM, "libcurl cannot be initialised");
    if (!(l.version_info(CURLVERSION_NOW)->features & CURL_VERSION_ASYNCHDNS))
        log_warn(
            "op=http err='libcurl resolves names synchronously: the daemon stands still meanwhile'");
    curl_lib = l;
    loaded = true;
    return 0;
}
