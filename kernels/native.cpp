// What a training step of a small model does beside its matrix products, for one core and bfloat16: causal attention,
// layer norm, functions of one number, the loss and the update; and SmeLU. kernels/toolchain.py compiles it on the machine
// that trains; native.py calls it, and smelu.py what concerns SmeLU.
//
// Everything is computed in float32 and rounded to bfloat16 once, when it is stored. Shapes as in model.py: B windows,
// T tokens, H heads of width D, C = H D, M = B T. Arrays are contiguous. T, D and C are multiples of LANES.

#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;
// The compiler splits these where the machine's registers are narrower.
typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint16_t bfloat16;  // the upper half of a float32

#define INLINE inline __attribute__((always_inline))

INLINE floats load(const float *from) { return *(const floats *)from; }
INLINE floats widen(halves bits) { return (floats)(__builtin_convertvector(bits, words) << 16); }
INLINE floats load(const bfloat16 *from) { return widen(*(const halves *)from); }
INLINE floats all(float x) { return x - floats{}; }
INLINE floats larger(floats a, floats b) { return a > b ? a : b; }

// To the nearest bfloat16, ties to even.
INLINE halves narrow(floats x) {
#ifdef __AVX512BF16__
    return (halves)_mm512_cvtneps_pbh((__m512)x);
#else
    words bits = (words)x;
    return __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, halves);
#endif
}
INLINE void store(float *to, floats x) { *(floats *)to = x; }
INLINE void store(bfloat16 *to, floats x) { *(halves *)to = narrow(x); }

typedef float eight __attribute__((vector_size(32)));
typedef float four __attribute__((vector_size(16)));

INLINE float sum(floats x) {
    eight halves_of_x[2];
    memcpy(halves_of_x, &x, sizeof x);
    eight y = halves_of_x[0] + halves_of_x[1];
    four halves_of_y[2];
    memcpy(halves_of_y, &y, sizeof y);
    four z = halves_of_y[0] + halves_of_y[1];
    return (z[0] + z[2]) + (z[1] + z[3]);
}

INLINE float maximum(floats x) {
    float top = x[0];
    for (int i = 1; i < LANES; i++) top = x[i] > top ? x[i] : top;
    return top;
}

// A vector at a time, with the number of lanes that are meant: all but in the last one of an array of another length.
template <class Function> INLINE void for_vectors(int64_t size, Function function) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) function(i, LANES);
    if (i < size) function(i, size - i);
}
template <class Number> INLINE floats load_some(const Number *from, int64_t n) {
    if (n == LANES) return load(from);
    Number some[LANES] = {};
    memcpy(some, from, n * sizeof(Number));
    return load(some);
}
template <class Number> INLINE void store_some(Number *to, floats x, int64_t n) {
    if (n == LANES) return store(to, x);
    Number some[LANES];
    store(some, x);
    memcpy(to, some, n * sizeof(Number));
}

// 2^x for x <= 0: an integer power, put into the exponent, times e^y for |y| <= ln 2 / 2 by Taylor's series, whose
// first term left out is y^7 / 7! < 1.2e-7.
INLINE floats exp2(floats x) {
    x = x < -126.0f ? all(-126.0f) : x;  // not a number stays what it is: it must be seen that a model diverged
    floats rounded = x + 12582912.0f;  // 1.5 * 2^23: the sum has no bits for a fraction
    floats y = (x - (rounded - 12582912.0f)) * 0.69314718f;
    floats series = y * (1.0f / 720) + 1.0f / 120;
    series = series * y + 1.0f / 24;
    series = series * y + 1.0f / 6;
    series = series * y + 0.5f;
    series = series * y + 1.0f;
    series = series * y + 1.0f;
    return (floats)((ints)series + ((ints)rounded << 23));
}

// -- small matrix products ---------------------------------------------------------------------------------------

// Two bfloat16 side by side, the first one in the lower half: the processor multiplies and adds them two by two.
typedef uint32_t pair __attribute__((aligned(2), may_alias));

