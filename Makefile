# make demo: set-up, then train, embed and report on the drawn data.
# make test: set-up, then every test.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
RUN ?= runs/demo

.PHONY: demo test lint clean

demo: .venv/ready
	$(BIN)/python launch.py --config=configs/triplet.py:demo --workdir=$(RUN)
	$(BIN)/python -m analysis.embed --workdir=$(RUN)
	$(BIN)/python -m analysis.report --workdir=$(RUN)

# What launch.py sets for itself, so that no test is begun twice.
test: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
test: export OMP_WAIT_POLICY ?= passive
# Tests compile far more than they compute: code that is quick to make.
test: export XLA_FLAGS ?= --xla_backend_optimization_level=0
test: .venv/ready
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --requirement requirements.txt
	touch $@

clean:
	rm -rf .venv runs
