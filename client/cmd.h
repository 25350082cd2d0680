/* cmd.h - the subcommands of `outrider`.  Each file cmd_*.c is one command (or one family), started by main.c with its own
 * argv (argv[0] is the command's name).  Exit status: 0 done; 1 the work failed; 2 bad usage; 3 the server cannot be reached
 * or refused; 130 interrupted. */
#ifndef CLIENT_CMD_H
#define CLIENT_CMD_H

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_SERVER = 3, EXIT_INTERRUPTED = 130 };

int cmd_inspect(int argc, char **argv);
int cmd_synth(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_detokenize(int argc, char **argv);
int cmd_render(int argc, char **argv);
int cmd_logits(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_health(int argc, char **argv);
int cmd_model(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_bench_forward(int argc, char **argv);
int cmd_stats(int argc, char **argv);
int cmd_demo(int argc, char **argv);

#endif
