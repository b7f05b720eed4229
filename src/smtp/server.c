/* The receiving end: lines in, replies out. */
#include "smtp/inside.h"

#include <stdio.h>

#define LINE_MOST 2048
#define REPLY_TEXT_MAX 500
#define REPLY_LINE_MAX 510  /* RFC 5321 4.5.3.1.5, without CRLF */

/* ---- hearing ---- */

static err refused(struct server *v, struct command *ret, const char *why)
{
    *ret = (struct command){ .refuse = { .code = 500, .enhanced = ENH(5, 5, 2), .text = str_z(why) } };
    v->nonsense++;
    return OK;
}

/* Drop all up to the end of the line, however long it is (attack class 13). */
static err line_discard(struct stream *s, when deadline)
{
    for (;;) {
        str pending = stream_pending(s);
        size_t end = str_findc(pending, '\n');
        stream_consume(s, end == STR_NONE ? pending.n : end + 1);
        if (end != STR_NONE)
            return OK;
        TRY(stream_fill(s, 1, deadline));
    }
}

err server_hear(struct server *v, arena *a, when deadline, struct command *ret)
{
    struct stream *s = v->s;
    size_t most = v->line_max ? v->line_max : LINE_MOST, end = STR_NONE;

    for (size_t seen = 0;;) {
        str pending = stream_pending(s);
        end = str_findc(str_from(pending, seen), '\n');
        if (end != STR_NONE) {
            end += seen;
            break;
        }
        if (pending.n > most) {
            TRY(line_discard(s, deadline));
            return refused(v, ret, "the line is too long");
        }
        seen = pending.n;
        TRY(stream_fill(s, 1, deadline));
    }
    str line = str_head(stream_pending(s), end);
    stream_consume(s, line.n + 1);
    if (!str_ends(line, S("\r")))
        return refused(v, ret, "lines end in CR LF"); /* a bare LF: attack class 1 */
    line.n--;
    if (line.n + 2 > most)
        return refused(v, ret, "the line is too long");
    if (str_findc(line, '\r') != STR_NONE || str_findc(line, 0) != STR_NONE)
        return refused(v, ret, "a line holds CR or NUL");
    command_parse(a, line, ret);
    v->nonsense += ret->verb == VERB_UNKNOWN || ret->verb == VERB_HTTP;
    return OK;
}

bool server_has_more(const struct server *v)
{
    return str_findc(stream_pending(v->s), '\n') != STR_NONE;
}

/* ---- answering ---- */

/* One line. What stands in `text` may come from anywhere: nothing of it ends the line (attack class 36). */
static void line_say(struct server *v, int code, char joint, struct enhanced e, str text)
{
    char line[REPLY_LINE_MAX + 2];
    size_t n = number_put(line, (uint64_t)code);

    line[n++] = joint;
    if (e.class && v->enhanced) {
        n += number_put(line + n, e.class);
        line[n++] = '.';
        n += number_put(line + n, e.subject);
        line[n++] = '.';
        n += number_put(line + n, e.detail);
        line[n++] = ' ';
    }
    size_t room = MIN((size_t)REPLY_TEXT_MAX, REPLY_LINE_MAX - n);
    for (size_t i = 0; i < MIN(text.n, room); i++)
        line[n++] = text.p[i] >= 32 && text.p[i] < 127 ? text.p[i] : '?';
    line[n++] = '\r';
    line[n++] = '\n';
    stream_say(v->s, str_of(line, n));
}

void server_reply_lines(struct server *v, int code, struct enhanced e, const str *lines, size_t n)
{
    must(code >= 200 && code < 600);
    for (size_t i = 0; i < n; i++)
        line_say(v, code, i + 1 < n ? '-' : ' ', e, lines[i]);
}

void server_reply(struct server *v, int code, struct enhanced e, const char *fmt, ...)
{
    char room[2048];
    str text = str_z(fmt), line;

    must(code >= 200 && code < 600);
    if (str_findc(text, '%') != STR_NONE) { /* most replies are fixed, and need no formatting */
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(room, sizeof room, fmt, ap);
        va_end(ap);
        must(n >= 0);
        text = str_of(room, MIN((size_t)n, sizeof room - 1));
    }
    while (str_cut(&text, S("\n"), &line))
        line_say(v, code, text.p ? '-' : ' ', e, line);
}
