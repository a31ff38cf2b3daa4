# `make demo` runs the main job on embedded defaults; `make test` passes every test. Both set up what they need.

export HYPERION_FIXTURES ?= $(HOME)/.cache/hyperion
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: demo test clean

demo:
	scripts/setup.sh
	scripts/demo.sh

test:
	scripts/setup.sh tests
	cargo xtask ci

clean:
	cargo clean
	rm -rf contracts/node_modules
