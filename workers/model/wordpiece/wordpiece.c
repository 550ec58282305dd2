/* WordPiece of BERT's tokenizers: UTF-8 texts in Arrow's layout -> flat ids of `tokenizers`, without an object a text. An
 * optional extension, plain C11; library.py calls it, proof.py compares it with `tokenizers` when it is loaded.
 *
 *     cells     at load: for every code point, what the model's normaliser and pre-tokenizer make of it (unicode_tables.h)
 *     trie      at load: the vocabulary, by bytes; one root for the beginnings of words, one for their continuations
 *     encode    code points -> words -> ids; a cache of words spares the trie most of them
 *
 * A text that holds an added token, ordered marks out of order or bytes that are not UTF-8 gets the flag ODD and no ids: it is
 * left to `tokenizers`. Any bytes are safe. A vocabulary is read by all threads, a worker is used by one at a time.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "unicode_tables.h"

#define INLINE static inline __attribute__((always_inline))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define RARELY __attribute__((noinline, cold))
#define POINTS 0x110000
#define KEY 31            /* bytes of the longest word in the cache */
#define CACHED_IDS 7      /* and its most ids */
#define CACHE_BITS 14     /* of 64 bytes: 1 MiB a worker */
#define HASH 0x9E3779B97F4A7C15ull
#define SLACK 64          /* bytes behind a word's buffer */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BY_EIGHT 1        /* letters are classified eight at a time */
#else
#define BY_EIGHT 0
#endif

enum { CLEAN = 1, CHINESE_CHARS = 2, STRIP = 4, LOWERCASE = 8, LOWERCASE_FIRST = 16 }; /* flags of the normaliser */
enum { TRUNCATED = 1, ODD = 2 };                                                      /* flags of a text */
enum { SAME, KEEP, ISOLATE, SPACE, DROP, MARK, SEQUENCE, SYLLABLE };                  /* kinds of cells */

typedef struct {
    uint8_t kind, size, order, count; /* KEEP, MARK: bytes of the code point's UTF-8; MARK: its rank; SEQUENCE: cells of it */
    union { uint8_t bytes[4]; int32_t id; uint32_t at; } as; /* KEEP, MARK; ISOLATE; SEQUENCE: its first cell */
} cell;
typedef struct { uint32_t key, child; } edge;             /* key: node << 8 | byte */
typedef struct { uint64_t word[4]; int32_t ids[CACHED_IDS]; int32_t count; } cached; /* last byte of word: its length */
typedef struct { const uint8_t *bytes; int64_t size; } span;

typedef struct {
    uint16_t page[POINTS >> 8];
    cell *cells;             /* pages of 256 */
    cell *sequences;
    uint32_t pages, page_room, sequence_count, sequence_room;
    edge *edges;
    uint64_t edge_mask;
    uint32_t edge_count, node_count, node_room;
    int32_t *node_id;        /* -1: no word ends here */
    int32_t unknown, flags;
    int64_t most;            /* code points of the longest word that is looked at */
    uint8_t fold[256];       /* ASCII that continues a word -> what is kept of it; else 0 */
    uint8_t ends[256];       /* ASCII that ends a word and takes no part in an added token */
    uint8_t opens[256];      /* first bytes of added tokens */
    int by_eight;            /* words of ASCII letters and digits may be read eight bytes at a time */
    span *added;             /* looked for in the text */
    int64_t added_count;
    int32_t *runs;           /* looked for in the ids: length, ids, length, ids, ... */
    int64_t runs_size, look; /* the longest run's ids less one */
    uint8_t *owned;
} vocabulary;

typedef struct {
    cached *cache;
    uint8_t *word;           /* 4 * most + SLACK bytes; the first 32 are 0 from its length on */
    int64_t *origin;         /* for spans: index in the text of the code point that each of these bytes comes from */
    int32_t *ids, *cuts;     /* pieces of a word, and where each ends */
} worker;

/* --- the trie --- */

INLINE uint32_t child_of(const vocabulary *v, uint32_t node, uint8_t byte) { /* 0: none */
    const uint32_t key = node << 8 | byte;
    for (uint64_t i = (key * HASH) >> 32 & v->edge_mask;; i = (i + 1) & v->edge_mask) {
        if (v->edges[i].key == key) return v->edges[i].child;
        if (!v->edges[i].child) return 0;
    }
}

