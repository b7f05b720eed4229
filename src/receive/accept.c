/* The moment a message becomes ours: trace field, commit, queue. */
#include "receive/inside.h"

/* A message may rightly pass us more than once (in through the gateway, out through the smart host), but not often. */
#define OWN_PASSES 4

/* A comment of a few words that others chose: nothing in them ends it early, or is one of their own (RFC 5322 3.2.2). */
static void add_comment(struct buf *out, str text)
{
    buf_add(out, S(" ("));
    for (size_t i = 0; i < text.n; i++)
        buf_addc(out, text.p[i] == '(' || text.p[i] == ')' || text.p[i] == '\\' || text.p[i] & 0x80 ? '?' : text.p[i]);
    buf_addc(out, ')');
}

/* "Received:" as RFC 5321 4.4 has it. The name a client gave is data: it is printable already, and header_add() folds and guards. */
static str received_field(const struct reception *r, const struct snapshot *snap, arena *a, const struct message *m, str with)
{
    char date[TIME_TEXT], id[ULID_TEXT];
    struct buf value = buf_in(a, 256), field = buf_in(a, 320);
    const struct origin *o = &m->origin;

    buf_addf(&value, "from %.*s", STR(o->ehlo.n ? o->ehlo : S("unknown")));
    if (str_starts(o->client, S(LOCAL_CLIENT))) {
        buf_addf(&value, " (user %.*s of this machine)", STR(str_from(o->client, sizeof LOCAL_CLIENT - 1)));
    } else if (o->client.n) { /* RFC 5321 4.1.3 */
        buf_addf(&value, " (%.*s%s", STR(o->client_name), o->client_name.n ? " " : "");
        buf_addf(&value, str_findc(o->client, ':') != STR_NONE ? "[IPv6:%.*s])" : "[%.*s])", STR(o->client));
    }
    if (o->forwarded.n)
        add_comment(&value, o->forwarded);
    buf_addf(&value, " by %.*s (waypost %016llx) with %.*s id %.*s", STR(snap->receive.hostname), (unsigned long long)r->setup.instance,
             STR(with), STR(ulid_print(m->id, id)));
    if (m->env.nrcpt == 1) /* several would tell each about the others, RFC 5321 7.6 */
        buf_addf(&value, " for <%.*s>", STR(m->env.rcpt[0].given));
    buf_addf(&value, "; %.*s", STR(time_rfc5322(date, o->accepted)));
    header_add(&field, S("Received"), buf_str(&value));
    return buf_str(&field);
}

static bool loops(const struct reception *r, str header, const struct scan *scan, uint64_t hops)
{
    AUTO_BUF text = { 0 };
    unsigned seen = 0;

    if (scan->received > hops)
        return true;
    if (scan->received < OWN_PASSES)
        return false;
    buf_addf(&text, "(waypost %016llx)", (unsigned long long)r->setup.instance);
    AUTO_ARENA a = arena_new();
    struct field f;
    for (str rest = header; header_next(&rest, &f);)
        if (str_ieq(f.name, S("Received")) && str_has(header_unfold(a, f.value), buf_str(&text)))
            seen++;
    return seen >= OWN_PASSES;
}

struct reply accept_loop(const struct reception *r, str header, const struct scan *scan, uint64_t hops)
{
    if (!loops(r, header, scan, hops))
        return (struct reply){ 0 };
    stats_add(COUNT_loops, 1);
    return (struct reply){ .code = 554, .enhanced = ENH(5, 4, 6), .text = S("this message loops: it came through here or through too many relays before") };
}

unsigned accept_stream(const struct snapshot *snap, arena *a, struct message *m, str header)
{
    const struct mail_stream *s = stream_find(&snap->streams, &snap->routes, m, header);

    if (s)
        m->origin.stream = str_dup(a, s->name);
    return s ? s->number : 0;
}

err accept_mail(struct reception *r, const struct snapshot *snap, arena *a, struct message *m, struct spool_slab *slab, str with)
{
    return accept_vigil(r, snap, a, m, slab, with, NULL);
}

err accept_vigil(struct reception *r, const struct snapshot *snap, arena *a, struct message *m, struct spool_slab *slab, str with, struct vigil *w)
{
    err e;

    if (!m->report) {
        struct edit *edit = NEW(a, struct edit);
        *edit = (struct edit){ .kind = EDIT_PREPEND, .text = received_field(r, snap, a, m, with) };
        m->edit = edit;
        m->nedit = 1;
    }
    e = spool_accept(r->setup.port, a, m, slab);
    if (e != OK) {
        vigil_end(w);
        if (!slab)
            spool_abort(r->setup.port, m->id, m->piece, m->npiece);
        spool_slab_free(slab);
        arena_free(a);
        return e;
    }
    struct mail *mail = mail_new(a, m, slab);
    mail->vigil = w;
    if (r->setup.narrow && way_is_narrow(&snap->routes, m, r->setup.threads))
        r->setup.narrow(r->setup.ctx, mail);
    else
        queue_add(r->setup.queue, mail);
    return OK;
}
