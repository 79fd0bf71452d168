# Whetstone: every command one needs, each of which sets up first what it needs. `make help` lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

ROBOT ?= franka
TASK ?= pick_and_place
REWARD ?= sarm2
SEED ?= 0
ARGS ?=

# Runs one command inside the environment.
IN_ENV := source scripts/env.sh;

.PHONY: help setup test test-gazebo lint format demo demo-study study assets bench bench-reward bench-weights bench-control bench-bags clean

help: ## this list
	@echo "make demo [ROBOT=franka|so100] [TASK=...] [REWARD=...] [SEED=...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  ARGS='...' is passed on to pytest and to the whetstone command; PYTHON=... chooses the Python of make setup."

setup: ## everything installed and built, in minutes the first time and in a second after that
	@scripts/setup.sh

test: lint ## linters, types and all tests
	@$(IN_ENV) python -m pytest $(ARGS)

lint: setup ## ruff and pyright
	@$(IN_ENV) ruff check .
	@$(IN_ENV) ruff format --check .
	@$(IN_ENV) pyright

test-gazebo: setup ## the conformance kit on a real Gazebo Sim, where one is installed; else what to install
	@$(IN_ENV) python -m robot_bringup.gazebo.check $(ARGS)

format: setup ## the formatting that lint asks for
	@$(IN_ENV) ruff check --fix .
	@$(IN_ENV) ruff format .

demo: setup ## the base policy evaluated, refined from camera rewards, evaluated again; a table and a report
	@$(IN_ENV) whetstone demo robot:=$(ROBOT) task:=$(TASK) reward:=$(REWARD) seed:=$(SEED) $(ARGS)

demo-study: setup ## the figures in results/demo.json: both robots, several seeds, the control
	@$(IN_ENV) whetstone demo-study $(ARGS)

study: setup ## every learner on every robot and seed, in one process without ROS, in results/study.json
	@$(IN_ENV) python -m robot_bringup.study $(ARGS)

assets: setup ## the base policies and reward models in assets/, made again from nothing
	@$(IN_ENV) whetstone assets $(ARGS)

bench: setup ## steps per second of the whole loop, in results/bench-loop.json
	@$(IN_ENV) whetstone bench $(ARGS)

bench-reward: setup ## a vision-language model's scores of a video: computed again, streamed, all at once, in results/bench-reward.json
	@$(IN_ENV) python -m reward_node.bench $(ARGS)

bench-control: setup ## how evenly, soon and smoothly commands reach the arm, against the plain loop, in results/bench-control.json
	@$(IN_ENV) python -m robot_bringup.bench_control $(ARGS)

bench-bags: setup ## recording, reading, converting and evaluating bags, whether a replay scores as live, in results/bench-bags.json
	@$(IN_ENV) python -m robot_bringup.bench_bags $(ARGS)

bench-weights: setup ## weights from one process to another against other ways, and over a bad network, in results/bench-weights.json
	@$(IN_ENV) python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-bench.txt
	@$(IN_ENV) python -m robot_bringup.bench_weights $(ARGS)

clean: ## removes what setup, builds and tests made
	rm -rf .venv build install log .pytest_cache .hypothesis .ruff_cache
	find src tests launch -name __pycache__ -type d -prune -exec rm -rf {} +
