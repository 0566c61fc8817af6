# `make relay` shows a relay at work, `make test` checks everything; `make help` lists the rest.
# It needs a Debian 12 or 13 with git, make and root or sudo. The targets install all other tools.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

OS ?= debian-13
ARCH ?= amd64
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo --preserve-env)
LAB := test/lab/lab
VENV := .venv/bin
# The tests boot machines in containers and see the processes of all users, so they run as root. They leave no root files.
PYTEST := $(SUDO) env PYTHONDONTWRITEBYTECODE=1 $(VENV)/pytest -p no:cacheprovider
# Options of the tests on machines, which by default boot both releases: make lab RELAY_OPTIONS="--os debian-12 -k chat"
RELAY_OPTIONS ?=
# make fleet FLEET_OPTIONS="--releases debian-13,debian-13" moves a relay from Debian 13 to 13.
FLEET_OPTIONS ?=
UNIT_MAIL := $(addprefix test/unit/,filter message transport)
# The tests that only use machines of their own.
OWN_MACHINES := $(patsubst %,test/relay/test_%.py,contributor adoption backup bootstrap lifecycle upgrade)
PACKAGES := $(shell sed 's/\#.*//' test/packages.txt)

.PHONY: help relay test lint unit unit-mail unit-rest salt lab fleet vm realtime upgrade bench mutate documents reference webdev setup clean beside-relays

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

relay: python3 ## boot a throwaway relay, pass a message through it, show an account (OS=debian-12)
	@$(SUDO) test/lab/demo.py --os $(OS)

# The tests on relays often wait, so three parts of about the same length run at once. Each line of the relays' output
# names its release.
test: lint ## all of it: lint, unit and Salt tests, and relays of both releases
	@$(MAKE) --no-print-directory --jobs=3 beside-relays relay-debian-13 relay-debian-12

beside-relays: .venv/ready
	$(PYTEST) test/unit test/salt
	$(PYTEST) --durations=15 $(OWN_MACHINES)

relay-debian-%: .venv/ready
	$(PYTEST) test/relay --durations=15 $(addprefix --ignore=,$(OWN_MACHINES)) --os debian-$* $(RELAY_OPTIONS) 2>&1 \
		| sed -u 's/^/debian-$*  /'

lint: .venv/ready ## ruff, salt-lint, yamllint, shellcheck
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/salt-lint $$(git ls-files '*.sls')
	yamllint --strict -d '{extends: default, rules: {line-length: {max: 100}, document-start: disable}}' \
		$$(git ls-files '*.yml' '*.yaml') FORMULA pillar.example
	shellcheck bootstrap.sh .ci/run

# Two halves at once, because much of the time is waiting: 55 s in place of 82 on two cores.
unit: .venv/ready ## tests of plain Python
	@$(MAKE) --no-print-directory --jobs=2 unit-mail unit-rest

unit-mail:
	$(PYTEST) $(UNIT_MAIL)

unit-rest:
	$(PYTEST) test/unit $(addprefix --ignore ,$(UNIT_MAIL))

salt: .venv/ready ## tests of modules and states with Salt's loader
	$(PYTEST) test/salt

lab: .venv/ready ## tests on booted machines (RELAY_OPTIONS="--os debian-12 -k chat")
	$(PYTEST) test/relay $(RELAY_OPTIONS)

fleet: .venv/ready ## a Salt master with relays of both releases: rollout, mail, beacon, a move
	$(PYTEST) -s test/master $(FLEET_OPTIONS)

vm: python3 ## a relay on an emulated machine: its kernel, AppArmor, a reboot (OS=debian-12 ARCH=arm64)
	@$(SUDO) test/lab/vmcheck.py --os $(OS) --arch $(ARCH)

realtime: .venv/ready ## two Delta Chats meet at a real iroh relay, which cargo builds once (OS=debian-12)
	$(PYTEST) -s test/relay/real_iroh.py --os $(OS)

upgrade: .venv/ready ## a relay whose machine goes from Debian 12 to 13: six minutes
	$(SUDO) $(LAB) images --os debian-13
	$(PYTEST) -s test/relay/dist_upgrade.py --os debian-12

bench: .venv/ready ## figures of a relay: table, JSON, plots (OS=debian-12 PARTS=sustained PEERS=box)
	$(VENV)/pip install --quiet --group bench || echo "matplotlib cannot be installed: no plots"
	$(SUDO) $(LAB) images --os $(OS)
	$(SUDO) $(LAB) client -- env PYTHONDONTWRITEBYTECODE=1 $(VENV)/python test/bench/bench.py --os $(OS) \
		$(if $(PARTS),--parts "$(PARTS)") $(if $(PEERS),--peers "$(PEERS)") $(if $(CLIENTS),--clients $(CLIENTS)) \
		$(if $(MESSAGES),--messages $(MESSAGES)) $(if $(BEFORE),--before $(BEFORE))

mutate: .venv/ready ## faults that the unit tests do not notice (PART=message SAMPLE=60; hours without SAMPLE)
	$(VENV)/pip install --quiet --group mutate
	$(SUDO) $(VENV)/python -B test/mutation/mutate.py $(PART) $(if $(SAMPLE),--sample $(SAMPLE))

documents: .venv/ready ## write pillar.example and docs/settings.md, and the tables of docs/performance.md
	$(VENV)/python test/support/settings_documents.py
	$(VENV)/python test/bench/tables.py

reference: .venv/ready ## write test/reference, the configuration of three example relays
	$(VENV)/python test/support/reference.py

webdev: .venv/ready ## the website on this machine, rebuilt on change (PILLAR=file)
	$(VENV)/python chatmail/website/webdev.py $(PILLAR)

setup: .venv/ready ## install what work on this repository needs

.venv/ready: pyproject.toml test/packages.txt | python3
	$(SUDO) $(LAB) install $(PACKAGES)
	/usr/bin/python3 -m venv --system-site-packages .venv
	$(VENV)/pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)/pip install --quiet --group lint --group test
	touch $@

.PHONY: python3
python3:
	@test -x /usr/bin/python3 || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy python3; }

clean: ## end all boxes of the lab, and remove what these targets made here
	$(SUDO) $(LAB) down --all
	rm -rf .venv .ruff_cache .hypothesis .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