INLINE words load_pairs(const pair *from) { return *(const words *)from; }
INLINE void store(pair *to, words x) { *(words *)to = x; }
INLINE words interleave(halves first, halves second) {
    return __builtin_convertvector(first, words) | __builtin_convertvector(second, words) << 16;
}

INLINE floats add_products(floats sum, words a, words b) {
#ifdef __AVX512BF16__
    return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    const uint32_t upper = 0xffff0000;
    return sum + (floats)(a << 16) * (floats)(b << 16) + (floats)(a & upper) * (floats)(b & upper);
#endif
}

// c[r, j] = sum over k < 2 K of a(r, k) b(k, j) for ROWS rows and COLUMNS vectors of columns. Terms 2k and 2k + 1 are
// pairs: a[r * by_row + k * by_pair] and b[k * width + j]. The sums stay in registers.
template <int ROWS, int COLUMNS>
INLINE void tile(int K, const pair *a, int by_row, int by_pair, const pair *b, int width, float *c, int c_width) {
    floats sums[ROWS][COLUMNS] = {};
    for (int k = 0; k < K; k++) {
        words terms[COLUMNS];
        for (int j = 0; j < COLUMNS; j++) terms[j] = load_pairs(b + k * width + j * LANES);
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < COLUMNS; j++)
                sums[r][j] = add_products(sums[r][j], words{} + a[r * by_row + k * by_pair], terms[j]);
    }
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < COLUMNS; j++) store(c + r * c_width + j * LANES, sums[r][j]);
}

// Four rows of such a product, D wide, times `scale`, to bfloat16 with a row every `stride` numbers.
INLINE void four_rows(int K, const pair *a, int by_row, int by_pair, const pair *b, int D, float scale, bfloat16 *to,
                      int stride) {
    float rows[4 * 2 * LANES];
    int d = 0;
    for (; d + 2 * LANES <= D; d += 2 * LANES) {
        tile<4, 2>(K, a, by_row, by_pair, b + d, D, rows, 2 * LANES);
        for (int r = 0; r < 4; r++)
            for (int j = 0; j < 2; j++)
                store(to + r * stride + d + j * LANES, scale * load(rows + (2 * r + j) * LANES));
    }
    if (d == D) return;
    tile<4, 1>(K, a, by_row, by_pair, b + d, D, rows, LANES);
    for (int r = 0; r < 4; r++) store(to + r * stride + d, scale * load(rows + r * LANES));
}

// -- attention ---------------------------------------------------------------------------------------------------

// Room for one head, of which a small model uses the beginning.
constexpr int MAX_T = 256, MAX_D = 128;
alignas(64) thread_local uint32_t room[MAX_T * MAX_T + MAX_T * MAX_D + MAX_T * LANES];

// (T, D), a row every `stride` numbers -> (T / 2, D): pairs of rows.
INLINE void pair_rows(const bfloat16 *from, int stride, int T, int D, pair *to) {
    for (int t = 0; t < T; t += 2)
        for (int d = 0; d < D; d += LANES) {
            const bfloat16 *row = from + t * stride + d;
            store(to + t / 2 * D + d, interleave(*(const halves *)row, *(const halves *)(row + stride)));
        }
}

// (T, D), a row every `stride` numbers -> (D / 2, T): pairs of columns.
INLINE void pair_columns(const bfloat16 *from, int stride, int T, int D, pair *to) {
    for (int t = 0; t < T; t += LANES)
        for (int d = 0; d < D; d += 2) {
            words column;
            for (int i = 0; i < LANES; i++) column[i] = *(const pair *)(from + (t + i) * stride + d);
            store(to + d / 2 * T + t, column);
        }
}

}  // namespace

