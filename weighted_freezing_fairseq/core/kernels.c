/* weighted_freeze and sage in one pass over weight and gradient, bit for bit as in torch; masks and alignment of pruning.
 *
 * weighted_freeze, the fast twin of rules._freeze:
 * For each tensor: lo and hi of the importance (first pass), then grad *= keep (second pass, from the cache), with the
 * counter-based numbers of masks.uniform computed on the way. Importance is never negative, so the order of floats is
 * the order of their bits, and minimum and maximum become integer reductions, which every compiler vectorises without
 * unsafe flags; a NaN counts as larger than infinity and freezes, as in torch.
 */
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

enum { MAGNITUDE = 0, LOSS_PRESERVING = 1, FISHER = 2 };

static inline float from_bits(int32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline int32_t to_bits(float x) { int32_t bits; memcpy(&bits, &x, 4); return bits; }

#define IMPORTANCE_OF(metric, w, g)                                        \
    ((metric) == MAGNITUDE         ? from_bits(to_bits(w) & 0x7fffffff)    \
     : (metric) == LOSS_PRESERVING ? from_bits(to_bits((w) * (g)) & 0x7fffffff) \
                                   : (g) * (g))

#define RANGE(metric)                                                                   \
    for (int64_t i = 0; i < n; i++) {                                                   \
        int32_t a = to_bits(IMPORTANCE_OF(metric, w[i], g[i]));                         \
        lo = a < lo ? a : lo;                                                           \
        hi = a > hi ? a : hi;                                                           \
    }

#define FREEZE(metric)                                                                  \
    for (int64_t i = 0; i < n; i++) {                                                   \
        uint32_t x = (uint32_t)i ^ k0;                                                  \
        x ^= x >> 16; x *= 0x7feb352dU; x += k1;                                        \
        x ^= x >> 15; x *= 0x846ca68bU;                                                 \
        x ^= x >> 16;                                                                   \
        float u = (float)(int32_t)((x >> 8) + 1) * 0x1p-24f;                            \
        int keep = u * range <= hi - IMPORTANCE_OF(metric, w[i], g[i]);                 \
        g[i] *= keep ? 1.0f : 0.0f;                                                     \
    }

CLONES
static void range_of(const float *restrict w, const float *restrict g, int64_t n, int metric, float *out) {
    int32_t lo = 0x7fffffff, hi = 0;
    switch (metric) {
    case MAGNITUDE: RANGE(MAGNITUDE) break;
    case LOSS_PRESERVING: RANGE(LOSS_PRESERVING) break;
    default: RANGE(FISHER) break;
    }
    out[0] = from_bits(lo);
    out[1] = from_bits(hi);
}

CLONES
static void freeze_one(const float *restrict w, float *restrict g, int64_t n, uint32_t k0, uint32_t k1, int metric,
                       float lo, float hi) {
    const float range = hi - lo;
    switch (metric) {
    case MAGNITUDE: FREEZE(MAGNITUDE) break;
    case LOSS_PRESERVING: FREEZE(LOSS_PRESERVING) break;
    default: FREEZE(FISHER) break;
    }
}

/* lo and hi of each of `count` tensors of n[t] numbers, into out[2 * t] and out[2 * t + 1] */
void wff_ranges(int64_t count, const int64_t *n, const float **w, const float **g, int metric, float *out) {
    for (int64_t t = 0; t < count; t++) range_of(w[t], g[t], n[t], metric, out + 2 * t);
}

/* grad *= keep for each of `count` tensors; `shared` holds one lo and hi for all, or is null: each has its own */
void wff_freeze(int64_t count, const int64_t *n, const float **w, float **g, const uint32_t *keys, int metric,
                const float *shared) {
    for (int64_t t = 0; t < count; t++) {
        float own[2];
        const float *bounds = shared;
        if (!bounds) {
            range_of(w[t], g[t], n[t], metric, own);
            bounds = own;
        }
        freeze_one(w[t], g[t], n[t], keys[2 * t], keys[2 * t + 1], metric, bounds[0], bounds[1]);
    }
}

/* sage, the fast twin of rules._sage, _sage_by_average and _sage_light: I = |w * g| moves its average, which is kept in
 * float or bfloat16, and gives the factor that the change of w will be multiplied by; w itself is copied to old. */

enum { BY_IMPORTANCE = 0, BY_AVERAGE = 1, LIGHT = 2 };
enum { BETA = 0, ONE_MINUS_BETA = 1, CORRECTION = 2, EPS = 3, MAX_SCALE = 4 };

static inline float from_half(uint16_t half) { return from_bits((int32_t)((uint32_t)half << 16)); }
static inline uint16_t to_half(float x) { /* to the nearest, ties to even, as torch rounds */
    uint32_t bits = (uint32_t)to_bits(x);
    return x != x ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#define SCALE(above, below, learn)                                        \
    for (int64_t i = 0; i < n; i++) {                                     \
        float importance = from_bits(to_bits(w[i] * g[i]) & 0x7fffffff);  \
        learn                                                             \
        float scale = ((above) + c[EPS]) / ((below) + c[EPS]);            \
        factor[i] = scale > c[MAX_SCALE] ? c[MAX_SCALE] : scale;          \
        old[i] = w[i];                                                    \
    }
#define MOVED(kept) ((kept) * c[BETA] + importance * c[ONE_MINUS_BETA])
#define LEARN(T, to, from)                                                \
    ((T *)average)[i] = to(MOVED(from(((T *)average)[i])));               \
    float usual = from(((T *)average)[i]) * c[CORRECTION];
#define AS_IS(x) (x)
#define DISTANCE from_bits(to_bits(importance - usual) & 0x7fffffff)

CLONES
static void scale_one(const float *restrict w, const float *restrict g, void *restrict average, float *restrict old,
                      float *restrict factor, int64_t n, float mean, int kind, int half, const float *restrict c) {
    if (kind == LIGHT) {
        SCALE(mean, importance, )
    } else if (kind == BY_AVERAGE) {
        if (half) {
            SCALE(DISTANCE, usual, LEARN(uint16_t, to_half, from_half))
        } else {
            SCALE(DISTANCE, usual, LEARN(float, AS_IS, AS_IS))
        }
    } else {
        if (half) {
            SCALE(DISTANCE, importance, LEARN(uint16_t, to_half, from_half))
        } else {
            SCALE(DISTANCE, importance, LEARN(float, AS_IS, AS_IS))
        }
    }
}

CLONES
static void advance_one(float *restrict w, const float *restrict old, const float *restrict factor, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float f = factor[i], step = w[i] - old[i];
        float near_old = old[i] + f * step, near_new = w[i] - (1.0f - f) * step;
        w[i] = f < 0.5f ? near_old : near_new;
    }
}

void wff_scale(int64_t count, const int64_t *n, const float **w, const float **g, void **average, float **old,
               float **factor, const float *mean, int kind, int half, const float *constants) {
    for (int64_t t = 0; t < count; t++)
        scale_one(w[t], g[t], average ? average[t] : 0, old[t], factor[t], n[t], mean[t], kind, half, constants);
}

/* w <- old + factor * (w - old), exact for factors 0 and 1 */
void wff_advance(int64_t count, const int64_t *n, float **w, const float **old, const float **factor) {
    for (int64_t t = 0; t < count; t++) advance_one(w[t], old[t], factor[t], n[t]);
}

/* w <- old where mask is 0 */
CLONES
static void restore_one(float *restrict w, const float *restrict old, const uint8_t *restrict mask, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float kept = w[i], before = old[i];
        w[i] = mask[i] ? kept : before;
    }
}