static int widen(vocabulary *v) {
    const uint64_t size = v->edges ? (v->edge_mask + 1) * 2 : 1024;
    edge *old = v->edges, *edges = calloc(size, sizeof *edges);
    if (!edges) return 0;
    for (uint64_t i = 0; old && i <= v->edge_mask; i++) {
        if (!old[i].child) continue;
        uint64_t to = (old[i].key * HASH) >> 32 & (size - 1);
        while (edges[to].child) to = (to + 1) & (size - 1);
        edges[to] = old[i];
    }
    free(old);
    v->edges = edges;
    v->edge_mask = size - 1;
    return 1;
}

static int insert(vocabulary *v, uint32_t node, const uint8_t *bytes, int64_t size, int32_t id) {
    for (int64_t i = 0; i < size; i++) {
        uint32_t next = child_of(v, node, bytes[i]);
        if (!next) {
            if (v->node_count >= 1u << 24) return 0;
            if (v->edge_count * 2ull >= v->edge_mask && !widen(v)) return 0;
            if (v->node_count == v->node_room) {
                int32_t *more = realloc(v->node_id, v->node_room * 2ull * sizeof *more);
                if (!more) return 0;
                v->node_id = more;
                v->node_room *= 2;
            }
            next = v->node_count++;
            v->node_id[next] = -1;
            const uint32_t key = node << 8 | bytes[i];
            uint64_t to = (key * HASH) >> 32 & v->edge_mask;
            while (v->edges[to].child) to = (to + 1) & v->edge_mask;
            v->edges[to] = (edge){key, next};
            v->edge_count++;
        }
        node = next;
    }
    v->node_id[node] = id;
    return 1;
}

/* The longest pieces first, as WordPiece does: ids and the byte at which each ends; returns their number. */
static int64_t pieces(const vocabulary *v, const uint8_t *word, int64_t size, int32_t *ids, int32_t *cuts) {
    int64_t count = 0;
    if (size > v->most) { /* bytes; are there more code points as well? */
        int64_t points = 0;
        for (int64_t i = 0; i < size; i++) points += (word[i] & 0xC0) != 0x80;
        if (points > v->most) goto unknown;
    }
    for (int64_t at = 0; at < size;) {
        uint32_t node = at ? 1 : 0;
        int64_t stop = 0;
        int32_t id = -1;
        for (int64_t i = at; i < size; i++) {
            if (!(node = child_of(v, node, word[i]))) break;
            if (v->node_id[node] >= 0) {
                id = v->node_id[node];
                stop = i + 1;
            }
        }
        if (id < 0) goto unknown;
        ids[count] = id;
        cuts[count++] = (int32_t)stop;
        at = stop;
    }
    return count;
unknown:
    ids[0] = v->unknown;
    cuts[0] = (int32_t)size;
    return 1;
}

/* --- the cells --- */

INLINE int utf8(uint32_t point, uint8_t *to) {
    if (point < 0x80) { to[0] = (uint8_t)point; return 1; }
    if (point < 0x800) { to[0] = (uint8_t)(0xC0 | point >> 6); to[1] = (uint8_t)(0x80 | (point & 63)); return 2; }
    if (point < 0x10000) {
        to[0] = (uint8_t)(0xE0 | point >> 12); to[1] = (uint8_t)(0x80 | (point >> 6 & 63)); to[2] = (uint8_t)(0x80 | (point & 63));
        return 3;
    }
    to[0] = (uint8_t)(0xF0 | point >> 18); to[1] = (uint8_t)(0x80 | (point >> 12 & 63));
    to[2] = (uint8_t)(0x80 | (point >> 6 & 63)); to[3] = (uint8_t)(0x80 | (point & 63));
    return 4;
}

typedef struct { uint32_t points[4]; int count; } made; /* what becomes of a code point; count 0: nothing */

/* All that the tables say, spread out; used while the cells are made. */
typedef struct {
    uint8_t is[POINTS];          /* bits of the classes below */
    uint8_t order[POINTS];
    uint32_t to[2][POINTS];      /* 0: itself; >= POINTS: row of LONGER + POINTS */
} spread;
enum { IS_DROPPED = 1, IS_BLANK = 2, IS_WHITE = 4, IS_PUNCTUATION = 8, IS_CHINESE = 16, IS_MARK_ALONE = 32 };

