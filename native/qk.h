/* qk.h: the whole surface of the quantkit engine. C11.
 *
 * cffi reads this file as it is, so it holds declarations only: no macros, no conditionals.
 * The numerics are those of docs/numerics.md; the scalar kernels are the law, every other ISA equals them bit for bit.
 * Activations are u8, channels last (NHWC); weights s8; accumulators int32. Nothing here prints, aborts or,
 * after a plan is built, allocates.
 */

typedef enum {
    QK_OK = 0,
    QK_BAD_ARGUMENT = 1, /* a size, pitch or pointer that no plan should hold */
    QK_ISA_MISSING = 2,  /* the forced ISA is not in this build or not in this CPU */
    QK_NO_MEMORY = 3
} qk_status;

typedef enum { QK_SCALAR = 0, QK_AVX2 = 1, QK_AVXVNNI = 2, QK_AVX512VNNI = 3, QK_ISA_COUNT = 4 } qk_isa;

typedef enum {
    QK_QUANTIZE = 0,         /* qk_convert_params:  f32 [batch][channels][pixels] -> u8 [batch][pixels][pitch] */
    QK_DEQUANTIZE = 1,       /* qk_convert_params:  u8 [batch][pixels][pitch] -> f32 [batch][channels][pixels] */
    QK_CONV = 2,             /* qk_conv_params:     in[0] activations, in[1] residual or none */
    QK_BINARY = 3,           /* qk_binary_params:   in[0], in[1] */
    QK_POOL = 4,             /* qk_pool_params */
    QK_LOOKUP = 5,           /* qk_copy_params with a table: y = T[x] */
    QK_COPY = 6,             /* qk_copy_params:     strided copy, with a table if one is given */
    QK_FILL = 7,             /* qk_copy_params:     writes `value`; no input */
    QK_RESIZE = 8,           /* qk_resize_params:   nearest, by index maps */
    QK_SOFTMAX = 9,          /* qk_softmax_params */
    QK_NORMALIZE = 10,       /* qk_normalize_params: layer and RMS normalization */
    QK_MATMUL = 11,          /* qk_matmul_params:   in[0], in[1], both activations */
    QK_BLEND = 12,           /* qk_resize_params:   linear, by maps of indices and weights */
    QK_LRN = 13,             /* qk_lrn_params:      local response normalization */
    QK_GROUP_NORMALIZE = 14, /* qk_group_normalize_params: group and instance normalization */
    QK_ADD_FLOAT = 15,       /* qk_add_float_params: in[0], in[1], float32 */
    QK_NORMALIZE_FLOAT = 16, /* qk_normalize_float_params: float32 */
    QK_OP_COUNT = 17
} qk_op_kind;

/* Where a tensor lies: byte `offset` in buffers[buffer] of the call; buffer -1 means: no such tensor. */
typedef struct {
    int32_t buffer;
    int64_t offset;
} qk_ref;

typedef struct {
    qk_op_kind kind;
    qk_ref in[2];
    qk_ref out;
    const void *params; /* of the struct that `kind` names; not changed by a run */
} qk_op;

/* What a conv does to v = f32(acc) * multiplier[c] [+ f32(r - residual_zero_point) * residual_multiplier] before it is
 * rounded: nothing; for HardSwish (v * t) * activation_scale[c] + activation_shift[c] with t = v + 3 clamped to between
 * 0 and 6; for LeakyRelu v * rising, or v * falling where v < 0. */
typedef enum { QK_IDENTITY = 0, QK_HARD_SWISH = 1, QK_LEAKY_RELU = 2 } qk_wide_activation;

/* y = clamp(rne(v) + zero_point, low, high), then y = table[y] if there is a table. With a wide activation a(v):
 * y = clamp(rne(a(v)) + zero_point, low, high). With to_float: y = f32(acc) * multiplier[c], float32, nothing else.
 * Each product and sum is rounded by itself (no FMA). multiplier[c] itself is given to qk_conv_pack. */
