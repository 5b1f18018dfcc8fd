/* SPDX-License-Identifier: Apache-2.0 */
/* src/store/{images,layers}.c: every way to name an image, moving tags, counted layers, and what is
 * there again after a restart. */
#include "files.h"

#include "mem.h"
#include "reactor/loop.h"
#include "store/images.h"
#include "str.h"

#include <errno.h>

#define A "aaaa000000000000000000000000000000000000000000000000000000000001"
#define B "aaaa000000000000000000000000000000000000000000000000000000000002"
#define C "cafe000000000000000000000000000000000000000000000000000000000003"
#define D "d000000000000000000000000000000000000000000000000000000000000005"
#define M "beef000000000000000000000000000000000000000000000000000000000004"

static char base[] = "/tmp/cricket-images-XXXXXX";
static char *worker;
static struct loop *loop;
static struct store *store;
static struct images *im;
static char *patterns[] = { NULL, NULL };

static void open_all(void)
{
    auto_free char *root = mem_printf("%s/root", base), *state = mem_printf("%s/state", base);
    struct store_opts o = { root, state, worker, 20 };
    struct err err = ERR_INIT;
    bool same, rebuilt;

    loop = loop_new(&err);
    if (store_open(loop, &o, &same, &rebuilt, &store, &err) < 0) {
        diag("%s", err.text);
        abort();
    }
    im = images_new(store);
    images_set_pinned(im, patterns);
    is_int(images_load(im, &err), 0, "loaded");
}

static void close_all(void)
{
    im = images_free(im);
    store = store_close(store);
    loop = loop_free(loop);
}

static void on_done(void *arg, const struct err *err)
{
    (void)arg;
    ok(!err, "committed%s%s", err ? ": " : "", err ? err->text : "");
    loop_stop(loop);
}

static void commit(struct store_batch *b)
{
    store_batch_commit(b, on_done, NULL);
    loop_run(loop);
}

static void layer(struct store_batch *b, const char *chain, uint64_t number, uint64_t size)
{
    Cricket__State__Layer l = CRICKET__STATE__LAYER__INIT;
    auto_free char *copy = mem_strdup(chain);

    l.schema = 1;
    l.chain_id = copy;
    l.number = number;
    l.size = size;
    l.inodes = 10;
    is_int(images_layer_add(im, &l, b), 0, "layer %s", chain);
}

/* chains: one letter per layer */
static struct image *add(const char *hex, const char *chains, const char *tag, const char *digest,
                         struct store_batch *b)
{
    Cricket__State__Image *r = mem_new(Cricket__State__Image);

    cricket__state__image__init(r);
    r->schema = 1;
    r->id = mem_printf("sha256:%s", hex);
    r->size = 5;
    r->n_chain_ids = strlen(chains);
    r->chain_ids = mem_array(r->n_chain_ids + 1, sizeof(char *));
    for (size_t i = 0; i < r->n_chain_ids; i++)
        r->chain_ids[i] = mem_printf("%c", chains[i]);
    return images_add(im, r, tag, digest, b);
}

static const char *names(const struct image *i)
{
    static struct str s;

    str_reset(&s);
    for (size_t k = 0; k < i->rec->n_repo_tags; k++)
        str_printf(&s, "%s ", i->rec->repo_tags[k]);
    for (size_t k = 0; k < i->rec->n_repo_digests; k++)
        str_printf(&s, "%s ", i->rec->repo_digests[k]);
    return str_c(&s);
}

