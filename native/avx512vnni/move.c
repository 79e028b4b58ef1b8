/* Table lookups 64 bytes at a time on a CPU with AVX512-VBMI, else as in AVX2. */
#include "avx2/lookup.h"

#if QK_X86
#include <immintrin.h>

#include "elementwise.h"

#define VBMI_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi")))

typedef struct {
    __m512i quarters[4];
} lookup_table;

/* vpermi2b selects among 128 entries by the low 7 bits of an index; the top bit chooses the half. */
static inline VBMI_TARGET __attribute__((always_inline)) __m512i look_up(const lookup_table *t, __m512i x) {
    const __m512i low = _mm512_permutex2var_epi8(t->quarters[0], x, t->quarters[1]);
    const __m512i high = _mm512_permutex2var_epi8(t->quarters[2], x, t->quarters[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high);
}

static VBMI_TARGET void lookup_rows_vbmi(const qk_byte_rows *m, const uint8_t *table) {
    lookup_table t;
    for (int32_t i = 0; i < 4; i++)
        t.quarters[i] = _mm512_loadu_si512(table + 64 * i);
    for (int64_t r = 0; r < m->rows; r++) {
        const uint8_t *x = m->in + r * m->in_pitch;
        uint8_t *y = m->out + r * m->out_pitch;
        int64_t i = 0;
        for (; i + 64 <= m->count; i += 64)
            _mm512_storeu_si512(y + i, look_up(&t, _mm512_loadu_si512(x + i)));
        if (i < m->count) {
            const __mmask64 rest = ~0ull >> (64 - (m->count - i));
            _mm512_mask_storeu_epi8(y + i, rest, look_up(&t, _mm512_maskz_loadu_epi8(rest, x + i)));
        }
    }
}

void qk_lookup_rows_avx512vnni(const qk_byte_rows *rows, const uint8_t *table) {
    if (__builtin_cpu_supports("avx512vbmi"))
        lookup_rows_vbmi(rows, table);
    else
        qk_lookup_rows_avx2(rows, table);
}

static void copy(const qk_op *op, const qk_task *task) {
    qk_copy_with(op, task, qk_lookup_rows_avx512vnni);
}

const qk_kernel qk_lookup_avx512vnni = {.valid = qk_lookup_valid, .work = qk_copy_work, .run = copy};
const qk_kernel qk_copy_avx512vnni = {.valid = qk_copy_valid, .work = qk_copy_work, .run = copy};
#endif