#define ROWS(table) (sizeof(table) / sizeof(table)[0])
#define CLASS(table) \
    for (size_t row = 0; row < ROWS(table); row++) \
        for (uint32_t c = table[row][0]; c <= table[row][1]; c++) s->is[c] |= IS_##table
#define MAP(table, which) \
    for (size_t row = 0; row < ROWS(table); row++) \
        for (uint32_t c = table[row][0], step = table[row][2]; c <= table[row][1]; c += step ? step : 1) \
            s->to[which][c] = table[row][3] + (step ? c - table[row][0] : 0)

static spread *spread_out(void) {
    spread *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    CLASS(DROPPED); CLASS(BLANK); CLASS(WHITE); CLASS(PUNCTUATION); CLASS(CHINESE); CLASS(MARK_ALONE);
    MAP(UNMARKED, 0); MAP(LOWER, 1);
    for (size_t row = 0; row < ROWS(ORDER); row++)
        for (uint32_t c = ORDER[row][0]; c <= ORDER[row][1]; c++) s->order[c] = (uint8_t)ORDER[row][2];
    for (size_t row = 0; row < ROWS(LONGER); row++) s->to[LONGER[row][0]][LONGER[row][1]] = POINTS + (uint32_t)row;
    return s;
}

/* All of `in` through a map of the tables, or as they are (-1). */
static void step(const spread *s, int which, const made *in, made *out) {
    for (int i = 0; i < in->count; i++) {
        const uint32_t point = in->points[i], to = which < 0 ? 0 : s->to[which][point];
        if (which == 0 && s->is[point] & IS_MARK_ALONE) continue;
        for (int part = 2; part < 6; part++) {
            const uint32_t next = to < POINTS ? (to ? to : point) : LONGER[to - POINTS][part];
            if ((next || to < POINTS) && out->count < 4) out->points[out->count++] = next; /* U+0000 is one, too */
            if (to < POINTS) break;
        }
    }
}

static int32_t single(const vocabulary *v, const uint8_t *bytes, int size) {
    uint32_t node = 0;
    for (int i = 0; i < size; i++) if (!(node = child_of(v, node, bytes[i]))) return v->unknown;
    return v->node_id[node] >= 0 ? v->node_id[node] : v->unknown;
}

/* Of a code point after the normaliser. */
static cell cell_of(const vocabulary *v, const spread *s, uint32_t point) {
    cell it = {KEEP, 0, 0, 0, {{0}}};
    uint8_t bytes[4] = {0};
    it.size = (uint8_t)utf8(point, bytes);
    if (s->is[point] & IS_WHITE) {
        it.kind = SPACE;
    } else if (s->is[point] & IS_PUNCTUATION) {
        it.kind = ISOLATE;
        it.as.id = single(v, bytes, it.size);
    } else {
        if (v->flags & STRIP && s->order[point]) {
            it.kind = MARK;
            it.order = s->order[point];
        }
        memcpy(it.as.bytes, bytes, 4);
    }
    return it;
}

