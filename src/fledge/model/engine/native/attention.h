// Attention over a token tree: each node sees its ancestors and, causally, itself. Exact, forward and backward.
//
// The rows of a product are the (token, query head) pairs that share a key head, so grouped-query heads read one copy of
// K and V. Keys are walked in tiles with a running soft-max (Milakov & Gimelshein 2018, arXiv 1805.02867; Dao 2023, arXiv
// 2307.08691 for the backward pass), so no T x T matrix ever exists. Sums of shared keys and values over the branches go
// into one buffer per thread, added up in thread order: same threads, same bits.
#pragma once
#include <numeric>

#include "gemm.h"

constexpr i64 TILE = 64;           // keys at a time, and rows at a time in the backward pass
constexpr i64 FORWARD_ROWS = 96;   // rows at a time in the forward pass
constexpr i64 TASK_ROWS = 512;     // rows of a task, the unit that threads share
constexpr i64 UNPACKED_ROWS = 8;        // so few rows are not worth packing keys for

struct Span {
  i64 start, length, position;  // start counts through the context's keys first, then through the own ones
};
struct Node {
  i64 start, end, position, first_span, end_span;  // start:end are own tokens; the spans are its ancestors
};

template <class T> struct Attention {
  i64 num_tokens, num_context, num_nodes, heads, kv_heads, width, window;  // window 0: no limit
  Acc<T> scale, softcap;                                                   // softcap 0: none
  const Node *nodes;
  const Span *spans;
  const T *q;  // [num_tokens, ldq], head h at h * width
  i64 ldq;
  const T *k, *v;  // [num_tokens, ldk]
  i64 ldk;
  const T *context_k, *context_v;  // [num_context, ldc]
  i64 ldc;

  i64 group() const { return heads / kv_heads; }
  const T *key(i64 i, i64 head, bool value) const {
    if (i < num_context) return (value ? context_v : context_k) + i * ldc + head * width;
    return (value ? v : k) + (i - num_context) * ldk + head * width;
  }
  i64 key_stride(i64 i) const { return i < num_context ? ldc : ldk; }
};

struct Task {
  i64 node, head, first, last;  // rows first..last of the node; row r is (token r / group, query head r % group)
  i64 cost;
};

// Tasks by falling cost, each to the thread that has least to do: the same on every call.
template <class T> static std::vector<std::vector<Task>> share_out(const Attention<T> &at, int threads) {
  std::vector<Task> tasks;
  for (i64 b = 0; b < at.num_nodes; b++) {
    const Node &node = at.nodes[b];
    i64 before = 0;
    for (i64 s = node.first_span; s < node.end_span; s++) before += at.spans[s].length;
    const i64 rows = (node.end - node.start) * at.group();
    for (i64 head = 0; head < at.kv_heads; head++)
      for (i64 first = 0; first < rows; first += TASK_ROWS) {
        const i64 last = std::min(rows, first + TASK_ROWS);
        tasks.push_back({b, head, first, last, (last - first + TILE) * (before + (first + last) / 2 / at.group() + TILE)});
      }
  }
  std::stable_sort(tasks.begin(), tasks.end(), [](const Task &a, const Task &b) { return a.cost > b.cost; });
  std::vector<std::vector<Task>> shares(threads);
  std::vector<i64> load(threads);
  for (const Task &task : tasks) {
    const int least = (int)(std::min_element(load.begin(), load.end()) - load.begin());
    shares[least].push_back(task);
    load[least] += task.cost;
  }
  return shares;
}

// Up to TILE keys of one span. `own` is the index in the node of the first key, or -1 for ancestors.
struct Tile {
  i64 key, count, position, own;
};

template <class T> static std::vector<Tile> tiles_of(const Attention<T> &at, const Task &task) {
  const Node &node = at.nodes[task.node];
  const i64 first = task.first / at.group(), last = (task.last - 1) / at.group();
  std::vector<Tile> tiles;
  auto add = [&](i64 start, i64 length, i64 position, bool own) {
    for (i64 i = 0; i < length; i += TILE) {
      const i64 count = std::min(TILE, length - i);
      // a tile that even the task's first token has left behind is seen by none
      if (at.window && position + i + count - 1 <= node.position + first - at.window) continue;
      tiles.push_back({start + i, count, position + i, own ? i : -1});
    }
  };
  for (i64 s = node.first_span; s < node.end_span; s++)
    add(at.spans[s].start, at.spans[s].length, at.spans[s].position, false);
  add(at.num_context + node.start, last + 1, node.position, true);
  return tiles;
}

