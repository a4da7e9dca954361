# emberd: `make run` serves, `make test` proves it.
CARGO ?= cargo
RUN_ARGS ?=

.PHONY: help run build test check docs setup setup-test setup-bench bench bench-full clean

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

check: setup ## format and lints alone, as a quick look before a commit
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

docs: setup ## the API documentation, in target/doc
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

setup: ## install the Debian packages that the build needs
	@sh deploy/install-packages.sh build

setup-test: ## install the Debian packages that the tests need
	@sh deploy/install-packages.sh build test

setup-bench: ## install the Debian packages that the benchmarks need
	@sh deploy/install-packages.sh build bench

clean: ## remove what was built
	$(CARGO) clean