static void test_find(void)
{
    struct store_batch *b = store_batch_new(store);

    layer(b, "l", images_layer_number(im), 100);
    struct image *a = add(A, "l", "docker.io/library/a:1", "docker.io/library/a@sha256:" M, b);
    struct image *bb = add(B, "l", "docker.io/library/b:1", NULL, b);
    struct image *c = add(C, "l", "docker.io/library/aaaa:latest", NULL, b);
    commit(b);

    ok(images_find(im, "sha256:" A, NULL) == a, "id");
    ok(images_find(im, A, NULL) == a, "id without algorithm");
    ok(images_find(im, "a:1", "docker.io/library/a:1") == a, "tag");
    ok(images_find(im, "x", "docker.io/library/a@sha256:" M) == a, "name@digest");
    ok(images_find(im, "sha256:" M, NULL) == a, "digest alone");
    ok(images_find(im, "cafe", "docker.io/library/cafe:latest") == c, "unique prefix");
    ok(images_find(im, "sha256:cafe", NULL) == c, "unique prefix with algorithm");
    ok(images_find(im, "aaaa", "docker.io/library/aaaa:latest") == c, "a name wins over a prefix");
    ok(!images_find(im, "aaaa0", "docker.io/library/aaaa0:latest"), "an ambiguous prefix is none");
    ok(!images_find(im, "caf", "docker.io/library/caf:latest"), "three digits are too few");
    ok(!images_find(im, "CAFE", NULL), "digits are lower case");
    ok(!images_find(im, C "0", NULL), "65 digits");
    ok(!images_find(im, "", NULL) && !images_find(im, "sha256:", NULL), "nothing");
    ok(!images_find(im, "b:2", "docker.io/library/b:2"), "another tag");
    is_int(images_count(im), 3, "three images");
    ok(images_by_id(im, "sha256:" B) == bb, "by id");
    ok(!c->pinned && bb->pinned, "pinned by pattern");
    is_int(images_layer(im, "l")->refs, 3, "three images need the layer");
    is_int(images_used_bytes(im), 100, "its bytes count once");
    is_int(images_used_inodes(im), 10, "and its inodes");
}

static void test_tags(void)
{
    struct store_batch *b = store_batch_new(store);
    struct image *a = images_by_id(im, "sha256:" A);

    a->encoded = mem_strdup("x");
    struct image *bb = add(B, "l", "docker.io/library/a:1", "q.io/b@sha256:" M, b);
    ok(!a->encoded, "what was encoded of a changed record is forgotten");
    is_str(names(a), "docker.io/library/a@sha256:" M " ", "the tag has left the old image");
    is_str(names(bb), "docker.io/library/a:1 docker.io/library/b:1 q.io/b@sha256:" M " ",
           "the other one has it, sorted, and keeps its names");
    ok(images_find(im, "", "docker.io/library/a:1") == bb, "and is found by it");
    is_int(images_layer(im, "l")->refs, 3, "a second pull does not count layers again");
    is_int(images_count(im), 3, "still three");
    commit(b);
    close_all();
    open_all();
    is_str(names(images_by_id(im, "sha256:" A)), "docker.io/library/a@sha256:" M " ",
           "so after a restart");
    is_str(names(images_by_id(im, "sha256:" B)),
           "docker.io/library/a:1 docker.io/library/b:1 q.io/b@sha256:" M " ", "both");
    ok(images_by_id(im, "sha256:" B)->pinned, "pinned again");
    is_int(images_layer(im, "l")->refs, 3, "counted again");
    ok(images_layer_number(im) > images_layer(im, "l")->number,
       "numbers go on behind those in use");
}

