/* config: what is in force, told a setting a line. Asked by `waypost config diff`. */
#include "main/relay.h"
#include "main/words.h"

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