static cell cell_for(vocabulary *v, const spread *s, uint32_t point) {
    const int chinese = v->flags & CHINESE_CHARS && s->is[point] & IS_CHINESE;
    cell it = {SAME, 0, 0, 0, {{0}}};
    made first = {{0}, 0}, second = {{0}, 0}, last = {{0}, 0};
    if (v->flags & CLEAN && s->is[point] & IS_DROPPED) { it.kind = DROP; return it; }
    if (v->flags & CLEAN && s->is[point] & IS_BLANK) { it.kind = SPACE; return it; }
    if (v->flags & STRIP && point >= 0xAC00 && point < 0xD7A4) { it.kind = SYLLABLE; return it; }
    step(s, v->flags & LOWERCASE_FIRST ? 1 : -1, &(made){{point}, 1}, &first);
    step(s, v->flags & STRIP ? 0 : -1, &first, &second);
    step(s, v->flags & LOWERCASE ? 1 : -1, &second, &last);
    if (!last.count) { it.kind = chinese ? SPACE : DROP; return it; }
    if (last.count == 1) {
        it = cell_of(v, s, last.points[0]);
        if (chinese && it.kind != SPACE) { /* between two spaces: a word of its own */
            uint8_t bytes[4];
            it.kind = ISOLATE;
            it.as.id = single(v, bytes, utf8(last.points[0], bytes));
        } else if (it.kind == KEEP && last.points[0] == point) {
            it = (cell){SAME, 0, 0, 0, {{0}}}; /* such pages are shared */
        }
        return it;
    }
    if (v->sequence_count + 8 > v->sequence_room) {
        cell *more = realloc(v->sequences, (v->sequence_room * 2ull + 64) * sizeof *more);
        if (!more) { it.kind = SEQUENCE; it.count = 255; return it; }
        v->sequences = more;
        v->sequence_room = v->sequence_room * 2 + 64;
    }
    it.kind = SEQUENCE;
    it.as.at = v->sequence_count;
    if (chinese) v->sequences[v->sequence_count++] = (cell){SPACE, 0, 0, 0, {{0}}};
    for (int i = 0; i < last.count; i++) v->sequences[v->sequence_count++] = cell_of(v, s, last.points[i]);
    if (chinese) v->sequences[v->sequence_count++] = (cell){SPACE, 0, 0, 0, {{0}}};
    it.count = (uint8_t)(v->sequence_count - it.as.at);
    return it;
}

static int make_cells(vocabulary *v) {
    spread *s = spread_out();
    int made_all = s != NULL;
    for (uint32_t high = 0; made_all && high < POINTS >> 8; high++) {
        cell page[256];
        memset(page, 0, sizeof page);
        for (uint32_t low = 0; low < 256; low++) {
            page[low] = cell_for(v, s, high << 8 | low);
            if (page[low].kind == SEQUENCE && page[low].count == 255) made_all = 0;
        }
        uint32_t same = v->pages > 8 ? v->pages - 8 : 0; /* page 0 is first; equal ones lie side by side */
        for (; same < v->pages; same++) if (!memcmp(v->cells + same * 256ull, page, sizeof page)) break;
        if (same == v->pages) {
            if (v->pages == v->page_room) {
                cell *more = realloc(v->cells, (v->page_room * 2ull + 64) * sizeof page);
                if (!more) { made_all = 0; break; }
                v->cells = more;
                v->page_room = v->page_room * 2 + 64;
            }
            memcpy(v->cells + v->pages++ * 256ull, page, sizeof page);
        }
        v->page[high] = (uint16_t)same;
    }
    free(s);
    return made_all;
}

static void make_bytes(vocabulary *v) {
    v->by_eight = BY_EIGHT;
    for (int c = 1; c < 128; c++) {
        const cell it = v->cells[c];
        const int letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (v->opens[c]) {
            v->by_eight &= !letter;
            continue;
        }
        if (it.kind == SAME) v->fold[c] = (uint8_t)c;
        if (it.kind == KEEP && it.size == 1) v->fold[c] = it.as.bytes[0];
        v->ends[c] = it.kind == SPACE || it.kind == ISOLATE;
        const int expected = c >= 'A' && c <= 'Z' && v->flags & LOWERCASE ? c + 32 : c;
        if (letter && v->fold[c] != expected) v->by_eight = 0;
    }
}

void reembed_wordpiece_free(vocabulary *v) {
    if (!v) return;
    free(v->cells); free(v->sequences); free(v->edges); free(v->node_id); free(v->added); free(v->runs); free(v->owned);
    free(v);
}

/* The vocabulary of a model. `words`: UTF-8 of all, one behind the other, each to its end in `ends`; `ids`: of each. `added`,
 * likewise: byte strings that make a text ODD; `runs`: runs of ids that do, as length, ids, length, ids. NULL: no memory, or
 * more than 2^24 nodes. */