void wff_restore(int64_t count, const int64_t *n, float **w, const float **old, const uint8_t **mask) {
    for (int64_t t = 0; t < count; t++) restore_one(w[t], old[t], mask[t], n[t]);
}

/* x <- 0 where mask is 0; a NaN stays, or an overflow would go unseen */
CLONES
static void mask_one(float *restrict x, const uint8_t *restrict mask, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] *= (float)mask[i];
}

void wff_mask(int64_t count, const int64_t *n, float **x, const uint8_t **mask) {
    for (int64_t t = 0; t < count; t++) mask_one(x[t], mask[t], n[t]);
}

/* alignment, the fast twin of losses._row_sums: what a cosine of two rows is made of. A sum may be taken in any
 * order, so that it can be vectorised, and goes into double before it loses digits. */
enum { SUMMED = 4096 };

CLONES
static void row_sums_of(const float *restrict w, const float *restrict r, int64_t columns, double *restrict sums) {
    for (int64_t start = 0; start < columns; start += SUMMED) {
        const int64_t stop = start + SUMMED < columns ? start + SUMMED : columns;
        float dot = 0, own = 0, other = 0;
#pragma omp simd reduction(+ : dot, own, other)
        for (int64_t j = start; j < stop; j++) {
            dot += w[j] * r[j];
            own += w[j] * w[j];
            other += r[j] * r[j];
        }
        sums[0] += dot;
        sums[1] += own;
        sums[2] += other;
    }
}

/* for each row: sums of w * r, w * w, r * r */
void wff_row_sums(int64_t count, const int64_t *n, const float **w, const float **r, const int64_t *columns,
                  double **sums) {
    for (int64_t t = 0; t < count; t++)
        for (int64_t row = 0; row * columns[t] < n[t]; row++)
            row_sums_of(w[t] + row * columns[t], r[t] + row * columns[t], columns[t], sums[t] + 3 * row);
}
