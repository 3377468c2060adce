// The engine's compute kernels behind a plain C interface, for one number format a library: NUMBER is bf16, float or
// double. Sizes and strides are in numbers. Compiled on the user's own machine at first use (compile.py).
#include "elementwise.h"

typedef NUMBER T;
typedef Acc<T> A;

extern "C" {

// c [m, n] = a1 b1 (+ a2 b2) (+ residual) (+ bias) (+ c). c is T, or sums where `wide`.
void linear(const T *a1, i64 lda1, const T *b1, i64 ldb1, i64 k1, int layout1, const T *a2, i64 lda2, const T *b2,
            i64 ldb2, i64 k2, int layout2, void *c, i64 ldc, int wide, const A *residual, i64 ldr, const A *bias,
            int accumulate, i64 m, i64 n, int threads) {
  auto run = [&](auto *out) {
    Product<T, typename std::remove_pointer<decltype(out)>::type> p{};
    p.m = m, p.n = n, p.c = out, p.ldc = ldc, p.residual = residual, p.ldr = ldr, p.bias = bias;
    p.accumulate = accumulate, p.terms = k2 ? 2 : 1;
    p.term[0] = {a1, lda1, b1, ldb1, k1, (Layout)layout1};
    p.term[1] = {a2, lda2, b2, ldb2, k2, (Layout)layout2};
    product(p, threads);
  };
  if (wide)
    run((A *)c);
  else
    run((T *)c);
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

void round_to(const A *x, T *y, i64 count, int threads) { round_rows<T>(x, y, count, threads); }

void log_softmax(A *logits, i64 rows, i64 vocab, const i64 *target, A softcap, A *logp, int gradient, int threads) {
  log_softmax_rows<T>(logits, rows, vocab, target, softcap, logp, gradient != 0, threads);
}

void tree_attention(const Attention<T> *at, T *out, i64 ldo, A *lse, int threads) {
  attention_forward(*at, out, ldo, lse, threads);
}

void tree_attention_grad(const Attention<T> *at, const AttentionGrad<T> *grad, T *dk, T *dv, i64 lddk, A *sums,
                         A *context_dk, A *context_dv, int threads) {
  attention_backward(*at, *grad, dk, dv, lddk, sums, context_dk, context_dv, threads);
}
}
