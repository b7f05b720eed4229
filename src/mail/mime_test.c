#include "kit/shared.h"
#include "mail/mail.h"

#include <glob.h>

#define MULTI "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"

TEST(mime_reencode_changes_only_what_must)
{
    static const struct { str in; bool eight_bit_ok; err want; str out; } cases[] = {
        /* nothing to do */
        { S("Subject: a\r\n\r\nb\r\n"), false, OK, S("Subject: a\r\n\r\nb\r\n") },
        { S("Subject: \xc3\xb6\r\n\r\nb\r\n"), false, OK, S("Subject: \xc3\xb6\r\n\r\nb\r\n") },
        { S("A: b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xc3\xb6\r\n"), true, OK,
          S("A: b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xc3\xb6\r\n") },
        { S(""), false, OK, S("") },
        { S("\r\n"), false, OK, S("\r\n") },
        { S("no header at all\r\n"), false, OK, S("no header at all\r\n") },
        /* plain text, with and without MIME */
        { S("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nk\xc3\xb6 = and so on \r\n"),
          false, OK,
          S("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
            "k=C3=B6 =3D and so on=20\r\n") },
        { S("A: b\r\n\r\nnothing but \xc3\xb6\r\n"), false, OK,
          S("A: b\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nnothing but =C3=B6\r\n") },
        { S("A: b\r\n\r\n\xd0\x9f\xd1\x80\xd0\xb8\r\n"), false, OK,
          S("A: b\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\n0J/RgNC4DQo=\r\n") },
        /* binary, also where 8-bit passes */
        { S("MIME-Version: 1.0\r\nContent-Type: image/x\r\nContent-Transfer-Encoding: binary\r\n\r\n\x00\x01\r\x02"), true, OK,
          S("MIME-Version: 1.0\r\nContent-Type: image/x\r\nContent-Transfer-Encoding: base64\r\n\r\nAAENAg==") },
        { S("A: b\r\n\r\nx\ny\r\n"), true, OK,
          S("A: b\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nx=0Ay\r\n") },
        /* one part of several */
        { S(MULTI "pre\xff\r\n--b\r\n\r\n\xc3\xb6\xc3\xb6\xc3\xb6 a\r\n--b \t\r\nContent-Type: text/html\r\n\r\nplain\r\n--b--\r\nend\xff"),
          false, OK,
          S(MULTI "pre?\r\n--b\r\nContent-Transfer-Encoding: base64\r\n\r\nw7bDtsO2IGE=\r\n--b \t\r\nContent-Type: text/html\r\n\r\n"
            "plain\r\n--b--\r\nend?") },
        /* a part without a blank line, one without anything, one that nobody ends */
        { S(MULTI "--b\r\n--b\r\nA: b\r\n--b\r\n\r\nlong enough \xff"), false, OK,
          S(MULTI "--b\r\n--b\r\nA: b\r\n--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nlong enough =FF") },
        /* the boundary of another is not ours, nor is its beginning */
        { S(MULTI "--b\r\n\r\n--a\r\n--B--\r\n --b-\r\n\xff long enough\r\n--b--\r\n"), false, OK,
          S(MULTI "--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n--a\r\n--B--\r\n --b-\r\n=FF long enough\r\n--b--\r\n") },
        { S(MULTI "--b\r\n\r\n--bb\r\n\r\n--b--\r\n"), false, OK, S(MULTI "--b\r\n\r\n--bb\r\n\r\n--b--\r\n") },
        { S(MULTI "--b\r\n\r\n--bb\r\n\xff\r\n--b--\r\n"), false, E_PERM },
        { S(MULTI "\xff\r\n--b--\r\n"), false, E_PERM },
        { S(MULTI "\xff\r\n"), false, E_PERM },
        { S("A: b\r\nno field \xff\r\n"), false, E_PERM },
        /* the outer boundary ends the inner multipart, and labels of composites follow */
        { S("Content-Type: multipart/mixed; boundary=\"o ut\\er\"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n--o uter\r\n"
            "Content-Type: multipart/alternative (c;(\\))d); boundary=in(x)\r\n\r\n--in\r\n\r\n\xff long enough\r\n--o uter--\r\n"),
          false, OK,
          S("Content-Type: multipart/mixed; boundary=\"o ut\\er\"\r\nContent-Transfer-Encoding: 7bit\r\nMIME-Version: 1.0\r\n\r\n"
            "--o uter\r\nContent-Type: multipart/alternative (c;(\\))d); boundary=in(x)\r\n\r\n--in\r\n"
            "Content-Transfer-Encoding: quoted-printable\r\n\r\n=FF long enough\r\n--o uter--\r\n") },
        /* messages within messages */
        { S(MULTI "--b\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\nA: b\r\n\r\n\xff long enough\r\n--b--\r\n"),
          false, OK,
          S(MULTI "--b\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\nA: b\r\n"
            "Content-Transfer-Encoding: quoted-printable\r\n\r\n=FF long enough\r\n--b--\r\n") },
        { S("Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nA: b\r\n\r\n\xff long enough\r\n--b--\r\n"), false, OK,
          S("Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nA: b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
            "=FF long enough\r\n--b--\r\n") },
        { S(MULTI "--b\r\nContent-Type: message/global\r\n\r\nA: \xff\xff\r\n--b--\r\n"), false, OK,
          S(MULTI "--b\r\nContent-Type: message/global\r\nContent-Transfer-Encoding: base64\r\n\r\nQTog//8=\r\n--b--\r\n") },
        /* what must not change, or is not understood */
        { S("Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n\xff\r\n--b--\r\n"), false, E_PERM },
        { S("Content-Type: multipart/signed; boundary=b\r\n\r\n\xff--b\r\n\r\n\xff\r\n--b--\r\n"), false, E_PERM },
        { S("Content-Type: multipart/signed; boundary=b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n"), false, OK,
          S("Content-Type: multipart/signed; boundary=b\r\nContent-Transfer-Encoding: 7bit\r\nMIME-Version: 1.0\r\n\r\n"
            "--b\r\n\r\nx\r\n--b--\r\n") },
        { S("Content-Transfer-Encoding: base64\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Transfer-Encoding: x-mine\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Transfer-Encoding: 8bit 8bit\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Transfer-Encoding: (8bit\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Type: text/plain\r\nContent-Type: text/html\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Type: message/delivery-status\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Type: multipart/mixed\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Type: multipart/mixed; boundary=\"\"\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Type: multipart/mixed; boundary=\"a \"\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Type: multipart/mixed; boundary=\"\xff\"\r\n\r\n\xff\r\n"), true, E_PERM + 1 },
        { S("Content-Type: multipart/mixed; boundary=a; boundary=b\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Type: multipart/mixed; boundary*0=a; boundary*1=b\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Type: multipart/mixed; boundary=\"a\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Type: multipart/mixed; boundary=\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Type: multipart/mixed; boundary a\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Type: multipart/mixed boundary=a\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Type: multipart/mixed; (\r\n\r\n\xff\r\n"), false, E_PERM },
        { S("Content-Type: text\r\n\r\n\xff\r\n"), false, E_PERM },
        { S(MULTI "--b\r\nA: \xff\r\n\r\nx\r\n--b--\r\n"), false, E_PERM },
        { S(MULTI "--b\r\nA: \xff\r\n\r\nx\r\n--b--\r\n"), true, OK, S(MULTI "--b\r\nA: \xff\r\n\r\nx\r\n--b--\r\n") },
        { S("A: \0\r\n\r\nx\r\n"), true, E_PERM },
        { S("A: b\rc\r\n\r\nx\r\n"), true, E_PERM },
    };
    EACH(cases, c) {
        AUTO_BUF out = { 0 };
        err got = mime_reencode(c->in, c->eight_bit_ok, &out);
        if (c->want > E_PERM) { /* passes as it is, though nobody understands it */
            CHECK_ERR(got, OK, c->in);
            CHECK_STR(buf_str(&out), c->in, c->in);
            continue;
        }
        CHECK_ERR(got, c->want, c->in);
        if (got == OK)
            CHECK_STR(buf_str(&out), c->out, c->in);
    }
}

