# `make` prints the verbs. Everything is installed into a cache outside the checkout:
# $INTERNLM2_CACHE, else $XDG_CACHE_HOME/internlm2, else ~/.cache/internlm2.
SHELL := /bin/sh
.DEFAULT_GOAL := help
export PYTHONPATH := $(CURDIR)/operator:$(CURDIR)/trainer:$(CURDIR)
export PYTHONDONTWRITEBYTECODE := 1
# Resolved once, by the first verb that needs it.
PYTHON_ENV = $(or $(VENV),$(eval VENV := $(shell lab/bootstrap.sh))$(VENV),$(error the Python environment is not there, see above))
BIN = $(PYTHON_ENV)/bin
RUN = PATH="$(BIN):$$PATH" $(BIN)/python

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: tools ## a real Kubernetes loses a node and a GPU; the job heals itself (30 min cold, 8 warm)
	@$(RUN) -m lab demo

.PHONY: chaos
chaos: tools ## 100 faults in a row on one job, nobody helping: FAULTS=100 SEED="1 2" (about 1 h a seed), into bench/results/
	@$(RUN) -m lab chaos --faults $(or $(FAULTS),100) --seed $(or $(SEED),1)

.PHONY: test lint test-unit test-api test-trainer test-nodecheck test-e2e
test: ## everything CI runs: lint, unit, api, trainer, node check, e2e (55 min cold, 40 warm)
	@$(MAKE) --no-print-directory lint test-unit test-api test-trainer test-nodecheck test-e2e

lint: tools ## ruff, mypy, import-linter, generated files fresh, docs, helm lint
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PATH="$(BIN):$$PATH" $(BIN)/lint-imports
	@$(RUN) -m internlm2_operator.api --check
	@$(RUN) -m dashboards --check
	@$(MAKE) --no-print-directory docs
	@$(RUN) -m lab helm lint --strict charts/internlm2-operator
	@$(RUN) -m lab.install_manifest --check

test-unit: ## pure decisions, milliseconds each
	@$(RUN) -m pytest tests/unit

test-api: tools ## the CRD and the operator against a real kube-apiserver
	@$(RUN) -m pytest tests/api

test-trainer: tools ## real ranks on gloo, a real S3 server
	@$(RUN) -m pytest tests/trainer --ignore=tests/trainer/check

test-nodecheck: tools ## nodes with and without faults check each other over gloo; mostly waiting for those that hang
	@$(RUN) -m pytest tests/trainer/check

test-e2e: tools ## the whole lab: real kubelets, torchrun, Prometheus, S3
	@$(RUN) -m lab deps --browser
	@$(RUN) -m lab up && $(RUN) -m lab enter -- $(BIN)/python -m pytest tests/e2e

.PHONY: docs
docs: ## the pages of docs/ as a site in out/site; a link that leads nowhere ends it
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: fmt generate train-local bench bench-trainer bench-simulate bench-operator bench-health bench-install gpu tools
fmt: ## format and fix what ruff can
	@$(BIN)/ruff check --fix-only . && $(BIN)/ruff format .

generate: tools ## write the CRD, its pages, the dashboards, and manifests/install.yaml
	@$(RUN) -m internlm2_operator.api && $(RUN) -m dashboards && $(RUN) -m lab.install_manifest

train-local: ## train internlm2-tiny in one process, no Kubernetes, no root
	@$(RUN) -m lab.local out/local

bench: tools ## latencies of each arrow over node-kills and process-kills, into bench/results/
	@$(RUN) -m lab up && $(RUN) -m lab enter -- $(BIN)/python -m bench.recovery

gpu: ## parity, speed and memory on a CUDA device, into bench/results/ (PYTHON=python3: with that one's torch)
	@$(or $(PYTHON),$(RUN)) -m pytest --override-ini addopts=--import-mode=importlib tests/gpu
	@$(or $(PYTHON),$(RUN)) -m bench.gpu

bench-trainer: ## speed, checkpoints, weights and start of the trainer against their bars, into bench/results/
	@$(RUN) -m bench

bench-simulate: ## 54 days of Llama 3's faults on 16,384 simulated GPUs, into bench/results/ (15 min)
	@$(RUN) -m bench.simulate

bench-operator: tools ## the operator at 5,000 nodes and 10,000 pods against its targets, into bench/results/ (12 min)
	@$(RUN) -m bench.operator

bench-health: tools ## from a fault to verdict, cordon and next step against their targets, into bench/results/ (2 h)
	@$(RUN) -m bench.health --only verdicts paths
	@$(RUN) -m lab up && $(RUN) -m lab enter -- $(BIN)/python -m bench.health --only lab default-timings

bench-install: tools ## from helm install to the first step of the quick start, into bench/results/ (4 min)
	@$(RUN) -m lab up && $(RUN) -m lab enter -- $(BIN)/python -m bench.install

tools: ## install what the lab needs: Debian packages, Go, Kubernetes, S3 server, helm
	@$(RUN) -m lab deps && $(RUN) -m lab build

.PHONY: lab-up lab-down
lab-up: tools ## start the lab: a real Kubernetes with 4 nodes on this machine
	@$(RUN) -m lab up

lab-down: ## stop the lab and leave nothing behind
	@$(RUN) -m lab down
