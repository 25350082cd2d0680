/* config_field.c - one field of config.json, typed and in range, or one sentence. */
#include <stdio.h>

#include "model/config_impl.h"

const json_t *config__field(const struct config__doc *d, const char *key)
{
    const json_t *v = json_object_get(d->root, key);
    return json_is_null(v) ? NULL : v;
}

int config__refuse(const struct config__doc *d, const char *key, const char *expected, struct err *e)
{
    return err_set(e, ST_FORMAT, "%s: %s is %s; expected %s", d->label, key,
                   model__show(json_object_get(d->root, key)).s, expected);
}

int config__not_served(const struct config__doc *d, const char *key, const char *what, const char *expected,
                       struct err *e)
{
    return err_set(e, ST_UNSUPPORTED, "%s: %s is %s: %s is not served yet; expected %s", d->label, key,
                   model__show(json_object_get(d->root, key)).s, what, expected);
}

int config__int(const struct config__doc *d, const char *key, int64_t lo, int64_t hi, int32_t *out,
                struct err *e)
{
    const json_t *v = config__field(d, key);
    if (!json_is_integer(v) || json_integer_value(v) < lo || json_integer_value(v) > hi) {
        char expected[80];
        snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long) lo, (long long) hi);
        return config__refuse(d, key, expected, e);
    }
    *out = (int32_t) json_integer_value(v);
    return 0;
}

int config__float(const struct config__doc *d, const char *key, double lo, int above, double hi, float *out,
                  struct err *e)
{
    const json_t *v = config__field(d, key);
    double x = json_number_value(v);
    if (!json_is_number(v) || !(x >= lo) || !(x <= hi) || (above && (float) x <= (float) lo)) {
        char expected[80];
        snprintf(expected, sizeof expected, "a number %s %g and <= %g", above ? ">" : ">=", lo, hi);
        return config__refuse(d, key, expected, e);
    }
    *out = (float) x;
    return 0;
}

int config__bool(const struct config__doc *d, const char *key, int otherwise, int *out, struct err *e)
{
    const json_t *v = config__field(d, key);
    *out = v ? json_is_true(v) : otherwise;
    if (v && !json_is_boolean(v))
        return config__refuse(d, key, "true or false", e);
    return 0;
}

int config__string(const struct config__doc *d, const char *key, const char **out, struct err *e)
{
    const json_t *v = config__field(d, key);
    *out = json_string_value(v);
    if (v && !json_is_string(v))
        return config__refuse(d, key, "a string", e);
    return 0;
}