extern "C" {

// qkv (B, T, 3, H, D) -> y (B, T, H, D) = softmax(q kᵀ / √D, over the keys up to the query) v, and the probabilities
// for the backward pass, transposed: p (B, H, key, query), of which the keys after the last query of a vector are not
// written. A vector holds LANES queries, so that the softmax goes down the keys without sums across a vector.
void attention(const bfloat16 *qkv, bfloat16 *y, bfloat16 *p, int64_t B, int64_t T, int64_t H, int64_t D) {
    const int64_t C = H * D;
    const float scale = 1.44269504f / std::sqrt((float)D);  // log2 e: powers of 2, not of e
    pair *q = room, *v = q + T * D / 2, *powers = v + T * D / 2;
    float *scores = (float *)(powers + T * T / 2);
    ints lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int64_t head = 0; head < B * H; head++) {
        const bfloat16 *of_head = qkv + (head / H) * T * 3 * C + (head % H) * D;
        bfloat16 *probabilities = p + head * T * T;
        pair_columns(of_head, 3 * C, T, D, q);
        pair_rows(of_head + 2 * C, 3 * C, T, D, v);
        const pair *k = (const pair *)(of_head + C);
        for (int i = 0; i < T; i += LANES) {
            const int keys = i + LANES;
            for (int j = 0; j < keys; j += 8)
                tile<8, 1>(D / 2, k + j * 3 * C / 2, 3 * C / 2, 1, q + i, T, scores + j * LANES, LANES);
            floats top = load(scores);
            for (int j = 1; j < keys; j++) {
                floats score = load(scores + j * LANES);
                if (j > i) score = lane >= j - i ? score : all(-INFINITY);
                top = larger(top, score);
            }
            floats total = {};
            for (int j = 0; j < keys; j++) {
                floats power = exp2((load(scores + j * LANES) - top) * scale);
                if (j > i) power = lane >= j - i ? power : floats{};
                store(scores + j * LANES, power);
                total += power;
            }
            const floats share = 1.0f / total;
            for (int j = 0; j < keys; j += 2) {
                halves first = narrow(load(scores + j * LANES) * share);
                halves second = narrow(load(scores + (j + 1) * LANES) * share);
                *(halves *)(probabilities + j * T + i) = first;
                *(halves *)(probabilities + (j + 1) * T + i) = second;
                store(powers + j / 2 * T + i, interleave(first, second));
            }
        }
        bfloat16 *to = y + (head / H) * T * C + (head % H) * D;
        for (int i = 0; i < T; i += 4) four_rows(i / 2 + 2, powers + i, 1, T, v, D, 1.0f, to + i * C, C);
    }
}

