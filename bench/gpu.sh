#!/usr/bin/env bash
# What a machine's GPUs do: conformance on every device, bits against the CPU, rates. For a machine with a GPU and nothing
# else: no network, no Rust. Build where there is Rust, carry the checkout with the two binaries and the MiniLM folder:
#
#   cargo build --release -p hyperion-node && cargo build --release --manifest-path bench/Cargo.toml --bin gpu
#   bench/gpu.sh --bin DIR --minilm DIR [--out FILE] [--seconds 2] [--batches 256]
#
# DIR of --bin has `hyperion` and `gpu`. Without --out the result is bench/results/gpu-<vendor>-<date>.json; docs/gpu.md says
# how to read it. A device that computes other bits fails the script.
set -euo pipefail
cd "$(dirname "$0")/.."
bin= minilm= out= seconds=2 batches=256
while [ $# -gt 0 ]; do
    case $1 in
        --bin) bin=$2 ;;
        --minilm) minilm=$2 ;;
        --out) out=$2 ;;
        --seconds) seconds=$2 ;;
        --batches) batches=$2 ;;
        *) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift 2 || { echo "gpu.sh: $1 wants a value" >&2; exit 2; }
done
if [ ! -x "$bin/hyperion" ] || [ ! -x "$bin/gpu" ] || [ ! -e "$minilm/model.safetensors" ]; then
    echo "gpu.sh: --bin DIR needs hyperion and gpu, --minilm DIR the model; nothing was run" >&2
    exit 2
fi
export NODEVICE_SELECT=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "gpu.sh: conformance of every device" >&2
"$bin/hyperion" doctor | tee "$work/doctor" >&2
for device in $(grep -oE '^(cuda|wgpu):[0-9]+' "$work/doctor" || true); do
    grep -q "^$device *not usable" "$work/doctor" && continue
    echo "gpu.sh: $device" >&2
    "$bin/gpu" --minilm "$minilm" --digits fixtures/digits --device "$device" --seconds "$seconds" --batches "$batches" \
        >"$work/adapter-${device/:/-}.json"
done
# What the same machine does with PyTorch, if it has it.
python3 bench/peers/gpu_torch.py --seconds "$seconds" >"$work/torch" || rm -f "$work/torch"
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv >"$work/nvidia" 2>/dev/null || true

python3 - "$work" "$out" "$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)" <<'PY'
import datetime, json, pathlib, platform, sys

work, out, commit = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
text = lambda name: (work / name).read_text().splitlines() if (work / name).exists() else []
adapters = [json.loads(path.read_text()) for path in sorted(work.glob("adapter-*.json"))]
doctor = text("doctor")
nvidia = text("nvidia")
date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
vendor = "nvidia" if len(nvidia) > 1 else "other"
result = {
    "date": date,
    "commit": commit,
    "machine": platform.machine(),
    "doctor": doctor,
    "nvidia": nvidia,
    "adapters": adapters,
    "torch": json.loads(" ".join(text("torch"))) if text("torch") else None,
}
path = pathlib.Path(out or f"bench/results/gpu-{vendor}-{date}.json")
path.write_text(json.dumps(result, indent=2) + "\n")
print(f"gpu.sh: written to {path}", file=sys.stderr)
differ = [a["adapter"]["name"] for a in adapters if a["bits"]["stems_that_differ"]
          or a["bits"]["digits"]["differing_bytes"] or a["bits"]["minilm"]["differing_bytes"]]
if differ or any("FAILED" in line for line in doctor):
    sys.exit(f"gpu.sh: other bits than the CPU: {', '.join(differ) or 'see doctor'}")
PY
