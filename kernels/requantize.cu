// Accumulators become activations. Definition: crates/ops/src/requantize.rs.

/// What happens to the accumulators of a linear layer: scales, a bias, and the step after it if that is fused.
struct Epilogue {
    i32* out;
    i64 out_stride;
    /// Step of each row.
    const u32* steps;
    /// Step and bias of each channel.
    const u32* scales;
    /// Where activated outputs go, or nothing.
    i32* active;
    i64 active_stride;
    ActivationTable table;
    /// What is added to the outputs and where the sum goes, or nothing.
    i32* sum;
    i64 sum_stride;
    const i32* other;
    i64 other_stride;
};

/// One output: `low` is the sum of low halves where codes have 15 bits.
template <bool FINE>
DEVICE void finish(const Epilogue& to, i64 row, i64 channel, i32 high, i32 low) {
    u32 step = to.steps[row], scale = to.scales[2 * channel];
    u32 multiplier = step_mantissa(step) * step_mantissa(scale);
    i32 shift = step_exponent(scale) - step_exponent(step);
    i64 y = req(high, multiplier, shift);
    if (FINE) {
        y = sat(y + req(low, multiplier, shift + 7));
    }
    i32 out = sat(y + (i32)to.scales[2 * channel + 1]);
    to.out[row * to.out_stride + channel] = out;
    if (to.active) {
        to.active[row * to.active_stride + channel] = activated(to.table, out);
    }
    if (to.sum) {
        to.sum[row * to.sum_stride + channel] = sat((i64)out + to.other[row * to.other_stride + channel]);
    }
}

struct RequantizeParams {
    /// Accumulators `[rows, channels]`, and those of low halves.
    const i32* high;
    const i32* low;
    i64 channels;
    Epilogue to;
};

KERNEL(requantize, 256, RequantizeParams) {
    i64 channel = (i64)blockIdx.y * blockDim.x + threadIdx.x, row = blockIdx.x;
    if (channel >= p.channels) {
        return;
    }
    i64 at = row * p.channels + channel;
    if (p.low) {
        finish<true>(p.to, row, channel, p.high[at], p.low[at]);
    } else {
        finish<false>(p.to, row, channel, p.high[at], 0);
    }
}
