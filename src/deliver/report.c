/* Reports of failure are mail like any other: built here, accepted by receive/, queued, delivered. */
#include "deliver/inside.h"

#define RETURN_MOST (64u << 10)     /* of the original, when all of it was asked for (RET=FULL); else its header */

/* The header of the original, or all of it when it is small and wanted. */
static str original(const struct flight *f, bool *whole)
{
    str head = { 0 };
    const struct scan *scan = &f->mail->m->scan;

    *whole = false;
    if (f->mail->slab)
        head = buf_str(&f->mail->slab->body);
    else if (f->mail->m->npiece && spool_read_piece(f->port, f->mail->m->piece[0], f->a, &head) != OK)
        return (str){ 0 };
    if (f->env.ret == RET_FULL && scan->size <= RETURN_MOST && head.n == scan->size) {
        *whole = true;
        return head;
    }
    return str_head(head, MIN(scan->header_end, RETURN_MOST));
}

/* Where a report can go: to the sender, or when no way leads there to our postmaster, who can at least read it. */
static str report_to(const struct flight *f)
{
    struct path p;
    when expire;

    if (address_parse(f->env.sender, &p) == OK && route_for(&f->snap->routes, p.domain, &expire))
        return f->env.sender;
    return f->snap->receive.postmaster;
}

bool report_send(struct dispatch *d, const struct flight *f, const struct report_item *item, size_t n)
{
    struct event e = { .kind = EVENT_REPORT, .id = f->t->id, .at = wall_now(), .rcpt = f->env.sender };

    if (f->env.sender.n == 0) { /* RFC 5321 6.1: nobody is told of a report's failure */
        e.kind = EVENT_DROPPED;
        e.rcpt = f->env.rcpt[item[0].i].to;
        e.detail = S("the message came from the null sender: no report is sent");
        event_emit(&e);
        return true;
    }

    arena *a = arena_new();
    struct message *m = NEW(a, struct message);
    struct report r = { .hostname = f->snap->receive.hostname, .postmaster = f->snap->receive.postmaster, .about = f->t->id, .env = &f->env,
                        .arrived = f->mail->m->origin.accepted, .now = e.at };
    struct report_rcpt *rcpt = NEW_ARRAY(f->a, struct report_rcpt, n);
    AUTO_BUF text = { 0 };
    char id[ULID_TEXT];

    m->id = r.id = ulid_new();
    for (size_t i = 0; i < n; i++)
        rcpt[i] = (struct report_rcpt){ .rcpt = &f->env.rcpt[item[i].i], .action = item[i].action, .status = str_z(item[i].status),
                                        .diagnostic = item[i].diagnostic, .remote = item[i].remote, .reason = item[i].reason,
                                        .last_attempt = e.at };
    r.rcpt = rcpt;
    r.nrcpt = n;
    r.original = original(f, &r.original_whole);
    report_write(&r, &text);

    m->report = true;
    m->env.rcpt = NEW(a, struct rcpt);
    m->env.nrcpt = 1;
    m->env.rcpt->to = m->env.rcpt->given = str_dup(a, report_to(f));
    m->env.rcpt->notify = NOTIFY_NEVER;
    m->env.smtputf8 = f->env.smtputf8;
    m->origin = (struct origin){ .listener = S("report"), .accepted = e.at };
    struct spool_slab *slab = spool_slab_new(text.n + 1);
    buf_add(&slab->body, buf_str(&text));
    scan_init(&m->scan);
    scan_feed(&m->scan, buf_str(&text));
    scan_end(&m->scan);
    m->env.body = m->scan.eight_bit_body ? BODY_8BIT : BODY_7BIT;

    e.rcpt = str_dup(f->a, m->env.rcpt->to);
    e.detail = str_printf(f->a, "as %.*s", STR(ulid_print(m->id, id)));
    err stored = accept_mail(d->setup.reception, f->snap, a, m, slab, S(""));
    if (stored != OK) { /* the spool keeps a reserve for reports, but it may fail, or this thread be about to end */
        log_warn("report_not_stored", LOG_ID("id", f->t->id), LOG_STR("reason", err_text()));
        return false;
    }
    event_emit(&e);
    return true;
}
