/* Metrics as text: the Prometheus exposition format 0.0.4 and OpenMetrics 1.0. */
#include "api/api.h"

#include <math.h>
#include <stdio.h>

/* Only a type that is named outright: what takes everything gets the older format, which everything can read. */
bool metrics_open(str accept)
{
    str part, what;

    while (str_cut(&accept, S(","), &part)) {
        bool named = str_cut(&part, S(";"), &what) && str_ieq(str_trim(what), S("application/openmetrics-text"));
        bool unwanted = false, version = true;
        while (str_cut(&part, S(";"), &what)) {
            what = str_trim(what);
            if (str_istarts(what, S("version=")))
                version = str_has(what, S("1.0.")) || str_has(what, S("0.0.1"));
            unwanted |= str_ieq(what, S("q=0")) || str_ieq(what, S("q=0.0"));
        }
        if (named && version && !unwanted)
            return true;
    }
    return false;
}

const char *metrics_type(const struct metrics *m)
{
    return m->open ? "application/openmetrics-text; version=1.0.0; charset=utf-8" : "text/plain; version=0.0.4; charset=utf-8";
}

void metrics_family(struct metrics *m, enum metric_kind kind, const char *name, const char *help)
{
    static const char *const kinds[] = { "counter", "gauge", "histogram" };
    str family = str_z(name);

    /* OpenMetrics names the family of a counter without its _total. */
    if (m->open && kind == METRIC_COUNTER && str_ends(family, S("_total")))
        family.n -= 6;
    buf_addf(&m->out, "# HELP %.*s %s\n# TYPE %.*s %s\n", STR(family), help, STR(family), kinds[kind]);
    m->name = name;
    m->kind = kind;
}

static void add_number(struct buf *out, double v)
{
    if (v == floor(v) && fabs(v) < 1e15)
        buf_addf(out, " %.0f\n", v);
    else
        buf_addf(out, " %.15g\n", v);
}

/* What is not UTF-8 has no place in either format. */
static void add_label(struct buf *out, const char *name, const char *value)
{
    uint32_t cp;

    buf_addf(out, "%s%s=\"", out->p[out->n - 1] == '{' ? "" : ",", name);
    for (str rest = str_z(value); rest.n;) {
        size_t n = utf8_head(rest, &cp);
        if (n == 0 || (n == 1 && ascii_control(rest.p[0])))
            buf_addc(out, '?');
        else {
            if (rest.p[0] == '"' || rest.p[0] == '\\')
                buf_addc(out, '\\');
            buf_add(out, str_head(rest, n));
        }
        rest = str_from(rest, MAX(n, 1));
    }
    buf_addc(out, '"');
}

void metrics_value(struct metrics *m, double value, ...)
{
    va_list ap;
    const char *name;

    buf_add(&m->out, str_z(m->name));
    va_start(ap, value);
    if ((name = va_arg(ap, const char *))) {
        buf_addc(&m->out, '{');
        do
            add_label(&m->out, name, va_arg(ap, const char *));
        while ((name = va_arg(ap, const char *)));
        buf_addc(&m->out, '}');
    }
    va_end(ap);
    add_number(&m->out, value);
}

static void add_sample(struct metrics *m, const char *what, const char *key, const char *value, const char *end)
{
    buf_addf(&m->out, "%s_%s", m->name, what);
    if (!key && !end)
        return;
    buf_addc(&m->out, '{');
    if (key)
        add_label(&m->out, key, value);
    if (end)
        add_label(&m->out, "le", end);
    buf_addc(&m->out, '}');
}

/* `key` NULL: without a label of its own. */
static void add_buckets(struct metrics *m, const uint64_t *n, const uint64_t *end, size_t buckets, uint64_t total, uint64_t sum, const char *key, const char *value)
{
    uint64_t seen = 0;

    for (size_t i = 0; i < buckets; i++) {
        char le[32];
        snprintf(le, sizeof le, "%.9g", (double)end[i] / SECOND);
        seen += n[i];
        add_sample(m, "bucket", key, value, le);
        add_number(&m->out, (double)seen);
    }
    total = MAX(total, seen); /* counted one after the other by threads that did not stop for us */
    add_sample(m, "bucket", key, value, "+Inf");
    add_number(&m->out, (double)total);
    add_sample(m, "sum", key, value, NULL);
    add_number(&m->out, (double)sum / SECOND);
    add_sample(m, "count", key, value, NULL);
    add_number(&m->out, (double)total);
}

void metrics_buckets(struct metrics *m, const uint64_t *n, const uint64_t *end, size_t buckets, uint64_t total, uint64_t sum)
{
    add_buckets(m, n, end, buckets, total, sum, NULL, NULL);
}

/* Every other bucket: powers of two from 64 us are fine enough for a chart, and half the text. */
void metrics_histogram(struct metrics *m, const struct histogram *h, const char *key, const char *value)
{
    uint64_t n[COUNT(h->bucket) / 2], end[COUNT(n)];
    size_t k = 0;

    for (size_t b = 0; b + 2 < COUNT(h->bucket); b += 2) {
        n[k] = h->bucket[b] + (b ? h->bucket[b - 1] : 0);
        end[k++] = (uint64_t)histogram_end(b);
    }
    add_buckets(m, n, end, k, h->n, h->sum, key, value);
}

void metrics_end(struct metrics *m)
{
    if (m->open)
        buf_add(&m->out, S("# EOF\n"));
}