vocabulary *reembed_wordpiece_new(const uint8_t *words, const int64_t *ends, const int32_t *ids, int64_t count,
                                  const uint8_t *prefix, int64_t prefix_size, int32_t unknown, int64_t most, int32_t flags,
                                  const uint8_t *added, const int64_t *added_ends, int64_t added_count,
                                  const int32_t *runs, int64_t runs_size) {
    vocabulary *v = calloc(1, sizeof *v);
    if (!v) return NULL;
    v->unknown = unknown; v->most = most; v->flags = flags;
    v->node_count = 2; v->node_room = 1024;
    v->node_id = malloc(v->node_room * sizeof *v->node_id);
    if (!v->node_id || !widen(v)) goto failed;
    v->node_id[0] = v->node_id[1] = -1;
    for (int64_t w = 0; w < count; w++) {
        const uint8_t *bytes = words + (w ? ends[w - 1] : 0);
        const int64_t size = words + ends[w] - bytes;
        if (size && !insert(v, 0, bytes, size, ids[w])) goto failed;
        if (size > prefix_size && (!prefix_size || !memcmp(bytes, prefix, (size_t)prefix_size)))
            if (!insert(v, 1, bytes + prefix_size, size - prefix_size, ids[w])) goto failed;
    }
    if (!make_cells(v)) goto failed;
    const int64_t owned = added_count ? added_ends[added_count - 1] : 0;
    v->owned = malloc((size_t)owned + 1);
    v->added = calloc((size_t)added_count + 1, sizeof *v->added);
    v->runs = malloc(((size_t)runs_size + 1) * sizeof *v->runs);
    if (!v->owned || !v->added || !v->runs) goto failed;
    memcpy(v->owned, added, (size_t)owned);
    memcpy(v->runs, runs, (size_t)runs_size * sizeof *runs);
    v->runs_size = runs_size;
    for (int64_t i = 0; i < runs_size; i += runs[i] + 1) if (runs[i] - 1 > v->look) v->look = runs[i] - 1;
    for (int64_t a = 0; a < added_count; a++) {
        const int64_t at = a ? added_ends[a - 1] : 0;
        if (added_ends[a] == at) continue;
        v->added[v->added_count++] = (span){v->owned + at, added_ends[a] - at};
        v->opens[v->owned[at]] = 1;
    }
    make_bytes(v);
    return v;
failed:
    reembed_wordpiece_free(v);
    return NULL;
}

void reembed_wordpiece_worker_free(worker *k) {
    if (!k) return;
    free(k->cache); free(k->word); free(k->origin); free(k->ids); free(k->cuts); free(k);
}

/* What one thread needs for texts of a vocabulary. NULL: no memory. */
worker *reembed_wordpiece_worker(const vocabulary *v) {
    worker *k = calloc(1, sizeof *k);
    if (!k) return NULL;
    const size_t room = (size_t)v->most * 4 + SLACK;
    k->cache = aligned_alloc(64, sizeof(cached) << CACHE_BITS);
    k->word = calloc(room, 1);
    k->origin = malloc(room * sizeof *k->origin);
    k->ids = malloc(room * sizeof *k->ids);
    k->cuts = malloc(room * sizeof *k->cuts);
    if (!k->cache || !k->word || !k->origin || !k->ids || !k->cuts) {
        reembed_wordpiece_worker_free(k);
        return NULL;
    }
    memset(k->cache, 0, sizeof(cached) << CACHE_BITS);
    return k;
}

/* --- texts --- */

typedef struct {
    const vocabulary *v;
    worker *k;
    int32_t *out;      /* ids of the text */
    int64_t *spans;    /* first and last code point of each, exclusive; or NULL */
    int64_t count, most; /* ids so far, and after which to stop */
    int64_t size;      /* bytes of the word that is being read */
} state;

INLINE uint64_t slot_of(const uint64_t word[4]) {
    const uint64_t low = (word[0] ^ word[2] * 0xD6E8FEB86659FD93ull) * HASH, high = (word[1] ^ (word[3] << 29 | word[3] >> 35)) * 0xC2B2AE3D27D4EB4Full;
    const uint64_t both = low ^ high ^ low >> 32;
    return (both * HASH) >> (64 - CACHE_BITS);
}

INLINE void give(state *t, const int32_t *ids, int64_t count) {
    const int64_t free_ = t->most - t->count, taken = count < free_ ? count : free_;
    for (int64_t i = 0; i < taken; i++) t->out[t->count + i] = ids[i];
    t->count += taken;
}

