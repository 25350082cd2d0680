/* source.h - what a model's name on the command line means: a directory, a GGUF file, or a synthetic model.
 *
 * Internal to the folder. */
#ifndef MODEL_SOURCE_H
#define MODEL_SOURCE_H

#include <limits.h>

#include "core/status.h"

enum source_kind { SOURCE_DIR, SOURCE_GGUF, SOURCE_SYNTH };

struct source {
    int kind; /* enum source_kind */
    char path
        [PATH_MAX]; /* the directory without slashes at its end, the .gguf file, or the words after "synth:" */
};

/* A regular file is taken for GGUF, and so is a directory with one .gguf file and no safetensors; "synth:..." is synthetic;
 * anything else is a directory, whether it is there or not.  ST_INPUT: a path too long, or a directory with several .gguf
 * files. */
int source_find(struct source *s, const char *name, struct err *e);

#endif
