/* Normalizations, 8 lanes at a time. */
#include "rows.h"

#if QK_X86
#include "avx2/lanes.h"

/* ---- Layer and RMS normalization ---- */

/* count * x and S stay below 2^24, exact in float32; and a lane's sum of squares below 2^31. */
enum { NORMALIZE_EXACT_COUNT = 65793 };

static int32_t normalize_accepts(const qk_op *op) {
    return ((const qk_normalize_params *)op->params)->count <= NORMALIZE_EXACT_COUNT;
}

LANES_INLINE int64_t sum_of_lanes(__m256i i32x8) {
    __m128i i32x4 = _mm_add_epi32(_mm256_castsi256_si128(i32x8), _mm256_extracti128_si256(i32x8, 1));
    i32x4 = _mm_add_epi32(i32x4, _mm_shuffle_epi32(i32x4, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_add_epi32(i32x4, _mm_shuffle_epi32(i32x4, 0xb1)));
}

LANES_INLINE qk_normal normal_of_run(const qk_normalize_params *p, const uint8_t *x) {
    __m256i sums = _mm256_setzero_si256(), squares = _mm256_setzero_si256();
    for (int64_t i = 0; i < p->count; i += 16) {
        const __m128i u8x16 = bytes_load(x + i, qk_min64(16, p->count - i));
        const __m256i u16x16 = _mm256_cvtepu8_epi16(u8x16);
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(u16x16, _mm256_set1_epi16(1)));
        squares = _mm256_add_epi32(squares, _mm256_madd_epi16(u16x16, u16x16));
    }
    return qk_normal_of(p->count, p->origin, sum_of_lanes(sums), sum_of_lanes(squares), p->in_scale, p->epsilon);
}

static LANES_TARGET void normalize(const qk_op *op, const qk_task *task) {
    const qk_normalize_params *p = op->params;
    const lanes_f32 least = lanes_set((float)-p->zero_point), most = lanes_set((float)(255 - p->zero_point));
    const lanes_f32 count = lanes_set((float)p->count);
    for (int64_t row = task->begin; row < task->end; row++) {
        const uint8_t *x = (const uint8_t *)qk_at(task, op->in[0]) + row * p->in_pitch;
        uint8_t *y = (uint8_t *)qk_at(task, op->out) + row * p->out_pitch;
        const qk_normal normal = normal_of_run(p, x);
        const lanes_f32 factor = lanes_set(normal.factor), whole = lanes_set((float)normal.whole);
        for (int64_t i = 0; i < p->count; i += LANES) {
            const int64_t n = qk_min64(LANES, p->count - i);
            const int full = n == LANES;
            const lanes_f32 bytes = full ? lanes_load_u8(x + i) : lanes_load_u8_part(x + i, n);
            const lanes_f32 gain = full ? lanes_load_f32(p->gain + i) : lanes_load_f32_part(p->gain + i, n);
            const lanes_f32 shift = full ? lanes_load_f32(p->shift + i) : lanes_load_f32_part(p->shift + i, n);
            const lanes_f32 centred = lanes_multiply(lanes_subtract(lanes_multiply(bytes, count), whole), factor);
            const lanes_f32 v = lanes_clamp(lanes_add(lanes_multiply(centred, gain), shift), least, most);
            if (full)
                lanes_store_u8(y + i, v, p->zero_point);
            else
                lanes_store_u8_part(y + i, v, p->zero_point, n);
        }
    }
}

const qk_kernel qk_normalize_avx2 = {
    .accepts = normalize_accepts, .valid = qk_normalize_valid, .work = qk_normalize_work, .run = normalize};

/* ---- Group and instance normalization: lanes are channels, so groups of one channel are as fast as wide ones ---- */

/* 255^2 * this < 2^32: sums of so many squares fit a lane. */
enum { LANE_PIXELS = 65536 };

/* Scratch of a unit, by channel. */
typedef struct {
    int64_t *sum, *squares;
    int32_t *whole;
    float *factor, *gain, *shift;
} group_scratch;

static int64_t unit_channels(const qk_group_normalize_params *p) {
    return qk_round_up(qk_groups_a_unit(p) * (p->channels / p->groups), 16);
}

static int64_t group_scratch_bytes(const qk_op *op) {
    return unit_channels(op->params) * (int64_t)(2 * sizeof(int64_t) + sizeof(int32_t) + 3 * sizeof(float));
}