typedef struct {
    int32_t zero_point, low, high;
    const uint8_t *table; /* 256 bytes or NULL */
    float residual_multiplier;
    int32_t residual_zero_point;
    int32_t to_float;
    qk_wide_activation activation;
    const float *activation_scale, *activation_shift; /* [out_c], for HardSwish; shift NULL: none */
    float steepest; /* for HardSwish: 6 |activation_scale[c]| at most; infinite if an |activation_shift[c]| > 2^20 */
    float rising, falling;
} qk_epilogue;

/* Convolution, NHWC; a fully connected layer is the 1x1 case with in_h = rows. out_c and in_c are divisible by groups.
 * A pitch counts elements from one pixel to the next, so an operand may be a channel slice of a wider tensor. */
typedef struct {
    int32_t batch;
    int32_t in_h, in_w, in_c, in_pitch;
    int32_t out_h, out_w, out_c, out_pitch;
    int32_t residual_pitch;
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    int32_t groups;
    int32_t in_zero_point; /* what padding holds */
    const void *packed;    /* from qk_conv_pack, for the ISA of the run */
    qk_epilogue epilogue;
} qk_conv_params;

/* f32 <-> u8 with a change of layout. Quantize: q = clamp(rne(x / scale) + zero_point, 0, 255), a true division;
 * NaN gives 255. Dequantize: f32(q - zero_point) * scale. pitch counts bytes from one pixel to the next in the u8
 * tensor. */
typedef struct {
    int64_t batch, channels, pixels, pitch;
    float scale;
    int32_t zero_point;
} qk_convert_params;

/* Elementwise on [batch][pixels][channels]; a stride of 0 broadcasts. Strides in bytes, for a, b and out.
 * multiply 0: y = clamp(rne(f32(a - a_zero_point) * a_multiplier + f32(b - b_zero_point) * b_multiplier) + zero_point,
 * low, high) multiply 1: y = clamp(rne(f32((a - a_zero_point) * (b - b_zero_point)) * a_multiplier) + zero_point, low,
 * high) then table as in qk_epilogue. */
typedef struct {
    int64_t batch, pixels, channels;
    int64_t a_stride[3], b_stride[3], out_stride[3];
    int32_t multiply;
    int32_t a_zero_point, b_zero_point;
    float a_multiplier, b_multiplier;
    int32_t zero_point, low, high;
    const uint8_t *table;
} qk_binary_params;

/* Pooling, NHWC. Maximum (average 0): over the taps inside the input, zero points unchanged.
 * Average (average 1): acc = sum of (x - in_zero_point) over the taps inside the input,
 * y = clamp(rne(f32(acc) * multiplier_by_count[count]) + zero_point, 0, 255), count = taps inside the input, or with
 * count_padding inside the input extended by its pads. */
typedef struct {
    int32_t batch, channels;
    int32_t in_h, in_w, in_pitch, out_h, out_w, out_pitch;
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int32_t pad_top, pad_left, pad_bottom, pad_right;
    int32_t average, count_padding;
    int32_t in_zero_point, zero_point;
    const float *multiplier_by_count; /* [kernel_h * kernel_w + 1] */
} qk_pool_params;

/* out[i0*out_stride[0] + ...] = in[i0*in_stride[0] + ...] over dims; strides in bytes, outermost first; dims unused
 * are 1. */
typedef struct {
    int64_t dims[6], in_stride[6], out_stride[6];
    const uint8_t *table; /* 256 bytes or NULL */
    int32_t value;        /* QK_FILL */
} qk_copy_params;

/* QK_RESIZE: out[n][y][x][:] = in[n][rows[y]][columns[x]][:]
 * QK_BLEND: rows and columns hold pairs (index i, weight w in 0..2048): value i times 2048 - w plus value i + 1 times
 * w, where w is not 0; with sum over the two rows and two columns, out = (sum + 2^21) >> 22. */
