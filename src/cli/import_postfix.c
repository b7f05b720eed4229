/* Postfix' main.cf and master.cf: postconf(5), master(5). */
#include "cli/import.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEEP_MOST 20            /* of $names within $names */
#define STEPS_MOST 10000        /* in all, for one value */
#define VALUE_MOST 262144       /* octets of an expanded value */
#define FILE_MOST (256u << 20)

/* Postfix' defaults of what the translation asks for (postconf -d of 3.7, compatibility level 3). */
static const struct { const char *name, *preset; } presets[] = {
    { "alias_maps", "hash:/etc/aliases" },
    { "bounce_queue_lifetime", "5d" },
    { "compatibility_level", "0" },
    { "default_destination_concurrency_limit", "20" },
    { "default_transport", "smtp" },
    { "delay_warning_time", "0h" },
    { "double_bounce_sender", "double-bounce" },
    { "empty_address_relayhost_maps_lookup_key", "<>" },
    { "fallback_relay", "" },
    { "hopcount_limit", "50" },
    { "inet_interfaces", "all" },
    { "inet_protocols", "all" },
    { "local_recipient_maps", "proxy:unix:passwd.byname $alias_maps" },
    { "local_transport", "local:$myhostname" },
    { "maximal_backoff_time", "4000s" },
    { "maximal_queue_lifetime", "5d" },
    { "message_size_limit", "10240000" },
    { "minimal_backoff_time", "300s" },
    { "mydestination", "$myhostname, localhost.$mydomain, localhost" },
    { "myorigin", "$myhostname" },
    { "notify_classes", "resource, software" },
    { "parent_domain_matches_subdomains", "debug_peer_list,fast_flush_domains,mynetworks,permit_mx_backup_networks,qmqpd_authorized_clients,relay_domains,smtpd_access_maps" },
    { "queue_directory", "/var/spool/postfix" },
    { "relay_transport", "relay" },
    { "smtp_fallback_relay", "$fallback_relay" },
    { "smtpd_client_connection_count_limit", "50" },
    { "smtpd_hard_error_limit", "20" },
    { "smtpd_recipient_limit", "1000" },
    { "smtpd_timeout", "300s" },
    { "virtual_alias_domains", "$virtual_alias_maps" },
    { "virtual_alias_maps", "$virtual_maps" },
    { "virtual_mailbox_domains", "$virtual_mailbox_maps" },
    { "virtual_transport", "virtual" },
};

/* ---- reading ---- */

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

/* A logical line: comments and empty lines fall away, also between its parts; a line that begins with a blank goes on. */
static bool logical_line(arena *a, str *rest, unsigned *number, str *ret, unsigned *first)
{
    struct buf out = { .a = a };
    bool any = false;

    while (rest->p && rest->n) {
        str from = *rest, line;
        str_cut(rest, S("\n"), &line);
        str text = str_trim(line);
        bool goes_on = line.n && is_blank(line.p[0]);
        if (text.n && text.p[0] != '#' && !goes_on && any) {
            *rest = from;       /* the next one's */
            break;
        }
        ++*number;
        if (text.n == 0 || text.p[0] == '#')
            continue;
        if (any)
            buf_addc(&out, ' ');
        else
            *first = *number;
        any = true;
        buf_add(&out, text);
    }
    *ret = buf_str(&out);
    return any;
}

static void add_param(struct postfix_conf *c, const struct pf_param *p)
{
    GROW(c->a, c->param, c->nparam, c->param_cap);
    c->param[c->nparam++] = *p;
}

/* The last one of a name counts. */
static void index_params(struct postfix_conf *c)
{
    for (size_t i = 0; i < c->nparam; i++) {
        struct pf_param *p = &c->param[i], *before = map_put(&c->by_name, p->name, p);
        if (before && before != p && !before->told) {
            before->told = true;
            pf_find_at(c, before->file, before->line, before->name, NEEDLESS, "line %u says it anew", p->line);
        }
    }
}

static bool is_name(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!ascii_alpha(s.p[i]) && !ascii_digit(s.p[i]) && !strchr("_-.", s.p[i]))
            return false;
    return s.n > 0 && s.n < 200;
}

void pf_read_main(struct postfix_conf *c, str file, str text)
{
    unsigned number = 0, first = 0;
    str line;

    while (logical_line(c->a, &text, &number, &line, &first)) {
        size_t eq = str_findc(line, '=');
        str name = str_trim(str_head(line, MIN(eq, line.n)));
        if (eq == STR_NONE || !is_name(name)) {
            pf_find_at(c, file, first, str_head(name, 60), NOT_TRANSLATED, "this is no \"name = value\"");
            continue;
        }
        add_param(c, &(struct pf_param){ .name = name, .value = str_trim(str_from(line, eq + 1)), .file = file, .line = first });
    }
    index_params(c);
}