// The gradient of qkv from that of y: dv = pᵀ dy, dp = dy vᵀ, ds = p (dp − Σ_keys p dp), dq = ds k / √D, dk = dsᵀ q / √D.
void attention_backward(const bfloat16 *dy, const bfloat16 *qkv, const bfloat16 *p, bfloat16 *dqkv, int64_t B,
                        int64_t T, int64_t H, int64_t D) {
    const int64_t C = H * D;
    const float scale = 1.0f / std::sqrt((float)D);
    // Room is taken for one vector of queries (scores), and for all of them (the others).
    pair *turned = room, *rows = turned + T * D / 2, *ds_rows = rows + T * D / 2;
    bfloat16 *ds = (bfloat16 *)(ds_rows + T * T / 2);
    float *scores = (float *)(ds + T * T);
    for (int64_t head = 0; head < B * H; head++) {
        const int64_t place = (head / H) * T * 3 * C + (head % H) * D;
        const bfloat16 *gradient = dy + (head / H) * T * C + (head % H) * D;
        const bfloat16 *probabilities = p + head * T * T;
        const pair *v = (const pair *)(qkv + place + 2 * C);
        pair_columns(gradient, C, T, D, turned);
        for (int i = 0; i < T; i += LANES) {
            const int keys = i + LANES;
            for (int j = 0; j < keys; j += 8)
                tile<8, 1>(D / 2, v + j * 3 * C / 2, 3 * C / 2, 1, turned + i, T, scores + j * LANES, LANES);
            floats mean = {};
            for (int j = 0; j < keys; j++) mean += load(scores + j * LANES) * load(probabilities + j * T + i);
            for (int j = 0; j < keys; j += 2) {
                const bfloat16 *first = probabilities + j * T + i, *second = first + T;
                halves a = narrow(load(first) * (load(scores + j * LANES) - mean));
                halves b = narrow(load(second) * (load(scores + (j + 1) * LANES) - mean));
                *(halves *)(ds + j * T + i) = a;
                *(halves *)(ds + (j + 1) * T + i) = b;
                store(ds_rows + j / 2 * T + i, interleave(a, b));
            }
        }
        pair_rows(qkv + place + C, 3 * C, T, D, rows);  // of k
        for (int i = 0; i < T; i += 4)
            four_rows(i / 2 + 2, ds_rows + i, 1, T, rows, D, scale, dqkv + place + i * 3 * C, 3 * C);
        // For keys from j on: the queries that see them begin in the vector of query j.
        pair_rows(qkv + place, 3 * C, T, D, rows);  // of q
        for (int j = 0; j < T; j += 4) {
            const int i = j / LANES * LANES;
            four_rows((T - i) / 2, (const pair *)(ds + j * T + i), T / 2, 1, rows + i / 2 * D, D, scale,
                      dqkv + place + C + j * 3 * C, 3 * C);
        }
        pair_rows(gradient, C, T, D, rows);
        for (int j = 0; j < T; j += 4) {
            const int i = j / LANES * LANES;
            four_rows((T - i) / 2, (const pair *)(probabilities + j * T + i), T / 2, 1, rows + i / 2 * D, D, 1.0f,
                      dqkv + place + 2 * C + j * 3 * C, 3 * C);
        }
    }
}

// -- layer norm --------------------------------------------------------------------------------------------------

constexpr int MAX_C = 2048;

// x (M, C) -> y = (x − mean) / √(variance + 1e-5) · weight; statistics (M, 2): mean and 1 / √….
void layer_norm(const bfloat16 *x, const bfloat16 *weight, bfloat16 *y, float *statistics, int64_t M, int64_t C) {
    float row[MAX_C];
    for (int m = 0; m < M; m++, x += C, y += C) {
        floats total = {}, squares = {};
        for (int c = 0; c < C; c += LANES) {
            floats wide = load(x + c);
            store(row + c, wide);
            total += wide;
        }
        const float mean = sum(total) / C;
        for (int c = 0; c < C; c += LANES) {
            floats centred = load(row + c) - mean;
            store(row + c, centred);
            squares += centred * centred;
        }
        const float scale = 1.0f / std::sqrt(sum(squares) / C + 1e-5f);
        for (int c = 0; c < C; c += LANES) store(y + c, load(row + c) * scale * load(weight + c));
        statistics[2 * m] = mean;
        statistics[2 * m + 1] = scale;
    }
}

// With n = (x − mean) · scale and h = dy · weight: dx = scale (h − mean(h) − n mean(h n)), dweight = Σ_rows dy n. What
// arrives at x by another way, past the layer, is added to dx, unless it is null.
void layer_norm_backward(const bfloat16 *dy, const bfloat16 *x, const bfloat16 *weight, const float *statistics,
                         bfloat16 *dx, bfloat16 *dweight, int64_t M, int64_t C) {
    float n[MAX_C], h[MAX_C], sums[MAX_C] = {};
    for (int m = 0; m < M; m++, dy += C, x += C, dx += C) {
        const float mean = statistics[2 * m], scale = statistics[2 * m + 1];
        floats first = {}, second = {};
        for (int c = 0; c < C; c += LANES) {
            floats normal = (load(x + c) - mean) * scale, g = load(dy + c), product = g * load(weight + c);
            store(n + c, normal);
            store(h + c, product);
            store(sums + c, load(sums + c) + g * normal);
            first += product;
            second += product * normal;
        }
        const float mean_h = sum(first) / C, mean_hn = sum(second) / C;
        for (int c = 0; c < C; c += LANES) {
            store(dx + c, scale * (load(h + c) - mean_h - load(n + c) * mean_hn));
        }
    }
    for (int c = 0; c < C; c += LANES) store(dweight + c, load(sums + c));
}

