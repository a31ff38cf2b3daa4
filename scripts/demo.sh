#!/usr/bin/env bash
# The main job on embedded defaults: a node, a real model, a receipt, and its check with the node gone.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${HYPERION_FIXTURES:-$HOME/.cache/hyperion}
cargo build --quiet --release --package hyperion-node
hyperion=${CARGO_TARGET_DIR:-target}/release/hyperion
work=$(mktemp -d)
trap 'kill "${node:-0}" 2>/dev/null || true; rm -rf "$work"' EXIT

"$hyperion" model import "$cache/minilm" --out "$work/minilm.hyp"
"$hyperion" run --dev --model "minilm=$work/minilm.hyp" --set grpc.listen=127.0.0.1:18001 \
    --set http.listen=127.0.0.1:18000 --set metrics.listen=127.0.0.1:18002 --set trace.filter=warn >"$work/node.txt" &
node=$!
for _ in $(seq 100); do
    grep -q '^ready' "$work/node.txt" && break
    sleep 0.1
done
cat "$work/node.txt"
key=$(sed -n 's/^log key //p' "$work/node.txt")

echo
"$hyperion" infer minilm --text "The same bytes everywhere." --node http://127.0.0.1:18001 --receipt "$work/text.json"
"$hyperion" infer digits --input fixtures/digits/seven.i32 --node http://127.0.0.1:18001 --receipt "$work/seven.json"
kill "$node"
wait "$node" || true

echo
echo "The node is gone; the receipts speak for themselves:"
"$hyperion" verify "$work/text.json" --log-key "$key"
"$hyperion" verify "$work/seven.json" --log-key "$key" --recompute