// Which keys of a tile a row's token sees: low..high.
struct Sight {
  i64 low, high;
};
template <class T> static INLINE Sight sight_of(const Attention<T> &at, const Node &node, const Tile &tile, i64 row) {
  const i64 token = row / at.group();
  Sight s = {0, tile.count};
  if (tile.own >= 0) s.high = std::max<i64>(0, std::min(tile.count, token - tile.own + 1));
  if (at.window) s.low = std::min(s.high, std::max<i64>(0, node.position + token - at.window + 1 - tile.position));
  return s;
}

template <class T> static INLINE Vec<T> lane_numbers(i64 from) {
  Vec<T> v;
  for (int i = 0; i < LANES<T>; i++) v[i] = (Acc<T>)(from + i);
  return v;
}

template <class T> static INLINE Vec<T> vtanh(Vec<T> x) { return (Acc<T>)1 - (Acc<T>)2 / (vexp<T>(x + x) + (Acc<T>)1); }

template <class T> static inline void gather_rows(const Attention<T> &at, const Task &task, const T *from, i64 ld,
                                                  i64 first, i64 count, T *to) {
  const Node &node = at.nodes[task.node];
  for (i64 r = 0; r < count; r++) {
    const i64 row = first + r, token = node.start + row / at.group();
    memcpy(to + r * at.width, from + token * ld + (task.head * at.group() + row % at.group()) * at.width,
           at.width * sizeof(T));
  }
}

// A few rows that see many keys, as when replies grow by a token at a time: keys and values are read where they lie, since
// packing them for a product would cost more than the product. Two passes, the scores of all keys in between.
template <class T> static void attend_few(const Attention<T> &at, const Task &task, T *out, i64 ldo, Acc<T> *lse) {
  typedef Acc<T> A;
  constexpr int L = LANES<T>;
  constexpr A NOTHING = -1e30;
  const Node &node = at.nodes[task.node];
  const std::vector<Tile> tiles = tiles_of(at, task);
  const i64 W = at.width, wide = (W + L - 1) / L * L, rows = task.last - task.first;
  const i64 keys = (i64)tiles.size() * TILE;
  T *q = scratch<T>(3, UNPACKED_ROWS * W);
  A *s = scratch<A>(5, UNPACKED_ROWS * keys), *o = scratch<A>(6, wide);
  gather_rows(at, task, at.q, at.ldq, task.first, rows, q);
  std::fill(s, s + rows * keys, NOTHING);
  for (size_t i = 0; i < tiles.size(); i++) {
    const Tile &t = tiles[i];
    const T *key = at.key(t.key, task.head, false);
    const i64 stride = at.key_stride(t.key);
    for (i64 r = 0; r < rows; r++) {
      const Sight see = sight_of(at, node, t, task.first + r);
      for (i64 j = see.low; j < see.high; j++) {
        A x = dot<T>(q + r * W, key + j * stride, W) * at.scale;
        if (at.softcap != 0) x = at.softcap * std::tanh(x / at.softcap);
        s[r * keys + i * TILE + j] = x;
      }
    }
  }
  for (i64 r = 0; r < rows; r++) {
    A *own = s + r * keys;
    Vec<T> highest = splat<T>(NOTHING), sums = {};
    for (i64 j = 0; j < keys; j += L) highest = vmax<T>(highest, load<A>(own + j));
    const A best = highest_of<T>(highest);
    for (i64 j = 0; j < keys; j += L) {
      const Vec<T> x = load<A>(own + j), e = vexp<T>(x - best);
      const Vec<T> seen = x > splat<T>(NOTHING / 2) ? e : Vec<T>{};
      sums += seen;
      store<A>(own + j, seen);
    }
    const A total = sum<T>(sums);
    std::fill(o, o + wide, (A)0);
    for (size_t i = 0; i < tiles.size(); i++) {
      const Tile &t = tiles[i];
      const T *value = at.key(t.key, task.head, true);
      const i64 stride = at.key_stride(t.key);
      for (i64 j = 0; j < t.count; j++) add_scaled<T>(value + j * stride, own[i * TILE + j], W, o);
    }
    const i64 row = task.first + r, token = node.start + row / at.group(), head = task.head * at.group() + row % at.group();
    copy_scaled<T>(o, 1 / total, W, out + token * ldo + head * W);
    lse[token * at.heads + head] = best + std::log(total);
  }
}