typedef struct {
    int32_t batch, in_h, in_w, out_h, out_w, channels, in_pitch, out_pitch;
    const int32_t *rows, *columns;
} qk_resize_params;

/* Softmax of `rows` runs of `count` contiguous bytes, their starts a pitch apart. With max the largest byte of a run:
 * e(x) = exponentials[255 - max + x], sum = sum of e(x), exact; exponentials: [511], rne(2^24 * exp((i - 255) * s_x))
 * up to i = 255, 0 above, where no x leads;
 * y = clamp(rne(f32(e(x)) * f32(1 / (sum * out_scale))) + zero_point, 0, 255); the factor is computed in float64. */
typedef struct {
    int64_t rows, count, in_pitch, out_pitch;
    const int32_t *exponentials;
    float out_scale;
    int32_t zero_point;
} qk_softmax_params;

/* Layer or RMS normalization of `rows` runs of n = `count` contiguous bytes, all integers exact:
 * origin -1, about the mean: S = sum x, V = n * sum x^2 - S^2; else about this byte: S = n * origin,
 * V = n * sum (x - origin)^2. inverse = in_scale / sqrt(f64(V) / f64(n^2) * in_scale^2 + epsilon) in float64,
 * a = f32(inverse / n), y = clamp(rne((f32(n * x - S) * a) * gain[i] + shift[i]) + zero_point, 0, 255), float32 step by
 * step. */
typedef struct {
    int64_t rows, count, in_pitch, out_pitch;
    double in_scale, epsilon;
    const float *gain, *shift; /* [count]: f32(scale / s_y), f32(bias / s_y) */
    int32_t origin, zero_point;
} qk_normalize_params;

/* The same about the mean, over the pixels and the channels of a group, NHWC: n = pixels * channels / groups, gain and
 * shift by channel. */
typedef struct {
    int64_t batch, pixels, channels, groups, in_pitch, out_pitch;
    double in_scale, epsilon;
    const float *gain, *shift; /* [channels] */
    int32_t zero_point;
} qk_group_normalize_params;

/* out[r][i] = in[0][r][i] + in[1][i], float32, for `repeats` runs r of `period` values. */
typedef struct {
    int64_t repeats, period;
} qk_add_float_params;

/* Layer (centred) or RMS normalization of `rows` runs of n = `count` float32 values. In float64, step by step: eight
 * partial sums S of x and Q of x * x, value i in sum i % 8 in rising order, then
 * ((S0 + S4) + (S2 + S6)) + ((S1 + S5) + (S3 + S7)), Q likewise; mean = S / n, or 0 if not centred,
 * a = f32(1 / sqrt(max(Q / n - mean * mean, 0) + epsilon)).
 * y = (((x - f32(mean)) * a) * gain[i]) + shift[i], float32 step by step. */
typedef struct {
    int64_t rows, count;
    int32_t centred;
    double epsilon;
    const float *gain, *shift; /* [count] */
} qk_normalize_float_params;

/* Local response normalization of `rows` runs of `count` contiguous bytes. d[i] = x[i] - in_zero_point,
 * S = sum of d[j]^2 over the j in i - before..i + after that lie in the run, at most 257, so exact in float32.
 * The factor is piecewise linear in S, 128 segments an octave: bits = those of f32(max(S, 1)), k = (bits >> 16) -
 * 16,256, factor = segments[k][0] + f32(bits & 65,535) * segments[k][1],
 * y = clamp(rne(f32(d[i]) * factor) + zero_point, 0, 255), float32 step by step. */
typedef struct {
    int64_t rows, count, in_pitch, out_pitch;
    int32_t before, after, in_zero_point, zero_point;
    const float *segments; /* [segment_count][2]: the factor where a segment begins, and its slope */
    int32_t segment_count;
} qk_lrn_params;

