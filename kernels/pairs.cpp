// Sums over the vocabulary from which every distance between two of n predicted distributions follows: what
// metrics.PairSums computes, in one pass over memory that stays in cache. Compiled on the machine that compares;
// pairs.py calls it.
//
// The vocabulary is taken in tiles that fit the cache with all n models. Within a tile sums are float32, LANES of them
// side by side with at most TILE / LANES terms each; everything beyond a tile is summed in float64.

#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace {

constexpr int LANES = 16, TILE = 512;
// The compiler splits these where the machine's registers are narrower.
typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef float eight __attribute__((vector_size(2 * LANES)));
typedef double doubles __attribute__((vector_size(4 * LANES)));

#define INLINE inline __attribute__((always_inline))

INLINE floats load(const float *from) { return *(const floats *)from; }
INLINE void store(float *to, floats x) { *(floats *)to = x; }
INLINE floats all(float x) { return x - floats{}; }
INLINE floats larger(floats a, floats b) { return a > b ? a : b; }
INLINE floats magnitude(floats x) { return (floats)((ints)x & 0x7fffffff); }
INLINE double sum(vector x) {
    eight lower, upper;
    memcpy(&lower, &x, sizeof lower);
    memcpy(&upper, (const char *)&x + sizeof lower, sizeof upper);
    doubles y = __builtin_convertvector(lower, doubles) + __builtin_convertvector(upper, doubles);
    return ((y[0] + y[4]) + (y[1] + y[5])) + ((y[2] + y[6]) + (y[3] + y[7]));
}

// Of plain numbers, so that the compiler makes vectors of it; it takes a third of the time that way.
void roots_of(const float *__restrict from, float *__restrict to, int64_t size) {
    for (int64_t v = 0; v < size; v++) to[v] = sqrtf(from[v]);
}

constexpr float TINY = 1.17549435e-38f;  // the smallest normal number

// A polynomial of degree 7 from its coefficients, the constant first, and x²: by Estrin's scheme, in which half as many
// operations wait for one another as in Horner's.
INLINE floats polynomial(floats x, floats square, const float (&c)[8]) {
    floats low = (x * c[1] + c[0]) + (x * c[3] + c[2]) * square, high = (x * c[5] + c[4]) + (x * c[7] + c[6]) * square;
    return low + high * (square * square);
}

// (1+x) ln(1+x) + (1-x) ln(1-x) for x in [0, 1], to a few roundings of its own size however small x is.
//
// The first term minus x is x² times an analytic function, a polynomial here. The second plus x needs the logarithm of
// t = 1 - x = m 2^e with m in [√½, √2): ln t = e ln 2 + ln(1+c), c = m - 1, with a polynomial for what follows
// c - c²/2. Where e = 0, c is -x without rounding, and t c + x is x²: nothing cancels that is larger than the result.
INLINE floats shannon_term(floats x) {
    constexpr float FIRST[8] = {0.499999976f,  -0.16666346f,  0.0832619287f, -0.0493804887f,
                                0.0305935917f, -0.0167771108f, 0.0064708593f, -0.00121095315f};
    constexpr float REST[8] = {0.333333284f, -0.250002980f, 0.200014681f, -0.166422471f,
                               0.142021745f, -0.129722387f, 0.127123073f, -0.081015587f};
    floats t = 1.0f - x;
    ints bits = (ints)t, exponent = (bits - 0x3f3504f3) >> 23;  // 0x3f3504f3 is √½
    floats e = __builtin_convertvector(exponent, floats);
    floats c = exponent == 0 ? -x : (floats)(bits - (exponent << 23)) - 1.0f;
    floats square = x * x, c_square = c * c;
    floats first = polynomial(x, square, FIRST), rest = polynomial(c, c_square, REST);
    floats linear = exponent == 0 ? square : t * c + x;
    return first * square + (linear + t * (e * 0.693147181f + c_square * (rest * c - 0.5f)));
}