template <class T> static void attend_forward(const Attention<T> &at, const Task &task, T *out, i64 ldo, Acc<T> *lse) {
  typedef Acc<T> A;
  constexpr int L = LANES<T>;
  // Where every node is one token, replies are growing.
  if (at.num_tokens == at.num_nodes && task.last - task.first <= UNPACKED_ROWS)
    return attend_few(at, task, out, ldo, lse);
  constexpr A NOTHING = -1e30;
  const Node &node = at.nodes[task.node];
  const std::vector<Tile> tiles = tiles_of(at, task);
  const i64 W = at.width, wide = (W + L - 1) / L * L;
  const i64 k_count = packed_count<T>(TILE, W), v_count = packed_count<T>(W, TILE);
  T *packed = scratch<T>(2, (i64)tiles.size() * (k_count + v_count));
  for (size_t i = 0; i < tiles.size(); i++) {
    const Tile &t = tiles[i];
    const i64 stride = at.key_stride(t.key);
    pack_all<T>({nullptr, 0, at.key(t.key, task.head, false), stride, W, NK}, t.count, packed + i * (k_count + v_count));
    pack_all<T>({nullptr, 0, at.key(t.key, task.head, true), stride, t.count, KN}, W,
                packed + i * (k_count + v_count) + k_count);
  }
  T *q = scratch<T>(3, FORWARD_ROWS * W), *p = scratch<T>(4, FORWARD_ROWS * TILE);
  A *s = scratch<A>(5, FORWARD_ROWS * TILE), *o = scratch<A>(6, FORWARD_ROWS * wide);
  A top[FORWARD_ROWS], total[FORWARD_ROWS];
  for (i64 first = task.first; first < task.last; first += FORWARD_ROWS) {
    const i64 rows = std::min(FORWARD_ROWS, task.last - first);
    gather_rows(at, task, at.q, at.ldq, first, rows, q);
    std::fill(o, o + rows * wide, (A)0);
    std::fill(top, top + rows, NOTHING);
    std::fill(total, total + rows, (A)0);
    for (size_t i = 0; i < tiles.size(); i++) {
      const Tile &t = tiles[i];
      // what not even the last row sees is not computed
      const i64 count = sight_of(at, node, t, first + rows - 1).high;
      if (count <= 0) continue;
      const T *k_panel = packed + i * (k_count + v_count), *v_panel = k_panel + k_count;
      const int vectors = (int)((count + L - 1) / L);
      block_product<T>(q, W, rows, k_panel, count, W, s, TILE, false, t.count, W);
      for (i64 r = 0; r < rows; r++) {
        const Sight see = sight_of(at, node, t, first + r);
        const bool partial = see.low > 0 || see.high < vectors * L;
        Vec<T> x[TILE / L], highest = splat<T>(NOTHING);
        UNROLL for (int v = 0; v < TILE / L; v++) {
          if (v >= vectors) break;
          x[v] = load<A>(s + r * TILE + v * L) * at.scale;
          if (at.softcap != 0) x[v] = at.softcap * vtanh<T>(x[v] / at.softcap);
          if (partial) {
            const Vec<T> lane = lane_numbers<T>(v * L);
            x[v] = (lane >= splat<T>((A)see.low)) & (lane < splat<T>((A)see.high)) ? x[v] : splat<T>(NOTHING);
          }
          highest = vmax<T>(highest, x[v]);
        }
        const A best = std::max(top[r], highest_of<T>(highest));
        Vec<T> sums = {};
        UNROLL for (int v = 0; v < TILE / L; v++) {
          if (v >= vectors) break;
          Vec<T> e = vexp<T>(x[v] - best);
          if (partial) e = x[v] > splat<T>(NOTHING / 2) ? e : Vec<T>{};
          sums += e;
          store<T>(p + r * TILE + v * L, e);
        }
        if (best > top[r]) {
          const A shrink = top[r] <= NOTHING ? 0 : std::exp(top[r] - best);
          total[r] *= shrink;
          for (i64 w = 0; w < wide; w += L) store<A>(o + r * wide + w, load<A>(o + r * wide + w) * shrink);
          top[r] = best;
        }
        total[r] += sum<T>(sums);
      }
      block_product<T>(p, TILE, rows, v_panel, W, count, o, wide, true, W, t.count);
    }
    for (i64 r = 0; r < rows; r++) {
      const i64 row = first + r, token = node.start + row / at.group(), head = task.head * at.group() + row % at.group();
      copy_scaled<T>(o + r * wide, 1 / total[r], W, out + token * ldo + head * W);
      lse[token * at.heads + head] = top[r] + std::log(total[r]);
    }
  }
}

