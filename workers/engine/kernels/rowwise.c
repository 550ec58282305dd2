/* What lies between the matrix products of an 8-bit layer, in one pass over each row: quantisation, residual + LayerNorm,
 * GELU. An optional extension; rowwise.py calls it, and verifies it when it is loaded.
 *
 *     reembed_quantize   x                          -> 8 bits
 *     reembed_norm       LayerNorm(x + residual)    -> bfloat16, and 8 bits where asked for
 *     reembed_activate   gelu(x), or x              -> 8 bits, loud channels in several columns
 *
 * x, residual and results are rows of bfloat16; sums are float32. To 8 bits: round(value * factor of its channel) + zero,
 * limited to 0 ... 255. A row's result depends on that row alone. NaN stays NaN in bfloat16.
 *
 * The code is in registers of 16 float32 numbers (V). Where the processor has AVX512, they are registers; elsewhere the
 * compiler takes them apart.
 */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PUBLIC __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define LANES 16
#define MOST_CHANNELS 16384 /* of a row that is kept as float32 */
#define MOST_LEVEL 1e6f     /* far beyond 255, and an integer */
#define FLAT 4.2f           /* beyond it the normal distribution's function is 0 or 1, to 3e-5 */

typedef uint16_t bfloat16;
typedef struct {
    const int32_t *source; /* [columns] channel, counted from the first loud one */
    const float *shift, *share; /* [columns] level of the column = floor((level of the channel + shift) * share) + zero */
    long columns;
} Split;

/* ---- one number at a time: any processor, and the ends of rows -------------------------------------------------------- */

INLINE float wide(bfloat16 x) {
    const uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* To the nearest, ties to even. */
INLINE bfloat16 narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (bfloat16)((bits >> 16) | 0x40);
    return (bfloat16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

INLINE uint8_t limited(float level) {
    if (!(level > 0.0f)) return 0;
    return level < 255.0f ? (uint8_t)level : 255;
}

/* x times the normal distribution's function: a polynomial of odd powers, off by at most 3e-5 within FLAT (fitted by
 * iterated least squares), by 3e-5 of x beyond. */
static const float GELU[] = {0.3989180326461792f,    -0.06641824543476105f,  0.009898759424686432f,   -0.0011484165443107486f,
                             0.00010354589903727174f, -7.116554115782492e-06f, 3.568835325040709e-07f, -1.2166005980418504e-08f,
                             2.495131878887946e-10f, -2.306679586921989e-12f};
#define TERMS 10

INLINE float gelu(float x) {
    const float z = fminf(fmaxf(x, -FLAT), FLAT), u = z * z;
    float y = GELU[TERMS - 1];
    for (int i = TERMS - 2; i >= 0; i--) y = fmaf(y, u, GELU[i]);
    return x * fmaf(z, y, 0.5f);
}

INLINE void quantize_from(long i, const bfloat16 *x, int activation, const float *factors, float zero, uint8_t *levels, long stop) {
    for (; i < stop; i++) {
        const float y = wide(x[i]);
        levels[i] = limited(rintf((activation ? gelu(y) : y) * factors[i]) + zero);
    }
}

/* Levels of the loud channels, not limited. */
INLINE void loud_from(long i, const bfloat16 *x, int activation, const float *factors, float *level, long stop) {
    for (; i < stop; i++) {
        const float y = wide(x[i]);
        level[i] = rintf((activation ? gelu(y) : y) * factors[i]);
    }
}

INLINE void split_from(long i, const float *level, const Split *split, float zero, uint8_t *levels) {
    for (; i < split->columns; i++)
        levels[i] = limited(floorf((level[split->source[i]] + split->shift[i]) * split->share[i]) + zero);
}

INLINE void normed_from(long i, const float *kept, float mean, float scale, const float *weight, const float *bias, bfloat16 *out,
                        const float *factors, float zero, uint8_t *levels, long stop) {
    for (; i < stop; i++) {
        const float y = fmaf((kept[i] - mean) * scale, weight[i], bias[i]);
        out[i] = narrow(y);
        if (factors != NULL) levels[i] = limited(rintf(y * factors[i]) + zero);
    }
}

static void quantize_any(const bfloat16 *x, const float *factors, float zero, uint8_t *levels, long channels) {
    quantize_from(0, x, 0, factors, zero, levels, channels);
}

static void activate_any(const bfloat16 *x, int activation, const float *factors, float zero, long quiet, const Split *split,
                         uint8_t *levels, long channels, float *kept) {
    quantize_from(0, x, activation, factors, zero, levels, quiet);
    loud_from(0, x + quiet, activation, factors + quiet, kept, channels - quiet);
    split_from(0, kept, split, zero, levels + quiet);
}

static void norm_any(const bfloat16 *x, const bfloat16 *residual, const float *weight, const float *bias, float eps,
                     bfloat16 *out, const float *factors, float zero, uint8_t *levels, long channels, float *kept) {
    float sum = 0.0f, squares = 0.0f;
    for (long i = 0; i < channels; i++) sum += kept[i] = wide(x[i]) + wide(residual[i]);
    const float mean = sum / (float)channels;
    for (long i = 0; i < channels; i++) squares += (kept[i] - mean) * (kept[i] - mean);
    normed_from(0, kept, mean, 1.0f / sqrtf(squares / (float)channels + eps), weight, bias, out, factors, zero, levels, channels);
}

/* ---- sixteen numbers at a time: AVX512 (Skylake-X and later, Zen 4 and later) ------------------------------------------- */

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define INLINE512 static inline __attribute__((always_inline, target("avx512f,avx512bw,avx512vl,avx512dq,fma")))

INLINE512 __m512 wide16(const bfloat16 *x) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

INLINE512 void narrow16(bfloat16 *to, __m512 x) {
    const __m512i bits = _mm512_castps_si512(x), high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i result = _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(result));
}

/* Rounds to the nearest, ties to even. */
INLINE512 void store_levels(uint8_t *to, __m512 level, __m512i zero) {
    const __m512 bounded = _mm512_min_ps(_mm512_max_ps(level, _mm512_set1_ps(-MOST_LEVEL)), _mm512_set1_ps(MOST_LEVEL));
    const __m512i shifted = _mm512_max_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(bounded), zero), _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)to, _mm512_cvtusepi32_epi8(shifted));
}

