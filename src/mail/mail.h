/* mail: addresses, envelopes, header fields, the one scan of a body, re-encoding, reports. No policy, no input or output. */
#ifndef MAIL_H
#define MAIL_H

#include "base/base.h"

/* ---- path: RFC 5321 4.1.2, with RFC 6531 3.3's UTF-8. -------------------------------------------------------------- */

struct path {
    str text;           /* "ann@example.org" as on the wire, without <> and source route; empty: the null path */
    str local;          /* before the last @, quotes and all */
    str domain;         /* after it; empty for <> and <postmaster>; may be a literal "[...]" */
    bool quoted;        /* the local part is a quoted string */
    bool literal;       /* the domain is an address literal */
    bool utf8;          /* has bytes above 127 (all valid UTF-8) */
};
/* Read "<ann@example.org>" (brackets required) at the start of `s`; *rest gets what follows. Source routes are dropped (RFC 5321
 * appendix C). <> is E_SYNTAX unless `null_ok`; a bare <postmaster> (any case) is taken when `bare_ok`. Length limits of RFC 5321 4.5.3.1:
 * local 64, domain 255, path 256. Nothing in `ret` is a copy. */
err path_parse(str s, bool null_ok, bool bare_ok, struct path *ret, str *rest);
/* The same for an address without brackets, whole string: configuration, lists, command line. */
err address_parse(str s, struct path *ret);
/* Would a naive relay read another address out of the local part: an unquoted % or !, an @ in quotes? (attack class 25) */
bool path_tricky(const struct path *p);
/* Case-folded "local@domain" for look-ups: the local part ASCII-folded, unquoted where quotes were needless. In `a`. */
str path_key(arena *a, const struct path *p);
bool domain_valid(str s);               /* LDH labels <= 63, whole <= 253, UTF-8 labels allowed; no literal */
bool domain_matches(str pattern, str domain); /* "example.com" itself, "*.example.com" anything below it; case ignored */

/* xtext, RFC 3461 4. Decoding refuses controls (attack class 17). In `a`. */
err xtext_decode(arena *a, str s, str *ret);
str xtext_encode(arena *a, str s);
/* An address of type utf-8 in ASCII, "j\x{F6}rg@example.org": RFC 6533 3's utf-8-addr-xtext, also fit for ORCPT. In `a`. */
str address_ascii(arena *a, str s);
/* The same where UTF-8 may stand as it is: utf-8-addr-unitext. In `a`. */
str address_unitext(arena *a, str s);
/* Back from either: "\x{F6}" becomes its character. E_SYNTAX: a control, half a surrogate pair, or no character at all. In `a`. */
err address_decode(arena *a, str s, str *ret);

/* ---- envelope ------------------------------------------------------------------------------------------------------ */

enum { NOTIFY_NEVER = 1, NOTIFY_SUCCESS = 2, NOTIFY_FAILURE = 4, NOTIFY_DELAY = 8 }; /* 0: not given, RFC 3461 4.1 */
enum ret { RET_NONE, RET_FULL, RET_HDRS };
enum body_kind { BODY_7BIT, BODY_8BIT, BODY_BINARY };

struct rcpt {
    str to;             /* where it goes now */
    str given;          /* what the client wrote; the same str when nothing changed it */
    str orcpt;          /* "rfc822;ann@example.org", decoded; empty: none given */
    uint8_t notify;
};

struct envelope {
    str sender;         /* without <>; empty: null sender */
    struct rcpt *rcpt;
    size_t nrcpt;
    str envid;          /* decoded; empty: none */
    enum ret ret;
    enum body_kind body;
    bool smtputf8;
};

/* Where a message came from. All strings may be empty. */
struct origin {
    str listener, client /* address text */, client_name, ehlo, tls, login, tenant, stream;
    str forwarded;      /* where a peer says it had it from; for the trace field alone, and not stored */
    when accepted;      /* wall clock */
};

/* ---- header: a block of RFC 5322 fields, CRLF lines. ---------------------------------------------------------------- */

struct field { str name, value, whole; };       /* value: after the colon, folds inside; whole: with its CRLF */
/* Cut the next field off *rest; false at the empty line, at the end, or at a line that is no field (then *rest stays there). */
bool header_next(str *rest, struct field *ret);
/* Unfold: RFC 5322 2.2.3. Returns `value` itself when it has no folds. */
str header_unfold(arena *a, str value);
/* First field of that name in the block, trimmed and unfolded; false when there is none. */
bool header_get(arena *a, str block, str name, str *ret);
/* A field we write: "Name: value\r\n", folded at blanks to 78 columns where it can, refusing to pass CR, LF or NUL on
 * (each becomes a blank; attack class 36). */
void header_add(struct buf *out, str name, str value);

/* ---- scan: what one pass over a body finds. Fed with the octets as stored: CRLF lines, not dot-stuffed. ------------ */