TEST(attack_32_mime_reencode_bounds_depth_and_parts)
{
    AUTO_BUF deep = { 0 }, wide = { 0 }, chain = { 0 }, out = { 0 };

    for (int i = 0; i < 101; i++)
        buf_addf(&deep, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i);
    CHECK_ERR(mime_reencode(buf_str(&deep), false, &out), E_PERM);
    for (int i = 0; i < 101; i++)
        buf_add(&chain, S("Content-Type: message/rfc822\r\n\r\n"));
    CHECK_ERR(mime_reencode(buf_str(&chain), false, &out), E_PERM);
    buf_add(&wide, S(MULTI));
    for (int i = 0; i < 10000; i++)
        buf_add(&wide, S("--b\r\n\r\n"));
    CHECK_ERR(mime_reencode(buf_str(&wide), false, &out), E_PERM);
}

TEST(mime_reencode_breaks_long_lines)
{
    AUTO_BUF in = { 0 }, out = { 0 };
    struct scan s;

    buf_add(&in, S("A: b\r\n\r\n"));
    for (int i = 0; i < 1200; i++)
        buf_addc(&in, i % 50 ? 'x' : ' ');
    CHECK_ERR(mime_reencode(buf_str(&in), true, &out), OK);
    scan_init(&s);
    scan_feed(&s, buf_str(&out));
    scan_end(&s);
    CHECK(s.longest_line <= 76);
}

