# The commands that a contributor needs; each runs in the virtual environment .venv that `make install` makes.
PY = .venv/bin/python
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: install test slow lint format types world

install:
	python3 -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e ".[dev]"

test:
	$(PY) -m pytest

slow:
	$(PY) -m pytest -m slow

lint:
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format:
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types:
	cd .typing && ../.venv/bin/mypy --config-file ../pyproject.toml -p reelm

# The bundled model from nothing, as its card tells: about two hours on two CPU cores, with glibc told to keep its memory.
world: export MALLOC_MMAP_MAX_ = 0
world: export MALLOC_TRIM_THRESHOLD_ = 100000000000
world: export MALLOC_TOP_PAD_ = 500000000
world:
	.venv/bin/reelm train tokenizer --out runs/tokenizer
	.venv/bin/reelm encode --tokenizer runs/tokenizer --out runs/tokens --clips 28672 --num-frames 17 --seed 1
	.venv/bin/reelm encode --tokenizer runs/tokenizer --out runs/tokens --clips 4096 --num-frames 33 --seed 2
	.venv/bin/reelm train text --data runs/tokens --out runs/text.model
	.venv/bin/reelm train lm --data runs/tokens --text runs/text.model --tokenizer runs/tokenizer --out runs/lm
	.venv/bin/reelm evaluate --model runs/lm/model
	cp runs/lm/model/* checkpoints/world/