INLINE512 __m512 gelu16(__m512 x) {
    const __m512 z = _mm512_min_ps(_mm512_max_ps(_mm512_set1_ps(-FLAT), x), _mm512_set1_ps(FLAT)), u = _mm512_mul_ps(z, z);
    __m512 y = _mm512_set1_ps(GELU[TERMS - 1]);
#pragma GCC unroll 16
    for (int i = TERMS - 2; i >= 0; i--) y = _mm512_fmadd_ps(y, u, _mm512_set1_ps(GELU[i]));
    return _mm512_mul_ps(x, _mm512_fmadd_ps(z, y, _mm512_set1_ps(0.5f)));
}

AVX512 static void quantize_512(const bfloat16 *x, const float *factors, float zero, uint8_t *levels, long channels) {
    const __m512i zeros = _mm512_set1_epi32((int)zero);
    long i = 0;
    for (; i + LANES <= channels; i += LANES)
        store_levels(levels + i, _mm512_mul_ps(wide16(x + i), _mm512_loadu_ps(factors + i)), zeros);
    quantize_from(i, x, 0, factors, zero, levels, channels);
}

AVX512 static void activate_512(const bfloat16 *x, int activation, const float *factors, float zero, long quiet,
                                const Split *split, uint8_t *levels, long channels, float *kept) {
    const __m512i zeros = _mm512_set1_epi32((int)zero);
    long i = 0;
    if (activation)
        for (; i + 2 * LANES <= quiet; i += 2 * LANES) { /* two at a time: a polynomial is one long chain */
            const __m512 low = _mm512_mul_ps(gelu16(wide16(x + i)), _mm512_loadu_ps(factors + i));
            const __m512 high = _mm512_mul_ps(gelu16(wide16(x + i + LANES)), _mm512_loadu_ps(factors + i + LANES));
            store_levels(levels + i, low, zeros);
            store_levels(levels + i + LANES, high, zeros);
        }
    else
        for (; i + LANES <= quiet; i += LANES)
            store_levels(levels + i, _mm512_mul_ps(wide16(x + i), _mm512_loadu_ps(factors + i)), zeros);
    quantize_from(i, x, activation, factors, zero, levels, quiet);
    x += quiet, factors += quiet, levels += quiet;
    for (i = 0; i + LANES <= channels - quiet; i += LANES) {
        const __m512 y = wide16(x + i), level = _mm512_mul_ps(activation ? gelu16(y) : y, _mm512_loadu_ps(factors + i));
        _mm512_storeu_ps(kept + i, _mm512_roundscale_ps(level, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    loud_from(i, x, activation, factors, kept, channels - quiet);
    for (i = 0; i + LANES <= split->columns; i += LANES) {
        const __m512 level = _mm512_i32gather_ps(_mm512_loadu_si512(split->source + i), kept, 4);
        const __m512 part = _mm512_mul_ps(_mm512_add_ps(level, _mm512_loadu_ps(split->shift + i)), _mm512_loadu_ps(split->share + i));
        store_levels(levels + i, _mm512_roundscale_ps(part, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), zeros);
    }
    split_from(i, kept, split, zero, levels);
}

AVX512 static void norm_512(const bfloat16 *x, const bfloat16 *residual, const float *weight, const float *bias, float eps,
                            bfloat16 *out, const float *factors, float zero, uint8_t *levels, long channels, float *kept) {
    __m512 sums = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    long i = 0;
    for (; i + LANES <= channels; i += LANES) {
        const __m512 y = _mm512_add_ps(wide16(x + i), wide16(residual + i));
        _mm512_storeu_ps(kept + i, y);
        sums = _mm512_add_ps(sums, y);
    }
    float sum = _mm512_reduce_add_ps(sums);
    for (; i < channels; i++) sum += kept[i] = wide(x[i]) + wide(residual[i]);
    const float mean = sum / (float)channels;
    const __m512 means = _mm512_set1_ps(mean);
    for (i = 0; i + LANES <= channels; i += LANES) {
        const __m512 distance = _mm512_sub_ps(_mm512_loadu_ps(kept + i), means);
        squares = _mm512_fmadd_ps(distance, distance, squares);
    }
    float square = _mm512_reduce_add_ps(squares);
    for (; i < channels; i++) square += (kept[i] - mean) * (kept[i] - mean);
    const float scale = 1.0f / sqrtf(square / (float)channels + eps);
    const __m512 scales = _mm512_set1_ps(scale);
    const __m512i zeros = _mm512_set1_epi32((int)zero);
    for (i = 0; i + LANES <= channels; i += LANES) {
        const __m512 unit = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(kept + i), means), scales);
        const __m512 y = _mm512_fmadd_ps(unit, _mm512_loadu_ps(weight + i), _mm512_loadu_ps(bias + i));
        narrow16(out + i, y);
        if (factors != NULL) store_levels(levels + i, _mm512_mul_ps(y, _mm512_loadu_ps(factors + i)), zeros);
    }
    normed_from(i, kept, mean, scale, weight, bias, out, factors, zero, levels, channels);
}

static int has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
}
#else
#define quantize_512 quantize_any
#define activate_512 activate_any
#define norm_512 norm_any
static int has_avx512(void) { return 0; }
#endif

