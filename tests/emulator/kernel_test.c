/* kernel_test VECTORS [ISA,ISA...] [-v]
 *
 * Runs every case of a vectors file (recorder.py says how it is laid out) on every ISA that this CPU has, on 1 and on 3
 * threads, and compares every byte of the output. Linked statically with the engine it needs nothing but a kernel, so
 * it runs on an emulated CPU. All operands end at an unmapped page. With a list of ISAs, exactly these must be
 * available. Exit status: 0 all equal, 1 something differs, 2 wrong usage. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

enum { NAME, PARAMS, IN0, IN1, BEFORE, AFTER, TABLE, WEIGHTS, BIAS, MULTIPLIER, INTS0, INTS1, BLOB_COUNT };
enum { FIELDS = 16, LARGEST_PARAMS = 512, MOST_KERNELS = 256 };

typedef struct {
    uint32_t kind, alias;
    int64_t size[BLOB_COUNT]; /* -1: there is none */
    const char *blob[BLOB_COUNT];
} test_case;

/* Memory that ends where an unmapped page begins. */
typedef struct {
    char *base, *data;
    size_t mapped;
} guarded;

static void die(const char *what) {
    fprintf(stderr, "kernel_test: %s\n", what);
    exit(2);
}

static guarded guard(const void *content, int64_t size) {
    guarded g = {NULL, NULL, 0};
    if (size < 0)
        return g;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), inside = ((size_t)size + page) / page * page;
    g.mapped = inside + page;
    g.base = mmap(NULL, g.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g.base == MAP_FAILED || mprotect(g.base + inside, page, PROT_NONE))
        die("no memory");
    g.data = g.base + inside - size;
    memcpy(g.data, content, (size_t)size);
    return g;
}

static void release(guarded g) {
    if (g.base)
        munmap(g.base, g.mapped);
}

static void *aligned(int64_t size) {
    void *memory = aligned_alloc(64, (size_t)qk_round_up(qk_max64(size, 64), 64));
    if (!memory)
        die("no memory");
    return memory;
}

/* Puts the pointers into the parameter struct. packed: of a conv, else NULL. */
static void point(uint32_t kind, void *params, const guarded *g, const void *packed) {
    const uint8_t *table = (const uint8_t *)g[TABLE].data;
    switch (kind) {
    case QK_CONV:
        ((qk_conv_params *)params)->packed = packed;
        ((qk_conv_params *)params)->epilogue.table = table;
        ((qk_conv_params *)params)->epilogue.activation_scale = (const float *)(const void *)g[INTS0].data;
        ((qk_conv_params *)params)->epilogue.activation_shift = (const float *)(const void *)g[INTS1].data;
        break;
    case QK_BINARY:
        ((qk_binary_params *)params)->table = table;
        break;
    case QK_POOL:
        ((qk_pool_params *)params)->multiplier_by_count = (const float *)(const void *)g[INTS0].data;
        break;
    case QK_LOOKUP:
    case QK_COPY:
    case QK_FILL:
        ((qk_copy_params *)params)->table = table;
        break;
    case QK_RESIZE:
    case QK_BLEND:
        ((qk_resize_params *)params)->rows = (const int32_t *)(const void *)g[INTS0].data;
        ((qk_resize_params *)params)->columns = (const int32_t *)(const void *)g[INTS1].data;
        break;
    case QK_SOFTMAX:
        ((qk_softmax_params *)params)->exponentials = (const int32_t *)(const void *)g[INTS0].data;
        break;
    case QK_NORMALIZE:
        ((qk_normalize_params *)params)->gain = (const float *)(const void *)g[INTS0].data;
        ((qk_normalize_params *)params)->shift = (const float *)(const void *)g[INTS1].data;
        break;
    case QK_NORMALIZE_FLOAT:
        ((qk_normalize_float_params *)params)->gain = (const float *)(const void *)g[INTS0].data;
        ((qk_normalize_float_params *)params)->shift = (const float *)(const void *)g[INTS1].data;
        break;
    case QK_GROUP_NORMALIZE:
        ((qk_group_normalize_params *)params)->gain = (const float *)(const void *)g[INTS0].data;
        ((qk_group_normalize_params *)params)->shift = (const float *)(const void *)g[INTS1].data;
        break;
    case QK_LRN:
        ((qk_lrn_params *)params)->segments = (const float *)(const void *)g[INTS0].data;
        break;
    default:
        break;
    }
}

static void *pack(qk_isa isa, const qk_conv_params *conv, const guarded *g) {
    const int64_t bytes = qk_conv_packed_bytes(isa, conv);
    void *packed = aligned(bytes);
    const int32_t *bias = (const int32_t *)(const void *)g[BIAS].data;
    const float *multiplier = (const float *)(const void *)g[MULTIPLIER].data;
    if (bytes <= 0 || qk_conv_pack(isa, conv, (const int8_t *)g[WEIGHTS].data, bias, multiplier, packed) != QK_OK)
        die("weights were not packed");
    return packed;
}

