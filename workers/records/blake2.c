/* BLAKE2b-128 (RFC 7693, no key) of many texts or rows in one call: no Python object a row, no interpreter lock. An optional
 * extension; digests.py calls it, and compares it with hashlib when it is loaded.
 *
 *     reembed_hash_texts   column -> 16 bytes each
 *     reembed_sum_rows     columns -> the sum over rows, modulo 2^128, of the hash of (length, bytes) of each cell
 *
 * A column is bytes with offsets, as Arrow keeps them, or cells of a fixed width. Offsets are checked against the size of the
 * bytes: no input is read beyond its end. Words are read as little-endian; digests.py does not load it elsewhere.
 */

#include <stdint.h>
#include <string.h>

#define BLOCK 128
#define DIGEST 16
#define BAD_OFFSETS (-1)

typedef struct {
    const uint8_t *bytes;
    const int64_t *offsets; /* [rows + 1]; NULL: each cell has `width` bytes, and follows `stride` bytes after the last */
    int64_t size, width, stride;
} Column;

typedef struct {
    uint64_t state[8], counter;
    uint8_t block[BLOCK];
    int held; /* bytes of `block` that wait: the last block is hashed at the end, so a full one may wait */
} Hash;

static const uint64_t START[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

#define ROTATED(word, bits) (((word) >> (bits)) | ((word) << (64 - (bits))))
#define MIX(a, b, c, d, x, y)                                     \
    do {                                                          \
        v[a] += v[b] + m[x], v[d] = ROTATED(v[d] ^ v[a], 32);     \
        v[c] += v[d], v[b] = ROTATED(v[b] ^ v[c], 24);            \
        v[a] += v[b] + m[y], v[d] = ROTATED(v[d] ^ v[a], 16);     \
        v[c] += v[d], v[b] = ROTATED(v[b] ^ v[c], 63);            \
    } while (0)
#define ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15) \
    do {                                                                            \
        MIX(0, 4, 8, 12, s0, s1);                                                   \
        MIX(1, 5, 9, 13, s2, s3);                                                   \
        MIX(2, 6, 10, 14, s4, s5);                                                  \
        MIX(3, 7, 11, 15, s6, s7);                                                  \
        MIX(0, 5, 10, 15, s8, s9);                                                  \
        MIX(1, 6, 11, 12, s10, s11);                                                \
        MIX(2, 7, 8, 13, s12, s13);                                                 \
        MIX(3, 4, 9, 14, s14, s15);                                                 \
    } while (0)

static void compress(uint64_t state[8], const uint8_t *block, uint64_t counter, int last) {
    uint64_t m[16], v[16];
    memcpy(m, block, BLOCK);
    for (int i = 0; i < 8; i++) v[i] = state[i], v[i + 8] = START[i];
    v[12] ^= counter;
    if (last) v[14] = ~v[14];
    ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
    ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4);
    ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8);
    ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13);
    ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9);
    ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11);
    ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10);
    ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5);
    ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0);
    ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
    for (int i = 0; i < 8; i++) state[i] ^= v[i] ^ v[i + 8];
}

static void begin(Hash *hash) {
    memcpy(hash->state, START, sizeof START);
    hash->state[0] ^= 0x01010000 ^ DIGEST; /* parameters: depth 1, fanout 1, no key, length of the digest */
    hash->counter = 0;
    hash->held = 0;
}

static void add(Hash *hash, const uint8_t *bytes, int64_t count) {
    if (count == 0) return;
    if (hash->held) {
        int64_t room = BLOCK - hash->held, part = count < room ? count : room;
        memcpy(hash->block + hash->held, bytes, (size_t)part);
        hash->held += (int)part, bytes += part, count -= part;
        if (count == 0) return;
        hash->counter += BLOCK; /* more follows, so the full block is not the last */
        compress(hash->state, hash->block, hash->counter, 0);
        hash->held = 0;
    }
    for (; count > BLOCK; bytes += BLOCK, count -= BLOCK) {
        hash->counter += BLOCK;
        compress(hash->state, bytes, hash->counter, 0);
    }
    memcpy(hash->block, bytes, (size_t)count);
    hash->held = (int)count;
}

static void end(Hash *hash, uint64_t digest[2]) {
    memset(hash->block + hash->held, 0, (size_t)(BLOCK - hash->held));
    compress(hash->state, hash->block, hash->counter + (uint64_t)hash->held, 1);
    digest[0] = hash->state[0], digest[1] = hash->state[1];
}

/* Where the cell of a row is, and its bytes; BAD_OFFSETS where it would be outside. */
static int64_t cell(const Column *column, int64_t row, const uint8_t **bytes) {
    int64_t start, stop;
    if (column->offsets) {
        start = column->offsets[row], stop = column->offsets[row + 1];
    } else {
        start = row * column->stride, stop = start + column->width;
    }
    if (start < 0 || stop < start || stop > column->size) return BAD_OFFSETS;
    *bytes = stop > start ? column->bytes + start : (const uint8_t *)"";
    return stop - start;
}

int reembed_hash_texts(const Column *texts, int64_t rows, uint8_t *digests) {
    for (int64_t row = 0; row < rows; row++) {
        const uint8_t *bytes;
        int64_t count = cell(texts, row, &bytes);
        if (count < 0) return BAD_OFFSETS;
        Hash hash;
        uint64_t digest[2];
        begin(&hash);
        add(&hash, bytes, count);
        end(&hash, digest);
        memcpy(digests + row * DIGEST, digest, DIGEST);
    }
    return 0;
}

int reembed_sum_rows(const Column *columns, int64_t count, int64_t rows, uint64_t sum[2]) {
    sum[0] = sum[1] = 0;
    for (int64_t row = 0; row < rows; row++) {
        Hash hash;
        uint64_t digest[2];
        begin(&hash);
        for (int64_t number = 0; number < count; number++) {
            const uint8_t *bytes;
            int64_t length = cell(&columns[number], row, &bytes);
            if (length < 0) return BAD_OFFSETS;
            add(&hash, (const uint8_t *)&length, sizeof length);
            add(&hash, bytes, length);
        }
        end(&hash, digest);
        sum[0] += digest[0];
        sum[1] += digest[1] + (sum[0] < digest[0]);
    }
    return 0;
}
