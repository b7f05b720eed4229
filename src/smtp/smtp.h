/* smtp: the wire, both ends. Grammar, framing, pipelining, timeouts; no policy, no storage. */
#ifndef SMTP_H
#define SMTP_H

#include "mail/mail.h"
#include "net/net.h"

/* ---- reply --------------------------------------------------------------------------------------------------------- */

struct enhanced { uint8_t class; uint16_t subject, detail; };   /* RFC 3463; class 0: none */
#define ENH(c, s, d) ((struct enhanced){ (c), (s), (d) })

struct reply {
    uint16_t code;              /* 0: none heard */
    struct enhanced enhanced;
    str text;                   /* without code and enhanced code; lines joined by LF; at most 4 KiB kept (attack class 53) */
};
static inline bool reply_ok(struct reply r) { return r.code / 100 == 2; }
static inline bool reply_later(struct reply r) { return r.code / 100 == 4; }
static inline bool reply_never(struct reply r) { return r.code / 100 == 5; }
/* "550 5.1.1 no such user" on one line, printable. In `a`. */
str reply_print(arena *a, const struct reply *r);
/* One line of a reply, without its CRLF; *more when a hyphen follows the code. `ret` is zeroed before the first line and kept
 * for the others: they need the same code, and the first enhanced code counts. ret->text is that of this line, borrowed. */
err reply_parse_line(str line, struct reply *ret, bool *more);

/* ---- command: what a client says. ---------------------------------------------------------------------------------- */

enum verb {
    VERB_UNKNOWN, VERB_HELO, VERB_EHLO, VERB_MAIL, VERB_RCPT, VERB_DATA, VERB_BDAT, VERB_RSET, VERB_NOOP, VERB_VRFY, VERB_EXPN,
    VERB_HELP, VERB_QUIT, VERB_STARTTLS, VERB_AUTH, VERB_ETRN, VERB_XCLIENT, VERB_XFORWARD,
    VERB_LHLO,                  /* LMTP's EHLO (RFC 2033 4.1) */
    VERB_HTTP                   /* GET, POST, Host: ...: somebody else's protocol (attack class 11) */
};
/* What XCLIENT and XFORWARD tell, as Postfix's XCLIENT_README and XFORWARD_README have it. */
enum attr {
    ATTR_NAME, ATTR_ADDR, ATTR_PORT, ATTR_PROTO, ATTR_HELO, ATTR_LOGIN, ATTR_DESTADDR, ATTR_DESTPORT, ATTR_IDENT, ATTR_SOURCE, ATTRS
};
struct command {
    enum verb verb;
    str line;                   /* the whole, without CRLF; borrowed from the stream until the next server_hear() */
    str argument;               /* HELO name, VRFY and NOOP text, AUTH mechanism and response */
    struct path path;           /* MAIL, RCPT */
    /* MAIL parameters */
    bool has_size; uint64_t size;               /* RFC 1870 */
    enum body_kind body;                        /* RFC 6152, 3030 */
    bool smtputf8;                              /* RFC 6531 */
    enum ret ret; str envid;                    /* RFC 3461; decoded, in the arena given */
    bool has_auth; str auth;                    /* RFC 4954 5; decoded */
    /* RCPT parameters */
    uint8_t notify; str orcpt;                  /* RFC 3461; decoded */
    /* BDAT */
    uint64_t chunk; bool last;                  /* RFC 3030 */
    /* XCLIENT, XFORWARD: a bit (1u << ATTR_...) for each that was given; empty: "[UNAVAILABLE]" or "[TEMPUNAVAIL]". Decoded */
    unsigned attrs; str attr[ATTRS];
    struct addr attr_addr;                      /* ATTR_ADDR; n 0: unavailable */
    /* When it cannot be taken: what to answer. code 0: it can. */
    struct reply refuse;
};
/* Parse one line (without CRLF). Never fails: an unusable line has refuse.code (500 5.5.2, 501 5.5.4, 555 5.5.4, ...) with a text
 * that says what is wrong. Decoded parts in `a`. */
void command_parse(arena *a, str line, struct command *ret);

/* ---- server: the receiving end of the wire. ------------------------------------------------------------------------- */

