/* SPDX-License-Identifier: Apache-2.0 */
/* cricket-worker: short-lived children for whatever may block or parses what strangers sent. One
 * subcommand per job; it gets directories and pipes as descriptors, locks itself up, reports over a
 * descriptor, exits. Each returns the exit code. */
#ifndef CRICKET_WORKER_H
#define CRICKET_WORKER_H

int worker_checkpoint(int argc, char **argv); /* checkpoint.c: a container to a file, with criu */
int worker_checkpoint_pod(int argc, char **argv); /* checkpoint_pod.c: containers of a pod */
int worker_measure(int argc, char **argv);   /* measure.c: disk usage, open files */
int worker_poststop(int argc, char **argv);  /* poststop.c: hooks that a supervisor has left */
int worker_restore(int argc, char **argv);   /* restore.c: a container goes on, with criu */
int worker_unpack(int argc, char **argv);    /* unpack.c: a layer */
int worker_remove(int argc, char **argv);    /* remove.c: a directory tree, slowly */
int worker_store(int argc, char **argv);     /* store.c: the durable writer */
int worker_seccomp(int argc, char **argv);   /* seccomp.c: a profile to BPF */
int worker_resctrl(int argc, char **argv); /* resctrl.c: what a container had there */
int worker_restore_pod(int argc, char **argv); /* restore_pod.c: a checkpoint of a pod to files */
int worker_umount(int argc, char **argv); /* umount.c: a network namespace that was left mounted */

#endif
