// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// Reads tensors as INFERENCE returns them: elements little-endian, row-major.
library Hyperion {
    /// Two vectors that cannot be multiplied: different lengths, or no whole number of 16 elements.
    error VectorLengths(uint256 left, uint256 right);

    /// Element `i` of a little-endian i32 tensor.
    function i32(bytes memory t, uint256 i) internal pure returns (int32 v) {
        require(t.length >= 4 * i + 4, "tensor");
        assembly ("memory-safe") {
            let w := shr(224, mload(add(add(t, 32), mul(4, i))))
            w := or(shl(8, and(w, 0x00ff00ff)), and(shr(8, w), 0x00ff00ff))
            v := signextend(3, or(shl(16, and(w, 0xffff)), shr(16, w)))
        }
    }

    /// Index of the largest element; ties go to the lowest index, as in the engine.
    function argmax(bytes memory t) internal pure returns (uint256 best) {
        int32 top = i32(t, 0);
        for (uint256 i = 1; i < t.length / 4; ++i) {
            int32 v = i32(t, i);
            if (v > top) (best, top) = (i, v);
        }
    }

    /// What comes before the first element `id` of a u32 tensor; all of it where there is none. Shortens `t` itself.
    function before(bytes memory t, uint32 id) internal pure returns (bytes memory) {
        for (uint256 i = 0; i < t.length / 4; ++i) {
            if (uint32(i32(t, i)) != id) continue;
            assembly ("memory-safe") {
                mstore(t, mul(4, i))
            }
            break;
        }
        return t;
    }

    /// Dot product of two i16 vectors whose length is a multiple of 16. No sum of fewer than 2^224 products overflows.
    function dot16(bytes memory left, bytes memory right) internal pure returns (int256 sum) {
        if (left.length != right.length || left.length % 32 != 0) revert VectorLengths(left.length, right.length);
        assembly ("memory-safe") {
            let low := 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff
            let end := add(add(left, 32), mload(left))
            let y := add(right, 32)
            for { let x := add(left, 32) } lt(x, end) { x := add(x, 32) } {
                // Sixteen elements a word; swapping the bytes of each makes them big-endian.
                let a := mload(x)
                let b := mload(y)
                a := or(shl(8, and(a, low)), and(shr(8, a), low))
                b := or(shl(8, and(b, low)), and(shr(8, b), low))
                for { let lane := 0 } lt(lane, 16) { lane := add(lane, 4) } {
                    sum := add(sum, mul(signextend(1, a), signextend(1, b)))
                    sum := add(sum, mul(signextend(1, shr(16, a)), signextend(1, shr(16, b))))
                    sum := add(sum, mul(signextend(1, shr(32, a)), signextend(1, shr(32, b))))
                    sum := add(sum, mul(signextend(1, shr(48, a)), signextend(1, shr(48, b))))
                    a := shr(64, a)
                    b := shr(64, b)
                }
                y := add(y, 32)
            }
        }
    }

    /// Cosine of two unit vectors in Q15, as embedding models return them: 32768 is 1. Rounded down.
    function cosineQ15(bytes memory left, bytes memory right) internal pure returns (int256) {
        return dot16(left, right) >> 15;
    }
}