/* The ids of a word that the cache does not have. */
static void look_up(state *t, const uint8_t *word, int64_t size, const uint64_t key[4], cached *slot) {
    const int64_t count = pieces(t->v, word, size, t->k->ids, t->k->cuts);
    give(t, t->k->ids, count);
    if (key && count <= CACHED_IDS) {
        memcpy(slot->word, key, sizeof slot->word);
        memcpy(slot->ids, t->k->ids, (size_t)count * sizeof *slot->ids);
        slot->count = (int32_t)count;
    }
}

INLINE void emit(state *t, const uint8_t *word, int64_t size, const uint64_t key[4]) {
    cached *slot = t->k->cache + slot_of(key);
    const uint64_t *there = slot->word;
    if (LIKELY(!((there[0] ^ key[0]) | (there[1] ^ key[1]) | (there[2] ^ key[2]) | (there[3] ^ key[3])))) {
        if (LIKELY(t->most - t->count >= CACHED_IDS)) { /* all at once: the buffer has room for them */
            memcpy(t->out + t->count, slot->ids, sizeof slot->ids);
            t->count += slot->count;
        } else {
            give(t, slot->ids, slot->count);
        }
    } else {
        look_up(t, word, size, key, slot);
    }
}

RARELY static void flush_spans(state *t) {
    worker *k = t->k;
    const int64_t count = pieces(t->v, k->word, t->size, k->ids, k->cuts);
    for (int64_t i = 0; i < count && t->count < t->most; i++) {
        t->spans[2 * t->count] = k->origin[i ? k->cuts[i - 1] : 0];
        t->spans[2 * t->count + 1] = k->origin[k->cuts[i] - 1] + 1;
        t->out[t->count++] = k->ids[i];
    }
}

/* The word ends here. */
INLINE void flush(state *t, const int spans) {
    uint8_t *word = t->k->word;
    const int64_t size = t->size;
    if (!size) return;
    if (spans) {
        flush_spans(t);
    } else if (LIKELY(size <= KEY)) {
        uint64_t key[4];
        memcpy(key, word, 32);
        ((uint8_t *)key)[31] = (uint8_t)size;
        emit(t, word, size, key);
    } else {
        look_up(t, word, size, NULL, NULL);
    }
    memset(word, 0, 32);
    t->size = 0;
}

INLINE void add(state *t, const uint8_t *bytes, int size, int64_t at, const int spans) {
    if (t->size > t->v->most * 4) { /* too long to be a word already; `pieces` will see it */
        if (spans) t->k->origin[t->size - 1] = at;
        return;
    }
    memcpy(t->k->word + t->size, bytes, (size_t)size);
    if (spans) for (int i = 0; i < size; i++) t->k->origin[t->size + i] = at;
    t->size += size;
}

INLINE void give_one(state *t, int32_t id, int64_t at, const int spans) {
    if (t->count >= t->most) return;
    if (spans) {
        t->spans[2 * t->count] = at;
        t->spans[2 * t->count + 1] = at + 1;
    }
    t->out[t->count++] = id;
}

/* A code point at p: its number and size in bytes; -1 where the bytes are no UTF-8. */
INLINE int32_t point_at(const uint8_t *p, const uint8_t *end, int *size) {
    const uint8_t b = p[0];
    const int64_t left = end - p;
    if (b >= 0xC2 && b < 0xE0 && left > 1 && (p[1] & 0xC0) == 0x80) {
        *size = 2;
        return (b & 31) << 6 | (p[1] & 63);
    }
    if ((b & 0xF0) == 0xE0 && left > 2 && (p[1] & 0xC0) == 0x80 && (p[2] & 0xC0) == 0x80) {
        const int32_t point = (b & 15) << 12 | (p[1] & 63) << 6 | (p[2] & 63);
        *size = 3;
        return point >= 0x800 && (point < 0xD800 || point >= 0xE000) ? point : -1;
    }
    if ((b & 0xF8) == 0xF0 && left > 3 && (p[1] & 0xC0) == 0x80 && (p[2] & 0xC0) == 0x80 && (p[3] & 0xC0) == 0x80) {
        const int32_t point = (b & 7) << 18 | (p[1] & 63) << 12 | (p[2] & 63) << 6 | (p[3] & 63);
        *size = 4;
        return point >= 0x10000 && point < POINTS ? point : -1;
    }
    return -1;
}

