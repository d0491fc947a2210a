# The verbs of EdgeForge. `make help` lists them: each is a line `verb: ... ## what it does`.
# Every verb sets up `.venv` first where that is needed. What make calls is `.venv/bin/edgeforge`.

PYTHON ?= python3
VARIABLES := target model recipe data quantization out host

# A variable's value goes through the environment and is quoted by the recipe's shell, never by make: neither
# expands what is in it, so spaces, quotes, $ and backquotes arrive as they were typed. (`args` are
# words for the shell: args='-k "plan or host"'.)
define literal
override $(1) := $$(value $(1))
export $(1)
endef
$(foreach name,$(VARIABLES),$(eval $(call literal,$(name))))

# Only variables that were set become options: --target="$target" --model="$model" ...
OPTIONS = $(foreach name,$(VARIABLES),$(if $(value $(name)),--$(name)="$$$(name)"))
EDGEFORGE := .venv/bin/edgeforge

# Without a verb: build when anything was asked for, else help.
.DEFAULT_GOAL := $(if $(strip $(foreach name,$(VARIABLES),$(value $(name)))),build,help)
.PHONY: build plan search smoke ollama bench doctor test test-aarch64 faults matrix check setup ready help clean

build: ready ## convert, quantize, prove and bundle (what `make target=...` does)
	@$(EDGEFORGE) build $(OPTIONS)

plan: ready ## what a build would do: sizes, memory, speed; writes nothing
	@$(EDGEFORGE) plan $(OPTIONS)

search: ready ## the best types, pruning and KV cache in a budget; args="--max-kld 0.05 --objective decode"
	@$(EDGEFORGE) search $(OPTIONS) $(args)

smoke: ready ## the smoke test again, here or on a device (host=); args="--fleet FILE" for many
	@$(EDGEFORGE) smoke $(OPTIONS) $(args)

ollama: ready ## `ollama create` from the bundle, then a generate-and-stop check
	@$(EDGEFORGE) ollama $(OPTIONS)

bench: ready ## the CPU benchmark of a finished ONNX bundle
	@$(EDGEFORGE) bench $(OPTIONS) $(args)

doctor: ready ## what is installed, what this machine can do, what is missing
	@$(EDGEFORGE) doctor $(args)

test: ready ## every test; args= goes to pytest (make test args="-k planner")
	@.venv/bin/python -m pytest -n 2 --dist loadfile $(args)

test-aarch64: ready ## the bundle's files on an emulated Arm CPU against this one (10 minutes, once)
	@scripts/cross_build_aarch64.sh .venv/share/edgeforge/llama.cpp-aarch64
	@EDGEFORGE_AARCH64=.venv/share/edgeforge/llama.cpp-aarch64/bin \
		.venv/bin/python -m pytest -rs tests/emulated $(args)

faults: ready ## the whole fault suite (hours): kills, full disks, hostile files; writes docs/faults.md
	@rm -rf build/faults
	@.venv/bin/python -m pytest -n 2 --timeout 7200 tests/faults --whole \
		--record build/faults/proven.jsonl $(args)
	@.venv/bin/python scripts/fault_table.py build/faults/proven.jsonl

matrix: ready ## every family of models through every stage: docs/models.md, and what check says
	@.venv/bin/python scripts/model_matrix.py $(args)

check: ready ## ruff and mypy
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy common targets runtimes toolchain scripts

setup: ## everything in requirements.lock into .venv; nothing when that is done
	@$(PYTHON) scripts/setup.py

ready:
	@$(PYTHON) scripts/setup.py --quiet

help: ## this list
	@echo 'usage: make target=NAME [VERB] [VARIABLE=VALUE ...]'
	@echo
	@echo 'verbs:'
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | \
		while IFS='|' read -r verb text; do printf '  %-13s %s\n' "$$verb" "$$text"; done
	@echo
	@echo 'variables (options of the same names in `edgeforge VERB --help`):'
	@sed -n 's/^#= \([a-z]*\) *\(.*\)/\1|\2/p' Makefile | \
		while IFS='|' read -r name text; do printf '  %-13s %s\n' "$$name" "$$text"; done
	@echo
	@echo 'examples:'
	@echo '  make target=laptop'
	@echo '  make test'
	@echo '  make plan target=jetson model=PATH_OR_HUB_ID'

clean: ## remove .venv and caches (bundles in build/ stay)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache

#= target       the device: a name of `edgeforge targets list`, or a file
#= model        a folder or a hub id; the embedded demo model when absent
#= recipe       which stages run and how: a name or a file
#= data         training data, for a recipe that trains
#= quantization a llama.cpp type such as Q4_K_M, or auto
#= out          where bundles go: OUT/<model>/<target>/ (build)
#= host         USER@HOST: run on this device instead of this machine
