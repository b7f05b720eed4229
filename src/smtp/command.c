/* One line of a client, understood: RFC 5321 4.1 with the parameters of RFC 1870, 6152, 3030, 3461, 4954 and 6531; XCLIENT and XFORWARD
 * as Postfix documents them. */
#include "smtp/smtp.h"

#define HELLO_MAX 255
#define ENVID_MAX 100   /* RFC 3461 4.4, encoded */
#define ORCPT_MAX 500   /* 4.2 */

static void refuse(struct command *c, int code, struct enhanced e, str text)
{
    c->refuse = (struct reply){ .code = (uint16_t)code, .enhanced = e, .text = text };
}

static void refuse_argument(struct command *c, str text) { refuse(c, 501, ENH(5, 5, 4), text); }

/* ---- parameters ---- */

struct param {
    str name;
    uint8_t verb;               /* whose it is */
    void (*read)(arena *a, str value, struct command *c);
};

static void read_size(arena *a, str value, struct command *c)
{
    (void)a;
    c->has_size = true;
    if (str_u64(value, UINT64_MAX, &c->size))
        return;
    for (size_t i = 0; i < value.n; i++)
        if (!ascii_digit(value.p[i]))
            return refuse_argument(c, S("SIZE must be a number"));
    if (value.n == 0)
        return refuse_argument(c, S("SIZE must be a number"));
    c->size = UINT64_MAX; /* more than a number holds is more than anybody takes (attack class 19) */
}

static void read_body(arena *a, str value, struct command *c)
{
    (void)a;
    if (str_ieq(value, S("7BIT")))
        c->body = BODY_7BIT;
    else if (str_ieq(value, S("8BITMIME")))
        c->body = BODY_8BIT;
    else if (str_ieq(value, S("BINARYMIME")))
        c->body = BODY_BINARY;
    else
        refuse_argument(c, S("BODY must be 7BIT, 8BITMIME or BINARYMIME"));
}

static void read_smtputf8(arena *a, str value, struct command *c)
{
    (void)a;
    c->smtputf8 = true;
    if (value.p)
        refuse_argument(c, S("SMTPUTF8 takes no value"));
}

static void read_ret(arena *a, str value, struct command *c)
{
    (void)a;
    if (str_ieq(value, S("FULL")))
        c->ret = RET_FULL;
    else if (str_ieq(value, S("HDRS")))
        c->ret = RET_HDRS;
    else
        refuse_argument(c, S("RET must be FULL or HDRS"));
}

static bool is_ascii(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] & 0x80)
            return false;
    return true;
}

static void read_envid(arena *a, str value, struct command *c)
{
    if (value.n == 0 || value.n > ENVID_MAX || xtext_decode(a, value, &c->envid) != OK || !is_ascii(c->envid))
        refuse_argument(c, S("ENVID must be xtext of 1 to 100 characters"));
}

static void read_auth(arena *a, str value, struct command *c)
{
    c->has_auth = true;
    if (str_eq(value, S("<>"))) /* RFC 4954 5: known to be nobody */
        c->auth = S("");
    else if (value.n == 0 || xtext_decode(a, value, &c->auth) != OK)
        refuse_argument(c, S("AUTH must be <> or xtext"));
}

static void read_notify(arena *a, str value, struct command *c)
{
    static const struct { str name; uint8_t bit; } words[] = {
        { S("NEVER"), NOTIFY_NEVER },
        { S("SUCCESS"), NOTIFY_SUCCESS },
        { S("FAILURE"), NOTIFY_FAILURE },
        { S("DELAY"), NOTIFY_DELAY },
    };
    str word;
    bool bad = value.n == 0;

    (void)a;
    while (str_cut(&value, S(","), &word)) {
        uint8_t bit = 0;
        for (size_t i = 0; i < COUNT(words); i++)
            if (str_ieq(word, words[i].name))
                bit = words[i].bit;
        bad |= bit == 0;
        c->notify |= bit;
    }
    if (bad || ((c->notify & NOTIFY_NEVER) && c->notify != NOTIFY_NEVER))
        refuse_argument(c, S("NOTIFY must be NEVER, or a list of SUCCESS, FAILURE and DELAY"));
}

