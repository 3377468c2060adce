// The engine's compute kernels behind a plain C interface, for one number format a library: NUMBER is bf16, float or
// double. Sizes and strides are in numbers. Compiled on the user's own machine at first use (compile.py).
#include "elementwise.h"
#include "quants.h"

typedef NUMBER T;
typedef Acc<T> A;

extern "C" {

// c [m, n] = x w (+ low second) (+ residual) (+ bias) (+ c), where low [m, rank] = x2 first^T is made on the way; rank 0:
// no adapter. x2 is x, or what dropout left of it. c is T, or sums where `wide`.
void linear(const T *x, i64 ldx, const T *w, i64 ldw, i64 k, int layout, const T *x2, i64 ldx2, const T *first,
            i64 ldfirst, const T *second, i64 ldsecond, T *low, i64 ldlow, i64 rank, void *c, i64 ldc, int wide,
            const A *residual, i64 ldr, const A *bias, i64 m, i64 n, int threads) {
  auto run = [&](auto *out) {
    Product<T, T> down{};
    down.m = m, down.n = rank, down.c = low, down.ldc = ldlow, down.terms = 1;
    down.term[0] = {x2, ldx2, first, ldfirst, k, NK};
    Product<T, typename std::remove_pointer<decltype(out)>::type> p{};
    p.m = m, p.n = n, p.c = out, p.ldc = ldc, p.residual = residual, p.ldr = ldr, p.bias = bias;
    p.terms = rank ? 2 : 1;
    p.term[0] = {x, ldx, w, ldw, k, (Layout)layout};
    p.term[1] = {low, ldlow, second, ldsecond, rank, KN};
    in_parallel(m * n > SMALL ? threads : 1, [&](int thread, int count) {
      if (rank) {
        product_share(down, thread, count);
#pragma omp barrier
      }
      product_share(p, thread, count);
    });
  };
  if (wide)
    run((A *)c);
  else
    run((T *)c);
}

// What an adapter learns of a product: da [ranks, k] += dlow^T x, and for each of `parts` projections with `rank` rows of
// B and columns start:start + width of dy, db [rank, width] += scale low^T dy.
void adapter_grad(const T *x, i64 ldx, i64 k, const T *dy, i64 lddy, const T *low, const T *dlow, i64 ldlow, i64 ranks,
                  i64 rank, A scale, A *da, i64 parts, const i64 *start, const i64 *width, A *const *db, i64 m,
                  int threads) {
  const i64 even = (m + 1) / 2 * 2;
  T *turned = scratch<T>(11, 2 * ranks * even);
  in_parallel(m * k > SMALL ? threads : 1, [&](int thread, int count) {
    turn_rows<T>(low, ldlow, m, ranks, scale, turned, even, thread, count);
    turn_rows<T>(dlow, ldlow, m, ranks, 1, turned + ranks * even, even, thread, count);
#pragma omp barrier
    Product<T, A> p{};
    p.terms = 1, p.accumulate = true;
    p.m = ranks, p.n = k, p.c = da, p.ldc = k;
    p.term[0] = {turned + ranks * even, even, x, ldx, m, KN};
    product_share(p, thread, count);
    for (i64 i = 0; i < parts; i++) {
      p.m = rank, p.n = width[i], p.c = db[i], p.ldc = width[i];
      p.term[0] = {turned + i * rank * even, even, dy + start[i], lddy, m, KN};
      product_share(p, thread, count);
    }
  });
}

void norm(const void *x, int x_wide, i64 ldx, i64 rows, i64 heads, i64 width, const A *weight, A eps, const A *residual,
          void *y, int y_wide, i64 ldy, A *scale, int threads) {
  auto run = [&](auto *in, auto *out) {
    typedef typename std::remove_pointer<decltype(in)>::type X;
    typedef typename std::remove_pointer<decltype(out)>::type Y;
    rms_norm<T>(RmsNorm<T, X, Y>{rows, heads, width, ldx, ldy, (const X *)in, weight, residual, eps, out, scale}, threads);
  };
  if (x_wide && y_wide)
    run((A *)x, (A *)y);
  else if (x_wide)
    run((A *)x, (T *)y);
  else if (y_wide)
    run((T *)x, (A *)y);
  else
    run((T *)x, (T *)y);
}

void norm_grad(const void *x, int x_wide, i64 ldx, const void *dy, int dy_wide, i64 ldy, i64 rows, i64 heads, i64 width,
               const A *weight, const A *scale, void *dx, int dx_wide, i64 ldd, int accumulate, T *rounded, int threads) {
  auto run = [&](auto *in, auto *grad, auto *out) {
    typedef typename std::remove_pointer<decltype(in)>::type X;
    typedef typename std::remove_pointer<decltype(grad)>::type Y;
    typedef typename std::remove_pointer<decltype(out)>::type D;
    rms_norm_grad<T>(RmsNormGrad<T, X, Y, D>{rows, heads, width, ldx, ldy, ldd, (const X *)in, (const Y *)grad, weight,
                                             scale, out, accumulate != 0, rounded},
                     threads);
  };
  if (x_wide && !dy_wide && dx_wide)
    run((A *)x, (T *)dy, (A *)dx);  // a norm before a block, into the residual stream
  else if (!x_wide && dy_wide && !dx_wide)
    run((T *)x, (A *)dy, (T *)dx);  // a norm after a block, out of the residual stream
  else if (x_wide && dy_wide && dx_wide)
    run((A *)x, (A *)dy, (A *)dx);  // the last norm
  else
    run((T *)x, (T *)dy, (T *)dx);  // a norm inside a head
}

void rope(T *x, i64 rows, i64 heads, i64 width, i64 ld, const A *cos, const A *sin, A sign, int threads) {
  rotate(x, rows, heads, width, ld, cos, sin, sign, threads);
}

void gated_activation(T *gate_up, i64 rows, i64 width, int kind, T *y, const T *dy, int threads) {
  gated(gate_up, rows, width, (Activation)kind, y, dy, threads);
}


void log_softmax(A *logits, i64 rows, i64 vocab, const i64 *target, A softcap, A *logp, int gradient, int threads) {
  log_softmax_rows<T>(logits, rows, vocab, target, softcap, logp, gradient != 0, threads);
}

// out [rows, columns] = the numbers of quantised rows; order: which stored row each of them is, or null. Returns whether
// the type (ggml's number) is known.
int dequantize(int type, const u8 *source, i64 row_bytes, const i64 *order, T *out, i64 ldo, i64 rows, i64 columns,
               int threads) {
  auto run = [&](auto read) {
    in_parallel(rows * columns > SMALL ? threads : 1, [&](int thread, int count) {
      read(source, row_bytes, order, out, ldo, rows, columns, thread, count);
    });
    return 1;
  };
  switch (type) {
    case Q4_0: return run(read_rows<T, Q4_0>);
    case Q4_1: return run(read_rows<T, Q4_1>);
    case Q5_0: return run(read_rows<T, Q5_0>);
    case Q5_1: return run(read_rows<T, Q5_1>);
    case Q8_0: return run(read_rows<T, Q8_0>);
    case Q4_K: return run(read_rows<T, Q4_K>);
    case Q5_K: return run(read_rows<T, Q5_K>);
    case Q6_K: return run(read_rows<T, Q6_K>);
    default: return 0;
  }
}

void tree_attention(const Attention<T> *at, T *out, i64 ldo, A *lse, int threads) {
  attention_forward(*at, out, ldo, lse, threads);
}

void tree_attention_grad(const Attention<T> *at, const AttentionGrad<T> *grad, T *dk, T *dv, i64 lddk, A *sums,
                         A *context_dk, A *context_dv, int threads) {
  attention_backward(*at, *grad, dk, dv, lddk, sums, context_dk, context_dv, threads);
}
}
