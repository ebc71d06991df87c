# The pins of the Python packages. The Makefile includes this file at its end.
#
# Each file has the exact versions of a set of packages and the hashes of their files, for Python 3.11
# and newer on every platform. pip installs nothing else (PIP in the Makefile).
#   build.txt    the tools that build the package
#   runtime.txt  the service, with the driver of PostgreSQL and h2corn: `make serve`, the image
#   dev.txt      runtime.txt and the packages of tests and benchmarks
#   uv.txt       the tool that writes these files

UV      := .build/uv/bin/uv
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate $(UPGRADE)

.PHONY: pins
pins: $(UV) ## pin the packages of pyproject.toml in requirements/; UPGRADE=--upgrade for the newest versions
	$(COMPILE) pyproject.toml --all-extras -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra postgres --extra h2corn -c requirements/dev.txt -o requirements/runtime.txt
	printf 'hatchling>=1.27\neditables\n' | $(COMPILE) - -c requirements/dev.txt -o requirements/build.txt
	echo uv | $(COMPILE) - -o requirements/uv.txt

$(UV): requirements/uv.txt
	$(PYTHON) -m venv .build/uv
	.build/uv/bin/python -m $(PIP_INSTALL) -r requirements/uv.txt
	@touch $@
