# `make up` starts a cluster on this machine, `make test` runs every test; both install what they need first.
# Flags for `glint up` go in ARGS: make up ARGS='--model tiny --groups 2'

CARGO ?= cargo
ARGS ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)
export RUST_BACKTRACE ?= 0

.PHONY: up build test fmt lint docs bench bench-engine bench-loadtest bench-loadtest-streams bench-loadtest-llama clean

up: build
	@exec $(TARGET)/release/glint up $(ARGS)

build:
	@tools/setup build
	@$(CARGO) build --release --locked --bin glint

test:
	@tools/setup test
	@tools/test $(ARGS)

fmt:
	@$(CARGO) fmt --all --check

lint:
	@$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

docs:
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked --quiet
	@python3 tools/check-docs.py

# Each bench measures both sides in one run, prints the ratio last, and exits 0 only when its bound holds.
bench: bench-engine bench-loadtest bench-loadtest-streams bench-loadtest-llama

bench-engine: build
	@tools/setup $@
	@tools/bench/engine $(ARGS)

bench-loadtest: build
	@tools/setup $@
	@tools/bench/loadtest $(ARGS)

bench-loadtest-streams: build
	@tools/setup $@
	@tools/bench/loadtest-streams $(ARGS)

bench-loadtest-llama: build
	@tools/setup $@
	@tools/bench/loadtest-llama $(ARGS)

clean:
	@$(CARGO) clean