static group_scratch group_scratch_at(const qk_group_normalize_params *p, void *memory) {
    const int64_t channels = unit_channels(p);
    int64_t *sum = memory;
    int32_t *whole = (int32_t *)(sum + 2 * channels);
    float *factor = (float *)(whole + channels);
    return (group_scratch){sum, sum + channels, whole, factor, factor + channels, factor + 2 * channels};
}

LANES_INLINE void add_lanes(int64_t *to, __m256i u32x8) {
    uint32_t lanes[LANES];
    _mm256_storeu_si256((__m256i *)lanes, u32x8);
    for (int32_t i = 0; i < LANES; i++)
        to[i] += lanes[i];
}

/* Adds the sums of 16 channels, of which n exist, over at most LANE_PIXELS pixels. */
LANES_INLINE void add_moments(const uint8_t *x, int64_t pixels, int64_t pitch, int64_t n, int64_t *sum,
                              int64_t *squares) {
    __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()}, products[2] = {sums[0], sums[0]};
    for (int64_t pixel = 0; pixel < pixels; pixel++, x += pitch) {
        const __m128i u8x16 = bytes_load(x, n);
        const __m256i low = _mm256_cvtepu8_epi32(u8x16), high = _mm256_cvtepu8_epi32(_mm_srli_si128(u8x16, 8));
        sums[0] = _mm256_add_epi32(sums[0], low);
        sums[1] = _mm256_add_epi32(sums[1], high);
        products[0] = _mm256_add_epi32(products[0], _mm256_madd_epi16(low, low));
        products[1] = _mm256_add_epi32(products[1], _mm256_madd_epi16(high, high));
    }
    for (int32_t half = 0; half < 2; half++) {
        add_lanes(sum + LANES * half, sums[half]);
        add_lanes(squares + LANES * half, products[half]);
    }
}

/* The normal of each group, written to every channel of it. */
static void spread_normals(const qk_group_normalize_params *p, const qk_group_unit *unit, const group_scratch *s) {
    const int64_t n = p->pixels * unit->channels;
    for (int64_t first = 0; first < unit->count * unit->channels; first += unit->channels) {
        int64_t sum = 0, squares = 0;
        for (int64_t i = first; i < first + unit->channels; i++) {
            sum += s->sum[i];
            squares += s->squares[i];
        }
        const qk_normal normal = qk_normal_of(n, -1, sum, squares, p->in_scale, p->epsilon);
        for (int64_t i = first; i < first + unit->channels; i++) {
            s->whole[i] = normal.whole;
            s->factor[i] = normal.factor;
        }
    }
}

LANES_INLINE void write_pixel(const qk_group_normalize_params *p, const uint8_t *x, uint8_t *y, int64_t channels,
                              __m256i n_i32x8, const group_scratch *s) {
    const lanes_f32 least = lanes_set((float)-p->zero_point), most = lanes_set((float)(255 - p->zero_point));
    for (int64_t i = 0; i < channels; i += LANES) {
        const int64_t n = qk_min64(LANES, channels - i);
        const __m256i bytes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)bytes_load_8(x + i, n)));
        const __m256i whole = _mm256_load_si256((const __m256i *)(s->whole + i));
        const __m256i centred = _mm256_sub_epi32(_mm256_mullo_epi32(bytes, n_i32x8), whole);
        const lanes_f32 normal = lanes_multiply(_mm256_cvtepi32_ps(centred), lanes_load_f32(s->factor + i));
        const lanes_f32 scaled = lanes_multiply(normal, lanes_load_f32(s->gain + i));
        const lanes_f32 v = lanes_clamp(lanes_add(scaled, lanes_load_f32(s->shift + i)), least, most);
        if (n == LANES)
            lanes_store_u8(y + i, v, p->zero_point);
        else
            lanes_store_u8_part(y + i, v, p->zero_point, n);
    }
}

static LANES_TARGET void group_normalize(const qk_op *op, const qk_task *task) {
    const qk_group_normalize_params *p = op->params;
    const group_scratch s = group_scratch_at(p, task->scratch);
    for (int64_t index = task->begin; index < task->end; index++) {
        const qk_group_unit unit = qk_group_unit_at(p, index);
        const int64_t first = unit.first * unit.channels, channels = unit.count * unit.channels;
        const uint8_t *x = (const uint8_t *)qk_at(task, op->in[0]) + unit.image * p->pixels * p->in_pitch + first;
        uint8_t *y = (uint8_t *)qk_at(task, op->out) + unit.image * p->pixels * p->out_pitch + first;
        memset(task->scratch, 0, (size_t)group_scratch_bytes(op));
        memcpy(s.gain, p->gain + first, (size_t)channels * sizeof(float));
        memcpy(s.shift, p->shift + first, (size_t)channels * sizeof(float));
        for (int64_t i = 0; i < channels; i += 16)
            for (int64_t from = 0; from < p->pixels; from += LANE_PIXELS)
                add_moments(x + from * p->in_pitch + i, qk_min64(LANE_PIXELS, p->pixels - from), p->in_pitch,
                            qk_min64(16, channels - i), s.sum + i, s.squares + i);
        spread_normals(p, &unit, &s);
        const __m256i n_i32x8 = _mm256_set1_epi32((int32_t)(p->pixels * unit.channels));
        for (int64_t pixel = 0; pixel < p->pixels; pixel++)
            write_pixel(p, x + pixel * p->in_pitch, y + pixel * p->out_pitch, channels, n_i32x8, &s);
    }
}

