# Two commands do everything on a machine with Python 3.11, make and gcc: `make demo` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
# Test processes: a module stays in one. More than two take 2 GB each.
WORKERS ?= 2

.PHONY: help demo test test-long lint bench lock definitions images clean

help:
	@echo "make demo   environment, a phantom dataset, a sweep, the report (demo/report.html)"
	@echo "make test   environment and the whole test suite"
	@echo "make test-long  trainings on a test cluster, stopped in every way: ten minutes"
	@echo "make lint   ruff and mypy"
	@echo "make images  images from their recipes, for real, on a base made here: built, tried out, moved"
	@echo "make bench  the micro benchmarks"
	@echo "make lock   exact versions for the lock files, from setup.cfg"
	@echo "make definitions  Dockerfiles and Apptainer definitions, from containers/recipes.py"
	@echo "make clean  remove the demo and the environment"

# The stamp is made last: an interrupted installation is done again.
$(VENV)/.installed: requirements/lock.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; set PYTHON=/path/to/python3.11" >&2; exit 78; }
	@echo "making $(VENV) with the versions of requirements/lock.txt (about 500 MB to download, some minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --requirement requirements/lock.txt
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --editable .
	touch $@

demo: $(VENV)/.installed
	rm -rf $(DEMO)
	$(BIN)/mspipeline phantom $(DEMO)/data --cases 6
	$(BIN)/mspipeline prepare $(DEMO)/data --set size=[64,64,48] -o $(DEMO)/shards
	$(BIN)/mspipeline sweep benchmarks/suites/demo.toml --shards $(DEMO)/shards -o $(DEMO)/sweep
	$(BIN)/mspipeline report $(DEMO)/sweep/tables -o $(DEMO)/report.html

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/.installed
	$(BIN)/python -m pytest -m long

images: $(VENV)/.installed
	$(BIN)/python -m pytest -m container tests/containers

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	@for file in benchmarks/micro/[a-z]*.py; do name=$$(basename $$file .py); \
		case $$name in result|by_hand|private_slurm) continue;; esac; $(BIN)/python -m mspipeline.benchmarks.micro.$$name || exit 1; done

lock: $(VENV)/.installed
	$(BIN)/uv pip compile setup.cfg --extra tensorflow --extra jax --extra onnx --extra mpi --extra dev --python-version 3.11 --upgrade --no-annotate --no-header --output-file requirements/lock.txt
	$(BIN)/python -P -m mspipeline.containers.locks

definitions: $(VENV)/.installed
	$(BIN)/python -P -m mspipeline.containers.definitions

clean:
	rm -rf $(DEMO) $(VENV)
