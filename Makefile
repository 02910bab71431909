# Activate a virtual environment first: see CONTRIBUTING.md.
.PHONY: install lint test e2e release

install: ## install this checkout with everything the tests need
	pip install -c constraints.txt -e '.[local,test]'

lint: ## run the linters and type checks
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	git ls-files '*.md' '*.yaml' '*.toml' | xargs codespell

test: ## run the unit tests
	pytest -n 2

e2e: ## run the quickstart, kills and crashes, the wheel and, with SYNTH_VLLM_PYTHON, a real vLLM
	synth run configs/quickstart.yaml
	pytest -n 2 --dist worksteal -m "(faults or slow) and not vllm"
	pytest -m vllm

release: lint test ## build dist/*.whl and dist/*.tar.gz
	python -m hatchling build
