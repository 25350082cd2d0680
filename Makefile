# Outrider.  `make help` lists the targets.  One non-recursive file, no guessing.
#
#   CC=gcc|clang     the compiler
#   SAN=             none, or address (with undefined) or thread: its own build directory
#   OPT=-O2          optimisation
#   BREAK=NAME       a named broken build (tests/gate/breaks.txt), which the gates must catch
#   CUDA=0|1         without or with the GPU's backend; 1 where nvcc is found

CC      := gcc
SAN     :=
OPT     := -O2
BREAK   :=
PYTHON  := /usr/bin/python3
NVCC    := $(shell command -v nvcc 2>/dev/null)
CUDA    := $(if $(NVCC),1,0)

B := build/$(notdir $(CC))$(if $(SAN),-$(SAN))$(if $(BREAK),-break-$(BREAK))

LIBS     := libuv libnghttp2 libprotobuf-c jansson libpcre2-8 libutf8proc libedit zlib
HEALTH   := /usr/share/grpc-proto/grpc/health/v1/health.proto

# What builds needs these; what installs them does not.
ifneq ($(filter-out packages demo check quick format clean help,$(or $(MAKECMDGOALS),all)),)
  ifeq ($(shell pkg-config --exists $(LIBS) && test -e $(HEALTH) && type $(CC) protoc protoc-c >/dev/null 2>&1 && echo ok),)
    missing := $(strip $(shell sh .ci/packages --list))
    ifneq ($(missing),)
      $(error These packages are missing: $(missing).  `make packages` installs them; `make demo` does that, builds and runs)
    endif
    $(error The packages are here, but one of these does not work: $(CC), protoc, protoc-c, pkg-config --exists $(LIBS))
  endif
endif

PKG      := $(shell pkg-config --silence-errors --cflags $(LIBS))
LDLIBS   := $(shell pkg-config --silence-errors --libs $(LIBS)) -lopenblas -lm -lpthread
# The runtime is linked statically and looks for the driver itself, when --device asks for one.
ifeq ($(CUDA),1)
  LDLIBS += -L$(dir $(realpath $(NVCC)))../lib64 -L$(dir $(realpath $(NVCC)))../targets/x86_64-linux/lib -lcudart_static -lstdc++ -ldl -lrt
endif
WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith -Wwrite-strings -Werror
# -ffp-contract=off and no fast-math anywhere: NUMERICS.md.
CFLAGS   := -std=c11 -D_GNU_SOURCE $(OPT) -g -fno-omit-frame-pointer -ffp-contract=off $(WARN)
CPPFLAGS := -I. -I$(B)/gen $(PKG) $(if $(BREAK),-DBREAK_$(BREAK)=1)
LDFLAGS  :=
ifeq ($(SAN),address)
  CFLAGS += -fsanitize=address,undefined -fno-sanitize-recover=all
  LDFLAGS += -fsanitize=address,undefined
endif
ifeq ($(SAN),thread)
  CFLAGS += -fsanitize=thread
  LDFLAGS += -fsanitize=thread
endif
ifeq ($(SAN),fuzzer)
  CFLAGS += -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
  LDFLAGS += -fsanitize=address,undefined
endif

