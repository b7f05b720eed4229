/* config: what is in force, told a setting a line, for `waypost config diff`; and what a reload changed. */
#include "main/relay.h"
#include "main/words.h"

#define CHANGES_TOLD 100

static bool tell(void *control, const struct conf_line *line)
{
    AUTO_BUF b = { 0 };

    buf_addc(&b, '{');
    add_str(&b, "where", line->where);
    add_str(&b, "text", line->text);
    add_int(&b, "deep", line->deep);
    if (line->end)
        add_int(&b, "end", 1);
    if (line->line) {
        add_str(&b, "file", line->file);
        add_int(&b, "line", line->line);
        add_int(&b, "env", line->env);
    }
    buf_addc(&b, '}');
    return control_line(control, buf_str(&b));
}

void config_show(struct control *c, void *relay)
{
    struct settings *s = relay_newest(relay);

    conf_show(settings_table(), &s->tree, &(struct conf_view){ .presets = true, .paths = &s->paths, .each = tell, .ctx = c });
    snapshot_drop(&s->snapshot);
}

/* ---- what a reload changed ---- */

static bool gather(void *gathered, const struct conf_line *line)
{
    conf_gather(gathered, line);
    return true;
}

static err tree_of(arena *a, const struct settings *s, struct node *ret)
{
    struct gathered g = { .a = a };

    conf_show(settings_table(), &s->tree, &(struct conf_view){ .presets = true, .paths = &s->paths, .each = gather, .ctx = &g });
    return conf_gathered(&g, settings_table(), ret);
}

void config_changes(const struct settings *old, const struct settings *now, struct buf *told)
{
    AUTO_ARENA a = arena_new();
    struct buf all = buf_in(a, 1024);
    struct node was, is;
    str rest, line;
    unsigned n = 0;

    if (tree_of(a, old, &was) != OK || tree_of(a, now, &is) != OK) {
        log_warn("config_changes_untold", LOG_STR("reason", err_text()));
        return;
    }
    conf_diff(a, settings_table(), &was, &is, &all);
    for (rest = buf_str(&all); str_cut(&rest, S("\n"), &line);)
        if (line.n && n++ < CHANGES_TOLD) {
            log_info("config_changed", LOG_STR("what", line));
            if (told)
                buf_addf(told, "%.*s\n", STR(line));
        }
    if (n > CHANGES_TOLD && told)
        buf_addf(told, "and %u more\n", n - CHANGES_TOLD);
}
