#!/usr/bin/env bash
# The main job on embedded defaults: a real model, a node, receipts checked with the node gone, and a contract that pays.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${HYPERION_FIXTURES:-$HOME/.cache/hyperion}
cargo build --release --package hyperion-node
exec "${CARGO_TARGET_DIR:-target}/release/hyperion" demo --minilm "$cache/minilm"