/* The type is an atom, the address xtext; both stay together, decoded. */
static void read_orcpt(arena *a, str value, struct command *c)
{
    str type = str_head(value, str_findc(value, ';')), address;
    bool bad = type.n == 0 || type.n == value.n || value.n > ORCPT_MAX;

    for (size_t i = 0; i < type.n; i++)
        bad |= !ascii_alpha(type.p[i]) && !ascii_digit(type.p[i]) && type.p[i] != '-';
    bad = bad || xtext_decode(a, str_from(value, type.n + 1), &address) != OK || address.n == 0;
    if (!bad && str_ieq(type, S("utf-8"))) /* RFC 6533 3: in ASCII its characters are embedded */
        bad = address_decode(a, address, &address) != OK;
    /* RFC 6533 3: only an address of type utf-8 has UTF-8 in it. */
    if (bad || (!is_ascii(address) && !str_ieq(type, S("utf-8"))))
        refuse_argument(c, S("ORCPT must be a type, a semicolon and an address in xtext"));
    else
        c->orcpt = str_printf(a, "%.*s;%.*s", STR(type), STR(address));
}

static const struct param params[] = {
    { S("SIZE"), VERB_MAIL, read_size },
    { S("BODY"), VERB_MAIL, read_body },
    { S("SMTPUTF8"), VERB_MAIL, read_smtputf8 },
    { S("RET"), VERB_MAIL, read_ret },
    { S("ENVID"), VERB_MAIL, read_envid },
    { S("AUTH"), VERB_MAIL, read_auth },
    { S("NOTIFY"), VERB_RCPT, read_notify },
    { S("ORCPT"), VERB_RCPT, read_orcpt },
};

/* "KEYWORD" or "KEYWORD=value", each behind a blank. `seen`: a bit for each of params[] met. */
static void param_parse(arena *a, str word, struct command *c, unsigned *seen)
{
    size_t equals = str_findc(word, '=');
    str name = str_head(word, equals), value = equals == STR_NONE ? (str){ 0 } : str_from(word, equals + 1);

    for (size_t i = 0; i < COUNT(params); i++) {
        if (params[i].verb != c->verb || !str_ieq(name, params[i].name))
            continue;
        if (*seen & 1u << i)
            return refuse_argument(c, str_printf(a, "%.*s stands there twice", STR(params[i].name)));
        *seen |= 1u << i;
        return params[i].read(a, value, c);
    }
    /* RFC 5321 4.1.1.11 */
    refuse(c, 555, ENH(5, 5, 4),
           str_printf(a, "no such parameter here: %.*s", STR(str_printable(a, str_head(name, 64)))));
}

/* MAIL FROM:<path> [params] and RCPT TO:<path> [params]. A blank before the path is no grammar, yet so many clients say
 * it that refusing would only lose mail; it can mean nothing else. */
static void path_command_parse(arena *a, str rest, str word, struct command *c)
{
    bool mail = c->verb == VERB_MAIL;
    unsigned seen = 0;
    str param;

    if (!str_istarts(rest, word))
        return refuse_argument(c, mail ? S("say MAIL FROM:<address>") : S("say RCPT TO:<address>"));
    rest = str_from(rest, word.n);
    while (rest.n && rest.p[0] == ' ')
        rest = str_from(rest, 1);
    if (path_parse(rest, mail, !mail, &c->path, &rest) != OK)
        return refuse(c, 501, mail ? ENH(5, 1, 7) : ENH(5, 1, 3), str_dup(a, err_text()));
    if (rest.n && rest.p[0] != ' ')
        return refuse_argument(c, S("a blank must stand behind the address"));
    while (!c->refuse.code && str_word(&rest, &param))
        param_parse(a, param, c, &seen);
}

/* ---- the other commands ---- */