struct scan {
    uint64_t size;
    uint64_t header_end;        /* offset of the first octet behind the empty line; == size when there is none */
    uint32_t longest_line;      /* octets without CRLF */
    uint32_t received;          /* Received fields in the header (loops) */
    uint32_t fields;            /* header fields */
    bool dots;                  /* some line starts with a dot, or would for a careless reader: stuff on the way out */
    bool eight_bit_header, eight_bit_body, nul, bare_cr, bare_lf;
    bool header_open;           /* still within the header */
    /* inside: where in a line, what was before */
    uint32_t line, state;
    uint8_t name[10];
};
void scan_init(struct scan *s);
void scan_feed(struct scan *s, str octets);     /* any pieces; >= 2 GB/s on ordinary text (memchr-speed) */
void scan_end(struct scan *s);                  /* settles a last line without CRLF */

/* ---- mime: make a body passable for a hop that lacks 8BITMIME or BINARYMIME. ---------------------------------------- */

/* Re-encode each leaf part that is 8-bit or binary into quoted-printable or base64 (RFC 6152 3, RFC 3030 3), iteratively,
 * depth at most 100, parts at most 10,000. `eight_bit_ok`: only binary leaves and lines over 998 need it. Header fields stay as
 * they are. E_PERM: it would break a signed part (multipart/signed) or is not understood; the caller answers 5.6.3. */
err mime_reencode(str body, bool eight_bit_ok, struct buf *out);

/* RFC 2045 6.8 and 6.7, in lines of 76 columns; no line end behind the last. CRLF is a line's end in quoted-printable. */
void base64_add(struct buf *out, str s);
void quoted_printable_add(struct buf *out, str s);

/* ---- report: RFC 3464 delivery status notifications, RFC 3461 rules. ------------------------------------------------ */

enum report_action { REPORT_FAILED, REPORT_DELAYED, REPORT_DELIVERED, REPORT_RELAYED, REPORT_EXPANDED };
struct report_rcpt {
    const struct rcpt *rcpt;
    enum report_action action;
    str status;         /* "5.1.1" */
    str diagnostic;     /* the next hop's reply, "550 5.1.1 no such user"; empty: ours */
    str remote;         /* its name; empty: none */
    str reason;         /* what happened and what to do, for a person: report_advice() */
    when last_attempt, retry_until;     /* wall clock; 0: none */
};
struct report {
    str hostname;       /* reporting MTA */
    str postmaster;     /* whom a person may ask */
    ulid id;            /* of the report itself: Message-ID and boundary */
    ulid about;         /* of the message */
    const struct envelope *env;
    str to;             /* who gets it; empty: env->sender. Beyond ASCII: the way there takes UTF-8, so it is written as RFC 6533 has it */
    str preface;        /* why it comes to somebody else than the sender; empty: it does not */
    str received_from;  /* who gave us the message, "there.example ([192.0.2.7])"; empty: not known */
    when arrived;       /* wall clock */
    when now;
    const struct report_rcpt *rcpt;
    size_t nrcpt;
    str original;       /* header block, or whole message; what RET and size allow */
    bool original_whole;
};
/* The whole message, header and body, CRLF, lines folded, from <>; 7-bit safe unless it goes to an address beyond ASCII. From, To, Date,
 * Subject, Message-ID, Auto-Submitted: auto-replied (RFC 3834), multipart/report with text, delivery-status, message/rfc822 or
 * text/rfc822-headers (base64 or the global types of RFC 6533 when the original has 8-bit octets). */
void report_write(const struct report *r, struct buf *out);
/* What a failure, delay or success means and what can be done about it, in plain English, by its status ("5.1.1") and the server's words
 * ("550 5.1.1 no such user"; may be empty). A literal. */
str report_advice(enum report_action action, str status, str diagnostic);

/* ---- submit: what a program hands to sendmail ------------------------------------------------------------------------ */

/* Read an address-list (RFC 5322 3.4, with groups, comments, names and routes, of which nothing is kept), appending the addresses, in `a`, to
 * *into. `host` stands behind one without a domain. Nothing is decoded (attack class 26). E_SYNTAX, E_LIMIT. */
err address_list(arena *a, str value, str host, struct strs *into);

struct submit {
    str host;                   /* ours: behind addresses without a domain, in Message-ID */
    str author, full_name;      /* for a From field that is missing; the name may be empty */
    bool dots;                  /* a dot alone on a line is text; else it ends the message */
    bool from_header;           /* recipients are those of To, Cc and Bcc, or of their Resent- forms */
};
/* Make a message of `in`, appended to `out`: lines end in CRLF, Date, Message-ID and From are there, Bcc and Return-Path are not. Recipients the
 * header names are appended to *rcpt, in `a`. NUL octets are left out. E_SYNTAX: an address that is none. */
err submit_write(arena *a, const struct submit *s, str in, struct buf *out, struct strs *rcpt);

#endif
