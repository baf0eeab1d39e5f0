# `make` alone prints what there is. Everything installs into .venv; nothing else is touched.

PORT ?= 8080
HOST ?= 127.0.0.1
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
UV := $(BIN)/uv

.DEFAULT_GOAL := help
.PHONY: help run test check lint types contracts docs wheel dist setup_knative build deploy forward clean remove_knative \
	test-cluster bench-core bench-cold bench-cluster bench-edge scorecard scorecard-edge scorecard-cluster soak clean-venv format

help: ## print this list
	@awk -F ':.*## ' '/^[a-z_-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/installed ## serve on 127.0.0.1:8080 and show one real answer (PORT=, HOST=, ONCE=1 to stop after it)
	@$(BIN)/ssis serve --host $(HOST) --port $(PORT) --log-level warning --no-access-log --try $(if $(ONCE),--once)

test: .venv/developing ## every test that needs neither GPU nor cluster
	@$(BIN)/pytest $(PYTEST_ARGS)

check: lint types contracts docs wheel ## everything else that must hold

lint: .venv/developing ## style and common mistakes (ruff)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: .venv/developing ## static types (mypy, strict)
	@$(BIN)/mypy

contracts: .venv/developing ## which room may know which (import-linter)
	@$(BIN)/lint-imports

docs: .venv/developing ## generated pages are up to date, links and examples hold
	@$(BIN)/pytest -q tests/test_docs.py -p no:randomly

wheel: .venv/developing ## the built wheel installs in an empty environment and answers
	@sh tools/check_wheel.sh

dist: .venv/developing ## wheel and sdist into dist/
	@$(UV) build -q --out-dir dist && ls dist

# On Kubernetes, with whatever cluster kubectl's current context names: docs/kubernetes.md.
CLUSTER_SETTINGS := KUBECTL KNATIVE_VERSION KNATIVE_MANIFESTS DOMAIN BUILDER BASE IMAGE IMAGE_LOAD PUSH NAMESPACE OVERLAY \
	KEYS RESET_CONFIG VIA ALL FORCE KOURIER CLUSTER_EXEC TEST_IMAGE
export $(CLUSTER_SETTINGS)
forward: export PORT := $(PORT)
forward: export ADDRESS := $(HOST)

setup_knative: .venv/installed ## Knative and Kourier into the cluster (KNATIVE_VERSION=, KNATIVE_MANIFESTS=dir, DOMAIN=, KOURIER=1)
	@$(BIN)/python tools/kubernetes $@

build: .venv/installed ## the container image (IMAGE=, BASE=, BUILDER=, IMAGE_LOAD=command, PUSH=1)
	@$(BIN)/python tools/kubernetes $@

deploy: .venv/installed ## the dispatcher into the cluster (OVERLAY="mig ha", NAMESPACE=, KEYS=off)
	@$(BIN)/python tools/kubernetes $@

forward: .venv/installed ## the cluster's dispatcher at localhost:8080 (PORT=, VIA=gateway)
	@$(BIN)/python tools/kubernetes $@

clean: .venv/installed ## the dispatcher out of the cluster (ALL=1: its servers, keys and configuration, too)
	@$(BIN)/python tools/kubernetes $@

remove_knative: .venv/installed ## what setup_knative installed out of the cluster
	@$(BIN)/python tools/kubernetes $@

test-cluster: .venv/developing ## the tests that need a cluster: tests/cluster/README.md (CLUSTER_EXEC=)
	@sh tests/cluster/run.sh $(PYTEST_ARGS)

format: .venv/developing ## format the code
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format -q .

bench-core: .venv/installed ## what one event costs the fleet, against its size
	@$(BIN)/python bench/core.py

bench-cold: .venv/developing ## how long a cold start takes, and how much of it is ours
	@$(BIN)/python bench/cold.py

bench-cluster: .venv/developing ## what a large cluster costs the dispatcher (1,000 nodes, 5,000 servers)
	@$(BIN)/python -m bench.cluster

bench-edge: .venv/developing ## our edge beside Envoy, HAProxy and the LLM routers, in one run
	@$(BIN)/python -m bench.edge $(BENCH_ARGS)

scorecard: ## the rows of the scorecard that are about load: both halves
	@$(MAKE) --no-print-directory --keep-going --jobs=1 scorecard-edge scorecard-cluster

scorecard-edge: .venv/developing ## its half that is about the edge
	@$(BIN)/python -m bench.edge.scorecard $(BENCH_ARGS)

scorecard-cluster: .venv/developing ## its half that is about a cluster
	@$(BIN)/python -m bench.cluster.scorecard $(BENCH_ARGS)

soak: .venv/developing ## an hour of mixed load and faults (BENCH_ARGS="--minutes 3")
	@$(BIN)/python -m bench.edge.soak $(BENCH_ARGS)

clean-venv: ## remove the environment
	@rm -rf .venv

# The environment. A missing package is named before anything is downloaded.

.venv/bin/uv:
	@PYTHON='$(PYTHON)' sh tools/prerequisites.sh
	@echo 'Making .venv with $(PYTHON) …'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

.venv/installed: $(UV) pyproject.toml uv.lock
	@echo 'Installing (once; about 60 MB) …'
	@$(UV) sync --frozen --no-dev --inexact
	@touch $@

.venv/developing: $(UV) pyproject.toml uv.lock
	@$(UV) sync --frozen --inexact --group dev --extra gpu --extra k8s --quiet
	@touch $@ .venv/installed
