# Every target sets up what it needs: a virtual environment with pinned tools, and the extension.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
BUILD_TOOLS = torch==2.13.0 setuptools==84.2.1 wheel==0.48.0 ninja==1.13.2 numpy==2.4.6
CXX_FILES = $(wildcard csrc/*.cpp csrc/*.h csrc/*/*.cpp csrc/*/*.h csrc/*/*.cu)
SOURCES = setup.py pyproject.toml $(CXX_FILES)
FORMATTED = $(CXX_FILES) $(wildcard tests/emulated_cuda/*.h tests/emulated_cuda/*.cpp)
SANITIZED = build/sanitized
EMULATED = build/emulated

.PHONY: demo test bench accuracy sanitize emulated-cuda headers cuda-objects lint format clean

$(VENV)/.tools: Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --progress-bar on $(BUILD_TOOLS)
	touch $@

$(VENV)/.installed: $(VENV)/.tools $(SOURCES)
	$(BIN)/pip install --no-build-isolation --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python -m examples.demo

# The whole suite on the best instruction set of this machine, then on each of the others all that
# can depend on it.
test: $(VENV)/.installed
	$(BIN)/python -m pytest
	for set in $$($(BIN)/python -m torchsoftmax info --other-instruction-sets); do \
	  ATEN_CPU_CAPABILITY=$$set $(BIN)/python -m pytest -m "not once" || exit 1; \
	done

# The peers that are not PyTorch come with an extra of their own.
$(VENV)/.bench: $(VENV)/.tools $(SOURCES)
	$(BIN)/pip install --no-build-isolation --editable ".[dev,bench]"
	touch $(VENV)/.installed $@

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

accuracy: $(VENV)/.installed
	$(BIN)/python -m benchmarks.accuracy

# AddressSanitizer and UndefinedBehaviorSanitizer over the kernels of every instruction set. Tensors
# end where their allocation ends, so a read past a row's end is found. libstdc++ is there for
# exceptions: the sanitizer looks for its __cxa_throw when it starts.
sanitize: $(VENV)/.installed
	TORCHSOFTMAX_SANITIZE=1 $(BIN)/python setup.py --quiet build_ext \
	  --build-temp $(SANITIZED)/objects --build-lib $(SANITIZED)/package
	cp torchsoftmax/*.py torchsoftmax/_C.*so $(SANITIZED)/package/torchsoftmax
	for set in $$($(BIN)/python -m torchsoftmax info --instruction-sets); do \
	  LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 \
	  UBSAN_OPTIONS=print_stacktrace=1 ATEN_CPU_CAPABILITY=$$set PYTHONPATH=$(SANITIZED)/package:. \
	  $(BIN)/pytest -m kernels -p no:cacheprovider -o pythonpath= || exit 1; \
	done

# The CUDA kernels on the CPU, thread by thread (tests/emulated_cuda): they stand in the place of
# the kernels for the oldest instruction set. Indices out of range are assertions there, not errors;
# large results would take hours, and concern the CPU's memory.
emulated-cuda: $(VENV)/.installed
	TORCHSOFTMAX_EMULATED_CUDA=1 $(BIN)/python setup.py --quiet build_ext \
	  --build-temp $(EMULATED)/objects --build-lib $(EMULATED)/package
	cp torchsoftmax/*.py torchsoftmax/_C.*so $(EMULATED)/package/torchsoftmax
	for tests in "-m kernels --ignore=tests/test_threads.py --ignore=tests/test_large_results.py" \
	  tests/test_row_lengths.py; do \
	  ATEN_CPU_CAPABILITY=default TORCHSOFTMAX_EMULATED_CUDA=1 PYTHONPATH=$(EMULATED)/package:. \
	  $(BIN)/pytest -k "not out_of_range" -p no:cacheprovider -o pythonpath= $$tests || exit 1; \
	done

# The C++ sources against the headers of every torch release of the declared range: compiled only,
# neither linked nor run.
headers: $(VENV)/.installed
	$(BIN)/python tests/compile_against.py

# The CUDA sources to object files, where nvcc is but neither a GPU nor a CUDA build of torch: against
# the headers of one, of which pip downloads the wheel.
cuda-objects: $(VENV)/.installed
	$(BIN)/python tests/compile_against.py --cuda 2.11.0

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(FORMATTED)

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED)

clean:
	rm -rf build dist *.egg-info torchsoftmax/*.so $(VENV)
