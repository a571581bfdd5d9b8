// The layer as the caller describes it, and where its tensors lie.
#pragma once

#include "depthwise.h"
#include "product.h"

// Sizes and strides in elements. `p*` is the padding in front; the one behind follows from the output size.
extern "C" struct HocpProblem {
  int64_t n, t, h, w, c;                        // x
  int64_t to, ho, wo, o;                        // out
  int64_t r, kt, kh, kw;                        // components, taps
  int64_t st, sh, sw, pt, ph, pw, dt, dh, dw;   // stride, padding in front, dilation
  int64_t xn, xt, xh, xw, xc;                   // strides of x
  int64_t on, ot, oh, ow, oc;                   // strides of out
};

namespace hocp {

struct Geometry {
  i64 samples, in_channels, out_channels, rank, r;  // r: rank padded to whole vectors
  Axis t, h, w;
  explicit Geometry(const HocpProblem& p)
      : samples(p.n), in_channels(p.c), out_channels(p.o), rank(p.r), r(padded(p.r)),
        t{p.t, p.to, p.kt, p.st, p.pt, p.dt}, h{p.h, p.ho, p.kh, p.sh, p.ph, p.dh}, w{p.w, p.wo, p.kw, p.sw, p.pw, p.dw} {}
};

// A tensor [n, channels, t, h, w] in any memory order that keeps rows together: channels or columns have stride 1.
template <class T>
struct Tensor {
  T* data;
  i64 n, t, h, w, c;
  T* at(i64 sample, i64 frame, i64 row) const { return data + sample * n + frame * t + row * h; }
  bool channels_inside() const { return c == 1; }
  // Whether rows of width `width` follow each other as one matrix of positions.
  bool rows_joined(i64 width) const { return h == width * w; }
  Left left(i64 sample, i64 frame, i64 row) const {
    return channels_inside() ? Left{at(sample, frame, row), w, false} : Left{at(sample, frame, row), c, true};
  }
};

// The factors as the products and depthwise steps want them; taps_t is null without a temporal factor.
struct Packed {
  const float *in, *taps_t, *taps_hw, *out, *bias;
};

// buffer[rows * width, padded columns] = tensor rows times packed
inline void tensor_to_buffer(const Tensor<const float>& x, i64 sample, i64 frame, i64 row, i64 rows, i64 width,
                             i64 channels, const float* packed, float* buffer, i64 r) {
  const i64 step = x.rows_joined(width) ? rows : 1;
  for (i64 i = 0; i < rows; i += step)
    multiply(step * width, channels, r, x.left(sample, frame, row + i), packed, buffer + i * width * r, r);
}

// tensor rows = buffer[rows * width, r] times packed (+ bias); `tile` has rows * width * padded(channels) floats
inline void buffer_to_tensor(const float* buffer, i64 r, const float* packed, const float* bias, const Tensor<float>& out,
                             i64 sample, i64 frame, i64 row, i64 rows, i64 width, i64 channels, float* tile) {
  if (out.channels_inside() && out.rows_joined(width)) {
    multiply(rows * width, r, channels, {buffer, r, false}, packed, out.at(sample, frame, row), out.w, bias);
    return;
  }
  const i64 wide = padded(channels);
  multiply(rows * width, r, channels, {buffer, r, false}, packed, tile, wide, bias);
  const i64 step = out.rows_joined(width) ? rows : 1;
  for (i64 i = 0; i < rows; i += step) {
    const float* from = tile + i * width * wide;
    float* to = out.at(sample, frame, row + i);
    if (out.channels_inside()) {
      for (i64 j = 0; j < step * width; ++j) std::memcpy(to + j * out.w, from + j * wide, channels * sizeof(float));
    } else {
      transpose(from, wide, step * width, channels, to, out.c);
    }
  }
}

// [taps, rank] to [taps, r], zeros behind
inline void widen(const float* from, i64 taps, i64 rank, i64 r, float* to) {
  for (i64 k = 0; k < taps; ++k) {
    std::memcpy(to + k * r, from + k * rank, rank * sizeof(float));
    std::fill(to + k * r + rank, to + (k + 1) * r, 0.f);
  }
}

}  // namespace hocp
