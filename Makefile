# Carrack: everything a developer or a first visitor runs. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

TARGET := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
# One static binary: no interpreter, no shared library, position-dependent so that it maps without relocations.
STATIC := -C target-feature=+crt-static -C relocation-model=static
CARRACK := $(TARGET_DIR)/$(TARGET)/release/carrack
IMAGES := $(TARGET_DIR)/images

# What the build links with, what tests look at the kernel with, and what images are made of.
PACKAGES := ca-certificates gcc libc6-dev libc-bin iproute2 iptables nftables procps util-linux bsdutils openssl curl jq umoci skopeo \
    docker-registry busybox-static nginx-light redis-server buildah

# What boots a virtual machine, and what makes its image.
VM_PACKAGES := qemu-system-x86 mmdebstrap busybox-static cpio e2fsprogs zstd xz-utils

export CARRACK IMAGES TARGET

.PHONY: help setup build man deb images demo demo-down test test-all test-vm fuzz bench fmt lint clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## install the Debian packages that building, testing and the demo need
	@integration/setup.sh $(PACKAGES)

# How cargo is told the flags of the static binary alone, not of what runs while building.
FLAGS_OF_TARGET := CARGO_TARGET_$(shell echo $(TARGET) | tr a-z- A-Z_)_RUSTFLAGS="$(STATIC)"

build: setup ## the static release binary
	@$(FLAGS_OF_TARGET) \
	    cargo build --release --locked --target $(TARGET) -p carrack -p carrack-integration

man: build ## manual pages of all verbs, in $(TARGET_DIR)/man
	@$(CARRACK) man $(TARGET_DIR)/man >/dev/null && echo "man -l $(TARGET_DIR)/man/carrack.1"

deb: build ## the Debian package, in $(TARGET_DIR); DEB_REVISION=2: the second one of this version
	@cli/package/build.sh $(TARGET_DIR)

images: setup ## real images from Debian packages, in $(IMAGES)
	@integration/images/build.sh $(IMAGES)

# What the image of examples/flask-redis is made of.
DEMO_PACKAGES := python3-flask python3-redis python3-pip

demo: build images ## a one-host cluster with the hello stack, shown step by step (FILE=compose.yaml: your own)
ifndef FILE
	@integration/setup.sh $(DEMO_PACKAGES)
	@integration/images/build.sh $(IMAGES) python
endif
	@integration/demo.sh $(FILE)

demo-down: ## stop the demo and show that nothing of it is left
	@integration/demo.sh --down

fmt: ## format the code
	cargo fmt --all

lint: setup ## format check and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings

test: lint build images ## every test but the long ones; needs root
	@integration/test.sh

test-all: test ## what CI runs: those, then the long forms of some, then the VM
	@integration/test.sh --long

test-vm: build images ## what depends on a kernel, in VMs on pure cgroup v2 (KERNEL=6.12: another kernel; FULL=1: all of it)
	@integration/setup.sh $(VM_PACKAGES)
	@$(FLAGS_OF_TARGET) integration/vm/all.sh

fuzz: ## fuzz what reads images, registries and Compose files (FUZZ_SECONDS=40 for each target)
	@integration/setup.sh g++
	@integration/fuzz.sh

# Peers that benchmarks compare with; what is not installed is skipped with a line that says so.
PEER_PACKAGES := docker.io podman crun runc conmon

bench: build images ## benchmarks beside peers; NAME=deploy: those whose name starts so; PEERS=install|none: install the peers, or leave them out
	@[ "$(PEERS)" != install ] || integration/setup.sh $(PEER_PACKAGES)
	@BENCH_OUT=$(TARGET_DIR)/bench PEERS=$(PEERS) $(dir $(CARRACK))carrack-bench $(NAME)

clean: ## remove what was built
	cargo clean