/* "-o name=value", "-o { name = value }" */
static void read_override(struct postfix_conf *c, struct pf_service *s, str text, size_t *cap)
{
    size_t eq = str_findc(text, '=');

    if (eq == STR_NONE || !is_name(str_trim(str_head(text, eq))))
        return;
    GROW(c->a, s->override, s->noverride, *cap);
    s->override[s->noverride++] = (struct pf_override){ str_trim(str_head(text, eq)), str_trim(str_from(text, eq + 1)) };
}

/* As pf_word(), but a comma is none of it. */
static bool blank_word(str *rest, str *word)
{
    size_t i = 0, from, deep = 0;

    while (i < rest->n && is_blank(rest->p[i]))
        i++;
    if (i == rest->n)
        return false;
    from = i;
    for (; i < rest->n && (deep || !is_blank(rest->p[i])); i++)
        deep = rest->p[i] == '{' ? deep + 1 : rest->p[i] == '}' && deep ? deep - 1 : deep;
    *word = str_of(rest->p + from, i - from);
    *rest = str_from(*rest, i);
    if (word->n >= 2 && word->p[0] == '{' && word->p[word->n - 1] == '}')
        *word = str_trim(str_of(word->p + 1, word->n - 2));
    return true;
}

void pf_read_master(struct postfix_conf *c, str file, str text)
{
    unsigned number = 0, first = 0;
    str line;

    while (logical_line(c->a, &text, &number, &line, &first)) {
        struct pf_service s = { .file = file, .line = first };
        str *const columns[] = { &s.name, &s.type, NULL, NULL, NULL, NULL, NULL, &s.command };
        size_t cap = 0, n = 0;
        str word;
        while (n < COUNT(columns) && blank_word(&line, &word)) {
            if (columns[n])
                *columns[n] = word;
            n++;
        }
        if (n < COUNT(columns)) {
            pf_find_at(c, file, first, s.name, NOT_TRANSLATED, "this is no service");
            continue;
        }
        while (blank_word(&line, &word))
            if (str_eq(word, S("-o")) && blank_word(&line, &word))
                read_override(c, &s, word, &cap);
            else if (str_starts(word, S("-o")))
                read_override(c, &s, str_from(word, 2), &cap);
        GROW(c->a, c->service, c->nservice, c->service_cap);
        c->service[c->nservice++] = s;
    }
}

