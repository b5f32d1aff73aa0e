# The commands of the README. PYTHON is only used to make .venv; everything else runs from there.
PYTHON ?= python3
ENVIRONMENT ?= dev
# Some shells switch bytecode off; every synth would then compile aws-cdk-lib again.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup setup-local setup-dev local local-down local-status synth lint test types suites benchmark snapshots diagram constraints images instances clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: ## Prepare .venv for `cdk synth` and `cdk deploy`
	@$(PYTHON) tools/bootstrap.py deploy

setup-local:
	@$(PYTHON) tools/bootstrap.py local

setup-dev:
	@$(PYTHON) tools/bootstrap.py dev

local: setup-local ## Deploy to the embedded AWS and ask the model something
	@python -m modelzone local up --environment $(ENVIRONMENT)

local-status: ## Say what runs and where
	@python -m modelzone local status

local-down: ## Stop the embedded AWS and everything in it
	@test -x .venv/bin/python && python -m modelzone local down || true

synth: setup ## Write the CloudFormation templates to cdk.out
	@cdk synth --quiet -c environment=$(ENVIRONMENT)

lint: setup-dev ## Style and types
	ruff check .
	ruff format --check .
	@$(MAKE) --no-print-directory types

# Types are checked beside the suites, which often wait: two minutes less than one after the other.
test: setup-dev ## Everything: style, types, all test suites
	ruff check .
	ruff format --check .
	@$(MAKE) --no-print-directory --jobs=2 suites types

types:
	mypy
	pyright

suites:
	python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=25

benchmark: setup-dev ## Times of planning, logs, synth, artifacts, and of the gateway beside other proxies
	python benchmarks/planning.py
	python benchmarks/doctor_log.py
	python benchmarks/synth.py
	python benchmarks/artifacts.py
	python benchmarks/gateway_streams.py
	python -m benchmarks.gateway

snapshots: setup-dev ## Accept the templates as they are now
	python -m pytest tests/infrastructure --snapshot-update

diagram: ## Draw docs/architecture.svg (needs Graphviz)
	dot -Tsvg docs/architecture.dot -o docs/architecture.svg

constraints: setup-dev ## Resolve the pins again after a change of requirements*.txt
	python -m uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
	  --no-emit-find-links -o constraints.txt \
	  requirements.txt requirements-node.txt requirements-local.txt requirements-dev.txt

images: setup-dev ## Refresh the image table from the SageMaker SDK (1 GB, in an environment of its own)
	python -m venv .build/operator
	python -m uv pip install --quiet --python .build/operator/bin/python -r requirements.txt -r requirements-operator.txt
	.build/operator/bin/python -m modelzone.engines.refresh_images

instances: setup-dev ## Refresh the instance table from EC2 (needs credentials)
	python -m modelzone.hardware.refresh

clean: local-down ## Remove everything that the commands made
	rm -rf .venv .build .modelzone node_modules cdk.out
