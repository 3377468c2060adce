// Vectors of the compiler's own kind, as wide as this processor's registers, and the three number formats of the engine.
//
// T is what tensors are computed in (bf16, float, double), Acc<T> what sums are kept in (float, float, double). Two bf16
// numbers are multiplied and added at once where the processor can (AVX512_BF16), so products walk in PAIRs.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

typedef long long i64;

// Short loops over registers must be unrolled for the registers to be used; -O2 alone would leave them in memory.
#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

struct bf16 {
  uint16_t bits;
};

template <class T> struct Format;
template <> struct Format<double> {
  typedef double Acc;
  typedef double Vec __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
  typedef i64 IVec __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
  static constexpr int PAIR = 1;
};
template <> struct Format<float> {
  typedef float Acc;
  typedef float Vec __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
  typedef int32_t IVec __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
  static constexpr int PAIR = 1;
};
template <> struct Format<bf16> {
  typedef float Acc;
  typedef Format<float>::Vec Vec;
  typedef Format<float>::IVec IVec;
  static constexpr int PAIR = 2;
};
template <class T> using Acc = typename Format<T>::Acc;
template <class T> using Vec = typename Format<T>::Vec;
template <class T> using IVec = typename Format<T>::IVec;
// numbers in a vector of sums
template <class T> constexpr int LANES = VECTOR_BYTES / sizeof(Acc<T>);

static INLINE float widen(bf16 x) {
  uint32_t bits = (uint32_t)x.bits << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
static INLINE float widen(float x) { return x; }
static INLINE double widen(double x) { return x; }

// round to nearest, ties to even, as the processor's own instruction does
static INLINE void narrow(float x, bf16 *to) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  to->bits = (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
static INLINE void narrow(float x, float *to) { *to = x; }
static INLINE void narrow(double x, double *to) { *to = x; }
static INLINE void narrow(float x, double *to) { *to = x; }

template <class T> static INLINE Vec<T> splat(Acc<T> x) { return x - Vec<T>{}; }
template <class T> static INLINE Vec<T> load(const T *p) { return *(const Vec<T> *)p; }
template <class T> static INLINE void store(T *p, Vec<T> v) { *(Vec<T> *)p = v; }

#if VECTOR_BYTES == 64
template <> INLINE Vec<bf16> load<bf16>(const bf16 *p) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
  return (Vec<bf16>)_mm512_slli_epi32(wide, 16);
}
template <> INLINE void store<bf16>(bf16 *p, Vec<bf16> v) {
#ifdef __AVX512BF16__
  _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
  __m512i bits = (__m512i)v;
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  bits = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
#endif
}
#else
template <> INLINE Vec<bf16> load<bf16>(const bf16 *p) {
  Vec<bf16> v;
  for (int i = 0; i < LANES<bf16>; i++) v[i] = widen(p[i]);
  return v;
}
template <> INLINE void store<bf16>(bf16 *p, Vec<bf16> v) {
  for (int i = 0; i < LANES<bf16>; i++) narrow((float)v[i], p + i);
}
#endif

template <class T> static INLINE Acc<T> sum(Vec<T> v) {
  Acc<T> total = 0;
  UNROLL for (int i = 0; i < LANES<T>; i++) total += v[i];
  return total;
}
template <class T> static INLINE Vec<T> vmax(Vec<T> a, Vec<T> b) { return a > b ? a : b; }
template <class T> static INLINE Acc<T> highest_of(Vec<T> v) {
  Acc<T> best = v[0];
  UNROLL for (int i = 1; i < LANES<T>; i++) best = v[i] > best ? v[i] : best;
  return best;
}
#if VECTOR_BYTES == 64
template <> INLINE float sum<float>(Vec<float> v) { return _mm512_reduce_add_ps((__m512)v); }
template <> INLINE float sum<bf16>(Vec<bf16> v) { return _mm512_reduce_add_ps((__m512)v); }
template <> INLINE float highest_of<float>(Vec<float> v) { return _mm512_reduce_max_ps((__m512)v); }
template <> INLINE float highest_of<bf16>(Vec<bf16> v) { return _mm512_reduce_max_ps((__m512)v); }
#endif

// 1 / x
template <class T> static INLINE Vec<T> inverse(Vec<T> x) { return (Acc<T>)1 / x; }
#if VECTOR_BYTES == 64
// an estimate of 14 bits and one step of Newton's: 2^-27, at a quarter of the cost of a division
static INLINE Format<float>::Vec inverse_float(Format<float>::Vec x) {
  const Format<float>::Vec guess = (Format<float>::Vec)_mm512_rcp14_ps((__m512)x);
  return guess * (2.0f - x * guess);
}
template <> INLINE Vec<float> inverse<float>(Vec<float> x) { return inverse_float(x); }
template <> INLINE Vec<bf16> inverse<bf16>(Vec<bf16> x) { return inverse_float(x); }
#endif

// e^x by 2^n * 2^f with a polynomial for 2^f on [-1/2, 1/2]; below the smallest normal number it gives 0. Relative
// error 2e-7 (float), 3e-16 (double). Coefficients are those of the Taylor series of 2^f.
template <class T> static INLINE Vec<T> vexp(Vec<T> x);

static INLINE Format<float>::Vec exp_float(Format<float>::Vec x) {
  typedef Format<float>::Vec V;
  typedef Format<float>::IVec I;
#if VECTOR_BYTES == 64
  // the instruction that multiplies by 2^n goes to 0 and to infinity by itself, and keeps a NaN
  const __m512 v = (__m512)x;
  const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(v, _mm512_set1_ps(1.44269504f)), 0x08);
  __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), v);
  rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
  V r = (V)rest, q = r * 1.9875691500e-4f + 1.3981999507e-3f;
  q = q * r + 8.3334519073e-3f;
  q = q * r + 4.1665795894e-2f;
  q = q * r + 1.6666665459e-1f;
  q = q * r + 5.0000001201e-1f;
  q = q * r * r + r + 1.0f;
  return (V)_mm512_scalef_ps((__m512)q, whole);
