# Most targets create or repair .venv first. For `make env BACKEND=cpu|gpu PYTHON=...` see requirements/environment.sh.
.DEFAULT_GOAL := help
.PHONY: help env demo quick test long faults multihost lint format build pins clean

python := .venv/bin/python
ARGS :=
apart := slow and not gpu and not faults and not long and not multihost
# Starting Ray, vLLM or DeepSpeed keeps one core busy, so two files of such tests run at a time, each with its own Ray.
pairs := -n 2 --dist loadfile --no-loadscope-reorder

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

env: ## create .venv from the pins, for GPU if the machine has one, else for CPU (BACKEND=cpu|gpu overrides)
	@bash requirements/environment.sh

demo: env ## run all stages on the playground, without a GPU or a network (options: ARGS="--output DIR")
	@.venv/bin/ossft demo $(ARGS)

# Tests download nothing and report nothing.
quick test long faults multihost: export HF_HUB_OFFLINE = 1
quick test long faults multihost: export VLLM_NO_USAGE_STATS = 1
quick test long faults multihost: export DO_NOT_TRACK = 1
quick test long faults multihost: export RAY_USAGE_STATS_ENABLED = 0
# Hundreds of processes import the package, so its compiled files are kept, whatever the environment says.
quick test long faults multihost: export PYTHONDONTWRITEBYTECODE =
quick: env ## run the fast tests that need neither Ray nor an engine, on all cores: the inner loop
	@$(python) -m pytest -n auto -m "not thorough and not ray and not engine and not $(apart)" $(ARGS)

# Tests that need neither Ray nor an engine run first and on all cores.
ifeq ($(strip $(ARGS)),)
test: env ## run the tests, except those that take long or need a GPU (ARGS="-m slow" or "-m gpu" runs those)
	@$(python) -m pytest -n auto -m "not ray and not engine and not $(apart)"
	@$(python) -m pytest $(pairs) -m "(ray or engine) and not $(apart)"
else
test: env
	@$(python) -m pytest -m "not $(apart)" $(ARGS)
endif

long: env ## run the tests of half a minute or more, which `make test` leaves out
	@$(python) -m pytest $(pairs) -m long $(ARGS)

faults: env ## kill parts of real runs at random moments; takes ten minutes
	@$(python) -m pytest -m faults --capture=no $(ARGS)

multihost: env ## run a cluster of three network namespaces and let some fail (needs root, iproute2, sshd, rsync)
	@$(python) -m pytest -m multihost $(ARGS)

lint: env ## check style, types and shell scripts
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	.venv/bin/shellcheck .ci/run $$(git ls-files '*.sh')

format: env ## fix style where ruff can
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

build: env ## build the wheel and the source archive in dist/
	rm -rf dist
	$(python) -m build --no-isolation
	@$(python) -m zipfile --list dist/*.whl | grep -q 'ossft_ray/playground/policy/.*\.safetensors' \
		|| { echo "error: the wheel lacks ossft_ray/playground/policy" >&2; exit 1; }

pins: env ## recompile requirements/cpu.txt and gpu.txt (ARGS=--upgrade: to the newest versions)
	bash requirements/environment.sh pins $(ARGS)

clean: ## remove the leftovers of builds and checks, but not .venv and runs/
	rm -rf dist .mypy_cache .ruff_cache .pytest_cache
	find ossft_ray tests -name __pycache__ -prune -exec rm -rf {} +