// -- functions of one number, by table ---------------------------------------------------------------------------

// y[i] = values[x[i]], with the bits of x as the index. The few hundred entries that training needs stay in the cache.
void look_up(const bfloat16 *x, const bfloat16 *values, bfloat16 *y, int64_t n) {
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {  // four at a time: one store
        uint64_t bits;
        memcpy(&bits, x + i, 8);
        bits = (uint64_t)values[bits & 0xffff] | (uint64_t)values[bits >> 16 & 0xffff] << 16 |
               (uint64_t)values[bits >> 32 & 0xffff] << 32 | (uint64_t)values[bits >> 48] << 48;
        memcpy(y + i, &bits, 8);
    }
    for (; i < n; i++) y[i] = values[x[i]];
}

// dx[i] = dy[i] slopes[x[i]]; slopes are float32.
void look_up_backward(const bfloat16 *dy, const bfloat16 *x, const float *slopes, bfloat16 *dx, int64_t size) {
    for_vectors(size, [&](int64_t i, int64_t n) {
        float slope[LANES] = {};
        for (int lane = 0; lane < n; lane++) slope[lane] = slopes[x[i + lane]];
        store_some(dx + i, load_some(dy + i, n) * load(slope), n);
    });
}

}  // extern "C"

// -- SmeLU -------------------------------------------------------------------------------------------------------

// The IEEE operations of the formula in models/smelu.py, in the same order, and so the same bits.

namespace {

INLINE float clamped(float x, float beta, float width) {
    float m = x + beta;
    m = m < 0 ? 0 : m;
    return m > width ? width : m;
}
INLINE float smelu(float x, float beta, float width, float scale) {
    float m = clamped(x, beta, width), p = m * m * scale;
    return x > p ? x : p;
}
INLINE float times_slope(float dy, float x, float beta, float width, float scale) {
    return dy * (clamped(x, beta, width) * scale);
}

// Two bfloat16 share a word: one is masked, the other shifted, and with nothing to shuffle the loops vectorise as they
// stand.
union bits { uint32_t word; float number; };
INLINE float high(uint32_t w) { return bits{w & 0xffff0000u}.number; }
INLINE float low(uint32_t w) { return bits{w << 16}.number; }
INLINE uint32_t rounded(float x) {
    bits b;
    b.number = x;
    return b.word + 0x7fffu + ((b.word >> 16) & 1u);
}
INLINE uint32_t both(float high, float low) { return (rounded(high) & 0xffff0000u) | (rounded(low) >> 16); }

}  // namespace

// width = 2 beta; scale = 1 / 4 beta for values, 1 / 2 beta for slopes. Threads from the size on at which torch shares
// element-wise work out, too.
#define CONSTANTS int64_t n, int threads, float beta, float width, float scale
#define EACH(i, n) _Pragma("omp parallel for simd num_threads(threads) if (n > 32768)") \
    for (int64_t i = 0; i < (n); i++)