template <class T> struct AttentionGrad {
  const T *out, *dout;  // [num_tokens, ldo]
  i64 ldo;
  const Acc<T> *lse;  // [num_tokens, heads]
  T *dq;              // [num_tokens, lddq]
  i64 lddq;
};

// Adds to dk and dv: [num_context + num_tokens, kv_heads * width], sums of one thread.
template <class T>
static void attend_backward(const Attention<T> &at, const AttentionGrad<T> &g, const Task &task, Acc<T> *dk, Acc<T> *dv) {
  typedef Acc<T> A;
  constexpr int L = LANES<T>, PAIR = Format<T>::PAIR;
  const Node &node = at.nodes[task.node];
  const std::vector<Tile> tiles = tiles_of(at, task);
  const i64 W = at.width, wide = (W + L - 1) / L * L, ldk = at.kv_heads * W;
  const i64 count = packed_count<T>(W, TILE);
  T *packed = scratch<T>(2, (i64)tiles.size() * count);
  for (size_t i = 0; i < tiles.size(); i++)
    pack_all<T>({nullptr, 0, at.key(tiles[i].key, task.head, false), at.key_stride(tiles[i].key), tiles[i].count, KN}, W,
                packed + i * count);
  T *q = scratch<T>(3, TILE * W), *dout = scratch<T>(4, TILE * W), *out = scratch<T>(7, TILE * W);
  const i64 across = packed_count<T>(TILE, W), along = packed_count<T>(W, TILE);
  T *q_across = scratch<T>(8, 2 * across + 2 * along), *d_across = q_across + across;
  T *q_along = d_across + across, *d_along = q_along + along;
  T *pt = scratch<T>(9, 4 * TILE * TILE), *dst = pt + TILE * TILE, *pairs = dst + TILE * TILE, *ds = pairs + TILE * TILE;
  A *st = scratch<A>(5, 2 * TILE * TILE), *dpt = st + TILE * TILE;
  A *dq = scratch<A>(6, TILE * wide), *sums = scratch<A>(10, TILE * wide);
  A lse[TILE], delta[TILE], low[TILE], high[TILE];
  auto add_product = [&](const T *a, i64 key, i64 keys, const T *panels, i64 rows, A *to) {
    to += key * ldk + task.head * W;
    if (W == wide) return block_product<T>(a, TILE, keys, panels, W, rows, to, ldk, true, W, rows);
    // A product is written in whole vectors, which would run into the next head here.
    block_product<T>(a, TILE, keys, panels, W, rows, sums, wide, false, W, rows);
    for (i64 j = 0; j < keys; j++) add_to<T>(sums + j * wide, W, to + j * ldk);
  };
  for (i64 first = task.first; first < task.last; first += TILE) {
    const i64 rows = std::min(TILE, task.last - first);
    const i64 vectors = (rows + L - 1) / L;
    gather_rows(at, task, at.q, at.ldq, first, rows, q);
    gather_rows(at, task, g.dout, g.ldo, first, rows, dout);
    gather_rows(at, task, g.out, g.ldo, first, rows, out);
    for (i64 r = 0; r < TILE; r++) {
      const i64 row = first + r, token = node.start + row / at.group(), head = task.head * at.group() + row % at.group();
      lse[r] = r < rows ? g.lse[token * at.heads + head] : 0;
      delta[r] = r < rows ? dot<T>(out + r * W, dout + r * W, W) : 0;
    }
    pack_all<T>({nullptr, 0, q, W, W, NK}, rows, q_across);
    pack_all<T>({nullptr, 0, dout, W, W, NK}, rows, d_across);
    pack_all<T>({nullptr, 0, q, W, rows, KN}, W, q_along);
    pack_all<T>({nullptr, 0, dout, W, rows, KN}, W, d_along);
    std::fill(dq, dq + rows * wide, (A)0);
    for (size_t i = 0; i < tiles.size(); i++) {
      const Tile &t = tiles[i];
      const i64 keys = sight_of(at, node, t, first + rows - 1).high;
      if (keys <= 0) continue;
      bool partial = rows < vectors * L;
      for (i64 r = 0; r < TILE; r++) {
        const Sight see = r < rows ? sight_of(at, node, t, first + r) : Sight{0, 0};
        low[r] = (A)see.low, high[r] = (A)see.high;
        partial |= r < rows && (see.low > 0 || see.high < keys);
      }
      const i64 stride = at.key_stride(t.key);
      block_product<T>(at.key(t.key, task.head, false), stride, keys, q_across, rows, W, st, TILE, false, rows, W);
      block_product<T>(at.key(t.key, task.head, true), stride, keys, d_across, rows, W, dpt, TILE, false, rows, W);
      const i64 even = (keys + PAIR - 1) / PAIR * PAIR;
      for (i64 j = 0; j < even; j++)
        for (i64 v = 0; v < vectors; v++) {
          Vec<T> p = {}, d = {};
          if (j < keys) {
            Vec<T> x = load<A>(st + j * TILE + v * L) * at.scale, slope = splat<T>(at.scale);
            if (at.softcap != 0) {
              const Vec<T> capped = vtanh<T>(x / at.softcap);
              x = at.softcap * capped, slope *= 1 - capped * capped;
            }
            p = vexp<T>(x - load<A>(lse + v * L));
            if (partial) {
              const Vec<T> here = splat<T>((A)j);
              p = (here >= load<A>(low + v * L)) & (here < load<A>(high + v * L)) ? p : Vec<T>{};
            }
            d = p * (load<A>(dpt + j * TILE + v * L) - load<A>(delta + v * L)) * slope;
          }
          store<T>(pt + j * TILE + v * L, p);
          store<T>(dst + j * TILE + v * L, d);
        }
      // units of PAIR keys are turned together: dS^T [keys, rows] becomes dS [rows, keys]
      pack_kn<T>(dst, TILE, (int)rows, even, (int)(vectors * L), pairs);
      turn_units<T>(pairs, vectors * L, even / PAIR, rows, ds, TILE);
      add_product(pt, t.key, keys, d_along, rows, dv);
      add_product(dst, t.key, keys, q_along, rows, dk);
      block_product<T>(ds, TILE, rows, packed + i * count, W, keys, dq, wide, true, W, t.count);
    }
    for (i64 r = 0; r < rows; r++) {
      const i64 row = first + r, token = node.start + row / at.group(), head = task.head * at.group() + row % at.group();
      copy_scaled<T>(dq + r * wide, 1, W, g.dq + token * g.lddq + head * W);
    }
  }
}

