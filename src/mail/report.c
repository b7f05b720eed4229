/* Delivery status notifications: RFC 3464 in the frame of RFC 6522, with the rules of RFC 3461 6 and the UTF-8 of RFC
 * 6533. What we quote comes from strangers: it is cleaned on its way into every field and line (attack class 36). */
#include "mail/mail.h"

#define TEXT_COLUMNS 72
#define QUOTE_MAX 1000  /* of a reply, in the text for people */
#define WORD_MAX 400    /* without a blank, in a field: so that no line passes RFC 5322's 998 */

static const struct { const char *word, *title; } actions[] = {
    [REPORT_FAILED] = { "failed", "could not be delivered to" },
    [REPORT_DELAYED] = { "delayed", "could not be delivered yet, and will be tried again, to" },
    [REPORT_DELIVERED] = { "delivered", "was delivered to" },
    [REPORT_RELAYED] = { "relayed", "was handed on, to a system that tells no more about it, for" },
    [REPORT_EXPANDED] = { "expanded", "was handed on to the members of the list" },
};

/* ---- cleaning ---- */

static bool is_ascii(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] & 0x80)
            return false;
    return true;
}

static bool is_utf8(str s)
{
    uint32_t point;
    for (size_t n; s.n; s = str_from(s, n)) {
        n = utf8_head(s, &point);
        if (n == 0)
            return false;
    }
    return true;
}

/* Controls become blanks, octets that are no UTF-8 "?". */
static str clean(arena *a, str s)
{
    struct buf out = buf_in(a, s.n);
    uint32_t point;

    for (size_t n; s.n; s = str_from(s, n)) {
        n = utf8_head(s, &point);
        if (n == 0) {
            n = 1;
            buf_addc(&out, '?');
        } else if (utf8_control(point)) {
            buf_addc(&out, ' ');
        } else {
            buf_add(&out, str_head(s, n));
        }
    }
    return buf_str(&out);
}

/* The part for machines: where it goes, and whether UTF-8 may stand in it. */
struct status { arena *a; struct buf *out; bool utf8; };

/* A field of the machine's part: ASCII unless it goes where UTF-8 does, and no word so long that it could not be folded. */
static void status_add(const struct status *s, const char *name, str value)
{
    struct buf text = buf_in(s->a, value.n + 16);
    size_t word = 0;

    uint32_t point = 0;
    for (str rest = clean(s->a, value); rest.n;) {
        size_t n = utf8_head(rest, &point);
        must(n > 0); /* it was cleaned */
        word = point == ' ' ? 0 : word + n;
        if (word > WORD_MAX) {
            buf_addc(&text, ' ');
            word = n;
        }
        buf_add(&text, s->utf8 || n == 1 ? str_head(rest, n) : S("?"));
        rest = str_from(rest, n);
    }
    header_add(s->out, str_z(name), buf_str(&text));
}

static void date_add(struct buf *out, const char *name, when wall)
{
    char text[TIME_TEXT];
    if (wall)
        header_add(out, str_z(name), time_rfc5322(text, wall));
}

/* ---- the part for people ---- */

/* `text` in lines of some 72 columns behind `indent`. */
static void lines_add(struct buf *out, const char *indent, str text)
{
    size_t column = 0;
    str word;

    while (str_word(&text, &word)) {
        if (column && column + 1 + word.n > TEXT_COLUMNS) {
            buf_add(out, S("\r\n"));
            column = 0;
        }
        if (column)
            buf_addc(out, ' ');
        else
            buf_add(out, str_z(indent));
        buf_add(out, word);
        column += word.n + 1;
    }
    buf_add(out, S("\r\n"));
}

static void person_rcpt_add(arena *a, struct buf *out, const struct report_rcpt *rcpt)
{
    char text[TIME_TEXT];

    buf_addf(out, "\r\n  <%.*s>\r\n", STR(clean(a, rcpt->rcpt->given)));
    if (rcpt->reason.n)
        lines_add(out, "    ", clean(a, rcpt->reason));
    if (rcpt->diagnostic.n) {
        str who = rcpt->remote.n ? str_printf(a, "%.*s answered:", STR(rcpt->remote)) : S("The answer was:");
        lines_add(out, "    ",
                  str_printf(a, "%.*s %.*s", STR(clean(a, who)), STR(clean(a, str_head(rcpt->diagnostic, QUOTE_MAX)))));
    }
    if (rcpt->action == REPORT_DELAYED && rcpt->retry_until)
        lines_add(out, "    ", str_printf(a, "It will be tried until %.*s. You need not send it again: you will be told if it fails.",
                                          STR(time_rfc5322(text, rcpt->retry_until))));
}

