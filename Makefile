# make demo         trains, embeds and reports on the drawn data
# make test         runs every test that needs no other library to compare with
# make test-peers   runs those that compare with PyTorch, its libraries and ONNX
# make test-lowest  runs the tests on the lowest releases that we admit
# make lint         checks style and types
# make docs         builds the documentation site into site/
# make clean        deletes environments, runs and the site
# Each sets up what it needs first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
LOWEST := .venv-lowest/bin
RUN ?= runs/demo
# A plain `torch` is several GB of CUDA on Linux. CI sets PIP_EXTRA_INDEX_URL to
# PyTorch's own index, which has CPU builds of this release.
TORCH ?= torch==2.13.0
# One worker more than there are cores, as some tests wait; tests/conftest.py
# puts the longest files first.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PYTEST := -m pytest --numprocesses=$(WORKERS) --dist=loadfile \
  --no-loadscope-reorder
PEER_TESTS := $(addprefix tests/test_, objectives_peer.py peer_training.py \
  retrieval.py pretrained.py export.py backbones_peer.py \
  prevalence_peer.py)

.PHONY: demo test test-peers test-lowest lint docs clean

demo: .venv/ready
	$(BIN)/python launch.py --config=configs/triplet.py:demo --workdir=$(RUN)
	$(BIN)/python -m analysis.embed --workdir=$(RUN)
	$(BIN)/python -m analysis.report --workdir=$(RUN)

# What launch.py sets for itself, so that no test is started twice.
test test-peers test-lowest: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
test test-peers test-lowest: export OMP_WAIT_POLICY ?= passive
# The workers use the cores; in each, threads would spin for nothing.
test test-peers test-lowest: export OPENBLAS_NUM_THREADS ?= 1
# What one test compiled, others and their processes need not compile again.
test test-peers test-lowest: \
  export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.pytest_cache/compiled
test test-peers test-lowest: \
  export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
test test-peers test-lowest: \
  export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1

test: .venv/ready-test
	$(BIN)/python $(PYTEST)

test-peers: .venv/ready-peers
	$(BIN)/python $(PYTEST) --no-skips $(PEER_TESTS)

# Old releases warn about newer ones: there, warnings are not errors.
test-lowest: .venv-lowest/ready
	$(LOWEST)/python $(PYTEST) --override-ini=filterwarnings=default

lint: .venv/ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# These switch off notices of mkdocs and its theme about their successors.
docs: export DISABLE_MKDOCS_2_WARNING = true
docs: export NO_MKDOCS_2_WARNING = 1
docs: .venv/ready-docs
	$(BIN)/mkdocs build --strict --quiet

# Files that follow the requirements: an edited list is installed again.
.venv/pip:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	touch $@

.venv/ready: requirements.txt $(wildcard requirements/*.txt) | .venv/pip
	$(BIN)/pip install --quiet --requirement requirements.txt
	touch $@

.venv/ready-test: .venv/ready requirements-test.txt
	$(BIN)/pip install --quiet --requirement requirements-test.txt
	touch $@

.venv/ready-docs: .venv/ready requirements-docs.txt
	$(BIN)/pip install --quiet --requirement requirements-docs.txt
	touch $@

.venv/ready-peers: .venv/ready-test requirements-bench.txt \
  requirements-export.txt
	$(BIN)/pip install --quiet "$(TORCH)" \
	  --requirement requirements-bench.txt --requirement requirements-export.txt
	touch $@

.venv-lowest/ready: requirements.txt requirements-test.txt \
  $(wildcard requirements/*.txt)
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST)/pip install --quiet uv
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python \
	  --resolution lowest-direct \
	  --requirement requirements.txt --requirement requirements-test.txt
	touch $@

clean:
	rm -rf .venv .venv-lowest .pytest_cache runs site
