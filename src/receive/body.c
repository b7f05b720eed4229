/* The octets of a message, by DATA or BDAT: into the spool, judged, answered. */
#include "receive/inside.h"

#define SLAB_FIRST (16u << 10)

static void slab_set(struct session *s, struct spool_slab *slab, size_t cap)
{
    arriving_add((int64_t)cap - (int64_t)s->slab_cap);
    s->slab = slab;
    s->slab_cap = cap;
}

/* Forget the body; chunks already written are given up. */
void body_reset(struct session *s)
{
    if (s->npiece)
        spool_abort(s->r->setup.port, s->m->id, s->piece, s->npiece);
    spool_slab_free(s->slab);
    slab_set(s, NULL, 0);
    s->piece = NULL;
    s->npiece = s->piece_cap = s->scanned = 0;
    s->bdat = s->bdat_failed = false;
    s->bad = (struct reply){ 0 };
}

static void body_begin(struct session *s, uint64_t expected)
{
    size_t cap = expected ? (size_t)MIN(expected, (uint64_t)SPOOL_CHUNK - 64) + 64 : SLAB_FIRST;

    slab_set(s, spool_slab_new(cap), cap);
    scan_init(&s->m->scan);
    s->scanned = 0;
    s->body_until = clock_now() + s->snap->receive.timeouts.message;
}

struct reply body_bad(const struct limits *l, const struct message *m)
{
    const struct scan *scan = &m->scan;

    if (scan->size > l->message_size)
        return (struct reply){ .code = 552, .enhanced = ENH(5, 3, 4), .text = S("message too large for this relay") };
    if ((scan->header_open ? scan->size : scan->header_end) > l->header_size)
        return (struct reply){ .code = 552, .enhanced = ENH(5, 3, 4), .text = S("header of the message too large") };
    if (m->env.body != BODY_BINARY && (scan->bare_cr || scan->bare_lf))
        return (struct reply){ .code = 550, .enhanced = ENH(5, 6, 0), .text = S("a CR or LF on its own in the message: lines end in CR LF") };
    if (m->env.body != BODY_BINARY && scan->nul)
        return (struct reply){ .code = 550, .enhanced = ENH(5, 6, 0), .text = S("a NUL octet in the message") };
    return (struct reply){ 0 };
}

/* The scan runs behind the octets; what it finds may settle the body's fate long before its end. */
static void body_scan(struct session *s)
{
    const struct limits *l = &s->snap->receive.limits;
    struct scan *scan = &s->m->scan;

    scan_feed(scan, str_from(buf_str(&s->slab->body), s->scanned));
    s->scanned = s->slab->body.n;
    if (s->bad.code)
        return;
    s->bad = body_bad(l, s->m);
}

/* Put what the slab holds into the spool as one chunk. */
static void body_chunk(struct session *s)
{
    if (s->npiece == s->piece_cap) {
        struct spool_piece *more = NEW_ARRAY(s->a, struct spool_piece, s->piece_cap ? s->piece_cap * 2 : 16);
        if (s->piece_cap)
            memcpy(more, s->piece, s->piece_cap * sizeof *more);
        s->piece = more;
        s->piece_cap = s->piece_cap ? s->piece_cap * 2 : 16;
    }
    switch (spool_chunk(s->r->setup.port, s->m->id, buf_str(&s->slab->body), &s->piece[s->npiece])) {
    case OK:
        s->npiece++;
        break;
    case E_NOSPACE:
        s->bad = (struct reply){ .code = 452, .enhanced = ENH(4, 3, 1), .text = S("no room for this message just now") };
        break;
    default:
        s->bad = (struct reply){ .code = 451, .enhanced = ENH(4, 3, 0), .text = S("the message could not be stored just now") };
        break;
    }
    buf_clear(&s->slab->body);
    s->scanned = 0;
}

/* Make room: grow the slab, or put a full one into the spool as a chunk. A refused body is read on, and forgotten. */
static void body_room(struct session *s)
{
    if (s->bad.code) {
        buf_clear(&s->slab->body);
        s->scanned = 0;
        return;
    }
    if (s->slab->body.n < s->slab->cap)
        return;
    /* What has begun goes on where memory is short, up to twice what there may be. */
    if (s->slab->cap < SPOOL_CHUNK && arriving_over(&s->snap->receive.limits)) {
        s->bad = (struct reply){ .code = 452, .enhanced = ENH(4, 3, 1), .text = S("too much mail on its way in just now (body_memory)") };
        body_room(s);
        return;
    }
    /* The header stays in one piece, so that who reads it later finds it whole. */
    if (s->slab->cap < SPOOL_CHUNK) {
        size_t cap = MIN(s->slab->cap * 4, (size_t)SPOOL_CHUNK);
        struct spool_slab *bigger = spool_slab_new(cap);
        buf_add(&bigger->body, buf_str(&s->slab->body));
        spool_slab_free(s->slab);
        slab_set(s, bigger, cap);
        return;
    }
    body_chunk(s);
}

