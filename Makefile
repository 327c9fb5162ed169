# make demo   everything once, on phantom cases, in ./demo-bucket
# make test   all tests;  make test-fast  those under two minutes altogether
# make venv   .venv alone
SHELL := /bin/bash
PYTHON ?= python3
PIP = .venv/bin/python -m pip install -qq --no-compile --disable-pip-version-check
# On all cores, and also where PYTHONDONTWRITEBYTECODE is set: without bytecode each of Ray's workers would
# compile the packages anew, for seconds. Packages hold files that are no Python of today: no error of ours.
COMPILE = .venv/bin/python -m compileall -qq -j 0 .venv/lib || true

.PHONY: venv demo test test-fast clean

venv: .venv/installed

# A stamp a requirements file: touched only when pip has finished, so that an interrupted install is repeated.
.venv/installed: requirements.txt
	@echo "installing requirements.txt into .venv (once; about a minute)"
	@$(PYTHON) -m venv .venv
	@$(PIP) -r requirements.txt
	@$(COMPILE)
	@touch $@

.venv/installed-test: requirements-test.txt requirements-encoders.txt .venv/installed
	@echo "installing requirements-test.txt into .venv"
	@$(PIP) -r requirements-test.txt
	@$(COMPILE)
	@touch $@

demo: venv
	@.venv/bin/python -m jobs.demo --bucket demo-bucket

test: .venv/installed-test
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m pytest

test-fast: .venv/installed-test
	@.venv/bin/python -m pytest -m "not slow"

clean:
	rm -rf .venv demo-bucket mlflow.db mlruns .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
