# Everything runs in .venv, made on first use. PYTHON names the interpreter to make it with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
BUILT := $(VENV)/built
ENGINE := $(shell find native -type f)
C_FILES := $(filter %.c %.h %.inc,$(ENGINE)) $(wildcard tests/*/*.c)

.PHONY: help demo test test-slow test-emulator test-asan test-scalar test-arm fuzz mca check format docs bench bench-check bench-baseline build clean

help:
	@echo "make demo          set up everything, quantize the embedded model, compare it with FP32"
	@echo "make test          set up everything, run the tests"
	@echo "make test-slow     also the long tests"
	@echo "make test-emulator every kernel on emulated CPUs (Bochs)"
	@echo "make test-asan     the kernel tests' ops under AddressSanitizer and UBSan"
	@echo "make test-scalar   the engine built without its x86 kernels"
	@echo "make test-arm      the engine cross-built for aarch64, under qemu"
	@echo "make fuzz          engine against oracle on 500 random graphs (GRAPHS=, SEED= to replay)"
	@echo "make mca           predicted speed of the VNNI kernels (llvm-mca)"
	@echo "make check         lint, format and type checks"
	@echo "make format        format Python and C"
	@echo "make docs          generate the reference pages, build the site in build/site"
	@echo "make bench         time all models against other runtimes, see benchmarks/README.md"
	@echo "make bench-check   tell which model or layer became slower, see benchmarks/README.md"
	@echo "make clean         remove everything that was built"

$(INSTALLED): pyproject.toml setup.py .ci/packages
	.ci/packages $(PYTHON)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# The install builds the engine too; this builds it again when a native source changed after that.
$(BUILT): $(INSTALLED) $(ENGINE)
	if [ -n "$$(find native -type f -newer $(INSTALLED))" ]; then \
		rm -f quantkit/execute/_engine*.so; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .; \
	fi
	touch $@

build: $(BUILT)

demo: $(BUILT)
	$(BIN)/quantkit demo demo --force

test: $(BUILT)
	$(BIN)/python -m pytest -m "not slow"

# Every op that the kernel tests run, with its confirmed result.
VECTORS := build/vectors/vectors.bin
$(VECTORS): $(BUILT) $(wildcard tests/kernels/*.py) tests/emulator/recorder.py
	mkdir -p $(@D)
	$(BIN)/python -m pytest tests/kernels -p tests.emulator.recorder --record-vectors $@

# Every kernel on emulated CPUs with and without VNNI; needs Debian packages, see tests/emulator/README.md.
test-emulator: $(VECTORS)
	VECTORS=$(abspath $(VECTORS)) PYTHON=$(abspath $(BIN)/python) tests/emulator/run.sh

test-asan: $(VECTORS)
	$(BIN)/python tests/emulator/build.py build/vectors/kernel_test_sanitized --sanitize
	build/vectors/kernel_test_sanitized $(VECTORS)

# Sessions run on a copy of the package in build/scalar, which comes before the one of the source tree.
SCALAR := build/scalar
test-scalar: $(VECTORS)
	$(BIN)/python tests/emulator/build.py build/vectors/kernel_test_scalar --scalar
	build/vectors/kernel_test_scalar $(VECTORS) scalar
	CFLAGS=-DQK_X86=0 $(BIN)/python setup.py --quiet build --build-lib $(SCALAR) --build-temp $(SCALAR)/objects
	cd $(SCALAR) && $(abspath $(BIN)/python) -c \
		"from quantkit.execute.binding import available_isas as a; assert [i for i in a() if a()[i]] == ['scalar'], a()"
	PYTHONPATH=$(SCALAR):. $(BIN)/pytest --import-mode=append tests/execute/test_session.py tests/fuzz

# Needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user-static.
test-arm: $(VECTORS)
	CC=aarch64-linux-gnu-gcc $(BIN)/python tests/emulator/build.py build/vectors/kernel_test_arm --static
	qemu-aarch64-static build/vectors/kernel_test_arm $(VECTORS) scalar

# A failure prints its seed and its graph.
fuzz: GRAPHS ?= 500
fuzz: SEED ?= $(shell od -An -N3 -tu4 /dev/urandom | tr -d ' ')
fuzz: $(BUILT)
	QUANTKIT_FUZZ_GRAPHS=$(GRAPHS) QUANTKIT_FUZZ_SEED=$(SEED) $(BIN)/python -m pytest tests/fuzz

# Needs llvm-19 and binutils; on x86-64 only.
mca: $(INSTALLED)
	$(BIN)/python benchmarks/mca.py

test-slow: $(BUILT)
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES)

# The site goes to build/site; a broken link or anchor fails it.
docs: $(BUILT)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python docs/generate_api.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# OpenVINO and NNCF come from the bench extra; without them the suite leaves them out.
bench: $(BUILT)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]' || true
	$(BIN)/python -m benchmarks --fresh

# Against benchmarks/baseline.json; bench-baseline makes what is measured now the baseline of this machine.
bench-check: $(BUILT)
	$(BIN)/python -m benchmarks.guard

bench-baseline: $(BUILT)
	$(BIN)/python -m benchmarks.guard --write

clean:
	rm -rf $(VENV) build demo quantkit.egg-info quantkit/execute/_engine*
