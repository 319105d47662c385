# `make PYTHON=…` uses another interpreter.
PYTHON ?= python

.PHONY: install check format test slow pages

install:  ## this package, its tests and its linters
	$(PYTHON) -m pip install -e '.[dev]'

check:  ## what CI checks before the tests
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

test:  ## the default suite
	$(PYTHON) -m pytest

slow:  ## every pair of methods, kills and whole runs
	$(PYTHON) -m pytest -m slow -n 2 --dist load

# A page is replaced only when its generator has finished.
define page
	$(PYTHON) $(1) > $(2).new || { rm -f $(2).new; exit 1; }
	mv $(2).new $(2)
endef

pages:  ## the generated pages of docs/
	$(call page,-m recipes.pairs,docs/pairs.md)
	$(call page,benchmarks/pages/catalogue.py methods,docs/methods.md)
	$(call page,benchmarks/pages/catalogue.py recipes,docs/recipes.md)
	$(call page,benchmarks/pages/results.py --page,docs/results.md)
	$(PYTHON) benchmarks/pages/performance.py
