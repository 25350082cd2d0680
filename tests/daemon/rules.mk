# The daemon over a fake engine, with gRPC's test service beside its own: what the tests of the wire talk to.

FAKE   := $(B)/tests/daemon/outriderd-fake
FAKE_O := $(B)/tests/daemon/fake_engine.o $(B)/tests/daemon/test_service.o $(B)/gen/tests/testing.pb-c.o

$(B)/gen/tests/testing.pb-c.c $(B)/gen/tests/testing.pb-c.h: tests/daemon/testing.proto
	@mkdir -p $(B)/gen/tests
	$(Q)protoc-c -I tests/daemon --c_out=$(B)/gen/tests $<

$(B)/tests/daemon/test_service.o: CPPFLAGS += -I$(B)/gen/tests
$(B)/tests/daemon/test_service.o: $(B)/gen/tests/testing.pb-c.h

# The objects come before the archive, so that the real engine and the daemon's own table of services are not pulled in.
$(FAKE): $(B)/daemon/main.o $(FAKE_O) $(LIB)
	@mkdir -p $(@D)
	$(call say,link,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(B)/fuzz/http2: tests/fuzz/http2.c $(FAKE_O) $(LIB)
	@mkdir -p $(@D)
	$(call say,fuzz,$@)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDFLAGS) $(LDLIBS)

daemon-tests: $(FAKE) ## build what the scripts of tests/daemon need

.PHONY: daemon-tests
