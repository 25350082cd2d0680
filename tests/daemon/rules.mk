# The daemon over a fake engine, and the Python stubs its tests talk to it with.

FAKE     := $(B)/tests/daemon/outriderd-fake
PY_STUBS := $(B)/gen/py/outrider/v1/inference_pb2_grpc.py $(B)/gen/py/grpc_health/health_pb2_grpc.py

# Before the archive, so that the real engine's object is not pulled in.
$(FAKE): $(B)/daemon/main.o $(B)/tests/daemon/fake_engine.o $(LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(B)/fuzz/http2: tests/fuzz/http2.c $(B)/tests/daemon/fake_engine.o $(LIB)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDFLAGS) $(LDLIBS)

$(B)/gen/py/outrider/v1/inference_pb2_grpc.py: proto/outrider/v1/inference.proto
	@mkdir -p $(B)/gen/py
	protoc -I proto --python_out=$(B)/gen/py --grpc_out=$(B)/gen/py --plugin=protoc-gen-grpc=$$(command -v grpc_python_plugin) $<

# Under another name: a folder called grpc would hide the library of that name.
$(B)/gen/py/grpc_health/health_pb2_grpc.py: /usr/share/grpc-proto/grpc/health/v1/health.proto
	@mkdir -p $(@D)
	protoc -I $(<D) --python_out=$(@D) --grpc_out=$(@D) --plugin=protoc-gen-grpc=$$(command -v grpc_python_plugin) $<

check-wire: $(FAKE) $(PY_STUBS) ## the daemon's wire tests against a fake engine
	BUILD=$(B) OUTRIDERD=$(FAKE) $(PYTHON) tests/daemon/wire.py

.PHONY: check-wire
