# The commands for contributors; each runs in the virtual environment .venv, which `make install` creates.
PY = .venv/bin/python

.PHONY: install test slow golden compare kernels gpu gpu-check gpu-decode lint format types world run plain halls

# Threads that wait asleep, where two test processes share the cores. Trainings are faster with threads that spin.
test slow: export OMP_WAIT_POLICY ?= PASSIVE

install:
	python3 -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e ".[dev]"

test:
	$(PY) -m pytest -n 2 --dist worksteal

slow:
	$(PY) -m pytest -m slow

# Computes the golden numbers anew and prints which changed; the commit explains why.
golden:
	$(PY) tests/golden/remake.py

# Compares the speed and memory of this checkout with an older commit, in alternating rounds of one run; the older one
# runs in this environment. OPTIONS are those of `reelm bench --against`, such as "--seconds 25" or "--clip film.mp4".
REV ?= 00d48e3
OPTIONS ?= --repeats 15
OLD = runs/compare
compare:
	git worktree remove --force $(OLD) 2> /dev/null; git worktree add -q --detach $(OLD) $(REV)
	.venv/bin/reelm bench --against $(OLD) $(OPTIONS); code=$$?; git worktree remove --force $(OLD); exit $$code

# Compiles every kernel for several chips, without a GPU: registers, spills, shared memory, tensor cores.
kernels:
	$(PY) docs/kernels.py

# What needs a GPU: tests of the kernels, then their speed. OUT is the folder for the results.
OUT ?= runs/gpu
gpu:
	mkdir -p $(OUT)
	$(PY) -m pytest -q -p no:cacheprovider -m "not slow" -W default tests/kernels/interpreted/*_cases.py
	.venv/bin/reelm bench kernels > $(OUT)/kernels.txt
	tail -n 1 $(OUT)/kernels.txt > $(OUT)/kernels.json

# The same without a GPU: in Triton's interpreter, at tiny sizes, without times.
gpu-check: export TRITON_INTERPRET = 1
gpu-check: export REELM_KERNELS = triton
gpu-check:
	mkdir -p $(OUT)
	$(PY) -m pytest -q -p no:cacheprovider -m "not slow" tests/kernels/interpreted/*_cases.py
	.venv/bin/reelm bench kernels --check > $(OUT)/kernels-check.txt
	tail -n 1 $(OUT)/kernels-check.txt > $(OUT)/kernels-check.json

# The engine on a GPU: its tests, then the figures of its table in benchmarks/.
gpu-decode:
	mkdir -p $(OUT)
	$(PY) -m pytest -q -p no:cacheprovider -W default -m gpu tests/sampling/test_gpu.py
	.venv/bin/reelm bench --device cuda --seconds 2 --plot $(OUT)/world.png --json > $(OUT)/world.json
	.venv/bin/reelm bench --device cuda --preset cosmos-4b --seconds 0.04 --repeats 1 --decoder sequential \
		--json > $(OUT)/cosmos-4b.json
	.venv/bin/reelm bench --device cuda --preset cosmos-4b --seconds 0.04 --repeats 1 --decoder sequential \
		--sweep batch --batch 8 --json > $(OUT)/cosmos-4b-batch.json
	.venv/bin/reelm bench --device cuda --preset cosmos-4b --seconds 0.04 --repeats 1 --decoder sequential \
		--no-baselines --weights int8 --json > $(OUT)/cosmos-4b-int8.json
	.venv/bin/reelm bench --device cuda --preset cosmos-4b --seconds 0.04 --repeats 1 --decoder sequential \
		--no-baselines --weights int8 --cache int8 --json > $(OUT)/cosmos-4b-int8-cache.json

lint:
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format:
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types:
	cd .typing && ../.venv/bin/mypy --config-file ../pyproject.toml -p reelm
	$(PY) tests/typing/check.py

# Trains the bundled model from nothing, as its card says: some hours on two CPU cores.
GUIDANCE = --model.guidance 3 --guidance-temperature 0.7 --batch-tokens 2560 --drop-caption 0.05 --train.steps 1900 \
	--train.learning-rate 4e-4 --train.warmup 30 --sampling.temperature 0.7 --sampling.top-k 50
world:
	.venv/bin/reelm train tokenizer --out runs/tokenizer
	.venv/bin/reelm render --tokenizer runs/tokenizer --out runs/tokens --clips 40960 --num-frames 17 --seed 1
	.venv/bin/reelm render --tokenizer runs/tokenizer --out runs/tokens --clips 4096 --num-frames 33 --seed 2
	.venv/bin/reelm train text --data runs/tokens --out runs/text.model
	.venv/bin/reelm train lm --data runs/tokens --text runs/text.model --tokenizer runs/tokenizer --out runs/lm-1 \
		--model.order coarse
	.venv/bin/reelm train lm --data runs/tokens --text runs/text.model --tokenizer runs/tokenizer --out runs/lm \
		--init runs/lm-1/model --model.order coarse --seed 1 --train.steps 5600 --train.learning-rate 2.5e-3
	.venv/bin/reelm train lm --data runs/tokens --text runs/text.model --tokenizer runs/tokenizer --out runs/guided \
		--init runs/lm/model --name world --model.order coarse --seed 5 $(GUIDANCE)
	.venv/bin/reelm evaluate --model runs/guided/model
	cp runs/guided/model/*.safetensors runs/guided/model/*.json runs/guided/model/text.model checkpoints/world/

# Train the bundled models that are played from nothing: a recorder plays games in an environment of its own; it takes
# some hours on two CPU cores. docs/play.md has what was measured.
PLAYED_TOKENIZER = --num-frames 5 --model.temporal 1 --model.front haar --model.encoder-width 64 --model.encoder-depth 3 \
	--model.encoder-spread 1 --model.decoder-widths 144 64 32 --model.decoder-depth 4 2 1 --model.decoder-memory 2 \
	--model.quantizer.spread 0.01 --structure-weight 0 --train.steps 9000 --train.learning-rate 2.5e-3
PLAYED_LM = --model.order coarse --model.window 8 --model.depth 6 --model.heads 6 --model.kv-heads 2 --model.head-dim 32 \
	--token-noise 0.1 --sampling.guidance-scale 1 --sampling.temperature 1 --sampling.top-k 200
RUN_LM = $(PLAYED_LM) --model.width 192 --model.hidden 384
HALLS_LM = $(PLAYED_LM) --model.width 160 --model.hidden 320 --model.neighbour-dim 48
PLAYED_GUIDANCE = --key-guidance 1.5 --train.warmup 30 --train.learning-rate 4e-4 --train.ema 0.99
PROCGEN = runs/procgen/bin/python recipes/record_procgen.py
run:
	python3 -m venv runs/procgen
	runs/procgen/bin/pip install -q procgen2==0.10.7 "gym==0.26.*" "numpy<2" "av>=18.1"
	$(PROCGEN) coinrun --levels 0:1600 --cut 2 --out runs/run-clips/coinrun
	$(PROCGEN) jumper --levels 0:250 --cut 2 --out runs/run-clips/jumper
	$(PROCGEN) climber --levels 0:250 --cut 2 --out runs/run-clips/climber
	$(PROCGEN) coinrun --levels 100000:100008 --probes --out runs/run-plays/coinrun
	$(PROCGEN) jumper --levels 100000:100005 --probes --out runs/run-plays/jumper
	$(PROCGEN) climber --levels 100000:100003 --probes --out runs/run-plays/climber
	.venv/bin/reelm prepare runs/run-clips --out runs/run-shards --height 64 --width 64 --fps 15 --held-out-seconds 0
	.venv/bin/reelm train tokenizer --data runs/run-shards --out runs/run-tokenizer $(PLAYED_TOKENIZER)
	.venv/bin/reelm train lm --data runs/run-shards --tokenizer runs/run-tokenizer --out runs/run-lm $(RUN_LM) \
		--windows.num-frames 15 --windows.stride 14 --train.steps 6600 --train.warmup 60 --train.ema 0.998
	.venv/bin/reelm train lm --data runs/run-lm/tokens --tokenizer runs/run-tokenizer --out runs/run-guided \
		--init runs/run-lm/model --text runs/run-lm/text.model --name run $(RUN_LM) $(PLAYED_GUIDANCE) --train.steps 400
	.venv/bin/reelm evaluate play --model runs/run-guided/model --recordings runs/run-plays --save-recordings --samples 2
	cp runs/run-guided/model/*.safetensors runs/run-guided/model/*.json runs/run-guided/model/text.model checkpoints/run/

# A simpler game than those of `run`, coinrun in one theme, which is learnt sooner; it is not bundled.
PLAIN_LM = $(PLAYED_LM) --model.width 160 --model.hidden 320 --model.neighbour-dim 48
plain:
	python3 -m venv runs/procgen
	runs/procgen/bin/pip install -q procgen2==0.10.7 "gym==0.26.*" "numpy<2" "av>=18.1"
	$(PROCGEN) plainrun --levels 0:1500 --cut 2 --out runs/plain-clips
	$(PROCGEN) plainrun --levels 100000:100008 --probes --out runs/plain-plays
	.venv/bin/reelm prepare runs/plain-clips --out runs/plain-shards --height 64 --width 64 --fps 15 --held-out-seconds 0
	.venv/bin/reelm train tokenizer --data runs/plain-shards --out runs/plain-tokenizer --init run --num-frames 5 \
		--structure-weight 0 --train.steps 1500 --train.warmup 50 --train.learning-rate 2e-3
	.venv/bin/reelm train lm --data runs/plain-shards --tokenizer runs/plain-tokenizer --out runs/plain-lm $(PLAIN_LM) \
		--windows.num-frames 30 --windows.stride 30 --batch-tokens 3840 --train.steps 2200 --train.warmup 60 \
		--train.ema 0.998
	.venv/bin/reelm train lm --data runs/plain-lm/tokens --tokenizer runs/plain-tokenizer --out runs/plain-own \
		--init runs/plain-lm/model --text runs/plain-lm/text.model $(PLAIN_LM) --own-noise 0.3 --batch-tokens 3840 \
		--train.steps 700 --train.warmup 30 --train.learning-rate 1e-3 --train.ema 0.995 --seed 1
	.venv/bin/reelm train lm --data runs/plain-lm/tokens --tokenizer runs/plain-tokenizer --out runs/plain-guided \
		--init runs/plain-own/model --text runs/plain-lm/text.model --name plain $(PLAIN_LM) $(PLAYED_GUIDANCE) \
		--batch-tokens 3840 --train.steps 250 --seed 2
	.venv/bin/reelm evaluate play --model runs/plain-guided/model --recordings runs/plain-plays --samples 2

VIZDOOM = runs/vizdoom/bin/python recipes/record_vizdoom.py
halls:
	python3 -m venv runs/vizdoom
	runs/vizdoom/bin/pip install -q vizdoom==1.3.2 "av>=18.1"
	$(VIZDOOM) halls --levels 0:270 --cut 2 --out runs/halls-clips/halls
	$(VIZDOOM) maze --levels 0:220 --cut 2 --out runs/halls-clips/maze
	$(VIZDOOM) yard --levels 0:110 --cut 2 --out runs/halls-clips/yard
	$(VIZDOOM) halls --levels 100000:100004 --probes --out runs/halls-plays/halls
	$(VIZDOOM) maze --levels 100000:100004 --probes --out runs/halls-plays/maze
	$(VIZDOOM) yard --levels 100000:100004 --probes --out runs/halls-plays/yard
	.venv/bin/reelm prepare runs/halls-clips --out runs/halls-shards --height 64 --width 64 --fps 12 --held-out-seconds 0
	.venv/bin/reelm train tokenizer --data runs/halls-shards --out runs/halls-tokenizer --init run --num-frames 5 \
		--structure-weight 0 --train.steps 2300 --train.learning-rate 2e-3
	.venv/bin/reelm train lm --data runs/halls-shards --tokenizer runs/halls-tokenizer --out runs/halls-lm $(HALLS_LM) \
		--windows.num-frames 24 --windows.stride 24 --train.steps 2700 --train.warmup 60 --train.ema 0.998
	.venv/bin/reelm train lm --data runs/halls-lm/tokens --tokenizer runs/halls-tokenizer --out runs/halls-guided \
		--init runs/halls-lm/model --text runs/halls-lm/text.model --name halls --store int8 $(HALLS_LM) $(PLAYED_GUIDANCE) \
		--train.steps 320
	.venv/bin/reelm evaluate play --model runs/halls-guided/model --recordings runs/halls-plays --save-recordings --samples 2
	mkdir -p checkpoints/halls
	cp runs/halls-guided/model/*.safetensors runs/halls-guided/model/*.json runs/halls-guided/model/text.model \
		checkpoints/halls/
