# Needs an environment that is active: see README.md.
.PHONY: install lint test e2e release

install: ## this checkout with everything that tests need
	pip install -c constraints.txt -e '.[local,test]'

lint: ## the house rules that tools can check
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	git ls-files '*.md' '*.yaml' '*.toml' | xargs codespell

test: ## the unit tests
	pytest -n 2

e2e: ## the whole pipeline, kills and crashes, the wheel; with SYNTH_VLLM_PYTHON also a real vLLM
	synth run configs/quickstart.yaml
	pytest -n 2 --dist worksteal -m "(faults or slow) and not vllm"
	pytest -m vllm

release: lint test ## dist/*.whl and dist/*.tar.gz
	python -m hatchling build