static str person_text(arena *a, const struct report *r)
{
    struct buf out = buf_in(a, 2048);
    char id[ULID_TEXT], arrived[TIME_TEXT];

    buf_addf(&out, "This is the mail system at %.*s.\r\n", STR(r->hostname));
    if (r->preface.n) {
        buf_add(&out, S("\r\n"));
        lines_add(&out, "", clean(a, r->preface));
    }
    for (size_t action = 0; action < COUNT(actions); action++) {
        bool titled = false;
        for (size_t i = 0; i < r->nrcpt; i++) {
            if (r->rcpt[i].action != action)
                continue;
            if (!titled) {
                buf_add(&out, S("\r\n"));
                lines_add(&out, "",
                          str_printf(a, "%s message of %.*s %s:", r->preface.n ? "The" : "Your", STR(time_rfc5322(arrived, r->arrived)),
                                     actions[action].title));
            }
            titled = true;
            person_rcpt_add(a, &out, &r->rcpt[i]);
        }
    }
    buf_add(&out, S("\r\n"));
    if (r->postmaster.n)
        lines_add(&out, "",
                  str_printf(a, "If you need help, write to <%.*s> and quote this number: %.*s",
                             STR(clean(a, r->postmaster)), STR(ulid_print(r->about, id))));
    else
        lines_add(&out, "", str_printf(a, "The number of your message here is %.*s.", STR(ulid_print(r->about, id))));
    return buf_str(&out);
}

/* ---- the part for machines, RFC 3464 2 ---- */

/* "type; address". Where UTF-8 may not stand it takes its ASCII form, so that the part passes everywhere (RFC 6533 3). */
static str typed_address(const struct status *s, str type, str address)
{
    if (str_ieq(type, S("utf-8")) || !is_ascii(address))
        return str_printf(s->a, "utf-8; %.*s", STR(s->utf8 ? address_unitext(s->a, address) : address_ascii(s->a, address)));
    return str_printf(s->a, "%.*s; %.*s", STR(type), STR(address));
}

static void status_rcpt_add(const struct status *s, const struct report_rcpt *rcpt)
{
    str orcpt = rcpt->rcpt->orcpt, type;

    buf_add(s->out, S("\r\n"));
    if (orcpt.n && str_cut(&orcpt, S(";"), &type))
        status_add(s, "Original-Recipient", typed_address(s, type, orcpt));
    /* What the sender wrote, not what we made of it: an alias is nobody's business (RFC 3464 4.2). */
    status_add(s, "Final-Recipient", typed_address(s, S("rfc822"), rcpt->rcpt->given));
    status_add(s, "Action", str_z(actions[rcpt->action].word));
    status_add(s, "Status", rcpt->status);
    if (rcpt->remote.n && !str_starts(rcpt->remote, S("unix:"))) /* a path of ours says nothing to anybody */
        status_add(s, "Remote-MTA", str_printf(s->a, "dns; %.*s", STR(rcpt->remote)));
    if (rcpt->diagnostic.n)
        status_add(s, "Diagnostic-Code", str_printf(s->a, "smtp; %.*s", STR(rcpt->diagnostic)));
    date_add(s->out, "Last-Attempt-Date", rcpt->last_attempt);
    if (rcpt->action == REPORT_DELAYED) /* RFC 3464 2.3.9: only then */
        date_add(s->out, "Will-Retry-Until", rcpt->retry_until);
}

static str status_text(arena *a, const struct report *r, bool utf8)
{
    struct buf out = buf_in(a, 2048);
    const struct status s = { a, &out, utf8 };
    char id[ULID_TEXT];

    if (r->env->envid.n)
        status_add(&s, "Original-Envelope-Id", r->env->envid);
    status_add(&s, "Reporting-MTA", str_printf(a, "dns; %.*s", STR(r->hostname)));
    if (r->received_from.n)
        status_add(&s, "Received-From-MTA", str_printf(a, "dns; %.*s", STR(r->received_from)));
    status_add(&s, "X-Waypost-Id", ulid_print(r->about, id));
    date_add(&out, "Arrival-Date", r->arrived);
    for (size_t i = 0; i < r->nrcpt; i++)
        status_rcpt_add(&s, &r->rcpt[i]);
    return buf_str(&out);
}

/* ---- the parts, in their frame ---- */

static struct scan scan_of(str s)
{
    struct scan scan;
    scan_init(&scan);
    scan_feed(&scan, s);
    scan_end(&scan);
    return scan;
}

static bool passes(str s)
{
    struct scan scan = scan_of(s);
    return !scan.eight_bit_header && !scan.eight_bit_body && !scan.nul && !scan.bare_cr && !scan.bare_lf &&
           scan.longest_line <= 998;
}

enum form { FORM_PLAIN, FORM_8BIT, FORM_QUOTED, FORM_BASE64 };

