/* Options, and what is said on stderr. */
#include "cli/cli.h"

#include <stdio.h>

void cli_say(const char *fmt, ...)
{
    va_list ap;

    fflush(stdout);
    fputs("waypost: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

const char *cli_group;

int cli_usage(const char *verb, const char *fmt, ...)
{
    va_list ap;
    bool within = cli_group && strncmp(verb, cli_group, strlen(cli_group)) != 0; /* "hold" of "queue" */

    fflush(stdout);
    fprintf(stderr, "waypost %s%s%s: ", within ? cli_group : "", within ? " " : "", verb);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, " (waypost %s --help)\n", cli_group ? cli_group : verb);
    return CLI_USAGE;
}

static const struct flag *flag_find(const struct flag *flags, str name, char letter)
{
    for (const struct flag *f = flags; f->name; f++)
        if (letter ? f->letter == letter : str_eq(str_z(f->name), name))
            return f;
    return NULL;
}

static int flag_unknown(const char *verb, const struct flag *flags, str name)
{
    for (const struct flag *f = flags; f->name; f++)
        if (name.n > 1 && str_distance(str_z(f->name), name) <= 2)
            return cli_usage(verb, "there is no option --%.*s; did you mean --%s?", STR(name), f->name), -1;
    return cli_usage(verb, "there is no option %s%.*s", name.n > 1 ? "--" : "-", STR(name)), -1;
}

/* `value` is what followed a "=" or the letter; else the next word is it. */
static int flag_take(const char *verb, const struct flag *f, const char *value, char **next)
{
    if (f->on) {
        if (value)
            return cli_usage(verb, "--%s takes no value", f->name), -1;
        *f->on = true;
        return 0;
    }
    int used = value ? 0 : 1;
    if (!value)
        value = *next;
    if (!value)
        return cli_usage(verb, "--%s needs a value", f->name), -1;
    if (f->many && f->many->n == COUNT(f->many->p))
        return cli_usage(verb, "--%s is given more than %zu times", f->name, f->many->n), -1;
    if (f->many)
        f->many->p[f->many->n++] = value;
    else if (f->text)
        *f->text = value;
    else if (!str_u64(str_z(value), INT64_MAX, f->number))
        return cli_usage(verb, "--%s needs a number, and \"%s\" is none", f->name, value), -1;
    return used;
}

int cli_flags(int argc, char **argv, const struct flag *flags)
{
    int left = 0, i;

    for (i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        str word = str_z(argv[i]);
        const char *value = NULL;
        const struct flag *f;
        int used;

        if (word.n < 2 || word.p[0] != '-') {
            argv[++left] = argv[i];
            continue;
        }
        if (word.p[1] == '-') {
            size_t equals = str_findc(word, '=');
            str name = str_from(str_head(word, equals), 2);
            f = flag_find(flags, name, 0);
            if (!f)
                return flag_unknown(argv[0], flags, name);
            if (equals != STR_NONE)
                value = argv[i] + equals + 1;
        } else {
            f = flag_find(flags, (str){ 0 }, word.p[1]);
            if (!f)
                return flag_unknown(argv[0], flags, str_head(str_from(word, 1), 1));
            if (word.n > 2)
                value = argv[i] + 2;
        }
        used = flag_take(argv[0], f, value, argv + i + 1);
        if (used < 0)
            return -1;
        i += used;
    }
    for (i++; i < argc; i++) /* behind "--" */
        argv[++left] = argv[i];
    argv[left + 1] = NULL;
    return left;
}

