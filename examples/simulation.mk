# Results that are made anew when the model changes, once the database is ready.
#
#     make -f examples/simulation.mk WORKSPACE=workspaces/alpha
WORKSPACE ?= workspaces/alpha
SIMULATE ?= python simulate.py

.DELETE_ON_ERROR:
.PHONY: ready

# Behind the bar: it must be ready first, but what is newer does not matter, since each wait is.
results.txt: $(wildcard simulate.py) | ready
	selfheald exec $(WORKSPACE) -- $(SIMULATE) >$@

ready:
	selfheald wait $(WORKSPACE) --timeout 300