/* ---- all rows ----------------------------------------------------------------------------------------------------------- */

PUBLIC void reembed_quantize(const bfloat16 *x, const float *factors, float zero, uint8_t *levels, long rows, long channels) {
    const int fast = has_avx512();
    for (long row = 0; row < rows; row++, x += channels, levels += channels)
        (fast ? quantize_512 : quantize_any)(x, factors, zero, levels, channels);
}

/* x [rows, channels], of which the first `quiet` channels have a column each, the others `columns` together.
 * Returns 0; -1: more loud channels than fit. */
PUBLIC int reembed_activate(const bfloat16 *x, int activation, const float *factors, float zero, long quiet,
                            const int32_t *source, const float *shift, const float *share, long columns, uint8_t *levels,
                            long rows, long channels) {
    const int fast = has_avx512();
    const Split split = {source, shift, share, columns};
    float kept[MOST_CHANNELS];
    if (channels - quiet > MOST_CHANNELS) return -1;
    for (long row = 0; row < rows; row++, x += channels, levels += quiet + columns)
        (fast ? activate_512 : activate_any)(x, activation, factors, zero, quiet, &split, levels, channels, kept);
    return 0;
}

/* `factors` and `levels` are NULL where no 8 bits are wanted. Returns 0; -1: a row is too long. */
PUBLIC int reembed_norm(const bfloat16 *x, const bfloat16 *residual, const float *weight, const float *bias, float eps,
                        bfloat16 *out, const float *factors, float zero, uint8_t *levels, long rows, long channels) {
    const int fast = has_avx512();
    float kept[MOST_CHANNELS];
    if (channels > MOST_CHANNELS) return -1;
    for (long row = 0; row < rows; row++, x += channels, residual += channels, out += channels) {
        (fast ? norm_512 : norm_any)(x, residual, weight, bias, eps, out, factors, zero, levels, channels, kept);
        if (levels != NULL) levels += channels;
    }
    return 0;
}
