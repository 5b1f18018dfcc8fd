/* SPDX-License-Identifier: Apache-2.0 */
/* The capability arguments of an attachment: port mappings, bandwidth, DNS, cgroup, annotations
 * (CRI.md 14.2, and the conventions page of the CNI project). A plugin gets only those that it
 * declares in its "capabilities". */
#include "proc/cni_conf.h"

#include "mem.h"
#include "str.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { ANNOTATION_MAX = 64 * 1024 };

static const struct {
    const char *suffix;
    double mul;
} units[] = {
    { "", 1 },        { "n", 1e-9 },    { "u", 1e-6 },    { "m", 1e-3 },
    { "k", 1e3 },     { "M", 1e6 },     { "G", 1e9 },     { "T", 1e12 },
    { "P", 1e15 },    { "E", 1e18 },    { "Ki", 0x1p10 }, { "Mi", 0x1p20 },
    { "Gi", 0x1p30 }, { "Ti", 0x1p40 }, { "Pi", 0x1p50 }, { "Ei", 0x1p60 },
};

int cni_parse_quantity(const char *s, uint64_t *ret)
{
    double v = 0, scale = 1;
    bool digits = false, point = false;

    if (*s == '+')
        s++;
    for (; isdigit((unsigned char)*s) || (*s == '.' && !point); s++) {
        if (*s == '.') {
            point = true;
            continue;
        }
        digits = true;
        v = v * 10 + (*s - '0');
        if (point)
            scale *= 10;
    }
    if (!digits)
        return -EINVAL;
    v /= scale;
    if ((*s == 'e' || *s == 'E') && s[1]) {          /* "E" alone is exa */
        int exp, end = 0;

        if (sscanf(s + 1, "%4d%n", &exp, &end) != 1 || s[1 + end] || isspace((unsigned char)s[1]))
            return -EINVAL;
        for (; exp > 0 && v < 0x1p63; exp--)
            v *= 10;
        for (; exp < 0 && v > 0; exp++)
            v /= 10;
    } else {
        size_t i = 0;

        while (i < ARRAY_LEN(units) && strcmp(units[i].suffix, s) != 0)
            i++;
        if (i == ARRAY_LEN(units))
            return -EINVAL;
        v *= units[i].mul;
    }
    if (!(v < 0x1p63))
        return -EINVAL;
    *ret = (uint64_t)v + ((double)(uint64_t)v < v);
    return 0;
}

static const char *annotation(const struct cni_attach *a, const char *key)
{
    for (size_t i = 0; i < a->n_annotations; i++)
        if (strcmp(a->annotations[i].key, key) == 0)
            return a->annotations[i].value;
    return NULL;
}

static json_t *strings(char *const *v)
{
    json_t *j = json_array();

    for (size_t i = 0; v && v[i]; i++)
        json_array_append_new(j, json_string(v[i]));
    return j;
}

static void port_mappings(const struct cni_attach *a, json_t *caps)
{
    json_t *list = json_array();

    for (size_t i = 0; i < a->n_ports; i++) {
        const struct cni_port *p = &a->ports[i];
        json_t *j;

        if (p->host_port <= 0)                       /* 0: nothing on the host, not "any port" */
            continue;
        j = json_pack("{s:i, s:i, s:s}", "hostPort", p->host_port, "containerPort",
                      p->container_port, "protocol", str_empty(p->protocol) ? "tcp" : p->protocol);
        if (!str_empty(p->host_ip))
            json_object_set_new(j, "hostIP", json_string(p->host_ip));
        json_array_append_new(list, j);
    }
    if (json_array_size(list) > 0)
        json_object_set(caps, "portMappings", list);
    json_decref(list);
}

