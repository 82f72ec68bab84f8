# make demo     the whole way once, on generated videos (about 4 minutes on two processors, after installation)
# make test     all tests but the slow ones
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.installed

.PHONY: help demo test test-slow lint clean

help:
	@sed -n 's/^# //p' Makefile

demo: $(READY)
	@$(VENV)/bin/python demo.py

test: $(READY)
	@$(VENV)/bin/python -m pytest

test-slow: $(READY)
	@$(VENV)/bin/python -m pytest -m slow

lint: $(READY)
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

$(READY): requirements.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and \
	'Python 3.11 or newer is needed; this is %d.%d. Name another one: make demo PYTHON=python3.12' % sys.version_info[:2])"
	@echo "Installing into $(VENV) (PyTorch is large: some minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $(READY)

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache
