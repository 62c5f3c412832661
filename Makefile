# make demo   draw faces, train, evaluate          make test   lint and tests
# Both make their own environment in .venv first; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= build/demo
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# The demo's faces and its two short runs; everything else is the RAF-DB recipe.
DEMO_FACES := --train 3000 --test 600 --seed 0
DEMO_RUN := --data $(DEMO)/raf-basic --image-size 64 --batch-size 128 --optimizer adamw \
	--scheduler cosine --amp auto --seed 0 --resume

# Siblings of the demo: DAN from a backbone that has seen synthetic faces, as in the paper it has seen
# MS-Celeb-1M's; few faces and epochs, the rest is each data set's own recipe.
BACKBONE_RUN := --data $(DEMO)/raf-basic --arch resnet18 --pretrained none --optimizer adamw \
	--scheduler cosine --image-size 48 --batch-size 64 --epochs 4 --lr 0.001 --amp auto --seed 0 \
	--resume --output $(DEMO)/backbone
SIBLING_RUN := --pretrained $(DEMO)/backbone/last.pth --image-size 48 --lr 0.0005 \
	--scheduler cosine --amp auto --seed 0 --resume

.PHONY: help demo demo-backbone demo-affectnet demo-sfew fuzz kill-resume gpu-check test test-fast lint clean install

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## the environment for training and evaluation, in .venv

demo: $(VENV)/.installed ## the main job on synthetic faces: a few minutes on 2 cores
	$(BIN)/python -m datasets.demo rafdb $(DEMO)/raf-basic $(DEMO_FACES)
	$(BIN)/python -m datasets.demo sheet $(DEMO)/faces.png --seed 0
	$(BIN)/python train_rafdb.py $(DEMO_RUN) --arch resnet18 --pretrained none \
		--epochs 6 --lr 0.001 --output $(DEMO)/resnet18
	$(BIN)/python train_rafdb.py $(DEMO_RUN) --pretrained $(DEMO)/resnet18/last.pth \
		--epochs 2 --lr 0.0003 --output $(DEMO)/dan
	$(BIN)/python eval.py $(DEMO)/resnet18/last.pth --report $(DEMO)/resnet18/report
	$(BIN)/python eval.py $(DEMO)/dan/last.pth --report $(DEMO)/dan/report
	@echo
	@echo "faces:       $(DEMO)/faces.png"
	@echo "ResNet-18:   $(DEMO)/resnet18/report/index.html"
	@echo "DAN:         $(DEMO)/dan/report/index.html"

demo-backbone: $(VENV)/.installed
	$(BIN)/python -m datasets.demo rafdb $(DEMO)/raf-basic $(DEMO_FACES)
	$(BIN)/python train_rafdb.py $(BACKBONE_RUN)

demo-affectnet: demo-backbone ## AffectNet's layout and recipe on synthetic faces: under 3 minutes
	$(BIN)/python -m datasets.demo affectnet $(DEMO)/affectnet --train 2000 --val 400 --seed 0
	$(BIN)/python train_affectnet.py --data $(DEMO)/affectnet $(SIBLING_RUN) --batch-size 64 \
		--epochs 4 --output $(DEMO)/affectnet-dan
	$(BIN)/python eval.py $(DEMO)/affectnet-dan/last.pth --report $(DEMO)/affectnet-dan/report
	@echo
	@echo "confusion matrix: $(DEMO)/affectnet-dan/report/confusion_matrix.png"

demo-sfew: demo-backbone ## SFEW's frames, their alignment and its recipe on synthetic faces: under 3 minutes
	$(BIN)/python -m datasets.demo sfew $(DEMO)/sfew-frames --train 560 --val 140 --seed 0
	$(BIN)/python -m tools.align_sfew $(DEMO)/sfew-frames $(DEMO)/sfew-aligned \
		--landmarks $(DEMO)/sfew-frames/landmarks.csv
	$(BIN)/python -m tools.check_data sfew $(DEMO)/sfew-aligned
	$(BIN)/python train_sfew.py --data $(DEMO)/sfew-aligned $(SIBLING_RUN) --batch-size 16 \
		--epochs 4 --output $(DEMO)/sfew-dan
	$(BIN)/python eval.py $(DEMO)/sfew-dan/last.pth --report $(DEMO)/sfew-dan/report
	@echo
	@echo "aligned faces:    $(DEMO)/sfew-aligned"
	@echo "confusion matrix: $(DEMO)/sfew-dan/report/confusion_matrix.png"

test: lint ## lint, then every test: a few minutes on 2 cores
	$(BIN)/python -m pytest --numprocesses auto --maxfail 3

test-fast: $(VENV)/.installed-dev ## the tests that are not slow: three to four minutes
	$(BIN)/python -m pytest --numprocesses auto -m "not slow"

fuzz: $(VENV)/.installed-dev ## 14,000 random inputs to everything that reads files or flags
	$(BIN)/python -m tests.fuzz --examples 2000

kill-resume: $(VENV)/.installed ## kill a training 25 times, resume it, expect bitwise identical results
	$(BIN)/python -m tests.kill_resume build/kill-resume-$$$$ --kills 25 --epochs 100

gpu-check: $(VENV)/.installed-dev ## what needs a CUDA GPU, checked and timed: 8 minutes on an H100
	$(BIN)/python -m tools.gpu_check

lint: $(VENV)/.installed-dev ## errors, formatting, layers and import circles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

clean: ## remove .venv, caches and the demo (other runs stay)
	rm -rf $(VENV) $(DEMO) .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 or newer is needed:" \
		"make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make an environment;" \
		"on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "installing PyTorch and the rest into $(VENV): about 6 GB, some minutes"
	$(PIP) install -q -r requirements.txt -c constraints.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(PIP) install -q -r requirements-dev.txt -c constraints.txt
	@touch $@