// Numbers below the smallest normal one are 0 while this lives: a product of them can cost a hundred cycles.
struct FlushToZero {
#ifdef __SSE__
    unsigned before = _mm_getcsr();
    FlushToZero() { _mm_setcsr(before | 0x8000); }
    ~FlushToZero() { _mm_setcsr(before); }
#endif
};

}  // namespace

extern "C" {

// How many floats `scratch` must hold for n models.
int64_t pair_sums_scratch(int64_t n) { return (2 * n + 1) * TILE; }

// p: n models, `stride` floats apart, R rows of V probabilities each. Writes, all in float64,
// sums (5, pairs, R): Σ|p-q|, Σ(p-q)², Σ|p-q|/(p+q), Σ(√p-√q)² and 2 Σ[p ln(2p/(p+q)) + q ln(2q/(p+q))] of each pair
// i < j; mass (n, R): Σ p; spread (R): Σ over tokens and models of |p_m - p̄|.
void pair_sums(const float *p, int64_t stride, int64_t n, int64_t R, int64_t V, int64_t with_pairs, float *scratch,
               double *sums, double *mass, double *spread) {
    FlushToZero flush;
    float *roots = scratch + n * TILE, *mean = roots + n * TILE;
    int64_t pairs = with_pairs ? n * (n - 1) / 2 : 0;
    for (int64_t row = 0; row < R; row++) {
        for (int64_t k = 0; k < 5 * pairs; k++) sums[k * R + row] = 0;
        for (int64_t m = 0; m < n; m++) mass[m * R + row] = 0;
        spread[row] = 0;
        for (int64_t lo = 0; lo < V; lo += TILE) {
            int64_t size = V - lo < TILE ? V - lo : TILE, padded = (size + LANES - 1) / LANES * LANES;
            memset(mean, 0, TILE * sizeof(float));
            for (int64_t m = 0; m < n; m++) {
                float *tile = scratch + m * TILE, *root = roots + m * TILE;
                memcpy(tile, p + m * stride + row * V + lo, size * sizeof(float));
                memset(tile + size, 0, (padded - size) * sizeof(float));  // adds 0 to every sum
                floats total{};
                for (int64_t v = 0; v < padded; v += LANES) {
                    floats x = load(tile + v);
                    total += x;
                    // p_m - p̄ by way of p_m - p_0, which is exactly 0 for equal models where p̄ would be rounded
                    store(mean + v, load(mean + v) + (x - load(scratch + v)) * (1.0f / n));
                }
                roots_of(tile, root, padded);
                mass[m * R + row] += sum(total);
            }
            for (int64_t m = 0; m < n; m++) {
                floats apart{};
                for (int64_t v = 0; v < padded; v += LANES)
                    apart += magnitude(load(scratch + m * TILE + v) - load(scratch + v) - load(mean + v));
                spread[row] += sum(apart);
            }
            if (!with_pairs) continue;
            int64_t pair = 0;
            for (int64_t i = 0; i < n; i++) {
                for (int64_t j = i + 1; j < n; j++, pair++) {
                    const float *a = scratch + i * TILE, *b = scratch + j * TILE;
                    const float *root_a = roots + i * TILE, *root_b = roots + j * TILE;
                    vector l1{}, squares{}, relative{}, hellinger{}, shannon{};
                    for (int64_t v = 0; v < padded; v += LANES) {
                        floats p = load(a + v), q = load(b + v);
                        floats d = magnitude(p - q), s = larger(p + q, all(TINY));  // 0/0 is the 0 it should be
                        floats x = d / s;
                        l1 += d;
                        squares += d * d;
                        relative += x;
                        // (√p - √q)² = (p - q)² / (√p + √q)², which keeps its digits when p ≈ q
                        hellinger += d * (d / (s + 2.0f * (load(root_a + v) * load(root_b + v))));
                        shannon += s * shannon_term(x);
                    }
                    double *to = sums + pair * R + row;
                    to[0] += sum(l1);
                    to[pairs * R] += sum(squares);
                    to[2 * pairs * R] += sum(relative);
                    to[3 * pairs * R] += sum(hellinger);
                    to[4 * pairs * R] += sum(shannon);
                }
            }
        }
    }
}
}
