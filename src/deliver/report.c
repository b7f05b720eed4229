/* Reports to senders: who gets which. They are mail like any other: built here, accepted by receive/, queued, delivered. */
#include "deliver/inside.h"

#define RETURN_MOST (64u << 10)     /* of the original, when all of it is returned; else its header */

/* What a report says of its own origin: only the failure of a first report of a failure goes on, to the postmaster. */
#define KIND_FAILURE S("report")
#define KIND_NOTICE S("notice")     /* of a delay or a success */
#define KIND_DOUBLE S("double_bounce")

/* The header of the original, or all of it when it is small and wanted. */
static str original(const struct flight *f, bool all, bool *whole)
{
    str head = { 0 };
    const struct scan *scan = &f->mail->m->scan;

    *whole = false;
    if (f->mail->slab)
        head = buf_str(&f->mail->slab->body);
    else if (f->mail->m->npiece && spool_read_piece(f->port, f->mail->m->piece[0], f->a, &head) != OK)
        return (str){ 0 };
    if (all && scan->size <= RETURN_MOST && head.n == scan->size) {
        *whole = true;
        return head;
    }
    return str_head(head, MIN(scan->header_end, RETURN_MOST));
}

/* ---- who is whose ---- */

/* Is it beyond doubt that one of ours sent it? An address proves nothing. */
static bool client_is_own(const struct flight *f)
{
    const struct origin *o = &f->mail->m->origin;
    struct addr a;

    return o->login.n || (addr_parse(o->client, 25, &a) == OK && route_network(&f->snap->routes, &a));
}

bool sender_is_own(const struct flight *f)
{
    struct path p;

    return client_is_own(f) || (address_parse(f->env.sender, &p) == OK && route_domain(&f->snap->routes, p.domain));
}

static enum bounce bounce_of(const struct flight *f, str rcpt)
{
    struct path p;
    const struct relay_domain *d = address_parse(rcpt, &p) == OK ? route_domain(&f->snap->routes, p.domain) : NULL;

    return (enum bounce)(d ? d->bounce : f->snap->routes.fallback_bounce);
}

/* Where a report can go: to the sender, or when no way leads there to our postmaster, who can at least read it. */
static str report_to(const struct flight *f)
{
    str reader = system_reader(f->snap, f->env.sender); /* what cron sent as root, say */
    struct path p;
    when expire;

    if (reader.n)
        return reader;
    if (address_parse(f->env.sender, &p) == OK && route_for(&f->snap->routes, p.domain, &expire))
        return f->env.sender;
    return f->snap->receive.postmaster;
}

/* ---- what is not told ---- */

static const char null_sender[] = "the message came from the null sender: no report is sent", own_only[] = "the sender is none of ours, and others are told nothing (bounce own)",
                  nobody[] = "nobody is told anything (bounce none)", flood[] = "too many reports to this address wait already";

static void dropped(const struct flight *f, const struct report_item *const *item, size_t n, const char *why)
{
    struct event e = { .kind = EVENT_DROPPED, .id = f->t->id, .at = wall_now(), .rcpt = f->env.rcpt[item[0]->i].to, .detail = str_z(why) };

    if (n > 1)
        e.detail = str_printf(f->a, "%s; the same for %zu more recipients", why, n - 1);
    event_emit(&e);
}

static const char *reason_to_drop(const struct flight *f, const struct report_item *item, bool own)
{
    if (f->env.sender.n == 0) /* RFC 5321 6.1 */
        return null_sender;
    switch (bounce_of(f, f->env.rcpt[item->i].to)) {
    case BOUNCE_ALL:
        break;
    case BOUNCE_OWN:
        return own ? NULL : own_only;
    case BOUNCE_NONE:
        return nobody;
    }
    return NULL;
}

/* Those of `item` that are told go to `told`; of the others the log has a line a reason, except for delays, which nobody has to be told of. */
static size_t choose(const struct flight *f, const struct report_item *item, size_t n, const struct report_item **told)
{
    static const char *const reasons[] = { null_sender, own_only, nobody };
    const struct report_item **gone = NEW_ARRAY(f->a, const struct report_item *, n);
    bool own = sender_is_own(f);
    size_t ntold = 0;

    for (size_t i = 0; i < n; i++)
        if (!reason_to_drop(f, &item[i], own))
            told[ntold++] = &item[i];
    for (size_t r = 0; r < COUNT(reasons); r++) {
        size_t ngone = 0;
        for (size_t i = 0; i < n; i++)
            if (item[i].action != REPORT_DELAYED && reason_to_drop(f, &item[i], own) == reasons[r])
                gone[ngone++] = &item[i];
        if (ngone)
            dropped(f, gone, ngone, reasons[r]);
    }
    return ntold;
}

/* ---- sending ---- */

struct letter { str to, preface, kind; when wait; bool all /* of the original, if it is small */; };

static str reason_for(const struct flight *f, const struct report_item *item)
{
    str advice = report_advice(item->action, str_z(item->status), item->diagnostic);

    if (item->diagnostic.n || item->reason.n == 0)
        return advice;
    return str_printf(f->a, "%.*s In detail: %.*s.", STR(advice), STR(item->reason));
}

static str received_from(const struct flight *f)
{
    const struct origin *o = &f->mail->m->origin;

    if (!o->ehlo.n || !o->client.n || str_starts(o->client, S("uid:"))) /* a user of this host has no address */
        return o->ehlo;
    return str_printf(f->a, "%.*s ([%.*s])", STR(o->ehlo), STR(o->client));
}

static bool has_utf8(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] & 0x80)
            return true;
    return false;
}

static void write_report(const struct flight *f, const struct letter *l, ulid id, const struct report_item *const *item, size_t n, when now, struct buf *out)
{
    struct report r = { .hostname = f->snap->receive.hostname, .postmaster = f->snap->receive.postmaster, .id = id, .about = f->t->id, .env = &f->env,
                        .to = l->to, .preface = l->preface, .received_from = received_from(f), .arrived = f->mail->m->origin.accepted, .now = now };
    struct report_rcpt *rcpt = NEW_ARRAY(f->a, struct report_rcpt, n);

    for (size_t i = 0; i < n; i++)
        rcpt[i] = (struct report_rcpt){ .rcpt = &f->env.rcpt[item[i]->i], .action = item[i]->action, .status = str_z(item[i]->status),
                                        .diagnostic = item[i]->diagnostic, .remote = item[i]->remote, .reason = reason_for(f, item[i]),
                                        .last_attempt = item[i]->last_attempt, .retry_until = r.arrived + (when)f->t->lifetime * SECOND };
    r.rcpt = rcpt;
    r.nrcpt = n;
    r.original = original(f, l->all, &r.original_whole);
    report_write(&r, out);
}

/* The report's own story says what it is about, and the message's says what the report is called. */
static void tell_both(const struct flight *f, const struct letter *l, ulid id, when now)
{
    char text[ULID_TEXT], span[TIME_TEXT];
    str of = ulid_print(id, text);
    struct event e = { .kind = EVENT_REPORT, .id = f->t->id, .at = now, .rcpt = l->to };

    e.detail = str_printf(f->a, "%.*s as %.*s%s%.*s", STR(l->kind), STR(of), l->wait ? ", in " : "", STR(l->wait ? time_span(span, l->wait) : S("")));
    event_emit(&e);
    event_keep(&(struct event){ .kind = EVENT_ACCEPTED, .id = id, .at = now, .from = S(""), .rcpt = l->to,
                                .detail = str_printf(f->a, "%.*s about %.*s", STR(l->kind), STR(ulid_print(f->t->id, text))) });
}

