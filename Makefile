# What one does with epmd-guard. `make help` lists it.

# Where Rust's own installer puts cargo, and where ip and nft are, for shells that do not look there.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin

# The tests on real hosts mostly wait for nodes: more of them than processors may run at one time.
TEST_THREADS ?= 3
# For each fuzz target.
FUZZ_SECONDS ?= 600
FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
# For `make differential`: how long, and the seed of its cases, of the clock if not set.
SECONDS ?= 3600
SEED ?=
# `--locked` makes cargo fail where Cargo.lock does not fit Cargo.toml; .ci/run sets it.
LOCKED ?=
# For `make run`; see scripts/run.sh.
export ALLOW PORTS

.DEFAULT_GOAL := help
.PHONY: help build run demo prerequisites test lint bench fuzz differential soak judge interop clean

help: ## List these commands
	@echo 'make COMMAND, where COMMAND is one of:'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'Settings, as in `make run ALLOW="192.0.2.8 h2.example.net"`:'
	@echo '  ALLOW           run: who is let in besides this machine; nobody if not set'
	@echo '  PORTS           run: the distribution ports; those of the registered nodes if not set'
	@echo '  TEST_THREADS    test: how many tests run at one time; $(TEST_THREADS)'
	@echo '  FUZZ_SECONDS    fuzz: for each target; $(FUZZ_SECONDS)'
	@echo '  SECONDS, SEED   differential: how long, $(SECONDS), and from which seed; the clock if not set'

build: ## Build the release binary, target/release/epmd-guard
	cargo build $(LOCKED) --release --bin epmd-guard

run: ## Run the guard on this machine, as its epmd, until Ctrl-C
	@exec scripts/run.sh

demo: prerequisites ## Show an ejabberd cluster behind guards, and what a stranger gets (root)
	@echo "Building the release binary and the demonstration."
	@cargo build $(LOCKED) --release --quiet --bin epmd-guard --example demo
	@cargo run $(LOCKED) --release --quiet --example demo

prerequisites: ## Install what the tests need and this machine lacks (Debian packages; root)
	@scripts/prerequisites.sh

test: prerequisites lint ## Check everything: lint, then all tests, those on real hosts too (root)
	RUST_TEST_THREADS=$(TEST_THREADS) cargo test $(LOCKED) --no-fail-fast

# The long tests and those of other releases are no test target to `--all-targets`, because `cargo test` must not run
# them. Private items are documented too: what links to them is written for those who read the source.
lint: ## Check formatting, lints, documentation, and the licences and sources of dependencies
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy $(LOCKED) --all-targets -- -D warnings
	cargo clippy $(LOCKED) --test soak --test judge --test interop -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc $(LOCKED) --no-deps --document-private-items
	@if command -v cargo-deny >/dev/null; then \
		set -x; cargo deny --log-level error check bans licenses sources; \
	else \
		echo 'SKIPPED: cargo deny is not installed (cargo install --locked cargo-deny)'; \
	fi

bench: ## Measure, beside the installed epmd and haproxy; the flood needs root
	cargo bench $(LOCKED) --bench '*'

# New inputs go to a folder of their own: the committed corpus grows only by hand.
fuzz: ## Fuzz each target for FUZZ_SECONDS (nightly Rust and cargo-fuzz)
	@command -v cargo-fuzz >/dev/null || { echo 'cargo-fuzz is missing: cargo install --locked cargo-fuzz' >&2; exit 1; }
	@cargo +nightly --version >/dev/null 2>&1 || { echo 'nightly Rust is missing: rustup toolchain install nightly' >&2; exit 1; }
	@set -e; for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/target/corpus/$$target fuzz/corpus/$$target; \
		echo "fuzzing $$target for $(FUZZ_SECONDS) seconds"; \
		cargo +nightly fuzz run $$target $(CURDIR)/fuzz/target/corpus/$$target $(CURDIR)/fuzz/corpus/$$target \
			-- -max_total_time=$(FUZZ_SECONDS); \
	done

# `make test` has a minute of it.
differential: prerequisites ## Compare the epmd with the installed one for SECONDS (root)
	CI=true EPMD_DIFF_SECONDS=$(SECONDS) EPMD_DIFF_SEED=$(SEED) \
		cargo test $(LOCKED) --test differential the_same_bytes -- --nocapture

soak: prerequisites ## Run the long tests, about ten minutes each (root)
	cargo test $(LOCKED) --test soak -- --nocapture --test-threads=1
	EPMD_GUARD_TUNNEL_MIB=1024 cargo test $(LOCKED) --test e2e what_is_sent_both_ways_at_once

judge: ## Ask testssl.sh about the port of the tunnel, a minute or two (root)
	@scripts/prerequisites.sh judge
	cargo test $(LOCKED) --test judge -- --nocapture

# Debian's roots stay where scripts/interop-roots.sh keeps them.
interop: ## Run nodes of OTP 27 and 29 and of this machine's OTP through guards (fetches Debian; root)
	@scripts/interop-roots.sh
	RUST_TEST_THREADS=$(TEST_THREADS) cargo test $(LOCKED) --test interop

clean: ## Remove what was built
	cargo clean
	rm -rf fuzz/target fuzz/artifacts