const qk_kernel qk_group_normalize_avx2 = {.valid = qk_group_normalize_valid,
                                           .work = qk_group_normalize_work,
                                           .scratch_bytes = group_scratch_bytes,
                                           .run = group_normalize};

/* ---- Local response normalization: squares of a run in scratch, zeros around them ---- */

static int64_t squares_count(const qk_lrn_params *p) {
    return p->before + qk_round_up(p->count, LANES) + p->after + LANES;
}

static int64_t lrn_scratch_bytes(const qk_op *op) {
    return squares_count(op->params) * (int64_t)sizeof(int32_t);
}

LANES_INLINE lanes_f32 lrn_factor(const qk_lrn_params *p, __m256i sum_i32x8) {
    const __m256i positive = _mm256_max_epi32(sum_i32x8, _mm256_set1_epi32(1));
    const __m256i bits = _mm256_castps_si256(_mm256_cvtepi32_ps(positive));
    const __m256i segment = _mm256_sub_epi32(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(QK_LRN_FIRST_SEGMENT));
    const lanes_f32 begin = _mm256_i32gather_ps(p->segments, segment, 8);
    const lanes_f32 slope = _mm256_i32gather_ps(p->segments + 1, segment, 8);
    const lanes_f32 rest = _mm256_cvtepi32_ps(_mm256_and_si256(bits, _mm256_set1_epi32(0xffff)));
    return lanes_add(begin, lanes_multiply(rest, slope));
}

LANES_INLINE void write_squares(const qk_lrn_params *p, const uint8_t *x, int32_t *squares) {
    for (int64_t i = 0; i < p->count; i += LANES) {
        const int64_t n = qk_min64(LANES, p->count - i);
        const __m256i bytes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)bytes_load_8(x + i, n)));
        const __m256i d = _mm256_and_si256(_mm256_sub_epi32(bytes, _mm256_set1_epi32(p->in_zero_point)), lanes_mask(n));
        _mm256_storeu_si256((__m256i *)(squares + i), _mm256_mullo_epi32(d, d));
    }
}

static LANES_TARGET void lrn(const qk_op *op, const qk_task *task) {
    const qk_lrn_params *p = op->params;
    const lanes_f32 least = lanes_set((float)-p->zero_point), most = lanes_set((float)(255 - p->zero_point));
    const lanes_f32 in_zero_point = lanes_set((float)p->in_zero_point);
    int32_t *squares = task->scratch;
    memset(squares, 0, (size_t)lrn_scratch_bytes(op));
    for (int64_t row = task->begin; row < task->end; row++) {
        const uint8_t *x = (const uint8_t *)qk_at(task, op->in[0]) + row * p->in_pitch;
        uint8_t *y = (uint8_t *)qk_at(task, op->out) + row * p->out_pitch;
        write_squares(p, x, squares + p->before);
        for (int64_t i = 0; i < p->count; i += LANES) {
            __m256i sum = _mm256_setzero_si256();
            for (int32_t j = 0; j <= p->before + p->after; j++)
                sum = _mm256_add_epi32(sum, _mm256_loadu_si256((const __m256i *)(squares + i + j)));
            const int64_t n = qk_min64(LANES, p->count - i);
            const lanes_f32 d = lanes_subtract(lanes_load_u8_part(x + i, n), in_zero_point);
            const lanes_f32 v = lanes_clamp(lanes_multiply(d, lrn_factor(p, sum)), least, most);
            lanes_store_u8_part(y + i, v, p->zero_point, n);
        }
    }
}

const qk_kernel qk_lrn_avx2 = {
    .valid = qk_lrn_valid, .work = qk_lrn_work, .scratch_bytes = lrn_scratch_bytes, .run = lrn};
#endif