static void part_add(struct buf *out, str boundary, str type, str title, enum form form, str content)
{
    static const str forms[] = {
        [FORM_PLAIN] = S("7bit"), [FORM_8BIT] = S("8bit"), [FORM_QUOTED] = S("quoted-printable"), [FORM_BASE64] = S("base64")
    };

    buf_addf(out, "--%.*s\r\n", STR(boundary));
    header_add(out, S("Content-Description"), title);
    header_add(out, S("Content-Type"), type);
    header_add(out, S("Content-Transfer-Encoding"), forms[form]);
    buf_add(out, S("\r\n"));
    if (form == FORM_QUOTED)
        quoted_printable_add(out, content);
    else if (form == FORM_BASE64)
        base64_add(out, content);
    else
        buf_add(out, content);
    buf_add(out, S("\r\n"));
}

/* RFC 3461 6.2: the message or its header, in a type and form that leave every octet as it was where they can. */
static void original_add(const struct report *r, struct buf *out, str boundary)
{
    str header = str_head(r->original, scan_of(r->original).header_end);
    str title = r->preface.n ? (r->original_whole ? S("The message") : S("The header of the message"))
                             : (r->original_whole ? S("Your message") : S("The header of your message"));
    AUTO_BUF recoded = { 0 };

    if (r->original_whole && passes(r->original)) {
        part_add(out, boundary, S("message/rfc822"), title, FORM_PLAIN, r->original);
    } else if (r->original_whole && is_ascii(header) && mime_reencode(r->original, false, &recoded) == OK &&
               passes(buf_str(&recoded))) {
        part_add(out, boundary, S("message/rfc822"), title, FORM_PLAIN, buf_str(&recoded));
    } else if (r->original_whole && is_utf8(header)) {
        /* RFC 6532 3.7 lets it be encoded */
        part_add(out, boundary, S("message/global"), title, FORM_BASE64, r->original);
    } else if (passes(header)) {
        part_add(out, boundary, S("text/rfc822-headers"), title, FORM_PLAIN, header);
    } else if (!is_ascii(header) && is_utf8(header)) {
        part_add(out, boundary, S("message/global-headers"), title, FORM_BASE64, header);
    } else {
        /* RFC 6522 4: so when it is broken */
        part_add(out, boundary, S("text/rfc822-headers"), title, FORM_QUOTED, header);
    }
}

static const char *subject(const struct report *r)
{
    bool failed = false, delayed = false;
    for (size_t i = 0; i < r->nrcpt; i++) {
        failed |= r->rcpt[i].action == REPORT_FAILED;
        delayed |= r->rcpt[i].action == REPORT_DELAYED;
    }
    if (r->preface.n)
        return failed ? "A message could not be delivered" : "A message is delayed, or was delivered";
    return failed    ? "Your message could not be delivered"
           : delayed ? "Your message is delayed"
                     : "Your message was delivered";
}

void report_write(const struct report *r, struct buf *out)
{
    AUTO_ARENA a = arena_new();
    char id[ULID_TEXT], now[TIME_TEXT];
    str boundary = str_printf(a, "=_%.*s", STR(ulid_print(r->id, id))); /* never in the original: nobody knew it then */
    str from = r->postmaster.n ? r->postmaster : str_printf(a, "MAILER-DAEMON@%.*s", STR(r->hostname));
    str to = r->to.n ? r->to : r->env->sender, text = person_text(a, r);
    /* RFC 6533 4: only a way that takes UTF-8 carries the global types, and to an address beyond ASCII none else leads. */
    bool utf8 = !is_ascii(to);

    header_add(out, S("From"), str_printf(a, "Mail Delivery System <%.*s>", STR(from)));
    header_add(out, S("To"), str_printf(a, "<%.*s>", STR(clean(a, to))));
    header_add(out, S("Date"), time_rfc5322(now, r->now));
    header_add(out, S("Subject"), str_z(subject(r)));
    header_add(out, S("Message-ID"), str_printf(a, "<%.*s@%.*s>", STR(ulid_print(r->id, id)), STR(r->hostname)));
    header_add(out, S("Auto-Submitted"), S("auto-replied")); /* RFC 3834 5 */
    header_add(out, S("MIME-Version"), S("1.0"));
    header_add(out, S("Content-Type"),
               str_printf(a, "multipart/report; report-type=%sdelivery-status; boundary=\"%.*s\"", utf8 ? "global-" : "", STR(boundary)));
    buf_add(out, S("\r\n"));
    if (passes(text))
        part_add(out, boundary, S("text/plain; charset=us-ascii"), S("Notification"), FORM_PLAIN, text);
    else
        part_add(out, boundary, S("text/plain; charset=utf-8"), S("Notification"), FORM_QUOTED, text);
    if (utf8)
        part_add(out, boundary, S("message/global-delivery-status"), S("Delivery report"), FORM_8BIT, status_text(a, r, true));
    else
        part_add(out, boundary, S("message/delivery-status"), S("Delivery report"), FORM_PLAIN, status_text(a, r, false));
    if (r->original.n)
        original_add(r, out, boundary);
    buf_addf(out, "--%.*s--\r\n", STR(boundary));
}
