// CP convolution on CPU in float32: a plain C interface on raw pointers, so that nothing here depends on PyTorch's headers
// or binary interface. Built on the user's machine by build.py; see forward.h and backward.h for what it does.

#include "backward.h"
#include "forward.h"
#include "motion.h"
#include "step.h"

using namespace hocp;

namespace {

// No exception may leave the C interface; the only one there can be is a failed allocation.
template <class Fn>
int guarded(Fn fn) {
  try {
    return fn() ? 0 : 1;
  } catch (...) {
    return 1;
  }
}

template <class T>
Tensor<T> input_like(const HocpProblem& p, T* data) {
  return {data, p.xn, p.xt, p.xh, p.xw, p.xc};
}

template <class T>
Tensor<T> output_like(const HocpProblem& p, T* data) {
  return {data, p.on, p.ot, p.oh, p.ow, p.oc};
}

// Without a temporal factor a sample is as good as a frame, and frames can be taken together.
HocpProblem images_as_frames(HocpProblem p) {
  if (p.t == 1) {
    p.t = p.to = p.n, p.xt = p.xn, p.ot = p.on;
    p.n = 1;
  }
  return p;
}

// Where the factors lie in one array, packed.
struct Packing {
  i64 in, out, spatial, temporal, bias, floats;
  explicit Packing(const Geometry& g) {
    const i64 wide = padded(g.out_channels);
    in = 0, out = in + g.in_channels * g.r, spatial = out + g.r * wide;
    temporal = spatial + g.h.taps * g.w.taps * g.r, bias = temporal + g.t.taps * g.r, floats = bias + wide;
  }
  Packed at(const float* array, bool in_time, bool biased) const {
    return {array + in, in_time ? array + temporal : nullptr, array + spatial, array + out, biased ? array + bias : nullptr};
  }
};

void pack_factors(const Geometry& g, const Packing& to, const float* w_in, const float* taps_t, const float* taps_hw,
                  const float* w_out, const float* bias, float* array) {
  pack(w_in, g.rank, 1, g.in_channels, g.in_channels, g.rank, array + to.in);
  pack(w_out, 1, g.rank, g.rank, g.r, g.out_channels, array + to.out);
  widen(taps_hw, g.h.taps * g.w.taps, g.rank, g.r, array + to.spatial);
  if (taps_t) widen(taps_t, g.t.taps, g.rank, g.r, array + to.temporal);
  if (bias) widen(bias, 1, g.out_channels, padded(g.out_channels), array + to.bias);
}

}  // namespace

extern "C" {

// w_in [c, r], taps_t [kt, r] or null, taps_hw [kh, kw, r], w_out [o, r], bias [o] or null.
// Returns 0, or 1 when there was no memory.
int hocp_forward(const HocpProblem* problem, const float* x, const float* w_in, const float* taps_t, const float* taps_hw,
                 const float* w_out, const float* bias, float* out) {
  static thread_local Scratch kept;
  const HocpProblem p = taps_t ? *problem : images_as_frames(*problem);
  const Geometry g(p);
  const Packing packing(g);
  float* array = kept.get(packing.floats);
  if (!array) return 1;
  pack_factors(g, packing, w_in, taps_t, taps_hw, w_out, bias, array);
  const Packed packed = packing.at(array, taps_t, bias);
  return guarded([&] { return forward(g, packed, input_like(p, x), output_like(p, out)); });
}

// Floats of the factors, packed; of the problem only channels, components and taps count here and in the next one.
int64_t hocp_packed(const HocpProblem* problem) { return Packing(Geometry(*problem)).floats; }

void hocp_pack(const HocpProblem* problem, const float* w_in, const float* taps_t, const float* taps_hw,
               const float* w_out, const float* bias, float* array) {
  const Geometry g(*problem);
  pack_factors(g, Packing(g), w_in, taps_t, taps_hw, w_out, bias, array);
}

// `t` new frames of each of `n` streams, of which as many come out; `array` is what hocp_pack wrote; see step.h for `past`
// and `fresh`. Returns 0, or 1 when there was no memory.
int hocp_step(const HocpProblem* problem, const float* x, const float* array, int64_t biased, const float* const* past,
              float* fresh, float* out) {
  const Geometry g(*problem);
  const Packed packed = Packing(g).at(array, true, biased);
  return guarded([&] { return step(g, packed, input_like(*problem, x), past, fresh, output_like(*problem, out)); });
}

// `grad` lies as out does, `gx` (or null) as x. The gradients of the factors, each null or with the padded rank as its row
// length: w_in [c, r], taps_t [kt, r], taps_hw [kh, kw, r], w_out [o, r]. Returns 0, or 1 when there was no memory.
int hocp_backward(const HocpProblem* problem, const float* x, const float* w_in, const float* taps_t,
                  const float* taps_hw, const float* w_out, const float* grad, float* gx, float* g_in, float* g_taps_t,
                  float* g_taps_hw, float* g_out) {
  static thread_local Scratch kept;
  const Geometry g(*problem);
  const i64 hw = g.h.taps * g.w.taps, wide_in = padded(g.in_channels);
  float* in = kept.get((g.in_channels + g.out_channels + wide_in + hw + g.t.taps) * g.r);
  if (!in) return 1;
  float *out_t = in + g.in_channels * g.r, *in_t = out_t + g.out_channels * g.r, *spatial = in_t + wide_in * g.r;
  float* temporal = spatial + hw * g.r;
  pack(w_in, g.rank, 1, g.in_channels, g.in_channels, g.rank, in);
  pack(w_out, g.rank, 1, g.out_channels, g.out_channels, g.rank, out_t);
  pack(w_in, 1, g.rank, g.rank, g.r, g.in_channels, in_t);
  widen(taps_hw, hw, g.rank, g.r, spatial);
  if (taps_t) widen(taps_t, g.t.taps, g.rank, g.r, temporal);
  const Packed packed{in, taps_t ? temporal : nullptr, spatial, nullptr, nullptr};
  return guarded([&] {
    Backward pass(g, packed, out_t, in_t, {g_in, g_taps_t, g_taps_hw, g_out}, gx);
    return pass.run(input_like(*problem, x), output_like(*problem, grad), input_like(*problem, gx));
  });
}

// y [clips, frames, pixels, channels] is changed; w_in and w_out [channels, components], taps [size, components], of which
// the mean over the taps is taken off. Returns 0, or 1 when there was no memory.
int hocp_motion(int64_t clips, int64_t frames, int64_t pixels, int64_t channels, int64_t components, int64_t size,
                int64_t before, int64_t relu, float* y, const float* w_in, const float* taps, const float* w_out) {
  static thread_local Scratch kept;
  const Motion m{clips, frames, pixels, channels, components, size, before, relu != 0};
  const i64 wide = m.wide();
  float* in = kept.get((channels + size) * wide + components * channels + PANEL);
  if (!in) return 1;
  float *moving = in + channels * wide, *out = moving + size * wide;
  if (m.narrow())
    widen(w_in, channels, components, NARROW, in);
  else
    pack(w_in, components, 1, channels, channels, components, in);
  widen(taps, size, components, wide, moving);
  weigh_steps(size, wide, moving);
  transpose(w_out, components, channels, components, out, channels);
  return guarded([&] { return motion(m, y, in, moving, out); });
}

// Floats in a row of the padded rank.
int64_t hocp_padded(int64_t rank) { return padded(rank); }
}
