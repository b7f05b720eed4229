/* Replies: RFC 5321 4.2, with the enhanced codes of RFC 2034 and 3463. */
#include "smtp/smtp.h"

/* "2.1.5" at the start of `s`, with a blank or the end behind it; false when there is none. */
static bool enhanced_cut(str *s, struct enhanced *ret)
{
    uint16_t number[3] = { 0 };
    size_t at = 0;

    for (int i = 0; i < 3; i++) {
        size_t from = at;
        while (at < s->n && at - from < 3 && ascii_digit(s->p[at]))
            number[i] = (uint16_t)(number[i] * 10 + (s->p[at++] - '0'));
        if (at == from)
            return false;
        if (i < 2 && (at == s->n || s->p[at++] != '.'))
            return false;
    }
    if (at < s->n && s->p[at] != ' ')
        return false;
    *ret = ENH((uint8_t)number[0], number[1], number[2]);
    *s = str_from(*s, at + 1);
    return number[0] == 2 || number[0] == 4 || number[0] == 5;
}

err reply_parse_line(str line, struct reply *ret, bool *more)
{
    if (line.n < 3 || line.p[0] < '2' || line.p[0] > '5' || !ascii_digit(line.p[1]) || !ascii_digit(line.p[2]))
        return fail(E_SYNTAX, "no reply code in \"%.*s\"", STR(str_head(line, 80)));
    uint16_t code = (uint16_t)((line.p[0] - '0') * 100 + (line.p[1] - '0') * 10 + (line.p[2] - '0'));
    if (line.n > 3 && line.p[3] != ' ' && line.p[3] != '-')
        return fail(E_SYNTAX, "no blank behind the code in \"%.*s\"", STR(str_head(line, 80)));
    if (ret->code && ret->code != code)
        return fail(E_SYNTAX, "the code changes from %u to %u within a reply", ret->code, code);

    struct enhanced e = { 0 };
    str text = str_from(line, 4), behind = text;
    if (enhanced_cut(&behind, &e) && e.class == code / 100)
        text = behind;
    else
        e = (struct enhanced){ 0 };
    if (!ret->code || !ret->enhanced.class)
        ret->enhanced = e;
    ret->code = code;
    ret->text = text;
    *more = line.n > 3 && line.p[3] == '-';
    return OK;
}

str reply_print(arena *a, const struct reply *r)
{
    struct buf out = buf_in(a, r->text.n + 32);

    buf_addf(&out, "%03u", r->code);
    if (r->enhanced.class)
        buf_addf(&out, " %u.%u.%u", r->enhanced.class, r->enhanced.subject, r->enhanced.detail);
    str rest = r->text, line;
    while (rest.n && str_cut(&rest, S("\n"), &line)) {
        if (!line.n)
            continue;
        buf_addc(&out, ' ');
        buf_add(&out, line);
    }
    return str_printable(a, buf_str(&out));
}