FOLDERS := core model cpu draw draft target target/cpu target/cuda verifier verifier/cuda proto daemon client
CUDA_C  := target/cuda/backend.c target/cuda/load.c verifier/cuda/plan.c
CUDA_NO := target/cuda/absent.c verifier/cuda/absent.c
CUDA_SRC := $(wildcard target/cuda/*.cu verifier/cuda/*.cu)
SRC     := $(filter-out daemon/main.c client/main.c $(if $(filter 1,$(CUDA)),$(CUDA_NO),$(CUDA_C)),$(wildcard $(addsuffix /*.c,$(FOLDERS))))
GEN     := outrider/v1/inference grpc/health/v1/health grpc/reflection/v1/reflection
PROTOS  := outrider/v1/inference.proto grpc/health/v1/health.proto \
           grpc/reflection/v1/reflection.proto grpc/reflection/v1alpha/reflection.proto
GEN_C   := $(GEN:%=$(B)/gen/%.pb-c.c)
GEN_H   := $(GEN:%=$(B)/gen/%.pb-c.h)
GEN_O   := $(GEN:%=$(B)/gen/%.pb-c.o)
OBJ     := $(SRC:%.c=$(B)/%.o) $(GEN_O) $(B)/proto/files.o $(if $(filter 1,$(CUDA)),$(CUDA_SRC:%.cu=build/nvcc/%.o))
LIB     := $(B)/liboutrider.a

TEST_GROUPS := unit pair golden gate
TEST_SRC    := $(foreach g,$(TEST_GROUPS),$(wildcard tests/$(g)/*.c))
TEST_BIN    := $(TEST_SRC:%.c=$(B)/%)
TEST_LIB    := $(patsubst %.c,$(B)/%.o,$(wildcard tests/lib/*.c))
FUZZ_SRC    := $(wildcard tests/fuzz/*.c)
BENCH_BIN   := $(patsubst %.c,$(B)/%,$(wildcard tests/bench/*.c))

# `make V=1` shows the commands.
Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-6s %s\n' $(1) $(2))

.DEFAULT_GOAL := all
.SECONDARY:
.DELETE_ON_ERROR:

all: $(B)/outriderd $(B)/outrider ## build the daemon and the client

-include Makefile.check

$(B)/outriderd: $(B)/daemon/main.o $(LIB)
	$(call say,link,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(B)/outrider: $(B)/client/main.o $(LIB)
	$(call say,link,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# Who builds with CUDA and then without gets another archive.
$(B)/cuda-$(CUDA):
	@mkdir -p $(@D)
	@rm -f $(B)/cuda-*
	@touch $@

$(LIB): $(OBJ) $(B)/cuda-$(CUDA)
	@rm -f $@
	$(call say,ar,$@)
	$(Q)ar rcs $@ $(OBJ)

# A sanitizer's checks on unrolled kernels cost the compiler minutes at -O3.
KERN_OPT := $(if $(SAN),-O1,-O3)

# Each kernel file is compiled for its own instruction set; the table picks by cpuid when the pool opens.
$(B)/cpu/kern_twin_fma.o $(B)/cpu/kern_avx2.o: CFLAGS += -mavx2 -mfma -mf16c $(KERN_OPT)
$(B)/cpu/kern_avxvnni.o: CFLAGS += -mavx2 -mfma -mf16c -mavxvnni $(KERN_OPT)
$(B)/cpu/kern_avx512.o: CFLAGS += -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c $(KERN_OPT)
$(B)/cpu/kern_vnni.o:   CFLAGS += -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c $(KERN_OPT)

$(B)/core/math_fma.o: CFLAGS += -mfma -O2

# Passes over every weight of a checkpoint.
$(B)/cpu/pack.o $(B)/cpu/read.o: CFLAGS += -O3
# A product of 64 bits is one instruction, and many of the old vector kind.
$(B)/cpu/sum.o: CFLAGS += -fno-tree-vectorize

# Every row's keys and values.
$(B)/cpu/kv.o: CFLAGS += -O3

# Passes over a whole vocabulary.
$(B)/draw/pick.o $(B)/draw/prepare.o $(B)/draw/logprob.o $(B)/draw/noise.o: CFLAGS += -O3

$(B)/%.o: %.c $(GEN_H)
	@mkdir -p $(@D)
	$(call say,cc,$@)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(B)/gen/%.pb-c.o: $(B)/gen/%.pb-c.c
	$(call say,cc,$@)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -Wno-error -w -c -o $@ $<

$(B)/gen/outrider/%.pb-c.c $(B)/gen/outrider/%.pb-c.h: proto/outrider/%.proto
	@mkdir -p $(B)/gen
	$(Q)protoc-c -I proto --c_out=$(B)/gen $<

# What server reflection hands out.
$(B)/gen/files.fds: proto/outrider/v1/inference.proto
	@mkdir -p $(@D)
	$(Q)protoc -I proto -I /usr/share/grpc-proto --include_imports --descriptor_set_out=$@ $(PROTOS)

$(B)/proto/files.o: proto/files.S $(B)/gen/files.fds
	@mkdir -p $(@D)
	$(call say,as,$@)
	$(Q)$(CC) -Wa,-I$(B)/gen -c -o $@ $<

# grpc.health.v1 and grpc.reflection come from Debian's grpc-proto.
$(B)/gen/grpc/%.pb-c.c $(B)/gen/grpc/%.pb-c.h: /usr/share/grpc-proto/grpc/%.proto
	@mkdir -p $(B)/gen
	$(Q)protoc-c -I /usr/share/grpc-proto --c_out=$(B)/gen $<

$(B)/tests/%: $(B)/tests/%.o $(TEST_LIB) $(LIB)
	$(call say,link,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lcmocka $(LDLIBS)

# What the thread sanitizer does not watch.  The oracle: one thread.  The kernels but for one set: it checks a load of 64 bytes word by
# word, four fifths of a run; what a thread may write is chosen by their callers, and kern_twin_fma.c does the same work under its eyes.
ifeq ($(SAN),thread)
  $(patsubst %,$(B)/%.o,tests/lib/oracle cpu/kern_twin cpu/kern_avx2 cpu/kern_avx512 cpu/kern_vnni): CFLAGS += -fno-sanitize=thread
endif

# No fuzz target computes: the kernels are only linked, and clang takes minutes to instrument them.
ifeq ($(SAN),fuzzer)
  $(patsubst %,$(B)/cpu/%.o,kern_twin_fma kern_avx2 kern_avx512 kern_vnni): CFLAGS += -fno-sanitize=all
endif

# Every allocation of the engine passes through the test.
$(B)/tests/unit/allocs: LDFLAGS += -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=posix_memalign

$(B)/fuzz/%: tests/fuzz/%.c $(TEST_LIB) $(LIB)
	@mkdir -p $(@D)
	$(call say,fuzz,$@)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDFLAGS) -lcmocka $(LDLIBS)

-include tests/daemon/rules.mk
-include tests/hostsim/rules.mk

tests: $(TEST_BIN) ## build the test programs
bench: $(BENCH_BIN) ## build the benchmarks
fuzz: $(FUZZ_SRC:tests/fuzz/%.c=$(B)/fuzz/%) ## build the fuzz targets (CC=clang SAN=fuzzer)

format: ## rewrite the sources in the house format
	clang-format -i $(shell git ls-files '*.c' '*.h' '*.cpp' '*.cu' '*.cuh')

clean: ## remove every build
	rm -rf build

help: ## this list
	@grep -hE '^[a-z][a-z-]*:.*## ' Makefile Makefile.check | sed 's/:.*## /\t/' | expand -t 16

.PHONY: all tests bench fuzz format clean help

-include $(shell find $(B) -name '*.d' 2>/dev/null)