static void hello_parse(str rest, struct command *c)
{
    str more = rest;
    bool bad = !str_word(&more, &c->argument) || c->argument.n > HELLO_MAX;

    for (size_t i = 0; i < c->argument.n; i++)
        bad |= c->argument.p[i] < 33 || c->argument.p[i] > 126;
    if (bad || str_trim(more).n)
        refuse_argument(c, S("say your host name behind HELO or EHLO"));
}

/* RFC 3030 2. Where a chunk ends that is not understood, nobody knows: the session must end. */
static void bdat_parse(str rest, struct command *c)
{
    str size = S(""), last = S(""), more;

    str_word(&rest, &size);
    c->last = str_word(&rest, &last);
    if (!str_u64(size, UINT64_MAX, &c->chunk) || (c->last && !str_ieq(last, S("LAST"))) || str_word(&rest, &more))
        refuse_argument(c, S("say BDAT, a number, and LAST with the last chunk"));
}

/* ---- XCLIENT and XFORWARD ---- */

static bool attr_ip(str value, struct addr *ret)
{
    char text[64];
    struct addr a;
    size_t n = 0;

    if (str_istarts(value, S("IPV6:")))
        value = str_from(value, 5);
    bool v6 = str_findc(value, ':') != STR_NONE;
    if (value.n + 3 > sizeof text)
        return false;
    if (v6)
        text[n++] = '[';
    if (value.n)
        memcpy(text + n, value.p, value.n);
    n += value.n;
    if (v6)
        text[n++] = ']';
    if (addr_parse(str_of(text, n), 25, &a) != OK || a.sa.sa_family == AF_UNIX)
        return false;
    *ret = a;
    return true;
}

static bool is_graphic(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < 33 || s.p[i] > 126)
            return false;
    return s.n > 0 && s.n <= HELLO_MAX;
}

static bool attr_fits(enum attr which, str value, struct command *c)
{
    struct addr dest;
    uint64_t port;

    switch (which) {
    case ATTR_NAME:
        return domain_valid(value) && is_ascii(value);
    case ATTR_ADDR:
        return attr_ip(value, &c->attr_addr);
    case ATTR_DESTADDR:
        return attr_ip(value, &dest);
    case ATTR_PORT:
    case ATTR_DESTPORT:
        return str_u64(value, UINT16_MAX, &port);
    case ATTR_PROTO:
        return str_ieq(value, S("SMTP")) || str_ieq(value, S("ESMTP"));
    case ATTR_SOURCE:
        return str_ieq(value, S("LOCAL")) || str_ieq(value, S("REMOTE"));
    default:
        return is_graphic(value);
    }
}

/* NAME=value ..., the values xtext. */
static void attrs_parse(arena *a, str rest, struct command *c)
{
    static const struct { str name; bool xclient, xforward; } attrs[ATTRS] = {
        [ATTR_NAME] = { S("NAME"), true, true },          [ATTR_ADDR] = { S("ADDR"), true, true },
        [ATTR_PORT] = { S("PORT"), true, true },          [ATTR_PROTO] = { S("PROTO"), true, true },
        [ATTR_HELO] = { S("HELO"), true, true },          [ATTR_LOGIN] = { S("LOGIN"), true, false },
        [ATTR_DESTADDR] = { S("DESTADDR"), true, false }, [ATTR_DESTPORT] = { S("DESTPORT"), true, false },
        [ATTR_IDENT] = { S("IDENT"), false, true },       [ATTR_SOURCE] = { S("SOURCE"), false, true },
    };
    str word;

    c->argument = str_trim(rest);
    while (str_word(&rest, &word)) {
        size_t equals = str_findc(word, '='), which = 0;
        str name = str_head(word, equals), value = str_from(word, equals == STR_NONE ? word.n : equals + 1);
        while (which < ATTRS && !(str_ieq(name, attrs[which].name) && (c->verb == VERB_XCLIENT ? attrs[which].xclient : attrs[which].xforward)))
            which++;
        if (which == ATTRS)
            return refuse_argument(c, str_printf(a, "no such attribute here: %.*s", STR(str_printable(a, str_head(name, 64)))));
        if (c->attrs & 1u << which)
            return refuse_argument(c, str_printf(a, "%.*s stands there twice", STR(attrs[which].name)));
        c->attrs |= 1u << which;
        if (str_ieq(value, S("[UNAVAILABLE]")) || str_ieq(value, S("[TEMPUNAVAIL]")))
            continue;
        if (xtext_decode(a, value, &value) != OK || !attr_fits((enum attr)which, value, c))
            return refuse_argument(c, str_printf(a, "%.*s has no such value", STR(attrs[which].name)));
        c->attr[which] = value;
    }
    if (!c->attrs)
        refuse_argument(c, S("say NAME=value, one or more"));
}

