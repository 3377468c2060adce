// What happens between the products, each in one pass over its tensors: norms, rotary embedding, gated activations.
#pragma once
#include "attention.h"

// X may be T (a computed tensor) or Acc<T> (the residual stream).
template <class T, class F> static inline void each_row(i64 rows, int threads, F body) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows > 4)
  for (i64 r = 0; r < rows; r++) body(r);
}

// y = x / rms(x) * weight, and 1 / rms(x) for the backward pass (Zhang & Sennrich 2019, arXiv 1910.07467).
// With `residual` the result is residual + y, in sums.
template <class T, class X, class Y> struct RmsNorm {
  i64 rows, heads, width, ldx, ldy;  // [rows, heads * width]: each head is normed by itself
  const X *x;
  const Acc<T> *weight, *residual;
  Acc<T> eps;
  Y *y;
  Acc<T> *scale;  // [rows, heads]
};
template <class T, class X, class Y> static void rms_norm(const RmsNorm<T, X, Y> &n, int threads) {
  constexpr int L = LANES<T>;
  typedef Acc<T> A;
  each_row<T>(n.rows, threads, [&](i64 r) {
    for (i64 h = 0; h < n.heads; h++) {
      const X *x = n.x + r * n.ldx + h * n.width;
      Y *y = n.y + r * n.ldy + h * n.width;
      const A *residual = n.residual ? n.residual + r * n.ldy + h * n.width : nullptr;
      Vec<T> squares = {};
      i64 i = 0;
      for (; i + L <= n.width; i += L) squares += load<X>(x + i) * load<X>(x + i);
      A total = sum<T>(squares);
      for (; i < n.width; i++) total += (A)widen(x[i]) * widen(x[i]);
      const A scale = 1 / std::sqrt(total / n.width + n.eps);
      n.scale[r * n.heads + h] = scale;
      for (i = 0; i + L <= n.width; i += L) {
        Vec<T> v = load<X>(x + i) * scale * load<A>(n.weight + i);
        store<Y>(y + i, residual ? v + load<A>(residual + i) : v);
      }
      for (; i < n.width; i++) narrow((A)(widen(x[i]) * scale * n.weight[i] + (residual ? residual[i] : 0)), y + i);
    }
  });
}

// dx = scale (weight dy - x scale mean(weight dy x scale)); added to dx in sums, and the total once more in T where
// `rounded` is given (the next product wants it).
template <class T, class X, class Y, class D> struct RmsNormGrad {
  i64 rows, heads, width, ldx, ldy, ldd;
  const X *x;
  const Y *dy;
  const Acc<T> *weight, *scale;
  D *dx;
  bool accumulate;
  T *rounded;
};
template <class T, class X, class Y, class D> static void rms_norm_grad(const RmsNormGrad<T, X, Y, D> &n, int threads) {
  constexpr int L = LANES<T>;
  typedef Acc<T> A;
  each_row<T>(n.rows, threads, [&](i64 r) {
    for (i64 h = 0; h < n.heads; h++) {
      const X *x = n.x + r * n.ldx + h * n.width;
      const Y *dy = n.dy + r * n.ldy + h * n.width;
      D *dx = n.dx + r * n.ldd + h * n.width;
      T *rounded = n.rounded ? n.rounded + r * n.ldd + h * n.width : nullptr;
      Vec<T> dots = {};
      i64 i = 0;
      for (; i + L <= n.width; i += L) dots += load<X>(x + i) * load<Y>(dy + i) * load<A>(n.weight + i);
      A dot = sum<T>(dots);
      for (; i < n.width; i++) dot += (A)widen(x[i]) * widen(dy[i]) * n.weight[i];
      const A scale = n.scale[r * n.heads + h], along = dot * scale * scale / n.width;
      for (i = 0; i + L <= n.width; i += L) {
        Vec<T> v = (load<Y>(dy + i) * load<A>(n.weight + i) - load<X>(x + i) * along) * scale;
        if (n.accumulate) v += load<D>(dx + i);
        store<D>(dx + i, v);
        if (rounded) store<T>(rounded + i, v);
      }
      for (; i < n.width; i++) {
        A v = (widen(dy[i]) * n.weight[i] - widen(x[i]) * along) * scale + (n.accumulate ? widen(dx[i]) : 0);
        narrow(v, dx + i);
        if (rounded) narrow(v, rounded + i);
      }
    }
  });
}

// Rotates the pairs (i, i + width / 2) of each head by its token's angle (Su et al. 2021, arXiv 2104.09864), in place;
// with sign -1 back again, which is also the gradient.
template <class T>
static void rotate(T *x, i64 rows, i64 heads, i64 width, i64 ld, const Acc<T> *cos, const Acc<T> *sin, Acc<T> sign,
                   int threads) {
  constexpr int L = LANES<T>;
  typedef Acc<T> A;
  const i64 half = width / 2;
  each_row<T>(rows, threads, [&](i64 r) {
    const A *c = cos + r * half, *s = sin + r * half;
    for (i64 h = 0; h < heads; h++) {
      T *first = x + r * ld + h * width, *second = first + half;
      i64 i = 0;
      for (; i + L <= half; i += L) {
        const Vec<T> a = load<T>(first + i), b = load<T>(second + i), ci = load<A>(c + i), si = load<A>(s + i) * sign;
        store<T>(first + i, a * ci - b * si);
        store<T>(second + i, b * ci + a * si);
      }
      for (; i < half; i++) {
        const A a = widen(first[i]), b = widen(second[i]), ci = c[i], si = s[i] * sign;
        narrow(a * ci - b * si, first + i);
        narrow(b * ci + a * si, second + i);
      }
    }
  });
}

