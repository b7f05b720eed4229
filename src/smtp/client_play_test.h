/* For tests of the client: a server that follows a script, on the other end of a socket pair. */
#ifndef SMTP_CLIENT_PLAY_TEST_H
#define SMTP_CLIENT_PLAY_TEST_H

#include "kit/kit.h"
#include "smtp/smtp.h"

#define SOON (clock_now() + KIT_SLOW * 5 * SECOND) /* must not pass */

/* Wait until exactly `hears` has come, then say `says`. NULL: close. */
struct turn { const char *hears, *says; };
struct play {
    void (*run)(struct client *c, err opened);
    const struct turn *turn;
    size_t n;
    bool drip;
    err (*open)(struct stream *s, str name, struct client **ret);   /* NULL: client_open() */
};
err play_run(void *play);               /* a task */
/* The same with a server that says all at once, and one that says it octet by octet. */
void play_both(void (*run)(struct client *c, err opened), const struct turn *turn, size_t n);
#define PLAY(run, ...) play_both(run, (struct turn[]){ __VA_ARGS__ }, COUNT(((struct turn[]){ __VA_ARGS__ })))
#define FULL "220 mx.example ESMTP\r\n", \
    }, { "EHLO me.example\r\n", "250-mx.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-DSN\r\n250 SMTPUTF8\r\n"
#define PLAIN "220 mx.example ESMTP\r\n", }, { "EHLO me.example\r\n", "250 mx.example\r\n"
#define BINARY "220 mx.example ESMTP\r\n", \
    }, { "EHLO me.example\r\n", "250-mx.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 BINARYMIME\r\n"

/* An envelope of two recipients, what is said of it, and a body of two pieces. */
extern const struct envelope two;
#define TWO_SAID "MAIL FROM:<ann@example.net>\r\nRCPT TO:<bob@example.org>\r\nRCPT TO:<eve@example.org>\r\nDATA\r\n"
struct pieces { struct strs all; err fails; size_t at; };
err next_piece(void *pieces, size_t i, str *ret);
extern const struct body hello_body;

#endif