/* kubernetes.io/{in,e}gress-bandwidth: bits per second, as kubelet's own network code took them. */
static int bandwidth(const struct cni_attach *a, json_t *caps, struct err *err)
{
    static const struct {
        const char *annotation, *rate, *burst;
    } dirs[] = {
        { "kubernetes.io/ingress-bandwidth", "ingressRate", "ingressBurst" },
        { "kubernetes.io/egress-bandwidth", "egressRate", "egressBurst" },
    };
    json_t *bw = json_object();

    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        const char *s = annotation(a, dirs[i].annotation);
        uint64_t rate;

        if (!s)
            continue;
        if (cni_parse_quantity(s, &rate) < 0 || rate < 1000 || rate > 1000000000000000ULL) {
            json_decref(bw);
            return err_rpc(err, GRPC_INVALID_ARGUMENT,
                           "annotation %s: '%s' is not a bandwidth from 1k to 1P",
                           dirs[i].annotation, s);
        }
        json_object_set_new(bw, dirs[i].rate, json_integer((json_int_t)rate));
        json_object_set_new(bw, dirs[i].burst, json_integer(UINT32_MAX));
    }
    if (json_object_size(bw) > 0)
        json_object_set(caps, "bandwidth", bw);
    json_decref(bw);
    return 0;
}

static void dns(const struct cni_attach *a, json_t *caps)
{
    json_t *servers = strings(a->dns_servers), *searches = strings(a->dns_searches),
           *options = strings(a->dns_options);

    if (json_array_size(servers) + json_array_size(searches) + json_array_size(options) > 0)
        json_object_set_new(caps, "dns",
                            json_pack("{s:O, s:O, s:O}", "servers", servers, "searches", searches,
                                      "options", options));
    json_decref(servers);
    json_decref(searches);
    json_decref(options);
}

static json_t *comma_list(const char *s)
{
    json_t *j = json_array();

    while (*s) {
        size_t n;

        s += strspn(s, ", \t");
        n = strcspn(s, ", \t");
        if (n)
            json_array_append_new(j, json_stringn(s, n));
        s += n;
    }
    return j;
}

/* What no CRI field can say, a pod may ask for by annotation, where the plugin's configuration lets
 * it. */
static int by_annotation(const struct cni_attach *a, json_t *caps, struct err *err)
{
    static const struct {
        const char *annotation, *cap;
        enum { TEXT, LIST, JSON } kind;
    } known[] = {
        { "cni.cricket/ips", "ips", LIST },
        { "cni.cricket/mac", "mac", TEXT },
        { "cni.cricket/aliases", "aliases", LIST },
        { "cni.cricket/device-id", "deviceID", TEXT },
        { "cni.cricket/infiniband-guid", "infinibandGUID", TEXT },
        { "cni.cricket/ip-ranges", "ipRanges", JSON },
    };

    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        const char *s = annotation(a, known[i].annotation);
        json_t *v = NULL;

        if (!s)
            continue;
        if (strlen(s) <= ANNOTATION_MAX)
            v = known[i].kind == TEXT   ? json_string(s)
                : known[i].kind == LIST ? comma_list(s)
                                        : json_loads(s, 0, NULL);
        if (!v)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "annotation %s has a bad value",
                           known[i].annotation);
        json_object_set_new(caps, known[i].cap, v);
    }
    return 0;
}

int cni_caps(const struct cni_attach *a, json_t **ret, struct err *err)
{
    json_t *caps = json_object();
    int r;

    port_mappings(a, caps);
    dns(a, caps);
    if (!str_empty(a->cgroup_path))
        json_object_set_new(caps, "cgroupPath", json_string(a->cgroup_path));
    if (a->n_annotations > 0) {
        json_t *all = json_object();

        for (size_t i = 0; i < a->n_annotations; i++)
            json_object_set_new(all, a->annotations[i].key, json_string(a->annotations[i].value));
        json_object_set_new(caps, "io.kubernetes.cri.pod-annotations", all);
    }
    r = bandwidth(a, caps, err);
    if (r == 0)
        r = by_annotation(a, caps, err);
    if (r < 0)
        json_decref(caps);
    else
        *ret = caps;
    return r;
}
