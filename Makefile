# make demo   draw a story of six scenes through real processes, and show the pictures
# make test   every test but those of make fidelity, from nothing
# make check  what every commit passes: style, types, import rules, the fast tests
# make bench  the figures of docs/benchmarks.md, measured on this machine
# make images build both images and look into them; as root where no container engine answers
# make fidelity   what the small artist's pictures mean, and whether their judge can tell: minutes;
#                 WEIGHTS=DIR scores what `illo weights train-tiny` made

PYTHON ?= python3
TORCH ?= torch==2.13.0
# An index to look for torch in besides pip's own. For a machine without a GPU, PyTorch's
# CPU index saves gigabytes: make demo TORCH_INDEX=URL
TORCH_INDEX ?=
# An artist's weights directory to score with make fidelity, instead of those that illo brings.
WEIGHTS ?=

BIN := .venv/bin
READY := .venv/.installed

# Where the environment forbids bytecode, every test process would compile every test again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check lint bench fidelity images install clean

demo: install
	$(BIN)/illo demo

# Many processes draw at once, so each gets one thread: more would wait for each other.
test: install
	$(BIN)/pytest -n auto -m "not slow and not fidelity"
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n 4 --dist loadfile --no-loadscope-reorder --timeout 900 --durations 8

check: lint
	$(BIN)/pytest -q -n auto -m "not slow and not fidelity"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m benchmarks $(ONLY)

fidelity: install
	FIDELITY_WEIGHTS=$(WEIGHTS) $(BIN)/pytest -m fidelity -s

images: install
	deploy/images/build
	ILLO_IMAGES=$(or $(OUT),out/images)/roots $(BIN)/pytest -m images -s tests/deploy/test_images.py

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "illo needs Python 3.11 or newer"'
	$(PYTHON) -m venv .venv
	@echo "Installing: torch first, then the rest (a few minutes the first time)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[worker,gcp,serve,dev]"
	touch $(READY)

clean:
	rm -rf .venv out data build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
