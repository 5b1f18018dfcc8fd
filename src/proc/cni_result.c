/* SPDX-License-Identifier: Apache-2.0 */
/* What a plugin answered: the addresses in a result of any version, or the error it reported.
 *
 * 0.1.0, 0.2.0: "ip4" and "ip6" objects, one address each, always the container's own.
 * 0.3.0 and newer: "ips", each with an optional index into "interfaces"; an interface with a
 * sandbox is inside it. */
#include "proc/cni_conf.h"

#include "mem.h"
#include "str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

enum { IPS_MAX = 256 };

void cni_ips_deinit(struct cni_ips *ips)
{
    for (size_t i = 0; i < ips->n; i++)
        free(ips->v[i]);
    free(ips->v);
    *ips = (struct cni_ips){ 0 };
}

/* "10.1.2.3/24" (the prefix may be missing): checked, kept without prefix, IPv4 in front of IPv6.
 */
static int add_ip(struct cni_ips *ips, const char *address, struct err *err)
{
    auto_free char *ip = mem_dup(address ? address : "", address ? strcspn(address, "/") : 0);
    char bin[16], text[INET6_ADDRSTRLEN];
    int family = strchr(ip, ':') ? AF_INET6 : AF_INET;
    size_t at = ips->n;

    if (inet_pton(family, ip, bin) != 1 || !inet_ntop(family, bin, text, sizeof text))
        return err_set(err, -EBADMSG, "'%s' is not an address", address ? address : "");
    if (ips->n == IPS_MAX)
        return err_set(err, -E2BIG, "more than %d addresses", IPS_MAX);
    if (family == AF_INET)
        for (at = 0; at < ips->n && !strchr(ips->v[at], ':'); at++)
            ;
    ips->v = mem_grow(ips->v, ips->n + 1, sizeof *ips->v);
    memmove(ips->v + at + 1, ips->v + at, (ips->n - at) * sizeof *ips->v);
    ips->v[at] = mem_strdup(text);
    ips->n++;
    return 0;
}

/* Does the address belong to the pod's interface? No index: it does. */
static int is_ours(const json_t *ip, const json_t *interfaces, const char *ifname, struct err *err)
{
    const json_t *index = json_object_get(ip, "interface"), *i;
    const char *sandbox, *name;

    if (!index || json_is_null(index))
        return 1;
    if (!json_is_integer(index) || json_integer_value(index) < 0 ||
        (size_t)json_integer_value(index) >= json_array_size(interfaces))
        return err_set(err, -EBADMSG, "an address names an interface that is not in the list");
    i = json_array_get(interfaces, (size_t)json_integer_value(index));
    sandbox = json_string_value(json_object_get(i, "sandbox"));
    name = json_string_value(json_object_get(i, "name"));
    return !str_empty(sandbox) && name && strcmp(name, ifname) == 0;
}

static int collect(const json_t *result, const char *ifname, struct cni_ips *ips, struct err *err)
{
    static const char *const old[] = { "ip4", "ip6" };
    const json_t *list = json_object_get(result, "ips"), *ip;
    size_t i;
    int r = 0;

    for (i = 0; i < ARRAY_LEN(old) && r == 0; i++)
        if ((ip = json_object_get(result, old[i])) && !json_is_null(ip))
            r = add_ip(ips, json_string_value(json_object_get(ip, "ip")), err);
    if (list && !json_is_null(list) && !json_is_array(list))
        return err_set(err, -EBADMSG, "'ips' is not a list");
    json_array_foreach(list, i, ip)
    {
        if (r == 0)
            r = is_ours(ip, json_object_get(result, "interfaces"), ifname, err);
        if (r > 0)
            r = add_ip(ips, json_string_value(json_object_get(ip, "address")), err);
    }
    return r < 0 ? r : 0;
}

int cni_result_ips(const json_t *result, const char *ifname, struct cni_ips *ret, struct err *err)
{
    struct cni_ips ips = { 0 };
    int r = json_is_object(result) ? collect(result, ifname, &ips, err)
                                   : err_set(err, -EBADMSG, "not a JSON object");

    if (r < 0) {
        cni_ips_deinit(&ips);
        return err_note(err, "CNI result");
    }
    *ret = ips;
    return 0;
}

int cni_result_error(const char *type, const char *command, int status, const char *out,
                     const char *errout, int *ret_code, struct err *err)
{
    json_t *j = json_loads(out ? out : "", 0, NULL);
    const char *msg = json_string_value(json_object_get(j, "msg"));
    const char *details = json_string_value(json_object_get(j, "details"));
    const json_t *code = json_object_get(j, "code");
    auto_free char *tail = mem_strdup(errout ? errout : "");

    if (ret_code)
        *ret_code = json_is_integer(code) ? (int)json_integer_value(code) : 0;
    for (size_t n = strlen(tail); n > 0 && strchr("\r\n \t", tail[n - 1]); n--)
        tail[n - 1] = '\0';
    if (!str_empty(msg) || json_is_integer(code))
        err_set(err, -EIO, "plugin type=\"%s\" failed (%s): %s%s%s", type, command,
                str_empty(msg) ? "no message" : msg, str_empty(details) ? "" : "; ",
                str_empty(details) ? "" : details);
    else if (status >= 128)
        err_set(err, -EIO, "plugin type=\"%s\" failed (%s): killed by signal %d%s%s", type, command,
                status - 128, tail[0] ? ": " : "", tail);
    else
        err_set(err, -EIO, "plugin type=\"%s\" failed (%s): exit code %d%s%s", type, command,
                status, tail[0] ? ": " : "", tail[0] ? tail : " without a message");
    json_decref(j);
    return err ? err->code : -EIO;
}
