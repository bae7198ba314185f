# One verb per action. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help run build tools test check fmt clippy deny tidy simulate bench bench-java golden clean

# Tests run optimised (recovery, kills and a million messages take too long otherwise), with assertions and overflow checks on.
PROFILE := verify
DATA := ./data
# What `simulate` runs.
SEEDS := 1000
FIRST_SEED := 0
# What `bench-java` compares: names or files, see `ringmq-bench list`.
WORKLOADS := durable steady

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## */\1\t/p' $(MAKEFILE_LIST) | expand -t 12

run: build ## build, start broker and name server with their data in ./data (DATA=…, ARGS=…)
	@exec target/release/ringmq serve --data $(DATA) $(ARGS)

build: ## build the programs in release
	cargo build --release --workspace --bins

tools: ## install what the tests need besides Rust and a C compiler, or name it
	@.ci/tools

test: tools ## install or name what is missing, build, run all tests, those with real clients too
	cargo test --profile $(PROFILE) --workspace --no-run
	cargo test --profile $(PROFILE) --workspace

check: fmt clippy deny test ## what a commit passes

fmt: ## formatting is rustfmt's
	cargo fmt --all --check

clippy: ## lints, warnings denied
	cargo clippy --profile $(PROFILE) --workspace --all-targets -- -D warnings

deny: ## licences and advisories of dependencies, when cargo-deny is installed
	@if command -v cargo-deny >/dev/null; then cargo deny check; else echo 'cargo-deny is not installed: skipped'; fi

tidy: ## the checks that need no broker: import law, SAFETY lines, heads, documents
	cargo test --profile $(PROFILE) --test tidy

simulate: ## histories of a shard from seeds, with crashes and failing disks (SEEDS=n, FIRST_SEED=m, ARGS=…)
	@cargo run --quiet --profile $(PROFILE) -p simulator --features deliberate-bugs -- \
	    --seeds $(SEEDS) --first-seed $(FIRST_SEED) $(ARGS)

bench: build ## drive a RingMQ of its own for a few seconds and print the figures (ARGS=…)
	@bench-harness/run $(ARGS)

bench-java: build ## RingMQ and the stock Java broker in turn, results into bench-harness/results (WORKLOADS=…, ARGS=…)
	@target/release/ringmq-bench compare $(WORKLOADS:%=--workload %) --label ringmq-java \
	    --peer ringmq=bench-harness/peers/ringmq --peer java=bench-harness/peers/rocketmq-java $(ARGS)

golden: tools ## capture the golden bytes anew from stock Java clients
	tests/golden/capture/capture.sh

clean: ## remove what was built, not the data
	cargo clean
