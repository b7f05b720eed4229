/* What a stopped Postfix left in its queue: one file a message, of which those recipients count that were not settled yet.
 *
 * A file is a run of records: a type in one octet, the length of its data in octets of seven bits, least first, and the data. The envelope
 * ends in M, the content (N: a line, L: a part of one) in X, what was extracted in E. */
#ifndef POSTFIX_QUEUE_H
#define POSTFIX_QUEUE_H

#include "mail/mail.h"

#define POSTFIX_RCPTS_MOST 100000
#define POSTFIX_FILE_MOST (1u << 30)

struct postfix_mail {
    struct envelope env;            /* recipients that wait; none: all are settled */
    size_t settled;                 /* recipients that were delivered or returned already */
    when arrived;                   /* wall clock */
    str client, client_name, helo, login;
    str filter;                     /* the content filter it was on its way to; empty: none */
    bool verp, double_bounce;       /* asked for a sender of its own for each recipient; was Postfix' own report, now from <> */
    struct buf body;                /* on the heap: the caller's, buf_free() */
};
/* Read a queue file's octets. Addresses, which Postfix keeps unquoted, are as in SMTP; all but the body lives in `a` or in `file`.
 * E_SYNTAX: none, torn or damaged; the text says where. On any error ret->body is empty. */
err postfix_mail_parse(arena *a, str file, struct postfix_mail *ret);

/* Does `dir` look like Postfix' queue_directory? */
bool postfix_queue_is(str dir);
/* Put all that waits in a stopped Postfix' queue into the spool at `dir`. Each file's fate is told in a line on stdout (JSON if so), as is a summary.
 * *ret: files that were refused. E_EXISTS: that Postfix is running. What came in before an error stays in; what is in the spool
 * already is not taken twice. */
struct postfix_queue_job { str spool, queue; bool json; uint64_t taken, rcpts, held, settled, known, refused; };
WAITS err postfix_queue_import(struct postfix_queue_job *j);

#endif