/* The first piece of the body holds the header: still in the slab, or in the spool already. */
static str body_header(struct session *s)
{
    str head = { 0 };

    if (s->npiece == 0)
        head = buf_str(&s->slab->body);
    else if (spool_read_piece(s->r->setup.port, s->piece[0], s->scratch, &head) != OK)
        head = (str){ 0 };
    return str_head(head, s->m->scan.header_end);
}

/* All octets are here: may they be a message of ours? *header borrows from the slab, or lies in s->scratch. */
static bool body_judge(struct session *s, str *header)
{
    const struct limits *l = &s->snap->receive.limits;
    struct message *m = s->m;

    scan_end(&m->scan);
    if (!s->bad.code)
        s->bad = body_bad(l, m);
    *header = s->bad.code ? S("") : body_header(s);
    if (!s->bad.code)
        s->bad = accept_loop(s->r, *header, &m->scan, l->hops);
    if (!s->bad.code && s->npiece && s->slab->body.n)
        body_chunk(s);
    if (s->bad.code / 100 == 5)
        stats_add(COUNT_refused_messages, 1);
    return !s->bad.code;
}

/* Judge, commit, answer. Ends the transaction. */
static void body_end(struct session *s)
{
    struct message *m = s->m;
    char id[ULID_TEXT];
    str header, message_id = S("");
    when start = clock_now();

    if (s->r->setup.working_on)
        s->r->setup.working_on(s->r->setup.ctx, m->id);
    if (!body_judge(s, &header)) {
        say_refusal(s, &s->bad, S(""));
        transaction_reset(s);
        return;
    }
    m->origin = (struct origin){ .listener = s->where, .ehlo = str_dup(s->a, buf_str(&s->helo)),
                                 .client_name = str_dup(s->a, buf_str(&s->client_name)), .login = str_dup(s->a, buf_str(&s->login)),
                                 .forwarded = str_dup(s->a, buf_str(&s->forward)), .accepted = wall_now() };
    if (s->client.addr.n)
        m->origin.client = str_dup(s->a, str_z(s->client.ip));
    unsigned stream = accept_stream(s->snap, s->a, m, header);
    m->piece = s->piece;
    m->npiece = s->npiece;

    /* From here the arena and the slab are the message's own. */
    arena *a = s->a;
    struct spool_slab *slab = s->npiece ? NULL : s->slab;
    if (!slab)
        spool_slab_free(s->slab);
    slab_set(s, NULL, 0);
    ulid mid = m->id;
    struct event e = { .kind = EVENT_ACCEPTED, .id = mid, .at = m->origin.accepted, .from = m->env.sender, .rcpt = m->env.rcpt[0].given,
                       .remote = str_z(s->client.ip), .size = m->scan.size, .detail = told_through(s) };
    uint64_t nrcpt = m->env.nrcpt;
    if (header_get(s->scratch, header, S("Message-ID"), &message_id))
        e.message_id = str_dup(s->scratch, str_head(message_id, 512));
    if (nrcpt > 1)
        e.detail = str_printf(s->scratch, "and %llu more recipients%s%.*s", (unsigned long long)(nrcpt - 1), e.detail.n ? "; " : "", STR(e.detail));
    e.from = str_dup(s->scratch, e.from);
    e.rcpt = str_dup(s->scratch, e.rcpt);
    str with = s->client.local ? S("LOCAL") : m->env.smtputf8 ? S("UTF8SMTP") : s->esmtp ? S("ESMTP") : S("SMTP"); /* RFC 6531 4.3 */
    s->a = NULL;
    s->m = NULL;
    s->npiece = 0;
    when cut = cut_length(&s->snap->routes, &m->env);
    struct vigil *w = cut ? cut_begin(s, &s->snap->receive.limits) : NULL;
    struct reply no;
    err stored = accept_vigil(s->r, s->snap, a, m, slab, with, w);
    transaction_reset(s);
    if (w)
        e.detail = str_printf(s->scratch, "%.*s%scut_through: its client waits for the next hop's answer", STR(e.detail), e.detail.n ? "; " : "");
    if (stored == OK) {
        s->without_mail = 0;
        e.took = clock_now() - start;
        histogram_add(&stats_mine()->accept, e.took);
        stats_label(FAMILY_RECEIVED, s->listener, stream);
        stats_add(COUNT_accepted_bytes, e.size);
        stats_add(COUNT_accepted_rcpts, nrcpt);
        event_emit(&e);
    }
    bool refused = w && cut_end(s, w, cut, &no);
    if (refused) {
        server_reply(&s->v, no.code, no.enhanced, "%.*s [ref %.*s]", STR(no.text), STR(ulid_print(mid, id)));
    } else if (stored == OK) {
        server_reply(&s->v, 250, ENH(2, 0, 0), "queued as %.*s", STR(ulid_print(mid, id)));
    } else if (stored == E_NOSPACE) {
        server_reply(&s->v, 452, ENH(4, 3, 1), "no room for this message just now");
    } else {
        log_error("not_stored", LOG_ID("id", mid), LOG_STR("reason", err_text()));
        server_reply(&s->v, 451, ENH(4, 3, 0), "the message could not be stored just now [ref %.*s]", STR(ulid_print(mid, id)));
    }
}