template <class T> static void attention_forward(const Attention<T> &at, T *out, i64 ldo, Acc<T> *lse, int threads) {
  const auto shares = share_out(at, threads);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int thread = 0; thread < threads; thread++) {
    for (const Task &task : shares[thread]) attend_forward(at, task, out, ldo, lse);
    release_tiles();
  }
}

// dk and dv of the own tokens go to [num_tokens, lddk] in T, those of the context are added to [num_context, kv * width].
template <class T>
static void attention_backward(const Attention<T> &at, const AttentionGrad<T> &g, T *dk, T *dv, i64 lddk, Acc<T> *sums,
                               Acc<T> *context_dk, Acc<T> *context_dv, int threads) {
  typedef Acc<T> A;
  const auto shares = share_out(at, threads);
  const i64 row = at.kv_heads * at.width, keys = at.num_context + at.num_tokens, count = keys * row;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static, 1)
    for (int thread = 0; thread < threads; thread++) {
      A *own = sums + 2 * count * thread;
      std::fill(own, own + 2 * count, (A)0);
      for (const Task &task : shares[thread]) attend_backward(at, g, task, own, own + count);
      release_tiles();
    }
#pragma omp for schedule(static)
    for (i64 i = 0; i < keys; i++)
      for (int value = 0; value < 2; value++) {
        A *from = sums + value * count + i * row;
        for (int thread = 1; thread < threads; thread++) add_to<T>(from + 2 * count * thread, row, from);
        if (i >= at.num_context)
          copy_scaled<T>(from, 1, row, (value ? dv : dk) + (i - at.num_context) * lddk);
        else if (context_dk)
          add_to<T>(from, row, (value ? context_dv : context_dk) + i * row);
      }
  }
}