TEST(base64_and_quoted_printable_write_their_forms)
{
    static const struct { str in, base64, quoted; } cases[] = {
        { S(""), S(""), S("") },
        { S("f"), S("Zg=="), S("f") },
        { S("fo"), S("Zm8="), S("fo") },
        { S("foo"), S("Zm9v"), S("foo") },
        { S("\xff\xfe\xfd"), S("//79"), S("=FF=FE=FD") },
        { S("a \r\n\tb\t\r\n.\x7f"), S("YSANCgliCQ0KLn8="), S("a=20\r\n\tb=09\r\n.=7F") },
        { S("123456789012345678901234567890123456789012345678901234567"),
          S("MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3"),
          S("123456789012345678901234567890123456789012345678901234567") },
        { S("1234567890123456789012345678901234567890123456789012345678901234567890123456"),
          S("MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3\r\nODkwMTIzNDU2Nzg5MDEyMzQ1Ng=="),
          S("1234567890123456789012345678901234567890123456789012345678901234567890123456") },
        { S("12345678901234567890123456789012345678901234567890123456789012345678901234567"),
          S("MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3\r\nODkwMTIzNDU2Nzg5MDEyMzQ1Njc="),
          S("123456789012345678901234567890123456789012345678901234567890123456789012345=\r\n67") },
        { S("1234567890123456789012345678901234567890123456789012345678901234567890123==="),
          S("MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3\r\nODkwMTIzNDU2Nzg5MDEyMz09PQ=="),
          S("1234567890123456789012345678901234567890123456789012345678901234567890123=\r\n=3D=3D=3D") },
    };
    AUTO_BUF hidden = { 0 };
    quoted_printable_add(&hidden, S("a\n12345678901234567890123456789012345678901234567890123456789012345678901--b"));
    CHECK_STR(buf_str(&hidden), S("a=0A12345678901234567890123456789012345678901234567890123456789012345678901=\r\n=2D-b"));
    EACH(cases, c) {
        AUTO_BUF base64 = { 0 }, quoted = { 0 };
        base64_add(&base64, c->in);
        quoted_printable_add(&quoted, c->in);
        CHECK_STR(buf_str(&base64), c->base64, c->in);
        CHECK_STR(buf_str(&quoted), c->quoted, c->in);
    }
}

/* ---- what others read in our result ---- */

static const char same_parts[] =
    "import email, glob, sys\n"
    "def leaves(path):\n"
    "    m = email.message_from_bytes(open(path, 'rb').read())\n"
    "    return [(p.get_content_type(), p.get_filename(), p.get_payload(decode=True)) for p in m.walk() if not p.is_multipart()]\n"
    "bad = 0\n"
    "for after in glob.glob(sys.argv[1] + '/*.after'):\n"
    "    a, b = leaves(after[:-5] + 'before'), leaves(after)\n"
    "    seen = all(not t.startswith('multipart') for t, _, _ in a) # else it did not find the boundary: folded within quotes\n"
    "    if seen and a != b:\n"
    "        bad += 1\n"
    "        print(after, a, b, sep='\\n  ')\n"
    "sys.exit(bad != 0)\n";

static void save(arena *a, const char *suffix, size_t number, str s)
{
    FILE *f = fopen(str_cz(a, str_printf(a, "%s/%zu.%s", kit_dir(), number, suffix)), "wb");
    must(f && fwrite(s.p, 1, s.n, f) == s.n);
    fclose(f);
}

/* Every line end CRLF, and each "e" that stands between two letters below the header an 8-bit letter. */
static str as_eight_bit(arena *a, str s)
{
    struct buf out = buf_in(a, s.n + s.n / 8);
    bool line_of_text = false;

    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i], before = i ? s.p[i - 1] : '\n', after = i + 1 < s.n ? s.p[i + 1] : '\n';
        if (before == '\n') {
            str line = str_head(str_from(s, i), str_findc(str_from(s, i), '\n'));
            line_of_text = line.n > 8 && line.p[0] != '-' && !str_has(line, S(":")) && str_findc(line, ' ') < 12 && line.p[0] != ' ' &&
                           line.p[0] != '\t';
        }
        if (c == '\n' && before != '\r')
            buf_add(&out, S("\r\n"));
        else if (c == 'e' && line_of_text && ascii_alpha(before) && ascii_alpha(after))
            buf_addc(&out, '\xe9');
        else
            buf_addc(&out, c);
    }
    return buf_str(&out);
}

TEST(mime_reencode_keeps_what_python_reads)
{
    AUTO_ARENA a = arena_new();
    const char *dir = kit_shared_dir(a);
    glob_t files = { 0 };
    size_t changed = 0, refused = 0;

    if (!dir)
        return;
    glob(str_cz(a, str_printf(a, "%s/mime/mail-parser/*/*.eml", dir)), 0, NULL, &files);
    glob(str_cz(a, str_printf(a, "%s/mime/mime4j/*.msg", dir)), GLOB_APPEND, NULL, &files);
    CHECK(files.gl_pathc > 80);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        str before = as_eight_bit(a, kit_file(a, files.gl_pathv[i]));
        AUTO_BUF after = { 0 };
        if (mime_reencode(before, false, &after) != OK) {
            refused++;
        } else if (!str_eq(before, buf_str(&after))) {
            changed++;
            save(a, "before", i, before);
            save(a, "after", i, buf_str(&after));
        }
    }
    globfree(&files);
    if (getenv("KIT_VERBOSE"))
        printf("mime: %zu re-encoded, %zu refused\n", changed, refused);
    CHECK(changed >= 30);
    CHECK_INT(system(str_cz(a, str_printf(a, "python3 -c \"%s\" %s", same_parts, kit_dir()))), 0);
}
