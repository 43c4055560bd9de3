# The two commands of the README, and what they consist of.

SHELL := /bin/bash
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hearth
# RocksDB compiles through ccache where it is installed; scripts/setup.sh makes the links.
export PATH := $(CACHE)/compilers:$(PATH)
HEARTH_VENV ?= $(CACHE)/venv
HEARTH_TEST_PYTHON ?= $(HEARTH_VENV)/bin/python

# What `make run` passes to hearthd, such as ARGS="-n 0.0.0.0 -s rocksdb:/var/lib/hearth".
ARGS ?=

.PHONY: run build test

## Build everything it takes and run a name server on localhost:9090.
run:
	@scripts/check_port.sh $(ARGS)
	@$(MAKE) --no-print-directory build
	exec $(or $(CARGO_TARGET_DIR),target)/release/hearthd $(ARGS)

## Build hearthd and nsctl, optimised, into target/release.
build:
	scripts/setup.sh build
	scripts/cargo.sh build --release --locked --package hearth-node --package hearth-cli

## All checks and tests.
test: export HEARTH_VENV := $(HEARTH_VENV)
test: export HEARTH_TEST_PYTHON := $(HEARTH_TEST_PYTHON)
test:
	scripts/setup.sh test
	scripts/test.sh
