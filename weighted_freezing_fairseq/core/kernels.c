/* weighted_freeze, sage, masks that stay, and Adam with any of them in one pass, bit for bit as in torch; masks and
 * alignment of pruning.
 *
 * weighted_freeze, the fast form of rules._freeze and its variants:
 * For each tensor: lo and hi of the importance (first pass), then what is kept (second pass, from the cache), with the
 * counter-based numbers of masks.uniform computed on the way. Importance is never negative, so the order of floats is
 * the order of their bits, and minimum and maximum become integer reductions, which every compiler vectorises without
 * unsafe flags; a NaN counts as larger than infinity and freezes, as in torch.
 */
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#define FLOAT_CLONES __attribute__((target_clones("avx512f", "fma", "default"))) /* avx2 alone has no fma */
#else
#define CLONES
#define FLOAT_CLONES
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

static inline keeping keeping_of(int form, float lo, float hi, float rate) {
    switch (form) {
    case PRINTED: return (keeping){hi - lo, -lo, 1.0f, 0};
    case SMOOTH: return (keeping){2.0f * (hi - lo), -lo, 1.0f, 1};
    case RANDOM: return (keeping){1.0f, rate, 0.0f, 0};
    default: return (keeping){hi - lo, hi, -1.0f, 0};
    }
}

/* `use` takes what is kept of a number, 1 or 0 */
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
#define NOTE(keep) kept[i] = (keep);
#define MULTIPLY(keep) masked[i] = g[i] * (keep);

CLONES
static void range_of(const float *restrict w, const float *restrict g, int64_t n, int metric, float *out) {
    int32_t lo = 0x7fffffff, hi = 0;
    BY_METRIC(RANGE, )
    out[0] = from_bits(lo);
    out[1] = from_bits(hi);
}

/* what is kept of the numbers start .. start + n - 1 of a tensor */
CLONES
static void keep_one(const float *restrict w, const float *restrict g, float *restrict kept, int64_t n, int64_t start,
                     uint32_t k0, uint32_t k1, int metric, keeping rule) {
    const float range = rule.range, offset = rule.offset, sign = rule.sign;
    const int squares = rule.squares;
    BY_METRIC(KEEP, NOTE)
}

/* g, and 0 where it is not kept */
CLONES
static void freeze_one(const float *restrict w, const float *restrict g, float *restrict masked, int64_t n,
                       int64_t start, uint32_t k0, uint32_t k1, int metric, keeping rule) {
    const float range = rule.range, offset = rule.offset, sign = rule.sign;
    const int squares = rule.squares;
    BY_METRIC(KEEP, MULTIPLY)
}

/* lo and hi of each of `count` tensors of n[t] numbers, into out[2 * t] and out[2 * t + 1] */
void wff_ranges(int64_t count, const int64_t *n, const float **w, const float **g, int metric, float *out) {
    for (int64_t t = 0; t < count; t++) range_of(w[t], g[t], n[t], metric, out + 2 * t);
}

/* sage, the fast form of rules._sage, _sage_li and _sage_light: I = |w * g| moves its average, which is kept in float or
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
                      float *restrict factor, int64_t n, float operand, int form, int half, const float *restrict c) {
    if (form == LIGHT) {
        SCALE(operand, importance, )
    } else if (form == FULL) {
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

/* A whole step: what a guide does before and after Adam, and Adam, on blocks that stay in the first cache, so that each
 * number of w, g, m and v passes through memory once. Every operation is one of torch's, in its order and with its
 * rounding: `contracted` says whether its x * y + z rounds once, `root` is its square root (see native.Arithmetic). */
enum { BLOCK = 256 };
enum { GRADIENT = 1, CHANGE = 2, SCALE_CHANGE = 3, HOLD = 4, PICK = 5 };       /* guides; 0 is none */
enum { ADD_TO_WEIGHT = 1, SCALE_WEIGHT = 2, ADD_TO_GRADIENT = 3 };             /* weight decays; 0 is none */