/* Why no body may begin, or go on, just now; code 0: it may. */
static struct reply body_refusal(const struct session *s)
{
    if (!s->a)
        return (struct reply){ .code = 503, .enhanced = ENH(5, 5, 1), .text = S("say MAIL first") };
    if (s->bdat_failed)
        return (struct reply){ .code = 503, .enhanced = ENH(5, 5, 1), .text = S("an earlier chunk of this message was refused: say RSET") };
    if (s->m->env.nrcpt == 0) /* RFC 5321 3.3: 503 or 554 */
        return (struct reply){ .code = 554, .enhanced = ENH(5, 5, 1), .text = S("no valid recipients") };
    if (!s->bdat && arriving_full(&s->snap->receive.limits)) /* many may have said MAIL before it was */
        return (struct reply){ .code = 452, .enhanced = ENH(4, 3, 1), .text = S("too much mail on its way in just now (body_memory)") };
    return (struct reply){ 0 };
}

err body_data(struct session *s)
{
    struct data d = { 0 };

    if (s->a && s->bdat) {
        say(s, 503, ENH(5, 5, 1), "BDAT has begun: DATA cannot follow (RFC 3030 3)");
        return OK;
    }
    struct reply no = body_refusal(s);
    if (no.code) {
        say_reply(s, &no);
        return OK;
    }
    if (s->m->env.body == BODY_BINARY) { /* RFC 3030 3 */
        say(s, 503, ENH(5, 5, 1), "BODY=BINARYMIME needs BDAT");
        return OK;
    }
    say(s, 354, (struct enhanced){ 0 }, "send the message, end it with a dot alone on a line");
    body_begin(s, s->expected);
    while (!d.ended) {
        body_room(s);
        when until = MIN(s->body_until, clock_now() + s->snap->receive.timeouts.data_block);
        TRY(data_hear(&d, s->s, &s->slab->body, s->slab->cap - s->slab->body.n, until));
        body_scan(s);
        if (d.bare_cr || d.bare_lf) /* also where the dots were looked for */
            s->m->scan.bare_cr |= d.bare_cr, s->m->scan.bare_lf |= d.bare_lf;
    }
    body_end(s);
    return OK;
}

/* The octets of a chunk: into the body, or thrown away when that is refused already (attack class 6). */
static err chunk_hear(struct session *s, uint64_t left, bool wanted)
{
    when end = wanted ? s->body_until : clock_now() + s->snap->receive.timeouts.message;

    while (left) {
        when until = MIN(end, clock_now() + s->snap->receive.timeouts.data_block);
        if (wanted)
            body_room(s);
        str in = stream_pending(s->s);
        if (in.n == 0) {
            TRY(stream_fill(s->s, (size_t)MIN(left, 65536), until));
            continue;
        }
        in = str_head(in, left);
        if (wanted) {
            in = str_head(in, s->slab->cap - s->slab->body.n);
            buf_add(&s->slab->body, in);
            body_scan(s);
        }
        stream_consume(s->s, in.n);
        left -= in.n;
    }
    return OK;
}

/* RFC 3030 2 */
err body_bdat(struct session *s, const struct command *c)
{
    struct reply no = body_refusal(s);

    if (!no.code && !s->bdat) {
        body_begin(s, c->last ? c->chunk : 0);
        s->bdat = true;
    } else if (!no.code && clock_now() >= s->body_until) { /* chunk by chunk it might never end (attack class 12) */
        say(s, 421, ENH(4, 4, 2), "the message takes too long (timeouts: message)");
        s->quit = true;
        return OK;
    }
    TRY(chunk_hear(s, c->chunk, !no.code));
    if (no.code) { /* said behind the octets, whoever was to blame */
        say_reply(s, &no);
        s->bdat = s->bdat_failed = s->a != NULL;
    } else if (c->last) {
        body_end(s);
    } else if (s->bad.code) {
        struct reply bad = s->bad;
        say_refusal(s, &bad, S(""));
        body_reset(s);
        s->bdat = s->bdat_failed = true;
    } else
        server_reply(&s->v, 250, ENH(2, 0, 0), "%llu octets received", (unsigned long long)c->chunk);
    return OK;
}
