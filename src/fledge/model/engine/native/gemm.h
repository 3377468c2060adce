// Matrix products over packed panels.
//
//   C[M, N] = sum over terms of A[M, K] * B[K, N]   (+ what is to be added)
//
// B is cut into panels of up to PANEL columns, and a panel is repacked on the fly so that PAIR rows of B lie interleaved:
// panel[K / PAIR][PANEL][PAIR]. Repacking a frozen weight costs 1 / M of the product, and keeps its memory single.
#pragma once
#include <omp.h>

#include <algorithm>
#include <vector>

#include "tiles.h"

// vectors side by side in a panel, and rows of A that are held in registers at once
#if VECTOR_BYTES == 64
constexpr int PANEL_VECTORS = 4, SUM_REGISTERS = 24;
#else
constexpr int PANEL_VECTORS = 2, SUM_REGISTERS = 12;
#endif
constexpr int ROWS = 6;
template <class T> constexpr int PANEL = PANEL_VECTORS *LANES<T>;

// how B lies in memory: as [N, K] (a weight in the forward pass) or as [K, N] (a weight in the backward pass)
enum Layout { NK = 0, KN = 1 };

template <class T> struct Term {
  const T *a;
  i64 lda;
  const T *b;
  i64 ldb;
  i64 k;
  Layout layout;
};

