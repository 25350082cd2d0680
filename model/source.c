/* source.c - see source.h. */
#include "model/source.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "model/read.h"

#define SYNTH_PREFIX "synth:"

static int is_gguf(const char *name)
{
    size_t n = strlen(name);
    return n > 5 && strcmp(name + n - 5, ".gguf") == 0;
}

/* How many .gguf files lie in dir; the last one's name into `name`. */
static int count_gguf(const char *dir, char name[NAME_MAX + 1])
{
    DIR *d = opendir(dir);
    int n = 0;
    for (struct dirent *x; d && (x = readdir(d));)
        if (is_gguf(x->d_name)) {
            snprintf(name, NAME_MAX + 1, "%s", x->d_name);
            n++;
        }
    if (d)
        closedir(d);
    return n;
}

static int look_inside(struct source *s, struct err *e)
{
    char file[NAME_MAX + 1];
    if (model__file_exists(s->path, "model.safetensors") ||
        model__file_exists(s->path, "model.safetensors.index.json"))
        return 0;
    int n = count_gguf(s->path, file);
    if (n > 1)
        return err_set(e, ST_INPUT, "%s: %d .gguf files lie there; name one of them", model__quote(s->path).s,
                       n);
    size_t len = strlen(s->path);
    if (n == 1 && (size_t) snprintf(s->path + len, sizeof s->path - len, "/%s", file) >= sizeof s->path - len)
        return err_set(e, ST_INPUT, "%s: the path is longer than %d bytes", model__quote(s->path).s,
                       PATH_MAX - 1);
    s->kind = n == 1 ? SOURCE_GGUF : SOURCE_DIR;
    return 0;
}

int source_find(struct source *s, const char *name, struct err *e)
{
    struct stat st;
    int synth = strncmp(name, SYNTH_PREFIX, strlen(SYNTH_PREFIX)) == 0;
    if (synth)
        name += strlen(SYNTH_PREFIX);
    size_t n = strlen(name);
    while (!synth && n > 1 && name[n - 1] == '/')
        n--;
    if (n >= sizeof s->path)
        return err_set(e, ST_INPUT, "%s: the path is longer than %d bytes", model__quote(name).s,
                       PATH_MAX - 1);
    memcpy(s->path, name, n);
    s->path[n] = 0;
    s->kind = synth ? SOURCE_SYNTH : SOURCE_DIR;
    if (synth || stat(s->path, &st) != 0)
        return 0;
    if (S_ISREG(st.st_mode))
        s->kind = SOURCE_GGUF;
    return S_ISDIR(st.st_mode) ? look_inside(s, e) : 0;
}
