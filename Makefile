# The front door: each target does everything that it needs, packages included. The build itself is CMake's.

BUILD := build
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local

.DEFAULT_GOAL := help
.PHONY: help demo test bench build bootstrap check format install clean

help: ## Say what there is
	@echo "Inkstone: text-to-image with the Qwen-Image family, in C."
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: build ## Draw demo.png with the model that comes along
	$(BUILD)/inkstone -p "a red circle above the word INK on a white background" -S 5 -o demo.png

test: build ## Run all tests
	ctest --test-dir $(BUILD) --output-on-failure --no-tests=error --parallel $(JOBS)

bench: build ## Time the ops of the best tier and a block of the published model, with random weights
	$(BUILD)/tests/checkops --bench --tier auto --no-ref --no-cold --filter "[10"
	$(BUILD)/inkstone bench --synthetic qwen-image:1 --size 512x512 --precision bf16,q4 --phases modulation,denoise

build: bootstrap ## Build library, program and tests in build/
	cmake --preset default
	cmake --build $(BUILD) --parallel $(JOBS)

bootstrap: ## Install the packages that are missing, if any (Debian, Ubuntu)
	@tools/bootstrap.sh build

check: ## Check layers, banned calls and format
	@tools/check_style.sh

format: ## Format all C files
	@tools/bootstrap.sh style
	@tools/check_style.sh --format

install: build ## Install into PREFIX (/usr/local)
	cmake --install $(BUILD) --prefix $(PREFIX)

clean: ## Remove what was built
	cmake -E rm -rf $(BUILD)
