/* Random bytes, offsets, rooms and capacities for wordpiece.c, under sanitizers; test_wordpiece.py builds and runs it. */
#include <stdio.h>

#include "wordpiece.c"

static uint64_t seed = 1;
static uint64_t draw(uint64_t below) {
    seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17;
    return seed % below;
}

int main(int count, char **arguments) {
    const char *words = "[UNK]ab##a##bsnowéд中##д##é<x>";
    const int64_t sizes[] = {5, 1, 1, 3, 3, 4, 2, 2, 3, 4, 4, 1, 1, 1};
    int64_t ends[14], at = 0, texts = 0;
    int32_t ids[14];
    for (int w = 0; w < 14; w++) { ends[w] = at += sizes[w]; ids[w] = w; }
    const char *added = "[CLS]<q>é!";
    const int64_t added_ends[] = {5, 8, 11};
    const int32_t runs[] = {3, 11, 0, 13}, around[] = {7, 8};
    const int rounds = count > 1 ? atoi(arguments[1]) : 1000;
    const char *pieces_of[] = {"a", "snow", " ", "[CLS]", "[C", "<x>", "\xcc\x81", "\xcc\xa3", "\xe1\xad\x84", "\xe4\xb8\xad", "\xea\xb0\x81",
                               "\xf0\x9d\x85\xa5", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnop", "\xc4\xb0", "é!"};
    const int kinds[] = {15, 13, 7, 31, 8, 0}; /* of the normaliser: some of its 32 combinations */
    for (int kind = 0; kind < 6; kind++) {
        const int flags = kinds[kind];
        for (int longest = 1; longest < 120; longest += 117) {
            vocabulary *v = reembed_wordpiece_new((const uint8_t *)words, ends, ids, 14, (const uint8_t *)"##", 2, 0, longest, flags,
                                                  (const uint8_t *)added, added_ends, 3, runs, flags & 1 ? 4 : 0);
            worker *k = reembed_wordpiece_worker(v);
            for (int round = 0; round < rounds / 12; round++) {
                const int64_t number = 1 + (int64_t)draw(4);
                int64_t offsets[6] = {0}, size = 0;
                uint8_t draft[4096];
                for (int64_t i = 0; i < number; i++) {
                    for (uint64_t more = draw(40); more && size < 4000; more--) {
                        if (draw(3)) {
                            const char *piece = pieces_of[draw(15)];
                            memcpy(draft + size, piece, strlen(piece));
                            size += (int64_t)strlen(piece);
                        } else {
                            draft[size++] = (uint8_t)draw(256);
                        }
                    }
                    offsets[i + 1] = size;
                }
                if (!draw(20)) offsets[1 + draw((uint64_t)number)] = (int64_t)draw(5000) - 20;
                uint8_t *data = malloc((size_t)size + !size); /* exactly: one byte further is an error */
                memcpy(data, draft, (size_t)size);
                const int64_t room = draw(3) ? (int64_t)draw(30) : INT64_MAX, capacity = draw(8) ? size + 64 : (int64_t)draw(64);
                const int spans = draw(2) != 0;
                int32_t *out = malloc((size_t)(capacity + 1) * sizeof *out);
                int64_t *places = malloc((size_t)(capacity + 1) * 2 * sizeof *places), *out_ends = malloc(6 * sizeof *out_ends);
                uint8_t *out_flags = malloc(6);
                const int64_t done = reembed_wordpiece_encode(v, k, data, size, offsets, 1, 0, number, room, around, spans ? 0 : 2,
                                                              around, spans ? 0 : 1, out, capacity, spans ? places : NULL, out_ends,
                                                              out_flags);
                for (int64_t i = 0; i < done; i++)
                    if (out[i] < 0 || out[i] > 13) { printf("id %d\n", out[i]); return 1; }
                texts += number;
                free(data); free(out); free(places); free(out_ends); free(out_flags);
            }
            reembed_wordpiece_worker_free(k);
            reembed_wordpiece_free(v);
        }
    }
    printf("%lld texts\n", (long long)texts);
    return 0;
}