#if VECTOR_BYTES == 64
// to[j][i] = from[i][j] for 16 x 16 units of 32 bits; rows of `from` beyond `rows` count as zero
static inline void turn_16(const int32_t *from, i64 ldf, int rows, int32_t *to, i64 ldt) {
  __m512i r[16], s[16];
  UNROLL for (int i = 0; i < 16; i++)
    r[i] = i < rows ? _mm512_loadu_si512((const void *)(from + i * ldf)) : _mm512_setzero_si512();
  UNROLL for (int i = 0; i < 8; i++) {
    s[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    s[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  UNROLL for (int i = 0; i < 4; i++) {
    r[4 * i] = _mm512_unpacklo_epi64(s[4 * i], s[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(s[4 * i], s[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(s[4 * i + 1], s[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(s[4 * i + 1], s[4 * i + 3]);
  }
  UNROLL for (int i = 0; i < 4; i++) {
    s[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    s[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    s[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    s[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  UNROLL for (int i = 0; i < 8; i++) {
    _mm512_storeu_si512((void *)(to + i * ldt), _mm512_shuffle_i32x4(s[i], s[i + 8], 0x88));
    _mm512_storeu_si512((void *)(to + (i + 8) * ldt), _mm512_shuffle_i32x4(s[i], s[i + 8], 0xdd));
  }
}
#endif

// panel[k / PAIR][width][PAIR] from B[n, k], with zeros for k beyond and for columns beyond n
template <class T> static inline void pack_nk(const T *b, i64 ldb, int n, i64 k, int width, T *panel) {
  constexpr int PAIR = Format<T>::PAIR;
  const i64 groups = (k + PAIR - 1) / PAIR;
  i64 done = 0;
#if VECTOR_BYTES == 64
  if constexpr (sizeof(T) * PAIR == 4)
    for (; ldb % PAIR == 0 && done + 16 <= k / PAIR; done += 16)
      for (int j = 0; j < width; j += 16)
        turn_16((const int32_t *)(b + j * ldb + done * PAIR), ldb / PAIR, n - j, (int32_t *)(panel + (done * width + j) * PAIR),
                width);
#endif
  for (; done < groups; done++)
    for (int j = 0; j < width; j++)
      for (int p = 0; p < PAIR; p++)
        panel[(done * width + j) * PAIR + p] = j < n && done * PAIR + p < k ? b[j * ldb + done * PAIR + p] : T{};
}

// to[j][i] = from[i][j] for i < rows, j < columns, in units of PAIR numbers; `ldt` in numbers. `from` is padded to 16.
template <class T> static inline void turn_units(const T *from, i64 ldf, i64 rows, i64 columns, T *to, i64 ldt) {
  constexpr int PAIR = Format<T>::PAIR;
#if VECTOR_BYTES == 64
  if constexpr (sizeof(T) * PAIR == 4) {
    for (i64 i = 0; i < rows; i += 16)
      for (i64 j = 0; j < columns; j += 16)
        turn_16((const int32_t *)from + i * ldf + j, ldf, (int)(rows - i), (int32_t *)to + j * (ldt / PAIR) + i, ldt / PAIR);
    return;
  }
#endif
  for (i64 j = 0; j < columns; j++)
    for (i64 i = 0; i < rows; i++)
      for (int p = 0; p < PAIR; p++) to[j * ldt + i * PAIR + p] = from[(i * ldf + j) * PAIR + p];
}

// the same from B[k, n]
template <class T> static inline void pack_kn(const T *b, i64 ldb, int n, i64 k, int width, T *panel) {
  constexpr int PAIR = Format<T>::PAIR;
  i64 groups = (k + PAIR - 1) / PAIR;
  for (i64 g = 0; g < groups; g++) {
    T *row = panel + g * width * PAIR;
    const T *first = b + g * PAIR * ldb;
    const T *second = PAIR == 2 && g * PAIR + 1 < k ? first + ldb : nullptr;
    int j = 0;
    if (PAIR == 1) {
      for (; j < n; j++) row[j] = first[j];
    } else {
#if VECTOR_BYTES == 64 && defined(__AVX512BW__)
      const __m512i halves = _mm512_set_epi16(
          47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
      const __m512i upper = _mm512_add_epi16(halves, _mm512_set1_epi16(16));
      for (; j + 32 <= n; j += 32) {
        const __m512i low = _mm512_loadu_si512((const void *)(first + j));
        const __m512i high = second ? _mm512_loadu_si512((const void *)(second + j)) : _mm512_setzero_si512();
        _mm512_storeu_si512((void *)(row + j * 2), _mm512_permutex2var_epi16(low, halves, high));
        _mm512_storeu_si512((void *)(row + j * 2 + 32), _mm512_permutex2var_epi16(low, upper, high));
      }
#endif
#if VECTOR_BYTES == 64
      for (; j + 16 <= n; j += 16) {
        __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(first + j)));
        __m512i high = second ? _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(second + j)))
                              : _mm512_setzero_si512();
        _mm512_storeu_si512((void *)(row + j * 2), _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
      }
#endif
      for (; j < n; j++) {
        row[j * 2] = first[j];
        row[j * 2 + 1] = second ? second[j] : T{};
      }
    }
    for (j *= PAIR; j < width * PAIR; j++) row[j] = T{};
  }
}

template <class T> static inline void pack(const Term<T> &t, i64 column, int n, int width, T *panel) {
  if (t.layout == NK)
    pack_nk(t.b + column * t.ldb, t.ldb, n, t.k, width, panel);
  else
    pack_kn(t.b + column, t.ldb, n, t.k, width, panel);
}

// acc[MR][NV] += A[MR, k] * panel. A sum takes some cycles before it can be added to again, so narrow panels
// keep several sums of each element and add them up at the end.
template <class T, int MR, int NV>
static INLINE void multiply_one(const T *a, i64 lda, const T *panel, i64 g, int width,
                                                               Vec<T> (&acc)[MR][NV]);
template <class T, int MR, int NV>
static INLINE void multiply(const T *a, i64 lda, const T *panel, i64 k, int width,
                                                           Vec<T> (&acc)[MR][NV]) {
  constexpr int PAIR = Format<T>::PAIR;
  const i64 groups = k / PAIR;
  constexpr int SUMS = std::clamp(SUM_REGISTERS / (NV * MR), 1, 4);
  if constexpr (SUMS == 1) {
    for (i64 g = 0; g < groups; g++) multiply_one<T, MR, NV>(a, lda, panel, g, width, acc);
  } else {
    Vec<T> sums[SUMS][MR][NV] = {};
    i64 g = 0;
    for (; g + SUMS <= groups; g += SUMS)
      UNROLL for (int s = 0; s < SUMS; s++) multiply_one<T, MR, NV>(a, lda, panel, g + s, width, sums[s]);
    for (; g < groups; g++) multiply_one<T, MR, NV>(a, lda, panel, g, width, sums[0]);
    UNROLL for (int s = 0; s < SUMS; s++)
      UNROLL for (int i = 0; i < MR * NV; i++) acc[i / NV][i % NV] += sums[s][i / NV][i % NV];
  }
  if (PAIR == 2 && k % 2) {
    // The last number has no partner: what lies behind it is not ours, and zero times that could be a NaN.
    T tail[MR][PAIR];
    for (int m = 0; m < MR; m++) tail[m][0] = a[m * lda + k - 1], tail[m][PAIR - 1] = T{};
    multiply_one<T, MR, NV>(&tail[0][0], PAIR, panel + groups * width * PAIR, 0, width, acc);
  }
}

template <class T, int MR, int NV>
static INLINE void multiply_one(const T *a, i64 lda, const T *panel, i64 g, int width,
                                                               Vec<T> (&acc)[MR][NV]) {
  constexpr int L = LANES<T>;
#if defined(__AVX512BF16__) && VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 2) {
    __m512bh b[NV];
    UNROLL for (int v = 0; v < NV; v++) b[v] = (__m512bh)_mm512_loadu_si512((const void *)(panel + (g * width + v * L) * 2));
    UNROLL for (int m = 0; m < MR; m++) {
      int32_t two;
      memcpy(&two, a + m * lda + g * 2, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(two);
      UNROLL for (int v = 0; v < NV; v++) acc[m][v] = (Vec<T>)_mm512_dpbf16_ps((__m512)acc[m][v], x, b[v]);
    }
    return;
  }
#endif
  constexpr int PAIR = Format<T>::PAIR;
  for (int p = 0; p < PAIR; p++) {
    Vec<T> b[NV];
    UNROLL for (int v = 0; v < NV; v++) {
      if constexpr (PAIR == 1)
        b[v] = load<T>(panel + g * width + v * L);
      else
        for (int i = 0; i < L; i++) b[v][i] = widen(panel[(g * width + v * L + i) * 2 + p]);
    }
    UNROLL for (int m = 0; m < MR; m++) {
      const Vec<T> x = splat<T>(widen(a[m * lda + g * PAIR + p]));
      UNROLL for (int v = 0; v < NV; v++) acc[m][v] += x * b[v];
    }
  }
}

// Calls body with MR and NV as constants; the vectors of a narrow last panel beyond its columns are not computed.
template <class F> static INLINE void with_rows(int rows, F body) {
  switch (rows) {
    case 1: return body(std::integral_constant<int, 1>());
    case 2: return body(std::integral_constant<int, 2>());
    case 3: return body(std::integral_constant<int, 3>());
    case 4: return body(std::integral_constant<int, 4>());
    case 5: return body(std::integral_constant<int, 5>());
    default: return body(std::integral_constant<int, 6>());
  }
}
template <class F> static INLINE void with_vectors(int vectors, F body) {
  switch (vectors) {
    case 1: return body(std::integral_constant<int, 1>());
    case 2: return body(std::integral_constant<int, 2>());
#if VECTOR_BYTES == 64
    case 3: return body(std::integral_constant<int, 3>());
    default: return body(std::integral_constant<int, 4>());
#else
    default: return body(std::integral_constant<int, 2>());
#endif
  }
}

template <class T, class O> struct Product {
  i64 m, n;
  int terms;
  Term<T> term[2];
  O *c;
  i64 ldc;
  // added to the product where given: [M, N] sums (the residual stream), a bias [N]; or C itself
  const Acc<T> *residual;
  i64 ldr;
  const Acc<T> *bias;
  bool accumulate;
};

template <class T, class O, int MR, int NV>
static inline void finish(const Product<T, O> &p, i64 row, i64 column, int n, const Vec<T> (&acc)[MR][NV]) {
  constexpr int L = LANES<T>;
  UNROLL for (int m = 0; m < MR; m++) {
    O *c = p.c + (row + m) * p.ldc + column;
    const Acc<T> *r = p.residual ? p.residual + (row + m) * p.ldr + column : nullptr;
    const Acc<T> *bias = p.bias ? p.bias + column : nullptr;
    UNROLL for (int v = 0; v < NV; v++) {
      if ((v + 1) * L <= n) {
        Vec<T> sum = acc[m][v];
        if (r) sum += load<Acc<T>>(r + v * L);
        if (bias) sum += load<Acc<T>>(bias + v * L);
        if (p.accumulate) sum += load<O>(c + v * L);
        store<O>(c + v * L, sum);
      } else {
        for (int i = 0; v * L + i < n; i++) {
          Acc<T> sum = acc[m][v][i];
          if (r) sum += r[v * L + i];
          if (bias) sum += bias[v * L + i];
          if (p.accumulate) sum += widen(c[v * L + i]);
          narrow(sum, c + v * L + i);
        }
      }
    }
  }
}

// What will be packed next is asked for while the current panel is multiplied with: weights come from main memory, and
// packing alone would wait for every line of them.
struct Ahead {
  const char *start = nullptr;
  i64 rows = 0, row_bytes = 0, stride = 0;

  void ask(i64 part, i64 parts) const {
    const i64 lines = (row_bytes + 63) / 64 + 1, count = rows * lines;
    for (i64 i = count * part / parts; i < count * (part + 1) / parts; i++)
      __builtin_prefetch(start + i / lines * stride + std::min(i % lines * 64, row_bytes - 1), 0, 2);
  }
};
template <class T> static inline Ahead ahead_of(const Term<T> &t, i64 column, i64 n, i64 from, i64 k) {
  if (t.layout == NK)
    return {(const char *)(t.b + column * t.ldb + from), n, k * (i64)sizeof(T), t.ldb * (i64)sizeof(T)};
  return {(const char *)(t.b + from * t.ldb + column), k, n * (i64)sizeof(T), t.ldb * (i64)sizeof(T)};
}

// At most so many rows of B are packed at a time. A panel then stays in the second-level cache, and a long sum is a sum
// of shorter ones: adding 49,152 numbers one by one to a float loses three more digits than adding 48 sums of 1,024.
constexpr i64 PACKED_DEPTH = 1024;
// Of the rows of A that come next the first lines are asked for; from there on the processor sees where they lead.
constexpr int ROW_LINES = 4;

template <class T> static INLINE bool in_tiles() { return std::is_same<T, bf16>::value && TILES; }
// So many rows of A are worked on at once, and what is packed is filled up with zeros to so many rows of B.
template <class T> static INLINE i64 rows_at_once() { return in_tiles<T>() ? 2 * TILE_ROWS : ROWS; }
template <class T> static INLINE i64 filled_up(i64 k) {
  const i64 unit = in_tiles<T>() ? TILE_DEPTH : Format<T>::PAIR;
  return (k + unit - 1) / unit * unit;
}

// A part of a term, packed. rest: [M, TILE_DEPTH] what of its rows of A does not fill a tile, and zeros.
template <class T> struct Part {
  const T *a, *panel, *rest;
  i64 lda, k;
};
// What several threads at work on a product need for themselves.
template <class T> struct Work {
  T *packed;
  Acc<T> *partial;
  const T *rest[2];
};

// Sums of `rows` rows from `row` on, [rows][width] in `wait`, where those of earlier parts are unless this one begins.
template <class T, class O, int NV>
static INLINE void rows_in_registers(const Product<T, O> &p, const Part<T> *parts, int count, i64 row, int rows,
                                     i64 column, int n, Acc<T> *wait, bool begins, bool ends) {
  constexpr int L = LANES<T>, width = NV * L;
  with_rows(rows, [&](auto mr) {
    constexpr int MR = decltype(mr)::value;
    for (int i = 0; i < count; i++)
      for (i64 next = row + ROWS; next < std::min(row + 2 * ROWS, p.m); next++)
        for (int line = 0; line < ROW_LINES; line++)
          __builtin_prefetch((const char *)(parts[i].a + next * parts[i].lda) + line * 64, 0, 3);
    Vec<T> acc[MR][NV] = {};
    for (int i = 0; i < count; i++)
      multiply<T, MR, NV>(parts[i].a + row * parts[i].lda, parts[i].lda, parts[i].panel, parts[i].k, width, acc);
    if (!begins)
      UNROLL for (int i = 0; i < MR * NV; i++) acc[i / NV][i % NV] += load<Acc<T>>(wait + i * L);
    if (ends)
      finish<T, O, MR, NV>(p, row, column, n, acc);
    else
      UNROLL for (int i = 0; i < MR * NV; i++) store<Acc<T>>(wait + i * L, acc[i / NV][i % NV]);
  });
}

#if HAS_TILES
template <bool TWO, int NT>
static INLINE void columns_in_tiles(const Part<bf16> *parts, int count, i64 row, i64 column, int width, float *wait,
                                    bool begins) {
  if (begins)
    clear_sums<TWO, NT>();
  else
    load_sums<TWO, NT>(wait + column, width);
  for (int i = 0; i < count; i++) {
    const Part<bf16> &part = parts[i];
    const i64 whole = part.k / TILE_DEPTH * TILE_DEPTH;
    const bf16 *panel = part.panel + 2 * column;
    add_tiles<TWO, NT>(part.a + row * part.lda, part.lda, panel, width, whole);
    if (whole < part.k) add_tiles<TWO, NT>(part.rest + row * TILE_DEPTH, TILE_DEPTH, panel + whole * width, width, TILE_DEPTH);
  }
  store_sums<TWO, NT>(wait + column, width);
}

// The same in tiles, which hold the sums of 32 rows by 32 columns.
template <class O, int NV>
static inline void rows_in_tiles(const Product<bf16, O> &p, const Part<bf16> *parts, int count, i64 row, int rows,
                                 i64 column, int n, float *wait, bool begins, bool ends) {
  constexpr int L = LANES<bf16>, width = NV * L;
  // The compiler does not know that tiles read what was packed, and write what is read below.
  asm volatile("" ::: "memory");
  for (int half = 0; half < NV; half += 2)
    with_constants(rows > TILE_ROWS, half + 1 < NV, [&](auto two, auto wide) {
      columns_in_tiles<decltype(two)::value, decltype(wide)::value ? 2 : 1>(parts, count, row, half * L, width, wait, begins);
    });
  asm volatile("" ::: "memory");
  if (!ends) return;
  for (int done = 0; done < rows; done += ROWS)
    with_rows(std::min(ROWS, rows - done), [&](auto mr) {
      constexpr int MR = decltype(mr)::value;
      Vec<bf16> acc[MR][NV];
      UNROLL for (int i = 0; i < MR * NV; i++) acc[i / NV][i % NV] = load<float>(wait + done * width + i * L);
      finish<bf16, O, MR, NV>(p, row + done, column, n, acc);
    });
}
#endif

// One panel of columns for rows first..last of A. Terms that fit are packed together and summed in registers; a deeper
// product is cut, and between the cuts its sums wait in `partial`.
template <class T, class O, int NV>
static inline void panel_product(const Product<T, O> &p, i64 column, int n, i64 first, i64 last, const Work<T> &work) {
  constexpr int L = LANES<T>;
  const int width = NV * L;
  Part<T> parts[2];
  int waiting = 0, term = 0;
  i64 from = 0, depth = 0;
  bool begins = true;
  while (term < p.terms) {
    Term<T> part = p.term[term];
    part.a += from;
    part.b += from * (part.layout == NK ? 1 : part.ldb);
    part.k = std::min(PACKED_DEPTH - depth, part.k - from);
    T *panel = work.packed + depth * width;
    pack(part, column, n, width, panel);
    const i64 packed = (part.k + Format<T>::PAIR - 1) / Format<T>::PAIR * Format<T>::PAIR, filled = filled_up<T>(part.k);
    if (packed < filled) std::fill(panel + packed * width, panel + filled * width, T{});
    parts[waiting++] = {part.a, panel, work.rest[term], part.lda, part.k};
    depth += filled;
    from += part.k;
    if (from == p.term[term].k) term++, from = 0;
    const bool ends = term == p.terms;
    if (!ends && depth < PACKED_DEPTH) continue;
    Ahead ahead;
    if (!ends)
      ahead = ahead_of(p.term[term], column, n, from, std::min(PACKED_DEPTH, p.term[term].k - from));
    else if (column + PANEL<T> < p.n)
      ahead = ahead_of(p.term[0], column + PANEL<T>, std::min<i64>(PANEL<T>, p.n - column - PANEL<T>), 0,
                       std::min(PACKED_DEPTH, p.term[0].k));
    const i64 step = rows_at_once<T>(), steps = (last - first + step - 1) / step;
    for (i64 i = 0; i < steps; i++) {
      const i64 row = first + i * step;
      const int rows = (int)std::min(step, last - row);
      ahead.ask(i, steps);
#if HAS_TILES
      if constexpr (std::is_same<T, bf16>::value)
        if (TILES) {
          shape_tiles(rows);
          // Where nothing waits for a later part, one block's worth of memory stays in the first cache.
          Acc<T> *wait = work.partial + (begins && ends ? 0 : row - first) * width;
          rows_in_tiles<O, NV>(p, parts, waiting, row, rows, column, n, wait, begins, ends);
          continue;
        }
#endif
      Acc<T> *wait = work.partial + (row - first) * width;
      rows_in_registers<T, O, NV>(p, parts, waiting, row, rows, column, n, wait, begins, ends);
    }
    begins = false, waiting = 0, depth = 0;
  }
}

// Memory of one thread that lives as long as the thread; `slot` tells apart what is needed at the same time.
template <class N> static inline N *scratch(int slot, i64 count) {
  static thread_local std::vector<char> memory[16];
  std::vector<char> &own = memory[slot];
  if (own.size() < count * sizeof(N) + 64) own = std::vector<char>(count * sizeof(N) + 64);
  return (N *)(((uintptr_t)own.data() + 63) / 64 * 64);
}

// [M, TILE_DEPTH]: the last columns of A, those that do not fill a tile, and zeros; null where there are none.
template <class T> static inline const T *rest_of(const Term<T> &t, i64 rows, int slot) {
  const i64 whole = t.k / TILE_DEPTH * TILE_DEPTH, left = t.k - whole;
  if (!left) return nullptr;
  T *rest = scratch<T>(slot, rows * TILE_DEPTH);
  for (i64 row = 0; row < rows; row++) {
    std::copy_n(t.a + row * t.lda + whole, left, rest + row * TILE_DEPTH);
    std::fill_n(rest + row * TILE_DEPTH + left, TILE_DEPTH - left, T{});
  }
  return rest;
}

constexpr i64 FEW_ROWS = 96, FEW_ROWS_DEPTH = 256, DEEP = 8192;

// How many rows of B are read at a time where it pays to go through B in the order in which it lies: few rows of A make
// a product of reading B, and of a very deep A all panels had better read one part while the caches hold it. 0: all.
template <class T, class O> static inline i64 depth_at_once(const Product<T, O> &p) {
  const i64 k = p.term[0].k;
  if (!std::is_same<O, Acc<T>>::value || p.terms > 1) return 0;
  if (p.m <= FEW_ROWS && k > FEW_ROWS_DEPTH) return FEW_ROWS_DEPTH;
  return k > DEEP ? PACKED_DEPTH : 0;
}

// The work of one thread: its even share of all (panel, rows) in panel order, so that nine panels suit two threads.
template <class T, class O> static inline void product_share(const Product<T, O> &p, int thread, int threads) {
  if (const i64 step = depth_at_once(p)) {
    for (i64 row = 0; row < p.term[0].k; row += step) {
      Product<T, O> part = p;
      part.term[0].a += row;
      part.term[0].b += row * (part.term[0].layout == NK ? 1 : part.term[0].ldb);
      part.term[0].k = std::min(step, p.term[0].k - row);
      part.accumulate = p.accumulate || row > 0;
      if (row > 0) part.residual = part.bias = nullptr;
      product_share(part, thread, threads);
    }
    return;
  }
  const i64 step = rows_at_once<T>();
  const i64 panels = (p.n + PANEL<T> - 1) / PANEL<T>, blocks = (p.m + step - 1) / step;
  i64 from = panels * blocks * thread / threads;
  const i64 to = panels * blocks * (thread + 1) / threads;
  i64 depth = 0;
  for (int t = 0; t < p.terms; t++) depth += filled_up<T>(p.term[t].k);
  Work<T> work{};
  work.packed = scratch<T>(0, std::min(depth, filled_up<T>(PACKED_DEPTH + 1)) * PANEL<T>);
  if (depth > PACKED_DEPTH || in_tiles<T>())
    work.partial = scratch<Acc<T>>(1, (depth > PACKED_DEPTH ? blocks : 1) * step * PANEL<T>);
  if (in_tiles<T>())
    for (int t = 0; t < p.terms; t++) work.rest[t] = rest_of(p.term[t], p.m, 12 + t);
  while (from < to) {
    const i64 panel = from / blocks, begin = from % blocks, end = std::min(blocks, begin + to - from);
    const i64 column = panel * PANEL<T>;
    const int n = (int)std::min<i64>(PANEL<T>, p.n - column);
    with_vectors((n + LANES<T> - 1) / LANES<T>, [&](auto nv) {
      panel_product<T, O, decltype(nv)::value>(p, column, n, begin * step, std::min(end * step, p.m), work);
    });
    from += end - begin;
  }
  release_tiles();
}

// Numbers of a result below which a second thread costs more than it saves.
constexpr i64 SMALL = 4096;

template <class F> static inline void in_parallel(int threads, F body) {
#pragma omp parallel num_threads(threads) if (threads > 1)
  body(omp_get_thread_num(), omp_get_num_threads());
}

// to[c][r] = scale x[r][c] for one thread's share of the columns; rows are padded with zeros up to `even`.
template <class T>
static inline void turn_rows(const T *x, i64 ld, i64 rows, i64 columns, Acc<T> scale, T *to, i64 even, int thread,
                             int threads) {
  const i64 from = rows * thread / threads, end = rows * (thread + 1) / threads;
  for (i64 c = 0; c < columns; c++)
    for (i64 r = from; r < end; r++) narrow((Acc<T>)(widen(x[r * ld + c]) * scale), to + c * even + r);
  if (thread == threads - 1)
    for (i64 c = 0; c < columns && rows < even; c++) to[c * even + rows] = T{};
}

// B [n columns] as consecutive panels, each [groups][PANEL][PAIR] except a narrower last one.
template <class T> static inline i64 packed_count(i64 n, i64 k) {
  return (n + PANEL<T> - 1) / PANEL<T> * PANEL<T> * ((k + Format<T>::PAIR - 1) / Format<T>::PAIR * Format<T>::PAIR);
}
template <class T> static inline void pack_all(const Term<T> &t, i64 n, T *packed) {
  const i64 groups = (t.k + Format<T>::PAIR - 1) / Format<T>::PAIR;
  for (i64 column = 0; column < n; column += PANEL<T>) {
    const int columns = (int)std::min<i64>(PANEL<T>, n - column);
    const int width = (columns + LANES<T> - 1) / LANES<T> * LANES<T>;
    pack(t, column, columns, width, packed + column * groups * Format<T>::PAIR);
  }
}

// From so many rows on the tiles are worth shaping.
constexpr i64 WORTH_TILES = 8;

// C[rows, n rounded up to vectors] = or += A[rows, k] * the first n columns and k rows of a B that was packed with
// packed_n columns and packed_k rows. On one thread: the small products inside attention.
template <class T>
static void block_product(const T *a, i64 lda, i64 rows, const T *packed, i64 n, i64 k, Acc<T> *c, i64 ldc, bool add,
                          i64 packed_n, i64 packed_k) {
  constexpr int PAIR = Format<T>::PAIR, L = LANES<T>;
  const i64 packed_groups = (packed_k + PAIR - 1) / PAIR;
  for (i64 column = 0; column < n; column += PANEL<T>) {
    const int vectors = (int)((std::min<i64>(PANEL<T>, n - column) + L - 1) / L);
    const int width = (int)((std::min<i64>(PANEL<T>, packed_n - column) + L - 1) / L * L);
    const T *panel = packed + column * packed_groups * PAIR;
    i64 done = 0;
#if HAS_TILES
    if constexpr (std::is_same<T, bf16>::value)
      if (TILES && rows >= WORTH_TILES && k >= TILE_DEPTH) {
        done = k / TILE_DEPTH * TILE_DEPTH;
        block_in_tiles(a, lda, rows, panel, width, vectors, done, c + column, ldc, add);
        if (done == k) continue;
      }
#endif
    with_vectors(vectors, [&](auto nv) {
      constexpr int NV = decltype(nv)::value;
      for (i64 row = 0; row < rows; row += ROWS)
        with_rows((int)std::min<i64>(ROWS, rows - row), [&](auto mr) {
          constexpr int MR = decltype(mr)::value;
          Vec<T> acc[MR][NV] = {};
          Acc<T> *out = c + row * ldc + column;
          multiply<T, MR, NV>(a + row * lda + done, lda, panel + done * width, k - done, width, acc);
          UNROLL for (int m = 0; m < MR; m++)
            UNROLL for (int v = 0; v < NV; v++) {
              Acc<T> *to = out + m * ldc + v * L;
              store<Acc<T>>(to, add || done ? load<Acc<T>>(to) + acc[m][v] : acc[m][v]);
            }
        });
    });
  }
}