typedef void (*root_of)(int n, const float *x, float *y, int64_t mode);
enum { ROOT_MODE = 0x140102 }; /* as torch calls MKL: high accuracy, denormal numbers kept, no error handler */
typedef int (*threads_of)(int count); /* sets MKL's threads for the caller, and says how many it had */

typedef struct {
    int32_t decays, lerps; /* lerps: m by torch's lerp and a root that is scaled, as in torch.optim; else as in fairseq */
    float decay, beta1, rest1, beta2, rest2, scale, eps, rate;
} adam;

typedef struct {
    float *w, *g, *m, *v;
    void *more;            /* the average of SCALE_CHANGE, the mask of HOLD, or the positions in w and g of PICK */
    int64_t n, start;      /* so many numbers, and where the first stands in its tensor */
    uint32_t key[2];
    float lo, hi;
    float operand;         /* rate of random, mean of the scores for light, correction of the average for full and li */
    int32_t guide, ranged; /* ranged: lo and hi are given; else they are those of this job */
    int32_t group;         /* of the constants of Adam; -1: another optimizer steps, and m, v take old and factor */
} job;

typedef struct {
    const adam *groups;
    root_of root;
    threads_of threads;
    const float *scale; /* constants of sage, as above */
    int32_t contracted, metric, form, half;
} settings;

#define PLUS(x, y, z) (contracted ? __builtin_fmaf(x, y, z) : (x) * (y) + (z)) /* x * y + z */

FLOAT_CLONES
static void decay_one(float *restrict w, int64_t n, const adam *restrict c, int contracted) {
    const float decay = c->decay;
    if (c->decays == ADD_TO_WEIGHT)
        for (int64_t i = 0; i < n; i++) w[i] = PLUS(w[i], decay, w[i]);
    else
        for (int64_t i = 0; i < n; i++) w[i] *= decay;
}

FLOAT_CLONES
static void decayed_gradient(const float *restrict w, const float *restrict g, float *restrict out, int64_t n,
                             float decay, int contracted) {
    for (int64_t i = 0; i < n; i++) out[i] = PLUS(w[i], decay, g[i]);
}

/* `other`: v for the root to be taken of, with 1 for 0, whose root takes MKL many times as long */
#define MOMENTS(first, once)                                                    \
    {                                                                           \
        const int contracted = once;                                            \
        for (int64_t i = 0; i < n; i++) {                                       \
            const float of_m = m[i], grad = g[i];                               \
            m[i] = first;                                                       \
            const float of_v = PLUS(rest2 * grad, grad, v[i] * beta2);          \
            v[i] = of_v;                                                        \
            other[i] = of_v == 0 ? 1 : of_v;                                    \
        }                                                                       \
    }

FLOAT_CLONES
static void moments_one(const float *restrict g, float *restrict m, float *restrict v, float *restrict other, int64_t n,
                        const adam *restrict c, int contracts) {
    const float beta1 = c->beta1, rest1 = c->rest1, beta2 = c->beta2, rest2 = c->rest2;
    if (c->lerps && contracts)
        MOMENTS(PLUS(rest1, grad - of_m, of_m), 1)
    else if (c->lerps)
        MOMENTS(PLUS(rest1, grad - of_m, of_m), 0)
    else if (contracts)
        MOMENTS(PLUS(rest1, grad, of_m * beta1), 1)
    else
        MOMENTS(PLUS(rest1, grad, of_m * beta1), 0)
}

FLOAT_CLONES
static void roots_one(const float *restrict x, float *restrict out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = __builtin_sqrtf(x[i]);
}

FLOAT_CLONES
static void move_one(float *restrict w, const float *restrict m, const float *restrict v, const float *restrict root,
                     int64_t n, const adam *restrict c) {
    const float scale = c->scale, eps = c->eps, rate = c->rate;
    if (c->lerps)
        for (int64_t i = 0; i < n; i++) w[i] += rate * m[i] / ((v[i] == 0 ? v[i] : root[i]) / scale + eps);
    else
        for (int64_t i = 0; i < n; i++) w[i] += rate * m[i] / ((v[i] == 0 ? v[i] : root[i]) + eps);
}

