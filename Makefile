# Cascina in a box. BOX=name chooses another box than `main`; see docs/box.md.
export BOX
.PHONY: up down test soak fuzz check bench deploy clean help

help: ## what there is to make
	@awk -F':.*## ' '/^[a-z]+:.*##/ {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: ## a datacentre on this machine, with two farms in it; run it again to repair
	box/up

down: ## end it: no process, namespace, bridge or mount stays
	box/down

test: ## everything: checks, pure tests, and a box of its own
	box/test

soak: ## the long forms of tests: every stop, many random changes, faults on real hosts
	CASCINA_SOAK=1 cargo test --locked --test simulation -- --nocapture --test-threads=1
	box/soak

check: ## formatting, lints, scripts, charts, generated files
	box/check

fuzz: ## hand what is read from others to a fuzzer, FUZZ_SECONDS for each of its targets
	fuzz/run

bench: ## how long a machine takes, beside what libvirt alone takes; how the operator grows with machines
	box/bench
	cargo bench --locked --quiet --bench scale

deploy: ## charts and operator into the cluster of your KUBECONFIG
	box/deploy

clean: down ## also what was built here; the cache in ~/.cache/cascina stays
	rm -rf .box* target
