/* SPDX-License-Identifier: Apache-2.0 */
/* crash-example.c - writer and checker for the power-loss rounds (see README.md).
 *
 * crash-example write DIR   for ever: commit record N to LMDB, print "lmdb N";
 *   write, fsync and rename s/N, fsync the folder, print "file N"; write u/N and
 *   never fsync it.
 * crash-example lazy DIR   the same without any sync: a wrong program, which the
 *   check must catch.
 * crash-example check DIR [ACK]   every acknowledged record and file is there and
 *   whole; record N is there if file N is; file N-1 is there if record N is.
 *
 * cc -O2 -o crash-example crash-example.c -llmdb
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BODY 20000

static int lazy;

static void
die(const char *what, int rc)
{
	fprintf(stderr, "crash-example: %s: %s\n", what, rc ? mdb_strerror(rc) : strerror(errno));
	exit(1);
}

static void
body(char *buf, unsigned n)
{
	for (unsigned i = 0; i < BODY; i++)
		buf[i] = (char)('a' + (n + i / 512) % 26);
}

static MDB_env *
env_open(MDB_dbi *dbi, unsigned *last, unsigned *gaps)
{
	MDB_env *env;
	MDB_txn *txn;
	MDB_cursor *cur;
	MDB_val k, v;
	int rc;

	if ((rc = mdb_env_create(&env)) != 0 || (rc = mdb_env_set_mapsize(env, 64u << 20)) != 0 ||
	    (rc = mdb_env_open(env, "lmdb", lazy ? MDB_NOSYNC : 0, 0600)) != 0)
		die("mdb_env_open", rc);
	if ((rc = mdb_txn_begin(env, NULL, 0, &txn)) != 0 || (rc = mdb_dbi_open(txn, NULL, MDB_INTEGERKEY, dbi)) != 0 ||
	    (rc = mdb_cursor_open(txn, *dbi, &cur)) != 0)
		die("mdb_dbi_open", rc);
	*last = *gaps = 0;
	while ((rc = mdb_cursor_get(cur, &k, &v, MDB_NEXT)) == 0) {
		unsigned n = *(unsigned *)k.mv_data, i;
		if (n != *last + 1)
			(*gaps)++;
		for (i = 0; i < v.mv_size; i++)
			if (((unsigned char *)v.mv_data)[i] != (unsigned char)n)
				(*gaps)++;
		*last = n;
	}
	if (rc != MDB_NOTFOUND)
		die("mdb_cursor_get", rc);
	mdb_cursor_close(cur);
	if ((rc = mdb_txn_commit(txn)) != 0)
		die("mdb_txn_commit", rc);
	return env;
}

static int
file_whole(const char *dir, unsigned n)
{
	char path[64], got[BODY + 1], want[BODY];
	ssize_t r;
	int fd;

	snprintf(path, sizeof path, "%s/%u", dir, n);
	if ((fd = open(path, O_RDONLY)) < 0)
		return -1;
	r = read(fd, got, sizeof got);
	close(fd);
	body(want, n);
	return r == BODY && memcmp(got, want, BODY) == 0;
}

static void
do_write(void)
{
	MDB_dbi dbi;
	unsigned n, gaps;
	char buf[BODY], path[64];
	int rc, fd, dir;
	MDB_env *env;

	mkdir("lmdb", 0700);
	mkdir("s", 0700);
	mkdir("u", 0700);
	sync();
	env = env_open(&dbi, &n, &gaps);
	if ((dir = open("s", O_RDONLY | O_DIRECTORY)) < 0)
		die("s", 0);
	/* Recovery: the last record may have come before its file. */
	for (n += n == 0 || file_whole("s", n) == 1;; n++) {
		MDB_txn *txn;
		char val[600];
		MDB_val k = { sizeof n, &n }, v = { sizeof val, val };

		memset(val, (int)(n & 0xff), sizeof val);
		if ((rc = mdb_txn_begin(env, NULL, 0, &txn)) != 0 || (rc = mdb_put(txn, dbi, &k, &v, 0)) != 0 ||
		    (rc = mdb_txn_commit(txn)) != 0)
			die("commit", rc);
		printf("lmdb %u\n", n);
		fflush(stdout);
		body(buf, n);
		if ((fd = open("s/tmp", O_WRONLY | O_CREAT | O_TRUNC, 0600)) < 0 || write(fd, buf, BODY) != BODY || (!lazy && fsync(fd) != 0))
			die("s/tmp", 0);
		close(fd);
		snprintf(path, sizeof path, "s/%u", n);
		if (rename("s/tmp", path) != 0 || (!lazy && fsync(dir) != 0))
			die(path, 0);
		printf("file %u\n", n);
		fflush(stdout);
		snprintf(path, sizeof path, "u/%u", n);
		if ((fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600)) < 0 || write(fd, buf, BODY) != BODY)
			die(path, 0);
		close(fd);
	}
}

static int
do_check(const char *ack)
{
	MDB_dbi dbi;
	unsigned last = 0, gaps = 0, n, al = 0, af = 0, files = 0, broken = 0, u = 0, ub = 0;
	char line[64];
	struct stat st;
	FILE *f;

	if (stat("lmdb/data.mdb", &st) == 0)
		mdb_env_close(env_open(&dbi, &last, &gaps));
	for (n = 1; n <= last + 1; n++) {
		int w = file_whole("s", n);
		if (w < 0) continue;
		files = n;
		broken += !w;
	}
	for (n = 1; n <= last + 1; n++) {
		int w = file_whole("u", n);
		u += w == 1;
		ub += w == 0;
	}
	if (ack != NULL && (f = fopen(ack, "r")) != NULL) {
		while (fgets(line, sizeof line, f) != NULL) {
			if (strchr(line, '\n') == NULL) break;
			if (sscanf(line, "lmdb %u", &n) == 1) al = n;
			if (sscanf(line, "file %u", &n) == 1) af = n;
		}
		fclose(f);
	}
	printf("lmdb: acknowledged to %u, there to %u, gaps %u; files with fsync: acknowledged to %u, there to %u, "
	    "broken %u; files without fsync: %u whole, %u empty or broken, %u missing\n",
	    al, last, gaps, af, files, broken, u, ub, last > u + ub ? last - u - ub : 0);
	return gaps != 0 || broken != 0 || last < al || files < af || files > last || files + 1 < last;
}

int
main(int argc, char **argv)
{
	if (argc < 3 || chdir(argv[2]) != 0)
		return 2;
	lazy = strcmp(argv[1], "lazy") == 0;
	if (lazy || strcmp(argv[1], "write") == 0)
		do_write();
	return do_check(argc > 3 ? argv[3] : NULL);
}