static void nothing_parse(str rest, struct command *c)
{
    if (str_trim(rest).n)
        refuse_argument(c, S("nothing may stand behind this command"));
}

static const struct { str word; enum verb verb; } verbs[] = {
    { S("MAIL"), VERB_MAIL },       { S("RCPT"), VERB_RCPT },         { S("DATA"), VERB_DATA },
    { S("EHLO"), VERB_EHLO },       { S("QUIT"), VERB_QUIT },         { S("RSET"), VERB_RSET },
    { S("LHLO"), VERB_LHLO },
    { S("BDAT"), VERB_BDAT },       { S("HELO"), VERB_HELO },         { S("NOOP"), VERB_NOOP },
    { S("AUTH"), VERB_AUTH },       { S("STARTTLS"), VERB_STARTTLS }, { S("VRFY"), VERB_VRFY },
    { S("EXPN"), VERB_EXPN },       { S("HELP"), VERB_HELP },         { S("ETRN"), VERB_ETRN },
    { S("XCLIENT"), VERB_XCLIENT }, { S("XFORWARD"), VERB_XFORWARD },
};

/* Attack class 11: what a browser, or somebody who drives one, says first. */
static const str http_words[] = {
    S("GET"), S("POST"), S("HEAD"), S("PUT"), S("DELETE"), S("OPTIONS"), S("CONNECT"), S("PATCH"),
    S("PRI"), S("Host:"), S("User-Agent:"), S("Content-Type:"), S("Content-Length:"),
};

static enum verb verb_parse(str word)
{
    for (size_t i = 0; i < COUNT(verbs); i++)
        if (str_ieq(word, verbs[i].word))
            return verbs[i].verb;
    for (size_t i = 0; i < COUNT(http_words); i++)
        if (str_ieq(word, http_words[i]))
            return VERB_HTTP;
    return VERB_UNKNOWN;
}

void command_parse(arena *a, str line, struct command *ret)
{
    str word = str_head(line, str_findc(line, ' ')), rest = str_from(line, word.n);

    *ret = (struct command){ .line = line, .verb = verb_parse(word) };
    if (rest.n)
        rest = str_from(rest, 1);
    switch (ret->verb) {
    case VERB_MAIL:
        return path_command_parse(a, rest, S("FROM:"), ret);
    case VERB_RCPT:
        return path_command_parse(a, rest, S("TO:"), ret);
    case VERB_HELO:
    case VERB_EHLO:
    case VERB_LHLO:
        return hello_parse(rest, ret);
    case VERB_BDAT:
        return bdat_parse(rest, ret);
    case VERB_XCLIENT:
    case VERB_XFORWARD:
        return attrs_parse(a, rest, ret);
    case VERB_DATA:
    case VERB_RSET:
    case VERB_QUIT:
    case VERB_STARTTLS:
        return nothing_parse(rest, ret);
    case VERB_AUTH:
        ret->argument = str_trim(rest);
        if (ret->argument.n == 0)
            refuse_argument(ret, S("say which mechanism behind AUTH"));
        return;
    case VERB_HTTP:
        return refuse(ret, 500, ENH(5, 5, 1), S("this is a mail server"));
    case VERB_UNKNOWN:
        return refuse(ret, 500, ENH(5, 5, 2), S("no such command"));
    default:
        ret->argument = str_trim(rest);
    }
}