struct server {
    struct stream *s;
    bool enhanced;              /* say enhanced codes (after EHLO) */
    unsigned nonsense;          /* lines that were no command, so far */
    size_t line_max;            /* octets with CRLF; 0: 2048. AUTH needs 12288 (RFC 4954 4) */
};
/* Hear the next command. Lines over line_max are discarded to their end and come as VERB_UNKNOWN with refuse 500 5.5.2; so
 * are lines ended by a bare LF or holding a bare CR or NUL. A BDAT that is refused must end the session: nobody knows
 * where its octets end. What is no command, such as an answer to a 334, is found in ret->line. E_TIMEOUT, E_CLOSED, E_CANCELED as of the stream. */
WAITS err server_hear(struct server *v, arena *a, when deadline, struct command *ret);
/* Is a further command already in the buffer? (Replies of a pipelined group leave together.) */
bool server_has_more(const struct server *v);
/* Append a reply; it leaves before the next wait. `text` may hold LFs: a line each. Texts are cut to 500 octets a line. */
WAITS void server_reply(struct server *v, int code, struct enhanced e, const char *fmt, ...) PRINTF(4, 5);
WAITS void server_reply_lines(struct server *v, int code, struct enhanced e, const str *lines, size_t n);

/* ---- data: message octets, either way. ------------------------------------------------------------------------------ */

/* Reads the octets behind 354 until CRLF.CRLF: un-stuffed, never anything but CRLF.CRLF ends it (attack class 1). Call again
 * and again: each call appends what is there to `out` (at most `max` octets), waiting when nothing is. */
struct data { uint8_t state; bool ended, bare_cr, bare_lf; uint64_t size; };
WAITS err data_hear(struct data *d, struct stream *s, struct buf *out, size_t max, when deadline);
/* The pure part, for fuzzing and for speed: consume from `in`, append to `out`; returns octets consumed; d->ended says whether
 * the terminator was met (consumed too). Fast: memchr-sized strides, no per-octet loop on ordinary text. */
size_t data_feed(struct data *d, str in, struct buf *out, size_t max);
/* Dot-stuff a body given in pieces, appending to `out`. A bare CR or LF becomes CRLF, so that nothing that leaves ends
 * elsewhere for a careless reader. `state` carries over pieces, 0 at first. A body whose scan said no `dots` needs none of it. */
void data_stuff(struct buf *out, str piece, uint8_t *state);

/* ---- client: the sending end. ---------------------------------------------------------------------------------------- */

enum {
    CAP_EHLO = 1, CAP_PIPELINING = 2, CAP_SIZE = 4, CAP_8BITMIME = 8, CAP_SMTPUTF8 = 16, CAP_CHUNKING = 32, CAP_BINARYMIME = 64,
    CAP_DSN = 128, CAP_ENHANCED = 256, CAP_LIMITS = 512, CAP_STARTTLS = 1024, CAP_AUTH = 2048,
};
struct client {
    struct stream *s;
    bool lmtp;                  /* RFC 2033: LHLO, and an answer for each recipient behind the final dot */
    unsigned caps;
    uint64_t size_max;          /* of SIZE; 0: none said */
    uint64_t mail_max, rcpt_max, rcptdomain_max; /* of LIMITS (RFC 9422); 0: none said */
    str greeting_name;          /* in `keep` */
    struct reply last;          /* newest reply taken; its text lasts until the next */
    arena *keep;
    uint64_t mails;             /* transactions begun on this connection */
    /* inside */
    err broken; str why;        /* the first failure of the dialogue, in `keep` */
    struct buf text, line;      /* of the newest reply heard; of what is being said */
    size_t owed;                /* replies not heard yet: `dots` of the last body, `skip` that concern nobody, then the envelope's */
    size_t dots, skip;
    size_t heirs;               /* the last so many of `dots` answer one accepted recipient each; 0: the last answers for all */
    struct { struct reply *p; size_t n, at, cap; arena *text; } ahead; /* replies heard before anybody asked for them */
    size_t rcpts_said;
    bool data_said, bdat, quit_said, open; /* open: a MAIL was accepted, and neither message nor RSET followed */
    uint64_t dot_at;            /* s->bytes_out when the whole of the last body is out */
};
/* Take over a connected stream: hear the greeting, say EHLO (HELO when it is refused with 5xx). *ret is the caller's to free
 * whatever is returned, and the stream goes with it. E_REFUSED: c->last is the reply that was not positive; it concerns the
 * server, never a recipient. */
