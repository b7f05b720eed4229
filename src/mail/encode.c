/* Octets as mail-safe text: base64 and quoted-printable, RFC 2045 6. */
#include "mail/mail.h"

#define LINE 76 /* RFC 2045 6.7 (5) and 6.8 */

void base64_add(struct buf *out, str s)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    buf_reserve(out, s.n / 3 * 4 + s.n / (LINE / 4 * 3) * 2 + 8);
    for (size_t i = 0; i < s.n; i += 3) {
        if (i && i % (LINE / 4 * 3) == 0)
            buf_add(out, S("\r\n"));
        size_t n = MIN(s.n - i, 3);
        uint32_t three = (uint32_t)(unsigned char)s.p[i] << 16;
        if (n > 1)
            three |= (uint32_t)(unsigned char)s.p[i + 1] << 8;
        if (n > 2)
            three |= (unsigned char)s.p[i + 2];
        char four[4] = { digits[three >> 18], digits[three >> 12 & 63], n > 1 ? digits[three >> 6 & 63] : '=',
                         n > 2 ? digits[three & 63] : '=' };
        buf_add(out, str_of(four, 4));
    }
}

static void quoted_line_add(struct buf *out, str line)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t column = 0;

    for (size_t i = 0; i < line.n; i++) {
        unsigned char c = (unsigned char)line.p[i];
        bool last = i + 1 == line.n, blank = c == ' ' || c == '\t';
        bool plain = blank ? !last : c > 32 && c < 127 && c != '=';
        size_t width = plain ? 1 : 3;
        if (column + width > (size_t)(last ? LINE : LINE - 1)) { /* room for the soft break's own "=" */
            buf_add(out, S("=\r\n"));
            column = 0;
            if (c == '-') { /* "--" would stand where a delimiter may, and did not before (attack class 34) */
                plain = false;
                width = 3;
            }
        }
        column += width;
        if (plain)
            buf_addc(out, (char)c);
        else
            buf_add(out, str_of((char[]){ '=', hex[c >> 4], hex[c & 15] }, 3));
    }
}

void quoted_printable_add(struct buf *out, str s)
{
    str line;
    bool first = true;

    buf_reserve(out, s.n + s.n / 8);
    for (; str_cut(&s, S("\r\n"), &line); first = false) {
        if (!first)
            buf_add(out, S("\r\n"));
        quoted_line_add(out, line);
    }
}
