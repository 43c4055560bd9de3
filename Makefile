# The two commands of the README, and their steps.

SHELL := /bin/bash
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hearth
# RocksDB is compiled through ccache if that is installed; scripts/setup.sh creates the links.
export PATH := $(CACHE)/compilers:$(PATH)
HEARTH_VENV ?= $(CACHE)/venv
HEARTH_TEST_PYTHON ?= $(HEARTH_VENV)/bin/python

# Arguments that `make run` passes to hearthd, such as ARGS="-n 0.0.0.0 -s rocksdb:/var/lib/hearth".
ARGS ?=

.PHONY: run build test

## Build hearthd and run a name server on localhost:9090.
run:
	@scripts/check_port.sh $(ARGS)
	@$(MAKE) --no-print-directory build
	exec $(or $(CARGO_TARGET_DIR),target)/release/hearthd $(ARGS)

## Build hearthd and nsctl, optimised, into target/release.
build:
	scripts/setup.sh build
	scripts/cargo.sh build --release --locked --package hearth-node --package hearth-cli

## Run all checks and tests.
test: export HEARTH_VENV := $(HEARTH_VENV)
test: export HEARTH_TEST_PYTHON := $(HEARTH_TEST_PYTHON)
test:
	scripts/setup.sh test
	scripts/test.sh
