/* Errors: a word for the program, a text for the log. */
#include "base/base.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

_Thread_local struct err_note *err_note;
static _Thread_local struct err_note thread_note; /* for code outside tasks */

static struct err_note *note(void) { return err_note ? err_note : &thread_note; }

const char *err_name(err e)
{
    static const char *const names[E_COUNT] = {
        [OK] = "ok",               [E_SYNTAX] = "syntax",     [E_AGAIN] = "again",     [E_NONAME] = "noname",
        [E_NOTFOUND] = "notfound", [E_EXISTS] = "exists",     [E_CANCELED] = "canceled", [E_TIMEOUT] = "timeout",
        [E_CLOSED] = "closed",     [E_REFUSED] = "refused",   [E_LIMIT] = "limit",     [E_IO] = "io",
        [E_NOSPACE] = "nospace",   [E_DAMAGED] = "damaged",   [E_UNKNOWN] = "unknown", [E_MAYBE] = "maybe",
        [E_PERM] = "perm",         [E_USAGE] = "usage",       [E_BOGUS] = "bogus",
        [E_NOWAY] = "noway",
    };
    return (unsigned)e < E_COUNT ? names[e] : "?";
}

/* Through a copy: the arguments may well be parts of the text that is replaced. */
static void note_set(const char *fmt, va_list ap, const char *tail)
{
    char text[sizeof note()->text];
    int n = vsnprintf(text, sizeof text, fmt, ap);
    must(n >= 0);
    size_t len = MIN((size_t)n, sizeof text - 1);
    if (tail)
        len += (size_t)snprintf(text + len, sizeof text - len, ": %s", tail);
    len = MIN(len, sizeof text - 1);
    memcpy(note()->text, text, len);
    note()->text[len] = 0;
    note()->n = len;
}

err fail(err e, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    note_set(fmt, ap, NULL);
    va_end(ap);
    return e;
}

static err err_of_errno(int number)
{
    switch (number) {
    case EAGAIN: case EINTR: case EBUSY: return E_AGAIN;
    case ENOENT: case ENXIO: case ENODEV: case ESRCH: return E_NOTFOUND;
    case EEXIST: case EADDRINUSE: return E_EXISTS;
    case ECANCELED: return E_CANCELED;
    case ETIMEDOUT: case ETIME: return E_TIMEOUT;
    case EPIPE: case ECONNRESET: case ECONNABORTED: case ESHUTDOWN: case ENOTCONN: return E_CLOSED;
    case ECONNREFUSED: case EHOSTUNREACH: case EHOSTDOWN: return E_REFUSED;
    case ENETUNREACH: case ENETDOWN: case EADDRNOTAVAIL: case EAFNOSUPPORT: return E_NOWAY;
    case ENOSPC: case EDQUOT: case EMFILE: case ENFILE: case ENOMEM: case ENOBUFS: case EFBIG: return E_NOSPACE;
    case EACCES: case EPERM: case EROFS: return E_PERM;
    default: return E_IO;
    }
}

err fail_errno(int number, const char *fmt, ...)
{
    const char *words = strerrordesc_np(number);
    va_list ap;
    va_start(ap, fmt);
    note_set(fmt, ap, words ? words : "unknown error");
    va_end(ap);
    return err_of_errno(number);
}

err during(err e, const char *fmt, ...)
{
    if (e == OK)
        return OK;
    char text[sizeof note()->text];
    memcpy(text, note()->text, note()->n);
    text[note()->n] = 0;
    va_list ap;
    va_start(ap, fmt);
    note_set(fmt, ap, note()->n ? text : err_name(e));
    va_end(ap);
    return e;
}

str err_text(void) { return (str){ note()->text, note()->n }; }

/* By write(2): the heap and stdio may be what is broken. */
void must_failed(const char *file, int line, const char *what)
{
    char text[512];
    int n = snprintf(text, sizeof text, "waypost: %s:%d: this must hold: %s\n", file, line, what);
    ssize_t ignored = write(STDERR_FILENO, text, MIN((size_t)MAX(n, 0), sizeof text - 1));
    (void)ignored;
    log_flush(); /* what led here */
    abort();
}