RARELY static int opens_added(const vocabulary *v, const uint8_t *p, const uint8_t *end) {
    for (int64_t a = 0; a < v->added_count; a++)
        if (v->added[a].size <= end - p && !memcmp(p, v->added[a].bytes, (size_t)v->added[a].size)) return 1;
    return 0;
}

#if BY_EIGHT
/* Of eight bytes: 0x80 where one is an ASCII letter or digit, and 0x20 where it is a capital letter. */
INLINE uint64_t letters(uint64_t x, uint64_t *capital) {
    const uint64_t ones = 0x0101010101010101ull, tops = ones * 0x80, low = x & ~tops, small = low | ones * 0x20;
    const uint64_t letter = (small + ones * (0x80 - 'a')) & ~(small + ones * (0x80 - 'z' - 1));
    const uint64_t digit = (low + ones * (0x80 - '0')) & ~(low + ones * (0x80 - '9' - 1));
    *capital = (letter & tops & ~x) >> 2 & ~x & ones * 0x20;
    return (letter | digit) & ~x & tops;
}

/* A word of ASCII letters and digits whose end is seen within 32 bytes: its ids; returns its bytes, or 0 for any other. */
INLINE int64_t letters_word(state *t, const uint8_t *p, const uint8_t *end) {
    const uint64_t tops = 0x8080808080808080ull, fold = t->v->flags & LOWERCASE ? ~0ull : 0;
    uint64_t key[4] = {0, 0, 0, 0}, capital;
    int64_t size = 0;
    for (int i = 0; i < 4; i++) {
        uint64_t x;
        memcpy(&x, p + 8 * i, 8);
        const uint64_t others = ~letters(x, &capital) & tops;
        x |= capital & fold;
        if (others) {
            const int bits = __builtin_ctzll(others) - 7;
            key[i] = bits ? x & ~0ull >> (64 - bits) : 0;
            size += bits >> 3;
            break;
        }
        key[i] = x;
        size += 8;
    }
    if (size == 0 || size > KEY || size > end - p || (size < end - p && !t->v->ends[p[size]])) return 0;
    uint8_t word[32];
    key[3] |= (uint64_t)size << 56;
    memcpy(word, key, 32);
    emit(t, word, size, key);
    return size;
}
#endif

/* The ids of one text; `safe`: the end of the bytes that may be read. Returns 0, or ODD. */
INLINE int encode_text(state *t, const uint8_t *p, const uint8_t *end, const uint8_t *safe, const int spans) {
    const vocabulary *v = t->v;
    int64_t at = 0; /* code point of the text */
    while (p < end && t->count < t->most) {
        const uint8_t b = *p;
        int size = 1;
        int32_t point = b;
        if (v->fold[b]) {
#if BY_EIGHT
            if (!spans && !t->size && v->by_eight && safe - p >= 32) {
                const int64_t taken = letters_word(t, p, end);
                if (LIKELY(taken)) {
                    p += taken;
                    continue;
                }
            }
#endif
            do {
                add(t, &v->fold[*p], 1, at, spans);
                at++;
            } while (++p < end && v->fold[*p]);
            continue;
        }
        if (v->opens[b] && opens_added(v, p, end)) return ODD;
        if (b >= 0x80 && (point = point_at(p, end, &size)) < 0) return ODD;
        const cell *it = v->cells + (v->page[point >> 8] * 256ull + (point & 255));
        int order = 0;
        switch (it->kind) {
        case SAME: add(t, p, size, at, spans); break;
        case KEEP: add(t, it->as.bytes, it->size, at, spans); break;
        case ISOLATE: flush(t, spans); give_one(t, it->as.id, at, spans); break;
        case SPACE: flush(t, spans); break;
        case DROP: break;
        case MARK: add(t, it->as.bytes, it->size, at, spans); order = it->order; break;
        case SYLLABLE: {
            const int i = point - 0xAC00, last = i % 28;
            uint8_t bytes[9];
            utf8((uint32_t)(0x1100 + i / 588), bytes);
            utf8((uint32_t)(0x1161 + i % 588 / 28), bytes + 3);
            utf8((uint32_t)(0x11A7 + last), bytes + 6);
            add(t, bytes, last ? 9 : 6, at, spans);
            break;
        }
        default:
            for (const cell *c = v->sequences + it->as.at, *stop = c + it->count; c < stop; c++) {
                order = c->order;
                if (c->kind == KEEP || c->kind == MARK) {
                    add(t, c->as.bytes, c->size, at, spans);
                } else {
                    flush(t, spans);
                    if (c->kind == ISOLATE) give_one(t, c->as.id, at, spans);
                }
            }
        }
        p += size;
        at++;
        if (spans && order) return ODD; /* where marks change places, `tokenizers` counts their code points in a way of its own */
        while (order && p < end) { /* marks of several classes: are they in order? */
            if (v->opens[*p] && opens_added(v, p, end)) return ODD;
            size = 1;
            if ((point = *p) >= 0x80 && (point = point_at(p, end, &size)) < 0) break;
            it = v->cells + (v->page[point >> 8] * 256ull + (point & 255));
            if (it->kind == MARK) {
                if (it->order < order) return ODD;
                order = it->order;
                add(t, it->as.bytes, it->size, at, spans);
            } else if (it->kind != DROP) {
                break;
            }
            p += size;
            at++;
        }
    }
    flush(t, spans);
    return 0;
}