enum Activation { SILU = 0, GELU_TANH = 1 };

// f(x) and f'(x)
template <class T> static INLINE Vec<T> activate(Vec<T> x, Activation kind, Vec<T> *slope) {
  typedef Acc<T> A;
  const Vec<T> one = splat<T>(1);
  if (kind == SILU) {
    const Vec<T> share = inverse<T>(one + vexp<T>(-x));
    *slope = share * (one + x * (one - share));
    return x * share;
  }
  // x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) (Hendrycks & Gimpel 2016, arXiv 1606.08415)
  constexpr A a = 0.7978845608028654, b = 0.044715;
  const Vec<T> t = vtanh<T>(a * (x + b * x * x * x));
  *slope = (A)0.5 * (one + t) + (A)0.5 * x * (one - t * t) * a * (one + (A)3 * b * x * x);
  return (A)0.5 * x * (one + t);
}

// y = f(gate) * up from [rows, 2 width] = gate | up. With dy also: dgate and dup in place of gate and up.
template <class T>
static void gated(T *gate_up, i64 rows, i64 width, Activation kind, T *y, const T *dy, int threads) {
  constexpr int L = LANES<T>;
  typedef Acc<T> A;
  each_row<T>(rows, threads, [&](i64 r) {
    T *gate = gate_up + r * 2 * width, *up = gate + width;
    for (i64 i = 0; i < width; i += L) {
      const int n = (int)std::min<i64>(L, width - i);
      Vec<T> g = {}, u = {}, d = {}, slope;
      if (n == L) {
        g = load<T>(gate + i), u = load<T>(up + i);
        if (dy) d = load<T>(dy + r * width + i);
      } else {
        for (int l = 0; l < n; l++) {
          g[l] = widen(gate[i + l]), u[l] = widen(up[i + l]);
          if (dy) d[l] = widen(dy[r * width + i + l]);
        }
      }
      const Vec<T> f = activate<T>(g, kind, &slope), product = f * u, dgate = d * u * slope, dup = d * f;
      if (n == L) {
        if (y) store<T>(y + r * width + i, product);
        if (dy) store<T>(gate + i, dgate), store<T>(up + i, dup);
      } else {
        for (int l = 0; l < n; l++) {
          if (y) narrow((A)product[l], y + r * width + i + l);
          if (dy) narrow((A)dgate[l], gate + i + l), narrow((A)dup[l], up + i + l);
        }
      }
    }
  });
}

// One tile of the LM head's soft-max. logits [rows, vocab] are sums; each row becomes, in its own
// memory and in T, d logp / d logits = one-hot(target) - softmax, and logp[row] = log softmax(logits)[target].
template <class T>
static void log_softmax_rows(Acc<T> *logits, i64 rows, i64 vocab, const i64 *target, Acc<T> softcap, Acc<T> *logp,
                             bool gradient, int threads) {
  constexpr int L = LANES<T>;
  typedef Acc<T> A;
  each_row<T>(rows, threads, [&](i64 r) {
    A *x = logits + r * vocab;
    const i64 whole = vocab / L * L;
    if (softcap != 0) {
      for (i64 i = 0; i < whole; i += L) store<A>(x + i, softcap * vtanh<T>(load<A>(x + i) / softcap));
      for (i64 i = whole; i < vocab; i++) x[i] = softcap * std::tanh(x[i] / softcap);
    }
    Vec<T> highest = splat<T>(x[0]);
    for (i64 i = 0; i < whole; i += L) highest = vmax<T>(highest, load<A>(x + i));
    A best = highest_of<T>(highest);
    for (i64 i = whole; i < vocab; i++) best = std::max(best, x[i]);
    // A sum of sums, in double: one running float would lose three digits over a large vocabulary.
    double total = 0;
    for (i64 from = 0; from < whole; from += 64 * L) {
      Vec<T> sums = {};
      for (i64 i = from; i < std::min(whole, from + 64 * L); i += L) sums += vexp<T>(load<A>(x + i) - best);
      total += sum<T>(sums);
    }
    for (i64 i = whole; i < vocab; i++) total += std::exp(x[i] - best);
    const A norm = best + (A)std::log(total), wanted = x[target[r]];
    logp[r] = wanted - norm;
    if (!gradient) return;
    // Narrowed in place: what is written never overtakes what is read.
    T *g = (T *)x;
    for (i64 i = 0; i < whole; i += L) {
      const Vec<T> v = load<A>(x + i);
      Vec<T> d = -vexp<T>(v - norm);
      if (softcap != 0) d *= (A)1 - v * v / (softcap * softcap);
      store<T>(g + i, d);
    }
    for (i64 i = whole; i < vocab; i++) {
      const A v = x[i];
      narrow((A)(-std::exp(v - norm) * (softcap != 0 ? 1 - v * v / (softcap * softcap) : (A)1)), g + i);
    }
    const A own = (1 - std::exp(wanted - norm)) * (softcap != 0 ? 1 - wanted * wanted / (softcap * softcap) : (A)1);
    narrow(own, g + target[r]);
  });
}
