# make demo       the whole way once, on generated videos (about 2 minutes on two idle processors, after installation)
# make test       all tests but the slow ones
# make test-gpu   the tests that need a GPU (about 2 minutes; a line says so where there is none)
# make test-slow  the slow tests: the demo, the notebook, full-sized networks, kills at random moments, Keras
# make lint       ruff: rules and format
# make clean      removes the environments and caches
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.installed
KERAS := .venv-keras

.PHONY: help demo test test-gpu test-slow lint clean

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(READY)
	@$(VENV)/bin/python demo.py

test: $(READY)
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-gpu: $(READY)
	@$(VENV)/bin/python -m pytest -m 'gpu and not slow' -rs tests/gpu

test-slow: $(READY) $(KERAS)/.installed $(VENV)/.notebook
	@KERAS_PYTHON=$(CURDIR)/$(KERAS)/bin/python $(VENV)/bin/python -m pytest -m 'slow and not gpu'

lint: $(READY)
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

$(READY): requirements.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and \
	'Python 3.11 or newer is needed; this is %d.%d. Choose another one: make demo PYTHON=python3.12' % sys.version_info[:2])"
	@echo "Installing into $(VENV) (PyTorch is large: some minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $(READY)

# Jupyter runs docs/quickstart.ipynb.
$(VENV)/.notebook: $(READY)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check nbclient==0.11.0 ipykernel==7.4.0
	@touch $(VENV)/.notebook

# Keras checks how its weights are loaded. It has an environment of its own, because it installs TensorFlow.
$(KERAS)/.installed:
	@echo "Installing Keras into $(KERAS) ..."
	@$(PYTHON) -m venv $(KERAS)
	@$(KERAS)/bin/python -m pip install --quiet --disable-pip-version-check tensorflow==2.21.0 tf_keras==2.21.0 h5py==3.14.0
	@touch $(KERAS)/.installed

clean:
	rm -rf $(VENV) $(KERAS) .cache .pytest_cache .ruff_cache
