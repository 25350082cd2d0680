# CUDA sources without a GPU: compiled by g++ and run on the CPU (the host lane), and compiled by nvcc where there is one.
#
#   $(B)/lane/...     the host lane: fast; poison, schedules, guard pages
#   $(B)/checked/...  the same with every memory access checked: bounds to the byte, reads of unwritten bytes, races
#   build/nvcc/...    objects for every architecture, and what ptxas said of them

CXX       := g++
# No -Wshadow: in C a struct and a function may have one name, and the borders do that (struct target_usage).
LANE_WARN := -Wall -Wextra -Wno-unknown-pragmas -Wvla -Wpointer-arith -Wwrite-strings -Werror
LANE      := -std=c++17 $(OPT) -g -fno-omit-frame-pointer -ffp-contract=off $(LANE_WARN) -DHOSTSIM -I. -Itests/hostsim \
             -fstack-clash-protection $(if $(BREAK),-DBREAK_$(BREAK)=1)
# The calls that -fsanitize=thread inserts go to tests/hostsim/check.cpp; its own runtime is never linked.
CHECKED   := -fsanitize=thread -O1

LANE_LIB   := $(B)/lane/libhostsim.a
LANE_OBJ   := $(patsubst %.cpp,$(B)/lane/%.o,$(wildcard tests/hostsim/*.cpp))
LANE_BACK  := $(CUDA_SRC:%.cu=$(B)/lane/%.o) $(CUDA_C:%.c=$(B)/%.o) $(LANE_LIB) $(TEST_LIB) $(LIB)
LANE_TESTS := $(patsubst %.cu,%,$(wildcard tests/hostsim/test/*.cu tests/cuda/*.cu))

$(LANE_LIB): $(LANE_OBJ)
	@rm -f $@
	$(call say,ar,$@)
	$(Q)ar rcs $@ $^

$(B)/lane/%.o: %.cpp
	@mkdir -p $(@D)
	$(call say,c++,$@)
	$(Q)$(CXX) $(LANE) -O2 -MMD -MP -c -o $@ $<

$(B)/lane/%.o: %.cu
	@mkdir -p $(@D)
	$(call say,c++,$@)
	$(Q)$(CXX) $(LANE) -MMD -MP -x c++ -c -o $@ $<

$(B)/checked/%.o: %.cu
	@mkdir -p $(@D)
	$(call say,c++,$@)
	$(Q)$(CXX) $(LANE) $(CHECKED) -MMD -MP -x c++ -c -o $@ $<

# What a test of tests/cuda is linked with, in either build; the simulator's own tests need no kernels.
lane_link = $(CXX) $(LDFLAGS) -o $@ $^ -lcmocka $(LDLIBS)

$(B)/lane/tests/hostsim/test/%: $(B)/lane/tests/hostsim/test/%.o $(LANE_LIB) $(LIB)
	$(call say,link,$@)
	$(Q)$(lane_link)

$(B)/checked/tests/hostsim/test/%: $(B)/checked/tests/hostsim/test/%.o $(LANE_LIB) $(LIB)
	$(call say,link,$@)
	$(Q)$(lane_link)

$(B)/lane/tests/cuda/%: $(B)/lane/tests/cuda/%.o $(LANE_BACK)
	$(call say,link,$@)
	$(Q)$(lane_link)

$(B)/checked/tests/cuda/%: $(B)/checked/tests/cuda/%.o $(CUDA_SRC:%.cu=$(B)/checked/%.o) $(CUDA_C:%.c=$(B)/%.o) $(LANE_LIB) $(TEST_LIB) $(LIB)
	$(call say,link,$@)
	$(Q)$(lane_link)

# The gates of tests/gate with the target on the lane: GATE_DEVICE=cuda:0.
$(B)/lane/tests/gate/%: $(B)/tests/gate/%.o $(LANE_BACK)
	@mkdir -p $(@D)
	$(call say,link,$@)
	$(Q)$(lane_link)

# The daemon and the benchmark likewise: that both work, not how fast.
$(B)/lane/tests/bench/%: $(B)/lane/tests/bench/%.o $(LANE_BACK)
	$(call say,link,$@)
	$(Q)$(lane_link)

$(B)/lane/outriderd: $(B)/daemon/main.o $(LANE_BACK)
	$(call say,link,$@)
	$(Q)$(lane_link)

LANE_GATES := oracle extras equality

lane-tests: $(B)/outrider $(B)/lane/outriderd $(B)/lane/tests/bench/gpu $(LANE_GATES:%=$(B)/lane/tests/gate/%) $(LANE_TESTS:%=$(B)/lane/%) $(LANE_TESTS:%=$(B)/checked/%) ## build the tests of the CUDA sources that need no GPU

# --- nvcc ---

# -fmad=false: a fused multiply-add is written fmaf (NUMERICS.md).
NVCCFLAGS := -std=c++17 -O3 -fmad=false -I. -Werror all-warnings -Xcompiler -Wall,-Wextra,-Werror \
             $(foreach a,80 86 89,-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_90,code=[sm_90,compute_90]

build/nvcc/%.o: %.cu
	@mkdir -p $(@D)
	$(call say,nvcc,$@)
	$(Q)$(NVCC) $(NVCCFLAGS) -Xptxas -v -MMD -MP -c -o $@ $< >$@.log 2>&1 || { cat $@.log; exit 1; }

nvcc: $(CUDA_SRC:%.cu=build/nvcc/%.o) ## compile the CUDA sources for every architecture

# --- on a GPU: the same tests, built for it; the gates are those of tests/gate with GATE_DEVICE ---

GPU_TESTS := $(patsubst %.cu,$(B)/gpu/%,$(filter-out tests/cuda/lost.cu,$(wildcard tests/cuda/*.cu)) tests/hostsim/test/warp.cu)

$(B)/gpu/%: build/nvcc/%.o $(TEST_LIB) $(LIB)
	@mkdir -p $(@D)
	$(call say,link,$@)
	$(Q)$(CXX) $(LDFLAGS) -o $@ $^ -lcmocka $(LDLIBS)

ifeq ($(CUDA),1)
gpu-tests: $(GPU_TESTS) $(B)/gpu/tests/bench/gpu tests ## build the tests that want a GPU (CUDA=1)

gpu-check: gpu-tests ## what needs a GPU: kernels, backend, draw, fragment layouts and the equality gates on the one at hand
	@$(PYTHON) tests/gpu.py $(B)

bench-gpu: all $(B)/gpu/tests/bench/gpu ## what passes and answers cost on the GPU at hand, as one JSON table, in eight minutes
	@$(PYTHON) tests/bench/gpu.py --build $(B)
else
gpu-tests gpu-check bench-gpu:
	@echo '$@ needs nvcc on PATH and CUDA=1: this build has no GPU backend' >&2; exit 2
endif

.PHONY: lane-tests nvcc gpu-tests gpu-check bench-gpu

-include $(shell find build/nvcc -name '*.d' 2>/dev/null)
