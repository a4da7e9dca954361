# emberd: `make run` serves, `make test` proves it.
CARGO ?= cargo
RUN_ARGS ?=
BENCH_ARGS ?=
SECONDS ?= 300
FUZZ_TARGETS ?= connection head chunked
SEEDS ?= 20000
SEED ?=

.PHONY: help run build test fuzz sim check docs setup setup-test setup-bench setup-bench-full bench bench-full \
	bench-build deb try-deb tarball clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: build ## set up, build the release binary and serve on 127.0.0.1:8080
	exec target/release/emberd $(RUN_ARGS)

build: setup ## set up and build the release binary
	$(CARGO) build --release -p emberd

test: setup-test ## set up and run every check and every test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	$(CARGO) test --workspace --no-fail-fast

sim: setup-test ## the worker and the drivers under SEEDS=n seeds, or under the one of SEED=n
	SEEDS=$(SEEDS) SEED=$(SEED) $(CARGO) test -p ember-uring --test sim
	SEEDS=$(SEEDS) SEED=$(SEED) $(CARGO) test -p emberd --lib worker::simulation

fuzz: setup ## fuzz the protocol, SECONDS of them for each target (300), from the kept corpus
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	@mkdir -p target/fuzz
	@for target in $(FUZZ_TARGETS); do \
		mkdir -p target/fuzz/$$target && \
		(cd http && RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target ../target/fuzz/$$target \
			fuzz/corpus/$$target -- -max_total_time=$(SECONDS) -max_len=4096 -timeout=20 \
			-print_final_stats=1) || exit 1; \
	done

check: setup ## format and lints alone, as a quick look before a commit
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

docs: setup ## the API documentation, in target/doc
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

setup: ## install the Debian packages that the build needs
	@sh deploy/install-packages.sh build

setup-test: ## install the Debian packages that the tests need
	@sh deploy/install-packages.sh build test

setup-bench: ## install and build what the quick benchmarks measure emberd beside
	@sh deploy/install-packages.sh build bench
	@sh bench/setup.sh quick

setup-bench-full: setup-bench ## the same for all of them
	@sh bench/setup.sh full

bench: setup-bench bench-build ## emberd beside other servers: about ten minutes
	target/release/ember-bench run --quick $(BENCH_ARGS); status=$$?; \
	target/release/ember-bench report && exit $$status

bench-full: setup-bench-full bench-build ## everything, in longer windows: hours
	target/release/ember-bench run --full $(BENCH_ARGS); status=$$?; \
	target/release/ember-bench report && exit $$status

bench-build: setup
	$(CARGO) build --release -p emberd -p ember-bench
	$(CARGO) build --release -p ember-uring --example pong
	$(CARGO) build --profile application -p ember --example hello --example tasks

deb: build ## a Debian package, in target/dist (the first time installs cargo-deb into target/tools)
	sh deploy/package.sh deb

try-deb: deb ## install, run, remove and purge the package in a root file system of its own (as root)
	sh deploy/debian/try.sh target/dist/emberd_*.deb

tarball: setup ## a tarball for any Linux with glibc, in target/dist; hwloc is linked in
	sh deploy/package.sh tarball

clean: ## remove what was built
	$(CARGO) clean
