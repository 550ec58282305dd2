/* Attention over packed sequences in bfloat16, for x86 processors with AVX512-BF16: without padding; scores never leave
 * the caches. An optional extension; compiled_attention.py calls it, and verifies it when it is loaded.
 *
 *     for every sequence and head   keys and values are laid out once for the instruction that multiplies pairs of bfloat16
 *     for every QUERIES rows        scores = query key' + bias  ->  weights = 2^(score - the row's maximum)  ->  out = weights value
 *
 * The bias is optional: one number for each head and each distance of a key from a query, the farthest standing for all beyond.
 * Scores, sums and exponentials are float32; weights are rounded to bfloat16 for the second product. Scores are exponents of
 * 2 (attention.py: SCORE_UNIT). An input that is NaN or infinite gives NaN.
 */

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16   /* float32 numbers in a register */
#define QUERIES 8  /* rows of a tile; each has KEYS registers of sums: 24 of the 32 registers */
#define KEYS 3
#define WIDTH 32   /* bfloat16 numbers in a register; a head's size is a multiple */
#define LEAST (-126.0f) /* smallest exponent of a normal float32 */
#define ABSENT (-__builtin_inff()) /* score of positions after the last key */
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

typedef uint16_t bfloat16;

INLINE __m512bh pair_everywhere(const bfloat16 *pair) {
    int32_t both;
    memcpy(&both, pair, sizeof both);
    return (__m512bh)_mm512_set1_epi32(both);
}

/* 2^x for x <= 0, with a relative error of 4e-6: a polynomial for the fraction; the integer part goes into the exponent. */
INLINE __m512 power_of_two(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(LEAST), x); /* this order keeps a NaN */
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 part = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(0.00957010128f);
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.0559178591f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.240247443f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.693121791f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.999999285f));
    return _mm512_scalef_ps(y, whole);
}