/* Runs the case; the number of bytes that differ, or -1 if it was refused. *kernel: the name of what ran it. */
static int64_t run(const test_case *c, qk_isa isa, int32_t threads, const char **kernel) {
    guarded g[BLOB_COUNT];
    for (int i = 0; i < BLOB_COUNT; i++)
        g[i] = guard(c->blob[i], c->size[i]);
    _Alignas(16) char params[LARGEST_PARAMS];
    memcpy(params, c->blob[PARAMS], (size_t)c->size[PARAMS]);
    point(c->kind, params, g, NULL);
    void *packed = c->kind == QK_CONV ? pack(isa, (qk_conv_params *)(void *)params, g) : NULL;
    point(c->kind, params, g, packed);

    char *output = c->alias ? g[IN0 + c->alias - 1].data : g[BEFORE].data;
    void *const buffers[3] = {g[IN0].data, g[IN1].data, output};
    const qk_ref in0 = {c->size[IN0] < 0 ? -1 : 0, 0}, in1 = {c->size[IN1] < 0 ? -1 : 1, 0}, out = {2, 0};
    const qk_op op = {(qk_op_kind)c->kind, {in0, in1}, out, params};
    *kernel = qk_op_kernel_name(isa, &op);
    const int64_t each = qk_op_scratch_bytes(isa, &op);
    void *scratch = aligned(each * threads);
    qk_pool *pool = qk_pool_create(threads);
    int32_t failed = -1;
    const qk_status status = qk_run(isa, pool, &op, 1, buffers, scratch, each, NULL, &failed);
    qk_pool_destroy(pool);

    int64_t wrong = status == QK_OK ? 0 : -1;
    for (int64_t i = 0; status == QK_OK && i < c->size[AFTER]; i++)
        wrong += output[i] != c->blob[AFTER][i];
    free(scratch);
    free(packed);
    for (int i = 0; i < BLOB_COUNT; i++)
        release(g[i]);
    return wrong;
}

/* The next case at *at; the file ends at end. */
static test_case next_case(const char **at, const char *end) {
    test_case c;
    if (end - *at < 8)
        die("the vectors file is cut short");
    memcpy(&c.kind, *at, 4);
    memcpy(&c.alias, *at + 4, 4);
    *at += 8;
    for (int i = 0; i < BLOB_COUNT; i++) {
        if (end - *at < 8)
            die("the vectors file is cut short");
        memcpy(&c.size[i], *at, 8);
        c.blob[i] = *at += 8;
        if (c.size[i] > end - *at)
            die("the vectors file is cut short");
        *at += c.size[i] < 0 ? 0 : qk_round_up(c.size[i], 8);
    }
    if (c.size[PARAMS] > LARGEST_PARAMS || c.alias > 2)
        die("the vectors file was made for another engine");
    return c;
}

static char *read_file(const char *path, const char **end) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        die("the vectors file cannot be read");
    const long size = ftell(file);
    char *content = malloc((size_t)size + 1);
    rewind(file);
    if (!content || fread(content, 1, (size_t)size, file) != (size_t)size)
        die("the vectors file cannot be read");
    fclose(file);
    *end = content + size;
    if (size < 16 || memcmp(content, "QKVECTOR", 8))
        die("not a vectors file");
    return content;
}

/* Is the set of available ISAs the one in the list "scalar,avx2"? */
static int isas_are(const char *list) {
    char found[128] = "";
    for (int isa = 0; isa < QK_ISA_COUNT; isa++) {
        if (!qk_isa_available((qk_isa)isa))
            continue;
        strcat(found, *found ? "," : "");
        strcat(found, qk_isa_name((qk_isa)isa));
    }
    printf("this CPU has %s\n", found);
    if (strcmp(found, list))
        printf("FAIL: expected %s\n", list);
    return !strcmp(found, list);
}

/* How many cases each row of kernels.inc ran; a row that could have run and did not is a failure. */
static int every_kernel_ran(const int32_t *runs) {
    int good = 1;
    for (int32_t i = 0; i < qk_kernel_count(); i++) {
        const int available = qk_isa_available(qk_kernel_isa(i));
        const int missed = available && !runs[i];
        printf("%-28s %6d cases%s\n", qk_kernel_name(i), runs[i],
               missed      ? "  FAIL: no case"
               : available ? ""
                           : "  no CPU");
        good = good && !missed;
    }
    return good;
}

static void count(int32_t *runs, const char *kernel) {
    for (int32_t i = 0; kernel && i < qk_kernel_count() && i < MOST_KERNELS; i++)
        runs[i] += !strcmp(kernel, qk_kernel_name(i));
}

int main(int argc, char **argv) {
    static const int32_t thread_counts[] = {1, 3};
    if (argc < 2)
        die("usage: kernel_test VECTORS [ISA,ISA...] [-v]");
    const int verbose = !strcmp(argv[argc - 1], "-v");
    const char *end;
    char *content = read_file(argv[1], &end);
    const char *at = content + FIELDS;
    int good = argc - verbose < 3 || isas_are(argv[2]);
    int32_t runs[MOST_KERNELS] = {0};
    uint32_t cases;
    memcpy(&cases, content + 8, 4);
    for (uint32_t i = 0; i < cases; i++) {
        const test_case c = next_case(&at, end);
        for (int isa = 0; isa < QK_ISA_COUNT; isa++) {
            for (int t = 0; qk_isa_available((qk_isa)isa) && t < 2; t++) {
                const char *kernel;
                const int64_t wrong = run(&c, (qk_isa)isa, thread_counts[t], &kernel);
                good = good && !wrong;
                if (t == 0)
                    count(runs, kernel);
                if (wrong || verbose)
                    printf("%s %s, %d threads, %s: %lld bytes differ\n", wrong ? "FAIL" : "ok",
                           kernel ? kernel : "none", thread_counts[t], c.blob[NAME], (long long)wrong);
            }
        }
    }
    free(content);
    good = every_kernel_ran(runs) && good;
    printf("%s: %u cases\n", good ? "PASS" : "FAIL", cases);
    return !good;
}
