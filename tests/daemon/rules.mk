# The daemon over a fake engine: what the tests of the wire talk to.

FAKE := $(B)/tests/daemon/outriderd-fake

# The fake's object comes before the archive, so that the real engine is not pulled in.
$(FAKE): $(B)/daemon/main.o $(B)/tests/daemon/fake_engine.o $(LIB)
	@mkdir -p $(@D)
	$(call say,link,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(B)/fuzz/http2: tests/fuzz/http2.c $(B)/tests/daemon/fake_engine.o $(LIB)
	@mkdir -p $(@D)
	$(call say,fuzz,$@)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDFLAGS) $(LDLIBS)

daemon-tests: $(FAKE) ## build what the scripts of tests/daemon need

.PHONY: daemon-tests