WAITS err client_open(struct stream *s, str ehlo_name, struct client **ret);
/* The same to a server that speaks LMTP (RFC 2033). It must have PIPELINING by that RFC; one without is spoken to in step. */
WAITS err client_open_lmtp(struct stream *s, str ehlo_name, struct client **ret);
void client_free(struct client *c);     /* closes without a word */
AUTO_DEFINE(client)
WAITS void client_quit(struct client *c); /* QUIT, at most a second for the answer, then client_free() */
/* Behind client_body() of the last message: QUIT leaves with the final dot (RFC 2920 3.1) where the peer has PIPELINING.
 * client_quit() is still due. */
WAITS void client_last(struct client *c);
/* Say RSET and hear its answer: a probe of an idle connection. */
WAITS err client_reset(struct client *c);
/* EHLO once more, as after STARTTLS: all that was offered before is forgotten. */
WAITS err client_hello(struct client *c, str ehlo_name);
/* One command of another kind (STARTTLS, AUTH, XCLIENT) and its reply, within `length`. OK with any reply but a 421. */
WAITS err client_command(struct client *c, str command, when length, struct reply *ret);

/* What a recipient was answered. */
struct answer {
    struct reply reply;         /* code 0: nothing said about it; text in the arena given to client_answers() */
    bool offered;               /* RCPT was accepted and the body may have gone out */
    bool settled;               /* reply is final for this attempt */
    enum answer_stage { STAGE_MAIL, STAGE_RCPT, STAGE_DATA, STAGE_DOT } stage; /* which command it answers */
};

/* The body in pieces, each in memory when asked for. */
struct body {
    uint64_t size;
    bool dots;                  /* some line starts with a dot */
    /* Piece i, or {NULL,0} behind the last; stays valid until the next call. Prepended fields count as pieces. */
    WAITS err (*piece)(void *ctx, size_t i, str *ret);
    void *ctx;
};

/* One transaction, in three steps, so that the next one's envelope leaves in the same write as this one's final dot
 * (RFC 2920 3.1 allows it):
 *   client_offer(c, env1)
 *   client_answers(c, env1, a, out1, &any)
 *   client_body(c, env1, body1, out1)                  if any was accepted; else the transaction is over
 *   client_offer(c, env2)                              when there is one and c has CAP_PIPELINING
 *   client_settle(c, env1, out1)
 *   client_answers(c, env2, ...)
 * Parameters (SIZE, BODY, SMTPUTF8, RET, ENVID, NOTIFY, ORCPT) are said as far as the peer offered them. Timeouts: RFC 5321 4.5.3.2.
 * client_offer() without PIPELINING keeps step by reading replies ahead. With CHUNKING and BODY=BINARYMIME BDAT is used instead of DATA. */
WAITS void client_offer(struct client *c, const struct envelope *env, uint64_t size);
/* Hear the answers to MAIL, each RCPT and DATA; `out` is zero at first. OK with *any: say the body; without: all are settled
 * (a 354 for nobody was answered with a lone dot). On an error of the line nothing but the settled answers in `out` is
 * settled. A 421 anywhere settles nothing else and is E_CLOSED with c->last; an answer out of place is E_SYNTAX. */
WAITS err client_answers(struct client *c, const struct envelope *env, arena *a, struct answer *out, bool *any);
/* Say the body and the final dot (into the buffer and beyond; not necessarily all sent). The piece callback's error ends the
 * connection without a dot: nothing was delivered. */
WAITS err client_body(struct client *c, const struct envelope *env, const struct body *body, struct answer *out);
/* Hear the answer to the final dot: settles every offered recipient. E_MAYBE: the line died after our dot (or the last BDAT)
 * was sent, or the answer made no sense. Any other error settles nothing, but E_CLOSED by a 421: that is their answer.
 * By LMTP each has an answer of its own, in the order of the RCPTs: E_MAYBE then concerns those who are not settled yet. */
WAITS err client_settle(struct client *c, const struct envelope *env, arena *a, struct answer *out);

#endif