static bool send_letter(struct dispatch *d, const struct flight *f, const struct letter *l, const struct report_item *const *item, size_t n)
{
    arena *a = arena_new();
    struct message *m = NEW(a, struct message);
    when now = wall_now();
    AUTO_BUF text = { 0 };

    m->id = ulid_new();
    write_report(f, l, m->id, item, n, now, &text);
    m->report = true;
    m->env.rcpt = NEW(a, struct rcpt);
    m->env.nrcpt = 1;
    m->env.rcpt->to = m->env.rcpt->given = str_dup(a, l->to);
    m->env.rcpt->notify = NOTIFY_NEVER;
    m->env.smtputf8 = has_utf8(l->to);
    m->origin = (struct origin){ .listener = l->kind, .accepted = now };
    m->not_before = l->wait ? now + l->wait : 0;
    struct spool_slab *slab = spool_slab_new(text.n + 1);
    buf_add(&slab->body, buf_str(&text));
    scan_init(&m->scan);
    scan_feed(&m->scan, buf_str(&text));
    scan_end(&m->scan);
    m->env.body = m->scan.eight_bit_body ? BODY_8BIT : BODY_7BIT;

    ulid id = m->id;
    err stored = accept_mail(d->setup.reception, f->snap, a, m, slab, S(""));
    if (stored != OK) { /* the spool keeps a reserve for reports, but it may fail, or this thread be about to end */
        log_warn("report_not_stored", LOG_ID("id", f->t->id), LOG_STR("reason", err_text()));
        return false;
    }
    tell_both(f, l, id, now);
    return true;
}

/* A report of ours that failed: a report of a failure goes to the postmaster, all others and that one end here. */
static bool report_failed(struct dispatch *d, const struct flight *f, const struct report_item *item)
{
    str kind = f->mail->m->origin.listener, postmaster = f->snap->receive.postmaster;
    const char *why = "a report of ours failed, and nobody is told";

    if (str_eq(kind, KIND_FAILURE) && !str_ieq(f->env.rcpt[item->i].to, postmaster) && f->snap->reports.double_bounce == DOUBLE_BOUNCE_POSTMASTER && pace_double()) {
        const struct letter l = { .to = postmaster, .kind = KIND_DOUBLE, .all = true,
                                  .preface = S("The message below is a report of this mail system to somebody whose mail had failed. It could not be delivered "
                                               "either, so you get it, as the postmaster.") };
        if (!send_letter(d, f, &l, &item, 1))
            return false;
        why = "a report of ours failed: the postmaster is told";
    }
    dropped(f, &item, 1, why);
    return true;
}

bool report_send(struct dispatch *d, const struct flight *f, const struct report_item *item, size_t n)
{
    if (f->mail->m->report)
        return report_failed(d, f, item);

    const struct report_item **told = NEW_ARRAY(f->a, const struct report_item *, n);
    struct letter l = { .to = report_to(f), .kind = KIND_NOTICE };
    n = choose(f, item, n, told);
    if (n == 0)
        return true;
    for (size_t i = 0; i < n; i++)
        if (told[i]->action == REPORT_FAILED) {
            l.kind = KIND_FAILURE;
            l.all = f->env.ret == RET_FULL; /* RFC 3461 4.3: of a delay or success only the header is returned */
        }
    l.wait = pace_report(&f->snap->reports, f->a, l.to, client_is_own(f));
    if (l.wait == NEVER) {
        dropped(f, told, n, flood);
        return true;
    }
    if (system_reader(f->snap, f->env.sender).n)
        l.preface = str_printf(f->a, "The sender of this message, <%.*s>, is a user of this host, whose mail you read.", STR(f->env.sender));
    else if (!str_eq(l.to, f->env.sender))
        l.preface = str_printf(f->a, "No way leads from here to the sender of this message, <%.*s>, so you get the report, as the postmaster.", STR(f->env.sender));
    return send_letter(d, f, &l, told, n);
}
