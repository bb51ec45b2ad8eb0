/* weighted_freeze, sage, masks that stay, masks and alignment of pruning: bit for bit as in torch.
 *
 * weighted_freeze, the fast form of rules.freeze_important and its variants:
 * For each tensor: lo and hi of the importance (first pass), then what is kept (second pass, from the cache), with the
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

/* a loop for the one metric that is asked for, which the compiler then knows */
#define BY_METRIC(loop, use)                                                            \
    switch (metric) {                                                                   \
    case MAGNITUDE: loop(MAGNITUDE, use) break;                                         \
    case LOSS_PRESERVING: loop(LOSS_PRESERVING, use) break;                             \
    default: loop(FISHER, use) break;                                                   \
    }

#define RANGE(metric, none)                                                             \
    for (int64_t i = 0; i < n; i++) {                                                   \
        int32_t a = to_bits(IMPORTANCE_OF(metric, w[i], g[i]));                         \
        lo = a < lo ? a : lo;                                                           \
        hi = a > hi ? a : hi;                                                           \
    }

/* Every rule of weighted_freeze keeps a number where t * range <= offset + sign * I, with t = u or u * u. Products with
 * 1, -1 and 2 are exact, so that these are the bits of the rows as rules.py writes them. */
enum { IMPORTANT = 0, PRINTED = 1, SMOOTH = 2, RANDOM = 3 };

typedef struct {
    float range, offset, sign;
    int squares;
} keeping;

static inline keeping keeping_of(int variant, float lo, float hi, float rate) {
    switch (variant) {
    case PRINTED: return (keeping){hi - lo, -lo, 1.0f, 0};
    case SMOOTH: return (keeping){2.0f * (hi - lo), -lo, 1.0f, 1};
    case RANDOM: return (keeping){1.0f, rate, 0.0f, 0};
    default: return (keeping){hi - lo, hi, -1.0f, 0};
    }
}

/* `use` takes what is kept of a number, 1 or 0, after its score was read */
#define KEEP(metric, use)                                                               \
    for (int64_t i = 0; i < n; i++) {                                                   \
        uint32_t x = ((uint32_t)start + (uint32_t)i) ^ k0;                              \
        x ^= x >> 16; x *= 0x7feb352dU; x += k1;                                        \
        x ^= x >> 15; x *= 0x846ca68bU;                                                 \
        x ^= x >> 16;                                                                   \
        float u = (float)(int32_t)((x >> 8) + 1) * 0x1p-24f;                            \
        float t = squares ? u * u : u;                                                  \
        use(t * range <= offset + sign * IMPORTANCE_OF(metric, w[i], g[i]) ? 1.0f : 0.0f) \
    }
#define NOTE(keep) factor[i] = (keep); old[i] = w[i];
#define MULTIPLY(keep) g[i] *= (keep);

CLONES
static void range_of(const float *restrict w, const float *restrict g, int64_t n, int metric, float *out) {
    int32_t lo = 0x7fffffff, hi = 0;
    BY_METRIC(RANGE, )
    out[0] = from_bits(lo);
    out[1] = from_bits(hi);
}

/* for the numbers start .. start + n - 1 of a tensor: w as it is, and what is kept of its change */
CLONES
static void keep_one(const float *restrict w, const float *restrict g, float *restrict old, float *restrict factor,
                     int64_t n, int64_t start, uint32_t k0, uint32_t k1, int metric, keeping rule) {
    const float range = rule.range, offset = rule.offset, sign = rule.sign;
    const int squares = rule.squares;
    BY_METRIC(KEEP, NOTE)
}

/* g <- 0 where it is not kept */
CLONES
static void freeze_one(const float *restrict w, float *restrict g, int64_t n, int64_t start, uint32_t k0, uint32_t k1,
                       int metric, keeping rule) {
    const float range = rule.range, offset = rule.offset, sign = rule.sign;
    const int squares = rule.squares;
    BY_METRIC(KEEP, MULTIPLY)
}

/* lo and hi of each of `count` tensors of n[t] numbers, into out[2 * t] and out[2 * t + 1] */
void wff_ranges(int64_t count, const int64_t *n, const float **w, const float **g, int metric, float *out) {
    for (int64_t t = 0; t < count; t++) range_of(w[t], g[t], n[t], metric, out + 2 * t);
}

/* sage, the fast form of rules.sage_full, sage_li and sage_light: I = |w * g| moves its average, which is kept in float or
 * bfloat16, and gives the factor that the change of w will be multiplied by; w itself is copied to old. */

enum { FULL = 0, LI = 1, LIGHT = 2 };
enum { BETA = 0, ONE_MINUS_BETA = 1, EPS = 2, MAX_SCALE = 3 };

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
    float usual = from(((T *)average)[i]) * operand;
#define AS_IS(x) (x)
#define DISTANCE from_bits(to_bits(importance - usual) & 0x7fffffff)

CLONES
static void scale_one(const float *restrict w, const float *restrict g, void *restrict average, float *restrict old,
                      float *restrict factor, int64_t n, float operand, int variant, int half, const float *restrict c) {
    if (variant == LIGHT) {
        SCALE(operand, importance, )
    } else if (variant == FULL) {
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

/* What a guide does before the base steps. */
enum { GRADIENT = 1, CHANGE = 2, SCALE_CHANGE = 3 }; /* actions */

typedef struct {
    float *w, *g;
    float *old, *factor;   /* of CHANGE and SCALE_CHANGE: w as it is, and the share of its change that it keeps */
    void *average;         /* of SCALE_CHANGE, unless it is light */
    int64_t n, start;      /* so many numbers, and where the first stands in its tensor */
    uint32_t key[2];
    float lo, hi;
    float operand;         /* rate of random, mean of the scores for light, correction of the average for full and li */
    int32_t action, ranged; /* ranged: lo and hi are given; else they are those of this job */
} job;

typedef struct {
    const float *scale; /* constants of sage, as above */
    int32_t metric, variant, half;
} settings;

static void guide(const job *j, const settings *s) {
    if (j->action == SCALE_CHANGE) {
        scale_one(j->w, j->g, j->average, j->old, j->factor, j->n, j->operand, s->variant, s->half, s->scale);
        return;
    }
    float bounds[2] = {j->lo, j->hi};
    if (!j->ranged) range_of(j->w, j->g, j->n, s->metric, bounds);
    const keeping rule = keeping_of(s->variant, bounds[0], bounds[1], j->operand);
    const int metric = s->variant == RANDOM ? MAGNITUDE : s->metric; /* whose scores are not read */
    if (j->action == GRADIENT)
        freeze_one(j->w, j->g, j->n, j->start, j->key[0], j->key[1], metric, rule);
    else
        keep_one(j->w, j->g, j->old, j->factor, j->n, j->start, j->key[0], j->key[1], metric, rule);
}

/* All jobs that no other thread has taken: `next` is shared by the threads, so that a slow one holds nobody up. */
void wff_guide(int64_t count, const job *jobs, int64_t *next, const settings *s) {
    for (;;) {
        const int64_t taken = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
        if (taken >= count) return;
        guide(jobs + taken, s);
    }
}

/* alignment, the fast form of losses._row_sums: what a cosine of two rows is made of. A sum may be taken in any
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
