/* main.c - `outrider COMMAND ...`: finds the command and hands over. */
#include "client/cmd.h"
#include "core/version.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;
} commands[] = {
    {"chat", cmd_chat, "talk with a daemon"},
    {"generate", cmd_generate, "one answer from a daemon, for scripts"},
    {"bench", cmd_bench, "load a daemon and measure latency, throughput and what speculation gives"},
    {"bench-forward", cmd_bench_forward,
     "what a pass over so many rows costs on this machine, without a daemon"},
    {"health", cmd_health, "is a daemon serving?"},
    {"model", cmd_model, "what a daemon serves"},
    {"stats", cmd_stats, "what a daemon is doing and has done"},
    {"demo", cmd_demo, "start a daemon with the tiny pair and see it work"},
    {"synth", cmd_synth, "a checkpoint of a real model's shape with random weights, for latency work"},
    {"inspect", cmd_inspect, "configuration, tensors and sizes of a checkpoint, and what is refused and why"},
    {"tokenize", cmd_tokenize, "text to ids"},
    {"detokenize", cmd_detokenize, "ids to text"},
    {"render", cmd_render, "messages through the chat template"},
    {"logits", cmd_logits, "logits of given ids"},
};

static void usage(FILE *to)
{
    fprintf(to, "usage: outrider COMMAND [OPTIONS]\n\ncommands:\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        fprintf(to, "  %-15s%s\n", commands[i].name, commands[i].what);
    fprintf(to, "\n`outrider COMMAND --help` explains one; `outrider --version` says which this is.\n");
}

/* A connection or file that took the number of a closed stdout would be sent the answer.  What is put in its place fails as
 * the closed one would: it cannot be read, or not be written. */
static void hold_stdio(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0)
            return;
}

/* Done is what has left the house. */
static int finish(const char *command, int rc)
{
    if ((fflush(stdout) || ferror(stdout)) && rc == EXIT_DONE) {
        fprintf(stderr, "outrider%s%s: cannot write to standard output: %s\n", *command ? " " : "", command,
                strerror(errno));
        return EXIT_FAILED;
    }
    return rc;
}

int main(int argc, char **argv)
{
    hold_stdio();
    if (argc < 2) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return finish("", EXIT_DONE);
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("outrider " OUTRIDER_VERSION "\n");
        return finish("", EXIT_DONE);
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return finish(argv[1], commands[i].run(argc - 1, argv + 1));
    fprintf(stderr, "outrider: no command '%s'; `outrider --help` lists them\n", argv[1]);
    return EXIT_USAGE;
}