static void test_layers(void)
{
    struct store_batch *b = store_batch_new(store);
    uint64_t n1 = images_layer_number(im), n2 = images_layer_number(im), *gone = NULL;
    Cricket__State__Layer other = CRICKET__STATE__LAYER__INIT;
    char chain[] = "m";
    size_t n = 0;

    layer(b, "m", n1, 1000);
    layer(b, "n", n2, 2000);
    layer(b, "m", n1, 1000);
    other.chain_id = chain;
    other.number = n2 + 1;
    is_int(images_layer_add(im, &other, b), -EEXIST, "a chain has one directory");
    struct image *x = add(M, "mn", "docker.io/library/x:1", NULL, b);
    is_int(images_used_bytes(im), 3100, "bytes");
    commit(b);

    b = store_batch_new(store);
    images_layers_hold(im, &n1, 1);
    images_remove(im, x, b, &gone, &n);
    ok(n == 1 && gone[0] == n2, "a layer that a container holds stays");
    ok(!images_find(im, M, NULL) && !images_layer(im, "n") && images_layer(im, "m"),
       "image and layer are gone");
    is_int(images_used_bytes(im), 1100, "bytes");
    ok(images_number_used(im, n1) && !images_number_used(im, n2), "one number is in use");
    commit(b);
    close_all();
    open_all();
    ok(images_layer(im, "m") && !images_layer(im, "n"), "so after a restart");
    images_layers_hold(im, &n1, 1);
    b = store_batch_new(store);
    n = 0;
    images_prune(im, b, &gone, &n);
    is_int(n, 0, "nothing to prune while it is held");
    images_layers_drop(im, &n1, 1, b, &gone, &n);
    ok(n == 1 && gone[0] == n1, "the container goes, its layer too");
    commit(b);
    close_all();
    open_all();
    ok(!images_layer(im, "m"), "also after a restart");

    uint64_t lost = 4711;
    images_layers_hold(im, &lost, 1);
    ok(images_number_used(im, lost), "a number that no record knows can be held");
    ok(images_layer_number(im) == lost + 1, "and is not given out");
    n = 0;
    images_layers_drop(im, &lost, 1, NULL, &gone, &n);
    ok(n == 1 && gone[0] == lost, "and dropped");

    b = store_batch_new(store);
    layer(b, "u", images_layer_number(im), 1);
    commit(b);
    close_all();
    open_all();
    b = store_batch_new(store);
    n = 0;
    images_prune(im, b, &gone, &n);
    ok(n == 1 && !images_layer(im, "u"), "a layer without image is pruned");
    commit(b);
    free(gone);
}

static void test_forget(void)
{
    struct store_batch *b = store_batch_new(store);
    uint64_t *gone = NULL;
    size_t n = 0;

    layer(b, "f", images_layer_number(im), 1);
    add(M, "lf", "docker.io/library/f:1", NULL, b);
    store_batch_free(b);             /* as if the commit had failed */
    images_forget(im, "sha256:" M, &gone, &n);
    ok(n == 1 && !images_by_id(im, "sha256:" M) && !images_layer(im, "f"),
       "an image that was not recorded goes");
    ok(images_layer(im, "l"), "a layer that others need stays");
    images_forget(im, "sha256:" A, &gone, &n);
    ok(images_by_id(im, "sha256:" A), "a recorded one stays");

    /* a layer whose first batch failed while another pull held it */
    uint64_t number = images_layer_number(im);
    b = store_batch_new(store);
    layer(b, "g", number, 1);
    add(M, "lg", "docker.io/library/g:1", NULL, b);
    images_layers_hold(im, &number, 1);
    store_batch_free(b);
    n = 0;
    images_forget(im, "sha256:" M, &gone, &n);
    is_int(n, 0, "it stays");
    b = store_batch_new(store);
    add(D, "lg", NULL, NULL, b);
    images_layers_drop(im, &number, 1, b, &gone, &n);
    is_int(n, 0, "the other pull's image needs it");
    commit(b);
    close_all();
    open_all();
    ok(images_layer(im, "g") && images_by_id(im, "sha256:" D), "and is there with it after a restart");
    free(gone);
}

static void remove_it(void *arg, struct image *i)
{
    uint64_t *gone = NULL;
    size_t n = 0;

    images_remove(im, i, arg, &gone, &n);
    free(gone);
}

static void test_each(void)
{
    struct store_batch *b = store_batch_new(store);

    images_each(im, remove_it, b);
    is_int(images_count(im), 0, "all removed while going through them");
    is_int(images_used_bytes(im), 0, "no bytes left");
    commit(b);
    close_all();
    open_all();
    is_int(images_count(im), 0, "none after a restart");
}

int main(int argc, char **argv)
{
    (void)argc;
    make_temp(base);
    worker = program("cricket-worker", argv[0]);
    patterns[0] = mem_strdup("*/b:*");
    open_all();
    test_find();
    test_tags();
    test_layers();
    test_forget();
    test_each();
    close_all();
    if (!remove_temp(base))
        diag("%s is left", base);
    free(patterns[0]);
    free(worker);
    return done_testing();
}
