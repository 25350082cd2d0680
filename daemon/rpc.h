/* rpc.h - one gRPC call: the one place where gRPC framing and proto meet.  Loop thread; owned by its connection.
 *
 * Requests are refused before they are buffered where their announced length is over the limit.  A call's session lives on
 * without it, until the engine has let go of the work. */
#ifndef DAEMON_RPC_H
#define DAEMON_RPC_H

#include <stddef.h>
#include <stdint.h>

struct engine_event;
struct h2;
struct loop;
struct rpc;
struct session;

/* NULL: out of memory. */
struct rpc *rpc_new(struct h2 *h, int32_t stream);

/* --- what h2.c hears --- */
void rpc_header(struct rpc *r, const char *name, size_t n_name, const char *value, size_t n_value);
void rpc_headers_done(struct rpc *r);
void rpc_data(struct rpc *r, const uint8_t *p, size_t n);
void rpc_half_closed(struct rpc *r);
void rpc_closed(struct rpc *r);  /* the stream is over: frees r */
int rpc_end_sent(struct rpc *r); /* the stream's end has left; 1: the client has sent its end too */
void rpc_sent(struct h2 *h);     /* after frames were pulled: who read on is unparked */

/* --- what loop.c hears --- */
void rpc_engine_event(struct loop *l, struct session *s, struct engine_event *ev); /* ev is borrowed */
void rpc_health_changed(struct loop *l);
void rpc_cut(struct loop *l);         /* the drain timeout has passed: running answers end now */
void rpc_end_watches(struct loop *l); /* nothing else runs any more */

#endif
