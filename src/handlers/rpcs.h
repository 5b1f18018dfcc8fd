/* SPDX-License-Identifier: Apache-2.0 */
/* One handler per RPC; table.c has the names. ctx is the struct handlers. */
#ifndef CRICKET_RPCS_H
#define CRICKET_RPCS_H

#include "handlers/objects.h"

#define HANDLER(name) void name(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)

/* version.c */
HANDLER(handle_version);
/* status.c */
HANDLER(handle_status);
HANDLER(handle_runtime_config);
HANDLER(handle_update_runtime_config);
/* sandbox_*.c */
HANDLER(handle_run_pod_sandbox);
HANDLER(handle_stop_pod_sandbox);
HANDLER(handle_remove_pod_sandbox);
HANDLER(handle_pod_sandbox_status);
HANDLER(handle_list_pod_sandbox);
/* pod_checkpoint.c */
HANDLER(handle_checkpoint_pod);
/* pod_restore.c */
HANDLER(handle_restore_pod);
/* ctr_*.c */
HANDLER(handle_checkpoint_container);
HANDLER(handle_create_container);
HANDLER(handle_start_container);
HANDLER(handle_stop_container);
HANDLER(handle_remove_container);
HANDLER(handle_container_status);
HANDLER(handle_list_containers);
HANDLER(handle_update_container_resources);
HANDLER(handle_reopen_container_log);
/* exec_sync.c */
HANDLER(handle_exec_sync);
/* stats.c */
HANDLER(handle_container_stats);
HANDLER(handle_list_container_stats);
HANDLER(handle_stream_container_stats);
HANDLER(handle_pod_sandbox_stats);
HANDLER(handle_list_pod_sandbox_stats);
HANDLER(handle_stream_pod_sandbox_stats);
/* metrics.c */
HANDLER(handle_list_metric_descriptors);
HANDLER(handle_list_pod_sandbox_metrics);
HANDLER(handle_stream_pod_sandbox_metrics);
/* streaming.c */
HANDLER(handle_exec);
HANDLER(handle_attach);
HANDLER(handle_port_forward);
/* events.c */
HANDLER(handle_get_container_events);
/* stream_list.c */
HANDLER(handle_stream_pod_sandboxes);
HANDLER(handle_stream_containers);
/* sandbox_update.c */
HANDLER(handle_update_pod_sandbox_resources);
/* image_*.c */
HANDLER(handle_list_images);
HANDLER(handle_stream_images);
HANDLER(handle_image_status);
HANDLER(handle_pull_image);
HANDLER(handle_remove_image);
HANDLER(handle_image_fs_info);
void image_pulls_end(struct handlers *h);    /* answers who waits for one; for the daemon's end */

/* --- helpers that several handlers share (util.c) */

/* A deep copy, to be freed by protobuf_c_message_free_unpacked(). */
ProtobufCMessage *pb_dup(const ProtobufCMessage *m);
/* Byte for byte the same encoding? */
bool pb_same(const ProtobufCMessage *a, const ProtobufCMessage *b);
/* Is the runtime handler configured? "" always is. */
int handler_check(struct handlers *h, const char *name, struct err *err);
/* The OCI runtime that this handler stands for; NULL: the native launcher. */
const char *handler_path(struct handlers *h, const char *name);
/* Can a sandbox be made with it now? */
int handler_binary_check(struct handlers *h, const char *name, struct err *err);
/* runtimes.c: asks the OCI runtimes what they can do; what is known of it so far. */
void runtimes_probe(struct handlers *h);
void runtimes_end(struct handlers *h);
bool runtime_has_rro(struct handlers *h, const char *name);
/* Does every entry of the selector stand in the labels, exactly? Entries of any string map. */
bool labels_match(void *const *selector, size_t n_selector, void *const *labels, size_t n_labels);
/* Appends field `number` (length-delimited) with these bytes: replies are joined from ready-made
 * parts. */
void pb_join(struct str *reply, unsigned number, const struct str *part);

/* Commits b, then has the layer directories deleted that nobody needs any more: never before the
 * commit, or a power cut would leave records of layers that are gone. Takes over dead. */
void commit_and_delete(struct handlers *h, struct store_batch *b, uint64_t *dead, size_t n);
/* A container lets go of its layers (removal, or a creation that failed). */
void ctr_drop_layers(struct ctr *c);

/* Callbacks of the sandbox's link. */
void sandbox_link_events(struct sandbox *s, struct link_events *ev);
/* The supervisor is gone: containers EXITED, sandbox NOTREADY. */
void sandbox_lost(struct sandbox *s);

#endif