extern "C" {

void smelu_float32(const float *__restrict x, float *__restrict y, CONSTANTS) {
    EACH(i, n) y[i] = smelu(x[i], beta, width, scale);
}
void smelu_backward_float32(const float *__restrict dy, const float *__restrict x, float *__restrict dx, CONSTANTS) {
    EACH(i, n) dx[i] = times_slope(dy[i], x[i], beta, width, scale);
}
void smelu_bfloat16(const uint32_t *__restrict x, uint32_t *__restrict y, CONSTANTS) {
    EACH(i, n / 2) y[i] = both(smelu(high(x[i]), beta, width, scale), smelu(low(x[i]), beta, width, scale));
}
void smelu_backward_bfloat16(const uint32_t *__restrict dy, const uint32_t *__restrict x, uint32_t *__restrict dx,
                             CONSTANTS) {
    EACH(i, n / 2) dx[i] = both(times_slope(high(dy[i]), high(x[i]), beta, width, scale),
                                times_slope(low(dy[i]), low(x[i]), beta, width, scale));
}

// -- the loss ----------------------------------------------------------------------------------------------------

constexpr int MAX_V = 4096;

// The mean of -ln softmax(logits)[target] over the N rows of logits (N, V), in nats, and its gradient (N, V). Infinity
// when a target is not one of the V.
double cross_entropy(const bfloat16 *logits, const int64_t *targets, bfloat16 *gradient, int64_t N, int64_t V) {
    const int64_t width = (V + LANES - 1) / LANES * LANES;
    bfloat16 row[MAX_V];
    float powers[MAX_V];
    for (int64_t v = V; v < width; v++) row[v] = 0xff80;  // -infinity: no probability
    double loss = 0;
    for (int64_t n = 0; n < N; n++, logits += V, gradient += V) {
        const int64_t target = targets[n];
        if (target < 0 || target >= V) return INFINITY;
        memcpy(row, logits, V * sizeof(bfloat16));
        floats tops = load(row), total = {};
        for (int64_t v = LANES; v < width; v += LANES) tops = larger(tops, load(row + v));
        const float top = maximum(tops);
        for (int64_t v = 0; v < width; v += LANES) {
            floats power = exp2((load(row + v) - top) * 1.44269504f);
            store(powers + v, power);
            total += power;
        }
        const float all_powers = sum(total);
        loss += std::log((double)all_powers) + top - load(row + target / LANES * LANES)[target % LANES];
        powers[target] -= all_powers;
        const float scale = 1.0f / (all_powers * N);
        for (int64_t v = 0; v < width; v += LANES) store(row + v, load(powers + v) * scale);
        memcpy(gradient, row, V * sizeof(bfloat16));
        for (int64_t v = V; v < width; v++) row[v] = 0xff80;
    }
    return loss / N;
}

// -- the update --------------------------------------------------------------------------------------------------

// The sum of the squares of all gradients: `count` arrays of `sizes` numbers.
double sum_of_squares(const bfloat16 *const *gradients, const int64_t *sizes, int64_t count) {
    double total = 0;
    for (int64_t k = 0; k < count; k++) {
        floats squares = {};
        for_vectors(sizes[k], [&](int64_t i, int64_t n) {
            floats g = load_some(gradients[k] + i, n);
            squares += g * g;
        });
        total += sum(squares);
    }
    return total;
}

// AdamW (Loshchilov & Hutter 2019) for weights, means of the gradients and of their squares in float32, one array after
// another; `working` are the rounded weights. shrink[k] = 1 − rate · decay; step = rate / (1 − β₁ᵗ), root = √(1 − β₂ᵗ).
void adamw(float *weights, float *means, float *squares, const bfloat16 *const *gradients, bfloat16 *const *working,
           const int64_t *sizes, const float *shrink, int64_t count, float clip, float beta1, float beta2, float step,
           float root, float epsilon) {
    for (int64_t k = 0; k < count; weights += sizes[k], means += sizes[k], squares += sizes[k], k++)
        for_vectors(sizes[k], [&](int64_t i, int64_t n) {
            floats g = load_some(gradients[k] + i, n) * clip;
            floats mean = load_some(means + i, n), square = load_some(squares + i, n), root_square;
            mean += (1 - beta1) * (g - mean);
            square = beta2 * square + (1 - beta2) * g * g;
            for (int lane = 0; lane < LANES; lane++) root_square[lane] = std::sqrt(square[lane]);
            floats weight = load_some(weights + i, n) * shrink[k] - step * mean / (root_square / root + epsilon);
            store_some(means + i, mean, n);
            store_some(squares + i, square, n);
            store_some(weights + i, weight, n);
            store_some(working[k] + i, weight, n);
        });
}

}  // extern "C"
