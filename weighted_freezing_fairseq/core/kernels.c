/* Kernels of weighted_freeze, sage, fixed masks, pruning and alignment; results are bit-identical to PyTorch's. */
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

/* Specializes a loop for each metric. */
#define BY_METRIC(loop, body)                                                           \
    switch (metric) {                                                                   \
    case MAGNITUDE: loop(MAGNITUDE, body) break;                                        \
    case LOSS_PRESERVING: loop(LOSS_PRESERVING, body) break;                            \
    default: loop(FISHER, body) break;                                                  \
    }

/* weighted_freeze (rules.freeze_important and its variants). The first pass over a tensor finds the smallest and the
 * largest importance, the second draws the mask with the random numbers of masks.uniform. Importance is not negative,
 * so floats have the same order as their bits, and compilers vectorize integer minimum and maximum without unsafe
 * flags. A NaN is larger than infinity and freezes the weight, as in PyTorch. */

#define RANGE(metric, none)                                                             \
    for (int64_t i = 0; i < n; i++) {                                                   \
        int32_t a = to_bits(IMPORTANCE_OF(metric, w[i], g[i]));                         \
        lo = a < lo ? a : lo;                                                           \
        hi = a > hi ? a : hi;                                                           \
    }

/* Every variant updates a number if t * range <= offset + sign * I, with t = u or u * u. Products with 1, -1 and 2 are
 * exact, so that the result equals that of the expressions in rules.py. */
enum { IMPORTANT = 0, PRINTED = 1, SMOOTH = 2, RANDOM = 3 };

typedef struct {
    float range, offset, sign;
    int squared;
} condition;

static inline condition condition_of(int variant, float lo, float hi, float rate) {
    switch (variant) {
    case PRINTED: return (condition){hi - lo, -lo, 1.0f, 0};
    case SMOOTH: return (condition){2.0f * (hi - lo), -lo, 1.0f, 1};
    case RANDOM: return (condition){1.0f, rate, 0.0f, 0};
    default: return (condition){hi - lo, hi, -1.0f, 0};
    }
}

/* body(mask): what to do with the mask, 1 or 0, of number i */
#define MASK(metric, body)                                                              \
    for (int64_t i = 0; i < n; i++) {                                                   \
        uint32_t x = ((uint32_t)start + (uint32_t)i) ^ k0;                              \
        x ^= x >> 16; x *= 0x7feb352dU; x += k1;                                        \
        x ^= x >> 15; x *= 0x846ca68bU;                                                 \
        x ^= x >> 16;                                                                   \
        float u = (float)(int32_t)((x >> 8) + 1) * 0x1p-24f;                            \
        float t = squared ? u * u : u;                                                  \
        body(t * range <= offset + sign * IMPORTANCE_OF(metric, w[i], g[i]) ? 1.0f : 0.0f) \
    }
#define ADVANCE(mask) const float factor = (mask); weight[i] = advanced(w[i], weight[i], factor);
#define MULTIPLY(mask) g[i] *= (mask);

/* guided._scaled, exact for factors 0 and 1; old and new_value: before and after the base's step */
static inline float advanced(float old, float new_value, float factor) {
    const float step = new_value - old, near_old = old + factor * step, near_new = new_value - (1.0f - factor) * step;
    return factor < 0.5f ? near_old : near_new;
}

CLONES
static void range_of(const float *restrict w, const float *restrict g, int64_t n, int metric, float *out) {
    int32_t lo = 0x7fffffff, hi = 0;
    BY_METRIC(RANGE, )
    out[0] = from_bits(lo);
    out[1] = from_bits(hi);
}

/* for the numbers start .. start + n - 1 of a tensor, which were w: weight <- w + mask * (weight - w) */
CLONES
static void mask_step(const float *restrict w, const float *restrict g, float *restrict weight, int64_t n,
                      int64_t start, uint32_t k0, uint32_t k1, int metric, condition rule) {
    const float range = rule.range, offset = rule.offset, sign = rule.sign;
    const int squared = rule.squared;
    BY_METRIC(MASK, ADVANCE)
}

/* g <- g * mask */
CLONES
static void mask_gradient(const float *restrict w, float *restrict g, int64_t n, int64_t start, uint32_t k0,
                          uint32_t k1, int metric, condition rule) {
    const float range = rule.range, offset = rule.offset, sign = rule.sign;
    const int squared = rule.squared;
    BY_METRIC(MASK, MULTIPLY)
}

/* lo and hi of each of `count` tensors of n[t] numbers, into out[2 * t] and out[2 * t + 1] */
void wff_ranges(int64_t count, const int64_t *n, const float **w, const float **g, int metric, float *out) {
    for (int64_t t = 0; t < count; t++) range_of(w[t], g[t], n[t], metric, out + 2 * t);
}

/* sage (rules.sage_full, sage_li and sage_light): I = |w * g| updates its average, which is float or bfloat16, and
 * gives the factor for the step from w to weight. */

enum { FULL = 0, LI = 1, LIGHT = 2 };
enum { BETA = 0, ONE_MINUS_BETA = 1, EPS = 2, MAX_SCALE = 3 };