static int holds_run(const vocabulary *v, const int32_t *ids, int64_t count) {
    for (int64_t r = 0; r < v->runs_size; r += v->runs[r] + 1) {
        const int32_t size = v->runs[r], *run = v->runs + r + 1;
        for (int64_t i = 0; i + size <= count; i++)
            if (ids[i] == run[0] && !memcmp(ids + i, run, (size_t)size * sizeof *run)) return 1;
    }
    return 0;
}

/* Texts first..stop of an Arrow column of strings, at most `room` ids of each between `before` and `after`.
 *
 *     offsets   of 32 or 64 bits (`wide`), of texts in data, which has `data_size` bytes
 *     ids       of all texts, one behind the other; `capacity` of them
 *     spans     NULL, or two numbers for each id but those of `before` and `after`, which have none
 *     ends      for each text: where its ids end
 *     flags     for each text: TRUNCATED, ODD (then it has no ids at all, not even those of `before`)
 *
 * Returns the number of ids; -1: capacity is too small, or an offset is out of bounds. */
int64_t reembed_wordpiece_encode(const vocabulary *v, worker *k, const uint8_t *data, int64_t data_size, const void *offsets,
                                 int wide, int64_t first, int64_t stop, int64_t room, const int32_t *before, int64_t before_size,
                                 const int32_t *after, int64_t after_size, int32_t *ids, int64_t capacity, int64_t *spans,
                                 int64_t *ends, uint8_t *flags) {
    const int64_t *offsets64 = offsets;
    const int32_t *offsets32 = offsets;
    int64_t done = 0;
    for (int64_t i = first; i < stop; i++) {
        const int64_t begin = wide ? offsets64[i] : offsets32[i], finish = wide ? offsets64[i + 1] : offsets32[i + 1];
        if (begin < 0 || finish < begin || finish > data_size) return -1;
        /* a code point gives at most as many ids as it has bytes */
        const int64_t least = finish - begin, wanted = room < least ? room + 1 + v->look : least, fit = wanted < least ? wanted : least;
        if (capacity - done < fit + before_size + after_size + CACHED_IDS) return -1;
        state t = {v, k, ids + done + before_size, spans, 0, fit, 0};
        const int odd = spans ? encode_text(&t, data + begin, data + finish, data + data_size, 1)
                              : encode_text(&t, data + begin, data + finish, data + data_size, 0);
        if (odd || (v->runs_size && holds_run(v, t.out, t.count))) {
            memset(k->word, 0, 32);
            flags[i - first] = ODD;
        } else {
            const int64_t kept = t.count < room ? t.count : room;
            flags[i - first] = t.count > room ? TRUNCATED : 0;
            memcpy(ids + done, before, (size_t)before_size * sizeof *ids);
            memcpy(ids + done + before_size + kept, after, (size_t)after_size * sizeof *ids);
            done += before_size + kept + after_size;
            if (spans) spans += 2 * kept;
        }
        ends[i - first] = done;
    }
    return done;
}

/* The version of `tokenizers` of which the tables were made. */
const char *reembed_wordpiece_tables(void) { return TABLES_OF; }
