/* completion: what a shell offers behind TAB. Made from the table of verbs: from their usage and help, where every option stands. */
#include "cli/cli.h"

#include <stdio.h>

struct words { str p[64]; size_t n; };

static void words_add(struct words *w, str s)
{
    for (size_t i = 0; i < w->n; i++)
        if (str_eq(w->p[i], s))
            return;
    if (w->n < COUNT(w->p))
        w->p[w->n++] = s;
}

static size_t run_of(str s, bool dashes)
{
    size_t n = 0;

    while (n < s.n && ((s.p[n] >= 'a' && s.p[n] <= 'z') || (n && ascii_digit(s.p[n])) || (dashes && s.p[n] == '-')))
        n++;
    return n;
}

/* "--limit" and the like, wherever they stand. */
static void options_of(str text, struct words *ret)
{
    for (size_t at; (at = str_find(text, S("--"))) != STR_NONE;) {
        size_t n = run_of(str_from(text, at + 2), true);
        bool begins = at == 0 || strchr(" [|\n", text.p[at - 1]);
        if (begins && n)
            words_add(ret, str_head(str_from(text, at), n + 2));
        text = str_from(text, at + 2 + n);
    }
}

/* Between backquotes stand commands of other verbs. */
static void options_in(str text, struct words *ret)
{
    str part;

    for (bool quoted = false; str_cut(&text, S("`"), &part); quoted = !quoted)
        if (!quoted)
            options_of(part, ret);
}

/* "waypost queue retry|release ID": what may stand behind the verb, where it is a word of its own. */
static void sub_verbs_in(str forms, struct words *ret)
{
    str form, word, part;

    while (str_cut(&forms, S("\n"), &form)) {
        for (unsigned i = 0; i < 3; i++)
            if (!str_word(&form, &word))
                word = (str){ 0 };
        while (str_cut(&word, S("|"), &part))
            if (part.n && run_of(part, false) == part.n)
                words_add(ret, part);
    }
}

static void print_words(const struct words *w)
{
    for (size_t i = 0; i < w->n; i++)
        printf(i ? " %.*s" : "%.*s", STR(w->p[i]));
}

static void words_of(const struct cli_verb *v, struct words *options, struct words *subs)
{
    *options = *subs = (struct words){ 0 };
    options_in(str_z(v->form), options);
    options_in(str_z(v->more), options);
    words_add(options, S("--help"));
    sub_verbs_in(str_z(v->form), subs);
}

static void bash(void)
{
    struct words options, subs;

    printf("_waypost() {\n    local cur=${COMP_WORDS[COMP_CWORD]} verb=${COMP_WORDS[1]} options= subs=\n    COMPREPLY=()\n"
           "    if [ \"$COMP_CWORD\" = 1 ]; then\n        COMPREPLY=($(compgen -W \"help version");
    for (const struct cli_verb *v = cli_verbs; v->name; v++)
        printf(" %s", v->name);
    printf("\" -- \"$cur\"))\n        return\n    fi\n    case $verb in\n");
    for (const struct cli_verb *v = cli_verbs; v->name; v++) {
        words_of(v, &options, &subs);
        printf("    %s) options='", v->name);
        print_words(&options);
        printf("' subs='");
        print_words(&subs);
        printf("' ;;\n");
    }
    printf("    help) [ \"$COMP_CWORD\" = 2 ] && subs='");
    for (const struct cli_verb *v = cli_verbs; v->name; v++)
        printf("%s ", v->name);
    printf("' ;;\n    esac\n"
           "    case $cur in\n    -*) COMPREPLY=($(compgen -W \"$options\" -- \"$cur\")) ;;\n"
           "    *) [ \"$COMP_CWORD\" = 2 ] && COMPREPLY=($(compgen -W \"$subs\" -- \"$cur\")) ;;\n    esac\n"
           "    return 0\n}\ncomplete -o default -o bashdefault -F _waypost waypost\n"); /* files, where nothing of ours fits */
}

static void print_quoted(const char *text)
{
    putchar('\'');
    for (const char *p = text; *p; p++)
        printf(*p == '\'' || *p == '\\' ? "\\%c" : "%c", *p);
    putchar('\'');
}

static void fish(void)
{
    struct words options, subs;

    for (const struct cli_verb *v = cli_verbs; v->name; v++) {
        printf("complete -c waypost -n __fish_use_subcommand -a %s -d ", v->name);
        print_quoted(v->help);
        printf("\n");
        words_of(v, &options, &subs);
        if (subs.n) {
            printf("complete -c waypost -n '__fish_seen_subcommand_from %s' -a '", v->name);
            print_words(&subs);
            printf("'\n");
        }
        for (size_t i = 0; i < options.n; i++)
            printf("complete -c waypost -n '__fish_seen_subcommand_from %s' -l %.*s\n", v->name, STR(str_from(options.p[i], 2)));
    }
}

int cli_completion(int argc, char **argv)
{
    const struct flag flags[] = { { NULL } };
    int n = cli_flags(argc, argv, flags);

    if (n < 0)
        return CLI_USAGE;
    str shell = n == 1 ? str_z(argv[1]) : (str){ 0 };
    if (str_eq(shell, S("zsh")))
        printf("#compdef waypost\nautoload -U +X bashcompinit && bashcompinit\n"); /* it reads bash's */
    if (str_eq(shell, S("bash")) || str_eq(shell, S("zsh")))
        bash();
    else if (str_eq(shell, S("fish")))
        fish();
    else
        return cli_usage("completion", "say for which shell: bash, zsh or fish");
    return CLI_DONE;
}