/* Transpose 16 x 16 numbers of 32 bits in place. */
INLINE void transpose(__m512i row[LANES]) {
    __m512i a[LANES], b[LANES];
    UNROLL for (int i = 0; i < LANES; i += 2) {
        a[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
    UNROLL for (int i = 0; i < LANES; i += 4) {
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++) { /* 128-bit quarters: rows i, 4 + i, 8 + i, 12 + i */
        const __m512i low = _mm512_shuffle_i32x4(b[i], b[4 + i], 0x88), high = _mm512_shuffle_i32x4(b[i], b[4 + i], 0xdd);
        const __m512i low2 = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0x88);
        const __m512i high2 = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0xdd);
        row[i] = _mm512_shuffle_i32x4(low, low2, 0x88);
        row[4 + i] = _mm512_shuffle_i32x4(high, high2, 0x88);
        row[8 + i] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        row[12 + i] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
}

/* keys [length, size] -> packed [size / 2, padded] pairs; zeros after the last key. */
static void pack_keys(const bfloat16 *keys, size_t stride, int length, int size, int padded, uint32_t *packed) {
    for (int first = 0; first < padded; first += LANES)
        for (int at = 0; at < size; at += WIDTH) {
            __m512i row[LANES];
            UNROLL for (int i = 0; i < LANES; i++)
                row[i] = first + i < length ? _mm512_loadu_si512(keys + (first + i) * stride + at) : _mm512_setzero_si512();
            transpose(row);
            UNROLL for (int i = 0; i < LANES; i++)
                _mm512_store_si512(packed + (size_t)(at / 2 + i) * padded + first, row[i]);
        }
}

/* values [length, size] -> packed [ceil(length / 2), size] pairs of adjacent positions; an odd last one is paired with zeros. */
static void pack_values(const bfloat16 *values, size_t stride, int length, int size, uint32_t *packed) {
    uint16_t order[2][WIDTH]; /* the first and the second half of both rows, interleaved */
    for (int i = 0; i < WIDTH; i++)
        order[0][i] = (uint16_t)(i / 2 + (i % 2) * WIDTH), order[1][i] = (uint16_t)(order[0][i] + WIDTH / 2);
    const __m512i low = _mm512_loadu_si512(order[0]), high = _mm512_loadu_si512(order[1]);
    for (int position = 0; position < length; position += 2)
        for (int at = 0; at < size; at += WIDTH) {
            const __m512i even = _mm512_loadu_si512(values + position * stride + at);
            const __m512i odd = position + 1 < length ? _mm512_loadu_si512(values + (position + 1) * stride + at)
                                                      : _mm512_setzero_si512();
            uint32_t *pairs = packed + (size_t)(position / 2) * size + at;
            _mm512_store_si512(pairs, _mm512_permutex2var_epi16(even, low, odd));
            _mm512_store_si512(pairs + LANES, _mm512_permutex2var_epi16(even, high, odd));
        }
}

/* scores of `rows` queries and 16 `registers` keys; `most` is each row's maximum so far, per lane. `bias`: of the first query to
 * these keys; that of the next query begins one number earlier. NULL: none. */
INLINE void score_tile(const int rows, const int registers, const bfloat16 *query, size_t stride, int size,
                       const uint32_t *keys, int padded, __mmask16 present, const float *bias, float *scores, __m512 *most) {
    __m512 sum[QUERIES][KEYS];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int k = 0; k < registers; k++)
            sum[r][k] = bias == NULL ? _mm512_setzero_ps() : _mm512_loadu_ps(bias + k * LANES - r);
    for (int pair = 0; pair < size / 2; pair++) {
        __m512bh key[KEYS];
        UNROLL for (int k = 0; k < registers; k++)
            key[k] = (__m512bh)_mm512_load_si512(keys + (size_t)pair * padded + k * LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            const __m512bh own = pair_everywhere(query + r * stride + 2 * pair);
            UNROLL for (int k = 0; k < registers; k++) sum[r][k] = _mm512_dpbf16_ps(sum[r][k], key[k], own);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int k = 0; k < registers; k++) {
            if (k == registers - 1)
                sum[r][k] = _mm512_mask_mov_ps(_mm512_set1_ps(ABSENT), present, sum[r][k]);
            most[r] = _mm512_max_ps(most[r], sum[r][k]); /* this order keeps a NaN in the new score */
            _mm512_store_ps(scores + (size_t)r * padded + k * LANES, sum[r][k]);
        }
}

/* Attention of `rows` queries to all keys and values of one sequence and head. */
INLINE void attend_rows(const int rows, const bfloat16 *query, size_t stride, int length, int size, const uint32_t *keys,
                        const uint32_t *values, int padded, const float *bias, float *scores, bfloat16 *weights, bfloat16 *out,
                        size_t out_stride) {
    __m512 most[QUERIES], share[QUERIES];
    UNROLL for (int r = 0; r < rows; r++) most[r] = _mm512_set1_ps(ABSENT);
    const __mmask16 last = (__mmask16)(0xffff >> (padded - length)), all = 0xffff;
    int first = 0;
#define SCORES(registers, present) \
    score_tile(rows, registers, query, stride, size, keys + first, padded, present, bias == NULL ? NULL : bias + first, \
               scores + first, most)
    for (; first + KEYS * LANES < padded; first += KEYS * LANES)
        SCORES(KEYS, all);
    switch ((padded - first) / LANES) {
        case 3: SCORES(3, last); break;
        case 2: SCORES(2, last); break;
        default: SCORES(1, last);
    }
#undef SCORES
    UNROLL for (int r = 0; r < rows; r++) {
        const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(most[r]));
        __m512 sum = _mm512_setzero_ps();
        for (int at = 0; at < padded; at += LANES) {
            const __m512 weight = power_of_two(_mm512_sub_ps(_mm512_load_ps(scores + (size_t)r * padded + at), largest));
            sum = _mm512_add_ps(sum, weight);
            _mm256_store_si256((__m256i *)(weights + (size_t)r * padded + at), (__m256i)_mm512_cvtneps_pbh(weight));
        }
        share[r] = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
    }
    for (int at = 0; at < size; at += WIDTH) {
        __m512 sum[QUERIES][2];
        UNROLL for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
        for (int pair = 0; pair < (length + 1) / 2; pair++) {
            const __m512bh low = (__m512bh)_mm512_load_si512(values + (size_t)pair * size + at);
            const __m512bh high = (__m512bh)_mm512_load_si512(values + (size_t)pair * size + at + LANES);
            UNROLL for (int r = 0; r < rows; r++) {
                const __m512bh own = pair_everywhere(weights + (size_t)r * padded + 2 * pair);
                sum[r][0] = _mm512_dpbf16_ps(sum[r][0], low, own);
                sum[r][1] = _mm512_dpbf16_ps(sum[r][1], high, own);
            }
        }
        UNROLL for (int r = 0; r < rows; r++) {
            const __m512 low = _mm512_mul_ps(sum[r][0], share[r]), high = _mm512_mul_ps(sum[r][1], share[r]);
            _mm512_storeu_si512(out + r * out_stride + at, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
    }
}

/* table [2 reach + 1] of distances -reach to reach -> line [2 most] of distances -most to most - 1. */
static void stretch(const float *table, long reach, long most, float *line) {
    for (long distance = -most; distance < most; distance++) {
        const long near = distance < -reach ? -reach : distance > reach ? reach : distance;
        line[most + distance] = table[reach + near];
    }
}

/* qkv [T, 3, heads, size] and borders [sequences + 1] -> out [T, heads, size]; size is a multiple of 32.
 * bias [heads, 2 reach + 1]: added to the score of a key at distance -reach, ..., reach behind its query; NULL: none.
 * Returns 0; -1 if there is no memory for the packed keys and values of the longest sequence. */
__attribute__((visibility("default"))) int reembed_attend(const bfloat16 *qkv, bfloat16 *out, const int32_t *borders,
                                                          long sequences, long heads, long head_size, const float *bias,
                                                          long reach) {
    const int size = (int)head_size;
    const size_t out_stride = (size_t)heads * size, stride = 3 * out_stride;
    size_t longest = 0;
    for (long i = 0; i < sequences; i++) {
        const size_t length = (size_t)(borders[i + 1] - borders[i]);
        longest = length > longest ? length : longest;
    }
    const size_t most = (longest + LANES - 1) / LANES * LANES;
    if (most == 0) return 0;
    /* 4-byte units times the longest sequence: keys size/2, values size/2, scores QUERIES, weights QUERIES/2, 2 of bias a head */
    char *memory = aligned_alloc(64, most * 4 * ((size_t)(size + QUERIES + QUERIES / 2) + (bias ? 2 * (size_t)heads : 0)));
    if (memory == NULL) return -1;
    uint32_t *keys = (uint32_t *)memory, *values = keys + most * size / 2;
    float *scores = (float *)(values + most * size / 2);
    bfloat16 *weights = (bfloat16 *)(scores + most * QUERIES);
    float *lines = (float *)(weights + most * QUERIES);
    for (long head = 0; bias != NULL && head < heads; head++)
        stretch(bias + head * (2 * reach + 1), reach, (long)most, lines + (size_t)head * 2 * most);
    for (long i = 0; i < sequences; i++) {
        const int length = borders[i + 1] - borders[i], padded = (length + LANES - 1) / LANES * LANES;
        for (long head = 0; head < heads; head++) {
            const bfloat16 *query = qkv + borders[i] * stride + head * size;
            bfloat16 *to = out + borders[i] * out_stride + head * size;
            pack_keys(query + out_stride, stride, length, size, padded, keys);
            pack_values(query + 2 * out_stride, stride, length, size, values);
            const float *line = bias == NULL ? NULL : lines + (size_t)head * 2 * most + most;
            int row = 0;
#define ROWS(count) \
    attend_rows(count, query + row * stride, stride, length, size, keys, values, padded, line == NULL ? NULL : line - row, \
                scores, weights, to + row * out_stride, out_stride)
            for (; row + QUERIES <= length; row += QUERIES) ROWS(QUERIES);
            switch (length - row) {
                case 7: ROWS(7); break;
                case 6: ROWS(6); break;
                case 5: ROWS(5); break;
                case 4: ROWS(4); break;
                case 3: ROWS(3); break;
                case 2: ROWS(2); break;
                case 1: ROWS(1); break;
            }
#undef ROWS
        }
    }
    free(memory);
    return 0;
}

INLINE __m512 widened(const bfloat16 *from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}

/* Rotary positions in place: each of a token's `vectors` (of `size` numbers, a multiple of 32) is two halves a and b, which become
 * a cos - b sin and b cos + a sin. cosines, sines [tokens, size / 2]; a token begins every `stride` numbers. */
__attribute__((visibility("default"))) void reembed_rotate(bfloat16 *states, long tokens, long stride, long vectors, long size,
                                                           const float *cosines, const float *sines) {
    const long half = size / 2;
    for (long token = 0; token < tokens; token++)
        for (long at = 0; at < half; at += LANES) {
            const __m512 c = _mm512_loadu_ps(cosines + token * half + at), s = _mm512_loadu_ps(sines + token * half + at);
            for (long v = 0; v < vectors; v++) {
                bfloat16 *low = states + token * stride + v * size + at, *high = low + half;
                const __m512 a = widened(low), b = widened(high);
                const __m512 turned = _mm512_fnmadd_ps(b, s, _mm512_mul_ps(a, c));
                _mm256_storeu_si256((__m256i *)high, (__m256i)_mm512_cvtneps_pbh(_mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c))));
                _mm256_storeu_si256((__m256i *)low, (__m256i)_mm512_cvtneps_pbh(turned));
            }
        }
}