static inline float from_half(uint16_t half) { return from_bits((int32_t)((uint32_t)half << 16)); }
static inline uint16_t to_half(float x) { /* round to nearest, ties to even, as PyTorch */
    uint32_t bits = (uint32_t)to_bits(x);
    return x != x ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#define SCALE(numerator, denominator, update_average)                     \
    for (int64_t i = 0; i < n; i++) {                                     \
        float importance = from_bits(to_bits(w[i] * g[i]) & 0x7fffffff);  \
        update_average                                                    \
        float scale = ((numerator) + c[EPS]) / ((denominator) + c[EPS]);  \
        weight[i] = advanced(w[i], weight[i], scale > c[MAX_SCALE] ? c[MAX_SCALE] : scale); \
    }
#define AVERAGE(T, to, from)                                              \
    ((T *)average)[i] = to(from(((T *)average)[i]) * c[BETA] + importance * c[ONE_MINUS_BETA]); \
    float corrected = from(((T *)average)[i]) * operand;
#define SAME(x) (x)
#define DISTANCE from_bits(to_bits(importance - corrected) & 0x7fffffff)

CLONES
static void scale_step(const float *restrict w, const float *restrict g, float *restrict weight,
                       void *restrict average, int64_t n, float operand, int variant, int half,
                       const float *restrict c) {
    if (variant == LIGHT) {
        SCALE(operand, importance, )
    } else if (variant == FULL) {
        if (half) {
            SCALE(DISTANCE, corrected, AVERAGE(uint16_t, to_half, from_half))
        } else {
            SCALE(DISTANCE, corrected, AVERAGE(float, SAME, SAME))
        }
    } else {
        if (half) {
            SCALE(DISTANCE, importance, AVERAGE(uint16_t, to_half, from_half))
        } else {
            SCALE(DISTANCE, importance, AVERAGE(float, SAME, SAME))
        }
    }
}

/* w <- old where mask is 0 */
CLONES
static void restore_one(float *restrict w, const float *restrict old, const uint8_t *restrict mask, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float new_value = w[i], old_value = old[i];
        w[i] = mask[i] ? new_value : old_value;
    }
}

void wff_restore(int64_t count, const int64_t *n, float **w, const float **old, const uint8_t **mask) {
    for (int64_t t = 0; t < count; t++) restore_one(w[t], old[t], mask[t], n[t]);
}

/* x <- x * mask, so that NaN is not hidden */
CLONES
static void mask_one(float *restrict x, const uint8_t *restrict mask, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] *= (float)mask[i];
}

void wff_mask(int64_t count, const int64_t *n, float **x, const uint8_t **mask) {
    for (int64_t t = 0; t < count; t++) mask_one(x[t], mask[t], n[t]);
}

/* kernels_c.GuidedWeight */
typedef struct {
    float *w, *g;
    float *weight;             /* after the base's step; NULL: multiply the gradient */
    void *average;             /* of sage, except light */
    int64_t n, start;          /* the numbers start .. start + n - 1 of a tensor */
    uint32_t key[2];           /* of the random numbers */
    float lo, hi;              /* smallest and largest importance, if has_range is set; else computed from this job */
    float operand;             /* rate (random), mean of the scores (light), correction of the average (full, li) */
    int32_t has_range;
} job;

typedef struct {
    const float *constants; /* BETA, ONE_MINUS_BETA, EPS, MAX_SCALE */
    int32_t metric, variant, scales, half; /* scales: the variant is one of sage */
} settings;

static void guide(const job *j, const settings *s) {
    if (s->scales) {
        scale_step(j->w, j->g, j->weight, j->average, j->n, j->operand, s->variant, s->half, s->constants);
        return;
    }
    float bounds[2] = {j->lo, j->hi};
    if (!j->has_range) range_of(j->w, j->g, j->n, s->metric, bounds);
    const condition rule = condition_of(s->variant, bounds[0], bounds[1], j->operand);
    const int metric = s->variant == RANDOM ? MAGNITUDE : s->metric; /* random does not depend on the metric */
    if (j->weight == NULL)
        mask_gradient(j->w, j->g, j->n, j->start, j->key[0], j->key[1], metric, rule);
    else
        mask_step(j->w, j->g, j->weight, j->n, j->start, j->key[0], j->key[1], metric, rule);
}

/* Runs jobs until none is left. `next` is the index of the next job; threads share it, which balances their load. */
void wff_guide(int64_t count, const job *jobs, int64_t *next, const settings *s) {
    for (;;) {
        const int64_t index = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
        if (index >= count) return;
        guide(jobs + index, s);
    }
}

/* alignment (losses._row_sums): the sums in the cosine of two rows. Short sums are float, in any order, so that they
 * can be vectorized; they are added up in double. */
enum { SUM_LENGTH = 4096 };

CLONES
static void row_sums_of(const float *restrict w, const float *restrict r, int64_t columns, double *restrict sums) {
    for (int64_t start = 0; start < columns; start += SUM_LENGTH) {
        const int64_t stop = start + SUM_LENGTH < columns ? start + SUM_LENGTH : columns;
        float wr = 0, ww = 0, rr = 0;
#pragma omp simd reduction(+ : wr, ww, rr)
        for (int64_t j = start; j < stop; j++) {
            wr += w[j] * r[j];
            ww += w[j] * w[j];
            rr += r[j] * r[j];
        }
        sums[0] += wr;
        sums[1] += ww;
        sums[2] += rr;
    }
}

/* for each row: sums of w * r, w * w, r * r */
void wff_row_sums(int64_t count, const int64_t *n, const float **w, const float **r, const int64_t *columns,
                  double **sums) {
    for (int64_t t = 0; t < count; t++)
        for (int64_t row = 0; row * columns[t] < n[t]; row++)
            row_sums_of(w[t] + row * columns[t], r[t] + row * columns[t], columns[t], sums[t] + 3 * row);
}
