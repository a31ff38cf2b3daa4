# `make demo` runs the main job on embedded defaults; `make test` passes every test. Both set up what they need.

export HYPERION_FIXTURES ?= $(HOME)/.cache/hyperion
# Mesa's layer that chooses a device for a desktop asks for one, and complains where there is none.
export NODEVICE_SELECT := 1
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