err pf_text(struct postfix_conf *c, str path, str *ret)
{
    AUTO_BUF text = { 0 };
    struct stat st;
    int fd = open(str_cz(c->a, path), O_RDONLY | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) < 0) {
        err e = fail_errno(errno, "%.*s", STR(path));
        if (fd >= 0)
            close(fd);
        return e;
    }
    err e = S_ISREG(st.st_mode) ? OK : fail(E_SYNTAX, "%.*s: this is no file", STR(path));
    for (bool more = e == OK; more;) {
        buf_reserve(&text, 65536);
        ssize_t n = read(fd, text.p + text.n, 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            e = fail_errno(errno, "%.*s", STR(path));
        else if (text.n + (size_t)n > FILE_MOST)
            e = fail(E_LIMIT, "%.*s: too large", STR(path));
        more = n > 0 && e == OK;
        text.n += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    *ret = str_dup(c->a, buf_str(&text));
    return e;
}

void pf_free(struct postfix_conf *c) { map_free(&c->by_name); }

err pf_read(struct postfix_conf *c)
{
    str text, main = str_printf(c->a, "%.*s/main.cf", STR(c->dir)), master = str_printf(c->a, "%.*s/master.cf", STR(c->dir));

    TRY(pf_text(c, main, &text));
    pf_read_main(c, S("main.cf"), text);
    if (pf_text(c, master, &text) == OK)
        pf_read_master(c, S("master.cf"), text);
    else
        pf_find_at(c, S("master.cf"), 0, S(""), DECIDE, "it cannot be read (%.*s): one smtpd on port 25 is assumed", STR(err_text()));
    return OK;
}

/* Absolute paths are those of the machine that it was written for: below `root` when that is somewhere else. */
str pf_path(const struct postfix_conf *c, str path)
{
    if (str_starts(path, c->dir) && c->dir.n)
        return path;            /* by $config_directory */
    return str_printf(c->a, "%.*s%s%.*s", STR(path.n && path.p[0] == '/' ? c->root : c->dir), path.n && path.p[0] == '/' ? "" : "/", STR(path));
}

/* ---- values ---- */

struct expansion { const struct postfix_conf *c; const struct pf_service *s; struct buf *out; unsigned deep, *steps; bool failed; };

static void expand(struct expansion *x, str s);

static str raw_value(const struct postfix_conf *c, const struct pf_service *s, str name)
{
    for (size_t i = 0; s && i < s->noverride; i++)
        if (str_eq(s->override[i].name, name))
            return s->override[i].value;
    const struct pf_param *p = map_get(&c->by_name, name);
    if (p)
        return p->value;
    if (str_eq(name, S("config_directory")))
        return c->dir;
    for (size_t i = 0; i < COUNT(presets); i++)
        if (str_eq(str_z(presets[i].name), name))
            return str_z(presets[i].preset);
    return (str){ 0 };
}

/* Those whose default is made of others, or of the machine. */
static bool computed(struct expansion *x, str name)
{
    char host[256] = "localhost";

    if (str_eq(name, S("myhostname"))) {
        gethostname(host, sizeof host - 1);
        buf_add(x->out, str_z(host));
        if (!strchr(host, '.')) { /* postconf(5), myhostname: with mydomain behind it */
            const struct pf_param *domain = map_get(&x->c->by_name, S("mydomain"));
            buf_addc(x->out, '.');
            expand(x, domain ? domain->value : S("localdomain"));
        }
        return true;
    }
    if (str_eq(name, S("mydomain"))) {
        struct buf full = { .a = x->c->a };
        struct expansion y = *x;
        y.out = &full;
        y.deep++;
        expand(&y, S("$myhostname"));
        size_t dot = str_findc(buf_str(&full), '.');
        buf_add(x->out, dot == STR_NONE ? S("localdomain") : str_from(buf_str(&full), dot + 1));
        return true;
    }
    return false;
}

static void expand_name(struct expansion *x, str name)
{
    if (x->deep >= DEEP_MOST || x->out->n > VALUE_MOST) {
        x->failed = true;
        return;
    }
    str raw = raw_value(x->c, x->s, name);
    x->deep++;
    if (raw.p || !computed(x, name))
        expand(x, raw);
    x->deep--;
}

/* The end of what is open at `from`: the place of its closing bracket, or STR_NONE. */
static size_t closing(str s, size_t from, char open, char close)
{
    size_t deep = 0;

    for (size_t i = from; i < s.n; i++) {
        deep += s.p[i] == open;
        if (s.p[i] == close && --deep == 0)
            return i;
    }
    return STR_NONE;
}

static str expanded(struct expansion *x, str s)
{
    struct buf out = { .a = x->c->a };
    struct expansion y = *x;

    y.out = &out;
    y.deep++;
    if (y.deep < DEEP_MOST)
        expand(&y, s);
    x->failed |= y.failed || y.deep >= DEEP_MOST;
    return buf_str(&out);
}

/* "{text} rest": the text, and what follows; else all of it. */
static str braced(str s, str *rest)
{
    s = str_trim(s);
    size_t end = s.n && s.p[0] == '{' ? closing(s, 0, '{', '}') : STR_NONE;

    *rest = end == STR_NONE ? S("") : str_trim(str_from(s, end + 1));
    return end == STR_NONE ? s : str_trim(str_of(s.p + 1, end - 1));
}

/* ${ {a} == {b} ? {c} : {d} } */
static void expand_comparison(struct expansion *x, str s)
{
    static const char *const words[] = { "==", "!=", "<=level", ">=level", "<level", ">level", "<=", ">=", "<", ">", NULL };
    str rest, behind, left = expanded(x, braced(s, &rest)), right;
    uint64_t a = 0, b = 0;
    unsigned op = 0;

    while (words[op] && !str_starts(rest, str_z(words[op])))
        op++;
    if (!words[op]) {
        x->failed = true;
        return;
    }
    right = expanded(x, braced(str_from(rest, strlen(words[op])), &behind));
    bool numbers = str_u64(str_head(left, MIN(str_findc(left, '.'), left.n)), 1u << 30, &a) && str_u64(str_head(right, MIN(str_findc(right, '.'), right.n)), 1u << 30, &b);
    int order = numbers ? (a > b) - (a < b) : str_cmp(left, right);
    bool holds = op == 0 ? order == 0 : op == 1 ? order != 0 : op == 2 || op == 6 ? order <= 0 : op == 3 || op == 7 ? order >= 0 : op == 4 || op == 8 ? order < 0 : order > 0;
    str no = S("");
    bool choice = behind.n && behind.p[0] == '?';
    str yes = choice ? braced(str_from(behind, 1), &no) : S("");
    if (no.n && no.p[0] == ':')
        no = braced(str_from(no, 1), &behind);
    expand(x, holds ? yes : no);
}

/* What stands between ${ and }. */
static void expand_block(struct expansion *x, str s)
{
    if (str_trim(s).n && str_trim(s).p[0] == '{') {
        expand_comparison(x, s);
        return;
    }
    size_t at = 0;
    while (at < s.n && s.p[at] != '?' && s.p[at] != ':')
        at++;
    str name = str_trim(str_head(s, at)), yes = { 0 }, no = { 0 }, rest;
    if (at == s.n) {
        expand_name(x, name);
        return;
    }
    if (s.p[at] == '?') {
        yes = braced(str_from(s, at + 1), &rest);
        if (rest.n && rest.p[0] == ':')
            no = braced(str_from(rest, 1), &rest);
    } else
        no = braced(str_from(s, at + 1), &rest);
    bool set = expanded(x, str_printf(x->c->a, "$%.*s", STR(name))).n > 0;
    expand(x, set ? yes : no);
}

static void expand(struct expansion *x, str s)
{
    if (++x->deep > DEEP_MOST || ++*x->steps > STEPS_MOST) {
        x->failed = true;
        x->deep--;
        return;
    }
    for (size_t i = 0; i < s.n && x->out->n <= VALUE_MOST; i++) {
        char open = i + 1 < s.n ? s.p[i + 1] : 0;
        if (s.p[i] != '$') {
            buf_addc(x->out, s.p[i]);
        } else if (open == '$') {
            buf_addc(x->out, '$');
            i++;
        } else if (open == '{' || open == '(') {
            size_t end = closing(s, i + 1, open, open == '{' ? '}' : ')');
            if (end == STR_NONE) {
                x->failed = true;
                break;
            }
            expand_block(x, str_of(s.p + i + 2, end - i - 2));
            i = end;
        } else {
            size_t end = i + 1;
            while (end < s.n && (ascii_alpha(s.p[end]) || ascii_digit(s.p[end]) || s.p[end] == '_'))
                end++;
            if (end > i + 1)
                expand_name(x, str_of(s.p + i + 1, end - i - 1));
            i = end - 1;
        }
    }
    x->failed |= x->out->n > VALUE_MOST;
    x->deep--;
}

static str value_of(const struct postfix_conf *c, const struct pf_service *s, str raw)
{
    struct buf out = { .a = c->a };
    unsigned steps = 0;
    struct expansion x = { .c = c, .s = s, .out = &out, .steps = &steps };

    expand(&x, raw);
    return x.failed ? S("") : str_trim(buf_str(&out));
}

str pf_expand(const struct postfix_conf *c, str value) { return value_of(c, NULL, value); }

str pf_value_of(const struct postfix_conf *c, const struct pf_service *s, const char *name)
{
    return value_of(c, s, str_printf(c->a, "${%s}", name));
}

str pf_value(const struct postfix_conf *c, const char *name) { return pf_value_of(c, NULL, name); }
bool pf_is_set(const struct postfix_conf *c, str name) { return map_get(&c->by_name, name) != NULL; }
bool pf_yes(const struct postfix_conf *c, const char *name) { return str_ieq(pf_value(c, name), S("yes")); }

bool pf_time(str value, char unit, when *ret)
{
    static const struct { char unit; when length; } units[] = { { 's', SECOND }, { 'm', MINUTE }, { 'h', HOUR }, { 'd', DAY }, { 'w', 7 * DAY } };
    uint64_t n;

    if (value.n && ascii_alpha(value.p[value.n - 1])) {
        unit = ascii_lower(value.p[value.n - 1]);
        value.n--;
    }
    for (size_t i = 0; i < COUNT(units); i++)
        if (units[i].unit == unit && str_u64(str_trim(value), 100000000, &n)) {
            *ret = (when)n * units[i].length;
            return true;
        }
    return false;
}

bool pf_word(str *rest, str *word)
{
    size_t i = 0, from, deep = 0;

    while (i < rest->n && (is_blank(rest->p[i]) || strchr(",\r\n", rest->p[i])))
        i++;
    if (i == rest->n)
        return false;
    from = i;
    for (; i < rest->n && (deep || (!is_blank(rest->p[i]) && !strchr(",\r\n", rest->p[i]))); i++)
        deep = rest->p[i] == '{' ? deep + 1 : rest->p[i] == '}' && deep ? deep - 1 : deep;
    *word = str_of(rest->p + from, i - from);
    *rest = str_from(*rest, i);
    if (word->n >= 2 && word->p[0] == '{' && word->p[word->n - 1] == '}')
        *word = str_trim(str_of(word->p + 1, word->n - 2));
    return true;
}
