# Every target makes or repairs .venv first: `make env BACKEND=cpu|gpu PYTHON=...`, see requirements/environment.sh.
.DEFAULT_GOAL := help
.PHONY: help env demo quick test long faults multihost lint format build pins clean

python := .venv/bin/python
ARGS :=
apart := slow and not gpu and not faults and not long and not multihost

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

env: ## make .venv, pinned, for CPU or GPU by what the machine has (BACKEND=cpu|gpu overrides)
	@bash requirements/environment.sh

demo: env ## run the whole job on the playground: no GPU, no network (more options: ARGS="--output DIR")
	@.venv/bin/ossft demo $(ARGS)

# Nothing is downloaded or reported while testing.
quick test long faults multihost: export HF_HUB_OFFLINE = 1
quick test long faults multihost: export VLLM_NO_USAGE_STATS = 1
quick test long faults multihost: export DO_NOT_TRACK = 1
quick test long faults multihost: export RAY_USAGE_STATS_ENABLED = 0
quick: env ## run the tests that need neither Ray nor an engine, on all cores: the inner loop
	@OSSFT_QUICK=1 $(python) -m pytest -n auto -m "not ray and not engine and not $(apart)" $(ARGS)

test: env ## run the tests that need no GPU and no patience (others: ARGS="-m slow", ARGS="-m gpu")
	@$(python) -m pytest -m "not $(apart)" $(ARGS)

long: env ## run the proofs that take minutes each, which `make test` leaves out
	@$(python) -m pytest -m long $(ARGS)

faults: env ## kill -9 parts of a real run at twenty random moments, for some ten minutes
	@$(python) -m pytest -m faults --capture=no $(ARGS)

multihost: env ## three hosts in network namespaces, some of which die (root, iproute2, openssh-server, rsync)
	@$(python) -m pytest -m multihost $(ARGS)

lint: env ## check style, types and shell scripts
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	.venv/bin/shellcheck .ci/run $$(git ls-files '*.sh')

format: env ## mend what can be mended by itself
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

build: env ## make the wheel and the source archive in dist/
	rm -rf dist
	$(python) -m build --no-isolation
	@$(python) -m zipfile --list dist/*.whl | grep -q 'ossft_ray/playground/policy/.*\.safetensors' \
		|| { echo "error: the wheel lacks ossft_ray/playground/policy" >&2; exit 1; }

pins: env ## recompile requirements/cpu.txt and gpu.txt (to the newest versions: ARGS=--upgrade)
	bash requirements/environment.sh pins $(ARGS)

clean: ## remove what builds and checks leave behind (.venv and runs/ stay)
	rm -rf dist .mypy_cache .ruff_cache .pytest_cache
	find ossft_ray tests -name __pycache__ -prune -exec rm -rf {} +
