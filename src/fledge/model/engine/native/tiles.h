// Products of bf16 in the tile registers of AMX: 16 x 32 numbers by 32 x 16 in one instruction, sums in float. A panel of
// B as gemm.h packs it, pairs of rows interleaved, is what they read. Linux grants the registers to a process that asks.
#pragma once
#include <type_traits>

#include "simd.h"

constexpr int TILE_ROWS = 16, TILE_DEPTH = 32;

// Calls body with both as constants.
template <class F> static INLINE void with_constants(bool first, bool second, F body) {
  if (first && second) return body(std::true_type(), std::true_type());
  if (first) return body(std::true_type(), std::false_type());
  if (second) return body(std::false_type(), std::true_type());
  return body(std::false_type(), std::false_type());
}

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && VECTOR_BYTES == 64 && defined(__linux__)
#define HAS_TILES 1
#else
#define HAS_TILES 0
#endif

#if HAS_TILES
#include <sys/syscall.h>
#include <unistd.h>

static bool ask_for_tiles() {
  constexpr int ASK = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
}
static const bool TILES = ask_for_tiles();

// Tiles 0 to 3 hold sums, 4 and 5 rows of A (the upper ones, the lower ones), 6 and 7 columns of B. A thread that is done
// releases them.
static thread_local int tiles_shaped = -1;
static inline void shape_tiles(int rows) {
  if (tiles_shaped == rows) return;
  tiles_shaped = rows;
  const int upper = rows < TILE_ROWS ? rows : TILE_ROWS, lower = rows - upper;
  struct alignas(64) {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } shape;
  const int heights[8] = {upper, upper, lower, lower, upper, lower, TILE_ROWS, TILE_ROWS};
  for (int i = 0; i < 8; i++) shape.bytes[i] = heights[i] ? 64 : 0, shape.rows[i] = (uint8_t)heights[i];
  asm volatile("ldtilecfg %0" ::"m"(shape));
}
static inline void release_tiles() {
  if (tiles_shaped < 0) return;
  tiles_shaped = -1;
  _tile_release();
}

// The sums of up to 32 rows by 16 NT columns, in memory: [rows][width].
template <bool TWO, int NT> static INLINE void load_sums(const float *sums, i64 width) {
  const i64 stride = width * sizeof(float);
  _tile_loadd(0, sums, stride);
  if constexpr (NT == 2) _tile_loadd(1, sums + TILE_ROWS, stride);
  if constexpr (TWO) _tile_loadd(2, sums + TILE_ROWS * width, stride);
  if constexpr (TWO && NT == 2) _tile_loadd(3, sums + TILE_ROWS * width + TILE_ROWS, stride);
}
template <bool TWO, int NT> static INLINE void clear_sums() {
  _tile_zero(0);
  if constexpr (NT == 2) _tile_zero(1);
  if constexpr (TWO) _tile_zero(2);
  if constexpr (TWO && NT == 2) _tile_zero(3);
}
template <bool TWO, int NT> static INLINE void store_sums(float *sums, i64 width) {
  const i64 stride = width * sizeof(float);
  _tile_stored(0, sums, stride);
  if constexpr (NT == 2) _tile_stored(1, sums + TILE_ROWS, stride);
  if constexpr (TWO) _tile_stored(2, sums + TILE_ROWS * width, stride);
  if constexpr (TWO && NT == 2) _tile_stored(3, sums + TILE_ROWS * width + TILE_ROWS, stride);
}

// sums += A[rows, depth] * panel, for a depth that TILE_DEPTH divides
template <bool TWO, int NT>
static INLINE void add_tiles(const bf16 *a, i64 lda, const bf16 *panel, i64 width, i64 depth) {
  const i64 stride_a = lda * sizeof(bf16), stride_b = 2 * width * sizeof(bf16);
  for (i64 k = 0; k < depth; k += TILE_DEPTH) {
    const bf16 *b = panel + k * width;
    _tile_loadd(6, b, stride_b);
    _tile_loadd(4, a + k, stride_a);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (NT == 2) {
      _tile_loadd(7, b + 2 * TILE_ROWS, stride_b);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (TWO) {
      _tile_loadd(5, a + TILE_ROWS * lda + k, stride_a);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (NT == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
}

// C[rows, 16 `vectors`] = or += A[rows, depth] * panel
static inline void block_in_tiles(const bf16 *a, i64 lda, i64 rows, const bf16 *panel, i64 width, int vectors, i64 depth,
                                  float *c, i64 ldc, bool add) {
  // The compiler does not know that tiles read and write what lies in memory.
  asm volatile("" ::: "memory");
  for (i64 row = 0; row < rows; row += 2 * TILE_ROWS) {
    const int count = (int)(rows - row < 2 * TILE_ROWS ? rows - row : 2 * TILE_ROWS);
    shape_tiles(count);
    for (int from = 0; from < vectors; from += 2) {
      float *to = c + row * ldc + from * TILE_ROWS;
      const bf16 *columns = panel + 2 * from * TILE_ROWS;
      with_constants(count > TILE_ROWS, from + 1 < vectors, [&](auto two, auto wide) {
        constexpr bool TWO = decltype(two)::value;
        constexpr int NT = decltype(wide)::value ? 2 : 1;
        if (add)
          load_sums<TWO, NT>(to, ldc);
        else
          clear_sums<TWO, NT>();
        add_tiles<TWO, NT>(a + row * lda, lda, columns, width, depth);
        store_sums<TWO, NT>(to, ldc);
      });
    }
  }
  asm volatile("" ::: "memory");
}
#else
constexpr bool TILES = false;
static inline void release_tiles() {}
#endif
