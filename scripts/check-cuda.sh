#!/usr/bin/env bash
# Compiles what NVIDIA GPUs run, on a machine that has none:
#   1. candle's kernels, by nvcc, and everything that is built with the feature `candle-cuda` (docs/float.md);
#   2. our own kernels, by NVRTC, for sm_80, sm_90 and sm_90a (docs/gpu.md).
# Nothing is linked against CUDA's libraries: they are not fetched, and the driver's come with a driver.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${HYPERION_FIXTURES:-$HOME/.cache/hyperion}

scripts/setup.sh cuda
command -v nvcc >/dev/null || export PATH="$cache/nvcc/bin:$PATH"
nvcc --version | grep release

# One architecture, and one compiler per two cores: some of candle's files take nvcc minutes and a gigabyte.
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
export CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$((($(nproc) + 1) / 2))}
printf 'check-cuda: candle-cuda for sm_%s\n' "$CUDA_COMPUTE_CAP"
cargo check --locked -p hyperion-node --features candle-cuda

printf 'check-cuda: our kernels\n'
cargo nextest run --locked -p hyperion-backend-cuda --test compile
