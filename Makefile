# `make demo` runs the main job on embedded defaults; `make test` passes every test; `make check-cuda`
# compiles what NVIDIA GPUs run, without having one. Each sets up what it needs.

export HYPERION_FIXTURES ?= $(HOME)/.cache/hyperion
# Mesa's layer that chooses a device for a desktop asks for one, and complains where there is none.
export NODEVICE_SELECT := 1
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: demo test check-cuda clean

demo:
	scripts/setup.sh
	scripts/demo.sh

test:
	scripts/setup.sh tests
	cargo xtask ci

check-cuda:
	scripts/check-cuda.sh

clean:
	cargo clean
	rm -rf contracts/node_modules
