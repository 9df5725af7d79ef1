# make demo    build a slim image from a real upstream, start it, ask it something
# make test    the whole suite, against a real registry, Docker Engine and Triton server
# make soak    look for layers that the rewriter gets wrong, for an hour
# make judge   have the real tritonserver judge what is new in the corpus of model repositories, and compare with lint
# make gpu     on a machine with a GPU: prove models on it, and keep what was seen in tests/gpu/recorded
# make interrupt  interrupt 200 proofs of a real server at random moments; writes tests/triton/INTERRUPTED.md
# make storm   a thousand transfers over a network where everything goes wrong; writes tests/faults/STORMS.md
# make bench   the direct engine beside Docker's way, on a 2 GB upstream; writes tests/bench/RESULTS.md
# make transfers  copies beside skopeo's, on good lines and bad ones; writes tests/bench/TRANSFERS.md
# make uploads  pushes that are cut and killed at random places; writes tests/bench/UPLOADS.md
# make load    how fast our load is, beside ab and h2load on a real server; writes tests/bench/LOAD.md

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two lanes, each with a Docker Engine of its own; tests/conftest.py says in which order they take the modules.
LANES := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: storm interrupt gpu demo test test-fast soak lint format judge bench transfers uploads load clean help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(READY): pyproject.toml .ci/python
	bash .ci/python "$(PYTHON)" "$(VENV)"
	touch $@

demo: $(READY)
	@bash .ci/demo

test: $(READY) lint
	bash .ci/packages
	$(BIN)/python -m pytest $(LANES)

test-fast: $(READY)
	$(BIN)/python -m pytest tests/unit tests/golden tests/parity

soak: $(READY)
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest --timeout 7200 tests/parity/test_law.py tests/unit/test_tar.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy composer
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

judge: $(READY)
	for release in 24.10 23.07; do \
	    $(BIN)/python -m tests.judge record --release $$release && \
	    $(BIN)/python -m tests.judge record --release $$release --mutations || exit; \
	done
	status=0; for release in 24.10 23.07; do \
	    $(BIN)/python -m tests.judge compare --release $$release || status=1; \
	    $(BIN)/python -m tests.judge compare --release $$release --mutations || status=1; \
	done; exit $$status

gpu: $(READY)
	$(BIN)/python -m tests.gpu

interrupt: $(READY)
	bash .ci/packages
	$(BIN)/python -m tests.triton.interrupting 100

storm: $(READY)
	bash .ci/packages
	$(BIN)/python -m tests.faults.storms 1000

bench: $(READY)
	bash .ci/packages
	$(BIN)/python -m tests.bench

transfers: $(READY)
	bash .ci/packages
	$(BIN)/python -m tests.bench.transfers

uploads: $(READY)
	bash .ci/packages
	$(BIN)/python -m tests.bench.uploads

load: $(READY)
	bash .ci/packages
	$(BIN)/python -m tests.bench.load

clean:
	rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