static void adam_one(float *w, const float *g, float *m, float *v, int64_t n, const adam *c, const settings *s) {
    float decayed[BLOCK], other[BLOCK], root[BLOCK];
    if (c->decays == ADD_TO_GRADIENT) {
        decayed_gradient(w, g, decayed, n, c->decay, s->contracted);
        g = decayed;
    } else if (c->decays)
        decay_one(w, n, c, s->contracted);
    moments_one(g, m, v, other, n, c, s->contracted);
    if (s->root)
        s->root((int)n, other, root, ROOT_MODE);
    else
        roots_one(other, root, n);
    move_one(w, m, v, root, n, c);
}

/* of short vectors m and v, which hold only some numbers of the weight */
static void step_picked(const job *j, int64_t at, int64_t n, const settings *s) {
    float w[BLOCK], g[BLOCK];
    const int64_t *where = (const int64_t *)j->more + at;
    for (int64_t i = 0; i < n; i++) {
        w[i] = j->w[where[i]];
        g[i] = j->g[where[i]];
    }
    adam_one(w, g, j->m + at, j->v + at, n, s->groups + j->group, s);
    for (int64_t i = 0; i < n; i++) j->w[where[i]] = w[i];
}

static void step_block(const job *j, int64_t at, int64_t n, const float *bounds, const settings *s) {
    float here[2][BLOCK];
    const int apart = j->group < 0 && j->m; /* what the base makes of w is not known yet */
    const int freezes = j->guide == GRADIENT || j->guide == CHANGE;
    const int metric = s->form == RANDOM ? MAGNITUDE : s->metric; /* whose scores are not read */
    float *old = apart ? j->m + at : here[0], *factor = apart ? j->v + at : here[1];
    float *w = j->w + at, *g = j->g + at;
    void *average = j->more ? (char *)j->more + at * (s->half ? 2 : 4) : 0;
    const keeping rule = freezes ? keeping_of(s->form, bounds[0], bounds[1], j->operand) : (keeping){0};
    if (j->guide == GRADIENT) {
        freeze_one(w, g, factor, n, j->start + at, j->key[0], j->key[1], metric, rule);
        if (j->group < 0) memcpy(g, factor, n * sizeof *g);
        g = factor;
    }
    if (j->guide == CHANGE)
        keep_one(w, g, factor, n, j->start + at, j->key[0], j->key[1], metric, rule);
    if (j->guide == CHANGE || j->guide == HOLD) memcpy(old, w, n * sizeof *w);
    if (j->guide == SCALE_CHANGE) scale_one(w, g, average, old, factor, n, j->operand, s->form, s->half, s->scale);
    if (j->group < 0) return;
    adam_one(w, g, j->m + at, j->v + at, n, s->groups + j->group, s);
    if (j->guide == CHANGE || j->guide == SCALE_CHANGE) advance_one(w, old, factor, n);
    if (j->guide == HOLD) restore_one(w, old, (const uint8_t *)j->more + at, n);
}

/* All jobs that no other thread has taken: `next` is shared by the threads, so that a slow one holds nobody up. */
void wff_step(int64_t count, const job *jobs, int64_t *next, const settings *s) {
    const int before = s->threads ? s->threads(1) : 0; /* or MKL shares out every block anew */
    for (;;) {
        const int64_t taken = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
        if (taken >= count) break;
        const job *j = jobs + taken;
        float bounds[2] = {j->lo, j->hi};
        if ((j->guide == GRADIENT || j->guide == CHANGE) && !j->ranged) range_of(j->w, j->g, j->n, s->metric, bounds);
        for (int64_t at = 0; at < j->n; at += BLOCK) {
            const int64_t n = j->n - at < BLOCK ? j->n - at : BLOCK;
            if (j->guide == PICK)
                step_picked(j, at, n, s);
            else
                step_block(j, at, n, bounds, s);
        }
    }
    if (s->threads) s->threads(before);
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
