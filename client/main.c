/* main.c - `outrider COMMAND ...`: finds the command and hands over. */
#include "client/cmd.h"

#include <stdio.h>
#include <string.h>

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
    fprintf(to, "\n`outrider COMMAND --help` explains one.\n");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return EXIT_DONE;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "outrider: no command '%s'; `outrider --help` lists them\n", argv[1]);
    return EXIT_USAGE;
}