/* Products of batch[0] x batch[1] pairs of u8 matrices a [rows][depth] and b [depth][columns]. Strides in bytes:
 * b_stride of the depth and of the columns; depth is contiguous in a, columns in the output.
 * acc = sum (a - a_zero_point) * (b - b_zero_point), exact: depth <= 33,025;
 * y = clamp(rne(f32(acc) * multiplier) + zero_point, 0, 255). */
typedef struct {
    int64_t batch[2], rows, columns, depth;
    int64_t a_batch_stride[2], a_pitch;
    int64_t b_batch_stride[2], b_stride[2];
    int64_t out_batch_stride[2], out_pitch;
    int32_t a_zero_point, b_zero_point, zero_point;
    float multiplier;
} qk_matmul_params;

/* ---- CPU and dispatch ---- */
int32_t qk_isa_available(qk_isa isa); /* 1: in this build, this CPU and this operating system */
const char *qk_isa_name(qk_isa isa);  /* "scalar", "avx2", "avxvnni", "avx512vnni" */
int32_t qk_kernel_count(void);        /* rows of kernels.inc in this build */
const char *qk_kernel_name(int32_t i);
qk_op_kind qk_kernel_op(int32_t i);
qk_isa qk_kernel_isa(int32_t i);
const char *qk_op_kernel_name(qk_isa isa, const qk_op *op); /* the kernel that would run it, e.g. "conv_igemm_avx2" */

/* ---- Weights. weights: s8 [out_c][kernel_h][kernel_w][in_c / groups]; bias: int32 [out_c]; multiplier: f32 [out_c].
 * Packing chooses the kernel; image sizes, where they are known, help (0: unknown). The packed form serves all image
 * sizes and pitches, with the same geometry of weights, groups and in_zero_point.
 * It holds bias - in_zero_point * sum(w) and the multipliers beside the panels. 64-byte aligned memory.
 * QK_BAD_ARGUMENT also where a multiplier is negative or not finite, or the sum of products could leave int32. ---- */
int64_t qk_conv_packed_bytes(qk_isa isa, const qk_conv_params *conv);
qk_status qk_conv_pack(qk_isa isa, const qk_conv_params *conv, const int8_t *weights, const int32_t *bias,
                       const float *multiplier, void *packed);

/* ---- Threads: one pool a session. A pool that is busy with another caller's plan runs this one on the caller alone.
 * ---- */
typedef struct qk_pool qk_pool;
qk_pool *qk_pool_create(int32_t threads); /* threads >= 1, the caller included; NULL: no memory */
/* Before the first run: each thread keeps to one CPU, cpus[threads], the caller to cpus[0] while it runs a plan. Where
 * the system cannot do that, nothing happens. */
void qk_pool_pin(qk_pool *pool, const int32_t *cpus);
void qk_pool_destroy(qk_pool *pool);

/* ---- Plans ----
 * buffers: what the refs index. scratch: threads * scratch_per_thread bytes, 64-byte aligned, scratch_per_thread at
 * least the largest qk_op_scratch_bytes of the ops (a multiple of 64). nanoseconds: NULL, or one entry an op that
 * receives its time. On failure *failed_op is the index of the op. */
int64_t qk_op_scratch_bytes(qk_isa isa, const qk_op *op);
qk_status qk_run(qk_isa isa, qk_pool *pool, const qk_op *ops, int32_t op_count, void *const *buffers, void *scratch,
                 int64_t scratch_per_thread, int64_t *nanoseconds, int32_t *failed_op);

/* ---- Calibration statistics of float32 data ----
 * min_max: over the finite values; *not_finite counts NaN and infinities (then min/max may be +inf/-inf if none is
 * finite). histogram: counts[i] += values in [low + i*width, low + (i+1)*width), values outside go to the first and
 * last bin, not-finite values are skipped; width > 0. */
void qk_min_max(const float *x, int64_t count, float *low, float *high, int64_t *not_finite);
void qk_histogram(const float *x, int64_t count, float low, float width, int32_t bins, int64_t *counts);