#else
  V clipped = x < -87.0f ? V{} - 87.0f : (x > 88.0f ? V{} + 88.0f : x);
  V y = clipped * 1.44269504f;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  V n = (y + magic) - magic;
  // x - n ln 2 in two parts keeps the digits that y lost
  V f = (clipped - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = f * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  I power = __builtin_convertvector(n, I) + 127;
  V result = p * (V)(power << 23);
  return x < -87.0f ? V{} : result;
#endif
}
template <> INLINE Vec<float> vexp<float>(Vec<float> x) { return exp_float(x); }
template <> INLINE Vec<bf16> vexp<bf16>(Vec<bf16> x) { return exp_float(x); }
template <> INLINE Vec<double> vexp<double>(Vec<double> x) {
  Vec<double> y;
  UNROLL for (int i = 0; i < LANES<double>; i++) y[i] = std::exp(x[i]);
  return y;
}

// to[i] = scale from[i], to[i] += from[i], sum of a[i] b[i]; for any count, vectors first
template <class T, class X, class Y> static INLINE void copy_scaled(const X *from, Acc<T> scale, i64 count, Y *to) {
  i64 i = 0;
  for (; i + LANES<T> <= count; i += LANES<T>) store<Y>(to + i, load<X>(from + i) * scale);
  for (; i < count; i++) narrow((Acc<T>)(widen(from[i]) * scale), to + i);
}
template <class T> static INLINE void add_to(const Acc<T> *from, i64 count, Acc<T> *to) {
  typedef Acc<T> A;
  i64 i = 0;
  for (; i + LANES<T> <= count; i += LANES<T>) store<A>(to + i, load<A>(to + i) + load<A>(from + i));
  for (; i < count; i++) to[i] += from[i];
}
template <class T> static INLINE void add_scaled(const T *from, Acc<T> scale, i64 count, Acc<T> *to) {
  typedef Acc<T> A;
  i64 i = 0;
  for (; i + LANES<T> <= count; i += LANES<T>) store<A>(to + i, load<A>(to + i) + load<T>(from + i) * scale);
  for (; i < count; i++) to[i] += (A)widen(from[i]) * scale;
}
template <class T> static INLINE Acc<T> dot(const T *a, const T *b, i64 count) {
  Vec<T> sums = {};
  i64 i = 0;
  for (; i + LANES<T> <= count; i += LANES<T>) sums += load<T>(a + i) * load<T>(b + i);
  Acc<T> total = sum<T>(sums);
  for (; i < count; i++) total += (Acc<T>)widen(a[i]) * widen(b[i]);
  return total;
}
