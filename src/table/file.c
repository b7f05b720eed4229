/* List files. The text stays in memory as it was read, each key folded and ended in its place, and an open hash of
 * offsets finds the keys: 8 bytes a slot, nothing else an entry. Patterns are few and hang on their domain.
 *
 * A key ends in one of two marks, which no key holds: NONE, or VALUE when the rest of the line is its value. */
#include "table/table.h"
#include "table/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_MAX_OCTETS 1024
#define PATTERNS_MAX 10000 /* a look-up walks those of its domain */

enum { VALUE = 0, NONE = 1 };

/* A slot: 1 + offset of the key in 40 bits, the hash's upper 24 bits as a tag. 0: free. */
#define OFFSET_BITS 40
#define OFFSET_MASK ((UINT64_C(1) << OFFSET_BITS) - 1)

struct pattern {
    size_t local, domain;       /* offsets in the text; each ends in a mark, the value stands behind the domain's */
    struct pattern *next, *last; /* of the same domain; `last` of the first one only */
};

struct roster {
    char *path;                 /* NULL: of no file */
    struct stat stat;
    struct buf text;
    char detail;
    size_t n;
    uint64_t *slot;
    size_t cap;                 /* a power of two */
    arena *a;                   /* patterns */
    size_t npattern;
    struct map domains;         /* domain -> struct pattern */
    struct pattern *anywhere;   /* patterns whose domain is one, or that have none */
    struct pattern **anywhere_end;
};

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

/* ---- the hash ---------------------------------------------------------------------------------------------------- */

static str key_at(const struct roster *t, size_t offset)
{
    size_t n = offset;
    while (t->text.p[n] != VALUE && t->text.p[n] != NONE)
        n++;
    return str_of(t->text.p + offset, n - offset);
}

static bool key_is(const struct roster *t, size_t offset, str key)
{
    /* Marks are no part of a key: a comparison that runs into one stops there, inside of the text. */
    return strncmp(t->text.p + offset, key.p, key.n) == 0 &&
           (t->text.p[offset + key.n] == VALUE || t->text.p[offset + key.n] == NONE);
}

/* The slot of `key`, or the free one where it would go. */
static uint64_t *slot_of(const struct roster *t, str key)
{
    uint64_t hash = str_hash(key), tag = hash & ~OFFSET_MASK;

    for (size_t i = hash & (t->cap - 1);; i = (i + 1) & (t->cap - 1)) {
        uint64_t s = t->slot[i];
        if (s == 0 || ((s & ~OFFSET_MASK) == tag && key_is(t, (s & OFFSET_MASK) - 1, key)))
            return &t->slot[i];
    }
}

static void put_key(struct roster *t, size_t offset, size_t n)
{
    str key = str_of(t->text.p + offset, n);
    uint64_t *s = slot_of(t, key);
    if (*s)
        return; /* the first of equals stays */
    *s = (str_hash(key) & ~OFFSET_MASK) | (offset + 1);
    t->n++;
}

/* What follows the mark at the end of a key; empty without. */
static str value_behind(const struct roster *t, str key)
{
    size_t at = (size_t)(key.p - t->text.p) + key.n;
    if (t->text.p[at] == NONE)
        return S("");
    str rest = str_of(t->text.p + at + 1, t->text.n - at - 1);
    return str_trim(str_head(rest, MIN(str_findc(rest, '\n'), rest.n)));
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

struct entry { size_t n, at /* of the @, or STR_NONE */; bool pattern; };

/* The entry at the start of a line: its key is folded, unquoted and ended by its mark in place; p[n] may be written
 * too, the mark's last possible place. Returns what is wrong, or NULL. */
static const char *read_entry(char *p, size_t n, struct entry *ret)
{
    struct entry e = { .at = STR_NONE };
    size_t in = 0, out = 0;
    bool quoted = n && p[0] == '"', inside = quoted;
    bool odd = false; /* quoted characters that mean something unquoted */

    for (in = quoted; in < n; in++) {
        char c = p[in];
        if (ascii_control(c) && !(c == '\t' && !inside))
            return "a control character";
        if (inside) {
            if (c == '"') {
                inside = false;
                continue;
            }
            if (c == '\\' && ++in < n)
                c = p[in];
            if (ascii_control(c))
                return "a control character";
            odd |= c == '*' || c == '@';
        } else if (is_blank(c)) {
            break;
        } else if (c == '@') {
            if (e.at != STR_NONE)
                return "a second @";
            e.at = out;
        } else if (quoted && e.at == STR_NONE) {
            return "text between the quote and the @";
        } else {
            e.pattern |= c == '*';
        }
        p[out++] = ascii_lower(c);
    }
    if (inside)
        return "a quote that is not closed";
    if (e.at != STR_NONE && e.at + 1 == out)
        return "no domain behind the @";
    if (quoted && (out == 0 || e.at == 0))
        return "an empty name"; /* ""@example.com would read as @example.com */
    if (odd && (e.pattern || e.at == STR_NONE))
        return "a quoted * or @ in a pattern or without a domain";
    if (e.at == STR_NONE && out > 2 && p[0] == '*' && p[1] == '.')
        return "a pattern for the local part; for all below a domain write @*.example.com";
    e.n = out;
    /* The value begins behind the blank at `in`; what quotes and backslashes left over becomes blank. */
    bool value = false;
    for (size_t i = in; i < n; i++) {
        if (ascii_control(p[i]) && p[i] != '\t')
            return "a control character";
        value |= !is_blank(p[i]);
    }
    for (size_t i = out; i < in && i < n; i++)
        p[i] = ' ';
    p[out] = value ? VALUE : NONE; /* out == n: the place of the line's LF */
    *ret = e;
    return NULL;
}

static void put_pattern(struct roster *t, size_t at, const struct entry *e)
{
    struct pattern *p = NEW(t->a, struct pattern);

    p->local = at;
    p->domain = STR_NONE;
    if (e->at != STR_NONE) {
        t->text.p[at + e->at] = NONE; /* the local part ends here */
        p->domain = at + e->at + 1;
    }
    t->n++;
    str domain = e->at == STR_NONE ? S("*") : key_at(t, p->domain);
    if (str_findc(domain, '*') != STR_NONE) {
        *t->anywhere_end = p;
        t->anywhere_end = &p->next;
        return;
    }
    struct pattern *first = map_get(&t->domains, domain);
    if (first)
        first->last = first->last->next = p;
    else
        map_put(&t->domains, domain, p);
    p->last = p;
}

static size_t count_lines(str s)
{
    size_t n = 1;
    for (const char *p = s.p, *end = s.p + s.n; p < end && (p = memchr(p, '\n', (size_t)(end - p))); p++)
        n++;
    return n;
}

static err read_lines(struct roster *t, str name, size_t max)
{
    size_t number = 0, entries = 0, next;
    char *p = t->text.p;

    for (size_t at = str_starts(buf_str(&t->text), S("\xef\xbb\xbf")) ? 3 : 0; at < t->text.n; at = next) {
        char *lf = memchr(p + at, '\n', t->text.n - at);
        size_t end = lf ? (size_t)(lf - p) : t->text.n;
        struct entry e;
        number++;
        next = end + 1;
        if (end - at > LINE_MAX_OCTETS)
            return fail(E_SYNTAX, "%.*s:%zu: the line is longer than %d octets", STR(name), number, LINE_MAX_OCTETS);
        if (end > at && p[end - 1] == '\r')
            end--;
        while (at < end && is_blank(p[at]))
            at++;
        if (at == end || p[at] == '#')
            continue;
        const char *wrong = read_entry(p + at, end - at, &e);
        if (wrong)
            return fail(E_SYNTAX, "%.*s:%zu: %s", STR(name), number, wrong);
        if (entries++ == max)
            return fail(E_LIMIT, "%.*s:%zu: more than %zu entries", STR(name), number, max);
        if (!e.pattern) {
            put_key(t, at, e.n);
            continue;
        }
        if (t->npattern++ == PATTERNS_MAX)
            return fail(E_LIMIT, "%.*s:%zu: more than %d patterns", STR(name), number, PATTERNS_MAX);
        put_pattern(t, at, &e);
    }
    return OK;
}

err roster_of_text(str name, struct buf *text, char detail, size_t max, struct roster **ret)
{
    AUTO(roster) t = mem_new(sizeof *t);

    buf_reserve(text, 1);
    text->p[text->n] = NONE; /* the place of the last line's LF */
    t->text = *text;
    *text = (struct buf){ 0 };
    t->detail = detail;
    t->a = arena_new();
    t->anywhere_end = &t->anywhere;
    if (t->text.n >= OFFSET_MASK)
        return fail(E_LIMIT, "%.*s: too large", STR(name));
    size_t lines = count_lines(buf_str(&t->text));
    for (t->cap = 8; t->cap * 3 / 4 < lines; )
        t->cap *= 2;
    t->slot = mem_new(t->cap * sizeof *t->slot);
    TRY(read_lines(t, name, max));
    *ret = take(t);
    return OK;
}

static err read_all(int fd, str path, const struct stat *st, size_t most, struct buf *text)
{
    if (S_ISREG(st->st_mode) && (uint64_t)st->st_size > most)
        return fail(E_LIMIT, "%.*s: larger than %zu octets", STR(path), most);
    /* Two more: our mark behind the last line, and room for the read that finds the end. */
    buf_reserve(text, S_ISREG(st->st_mode) ? (size_t)st->st_size + 2 : 65536);
    for (;;) {
        if (text->n + 1 >= text->cap)
            buf_reserve(text, 65536);
        ssize_t n = read(fd, text->p + text->n, MIN(text->cap - text->n - 1, (size_t)16 << 20));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(errno, "%.*s", STR(path));
        if (n == 0)
            return OK;
        text->n += (size_t)n;
        if (text->n > most)
            return fail(E_LIMIT, "%.*s: larger than %zu octets", STR(path), most);
    }
}

/* Somebody who writes while we read leaves half a list. */
static err still_so(int fd, str path, const struct stat *was)
{
    struct stat now;

    if (fstat(fd, &now) != 0)
        return fail_errno(errno, "%.*s", STR(path));
    if (S_ISREG(was->st_mode) && (now.st_size != was->st_size || now.st_mtim.tv_sec != was->st_mtim.tv_sec || now.st_mtim.tv_nsec != was->st_mtim.tv_nsec))
        return fail(E_AGAIN, "%.*s: it is being written", STR(path));
    return OK;
}

err roster_read(str path, char detail, size_t max, struct roster **ret)
{
    AUTO_BUF text = { 0 };
    AUTO_BUF z = { 0 };
    struct stat st;

    buf_add(&z, path);
    buf_addc(&z, 0);
    int fd = open(z.p, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* a pipe must not make a reload wait for its other end */
    if (fd < 0)
        return fail_errno(errno, "%.*s", STR(path));
    err e = OK;
    if (fstat(fd, &st) != 0)
        e = fail_errno(errno, "%.*s", STR(path));
    else if (S_ISDIR(st.st_mode))
        e = fail(E_IO, "%.*s: is a directory", STR(path));
    else if (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode)) /* /dev/null is an empty one */
        e = fail(E_IO, "%.*s: is not a regular file", STR(path));
    else
        e = read_all(fd, path, &st, MIN(max, OFFSET_MASK / 2048) * (LINE_MAX_OCTETS + 2) + (1u << 20), &text);
    if (e == OK)
        e = still_so(fd, path, &st);
    close(fd);
    TRY(e);
    TRY(roster_of_text(path, &text, detail, max, ret));
    (*ret)->stat = st;
    (*ret)->path = z.p;
    z.p = NULL;
    return OK;
}

void roster_free(struct roster *t)
{
    if (!t)
        return;
    mem_free(t->path);
    mem_free(t->slot);
    buf_free(&t->text);
    map_free(&t->domains);
    arena_free(t->a);
    mem_free(t);
}

size_t roster_count(const struct roster *t) { return t->n; }

void roster_each(const struct roster *t, bool (*fn)(void *ctx, str key), void *ctx)
{
    for (size_t i = 0; i < t->cap; i++)
        if (t->slot[i] && !fn(ctx, key_at(t, (t->slot[i] & OFFSET_MASK) - 1)))
            return;
}

bool roster_stale(const struct roster *t)
{
    struct stat now;

    if (!t->path)
        return false;
    return stat(t->path, &now) != 0 || now.st_ino != t->stat.st_ino || now.st_dev != t->stat.st_dev ||
           now.st_size != t->stat.st_size || now.st_mtim.tv_sec != t->stat.st_mtim.tv_sec ||
           now.st_mtim.tv_nsec != t->stat.st_mtim.tv_nsec;
}

/* ---- looking up -------------------------------------------------------------------------------------------------- */

/* Who is looked for, folded and unquoted: text is local@domain; plain is the local part without its detail. */
struct who { char text[LINE_MAX_OCTETS + 1]; str whole, local, domain, plain; };

static bool who_of(const struct roster *t, const struct path *path, struct who *w)
{
    size_t n = 0;
    str local = path->local;

    if (local.n + path->domain.n + 1 > LINE_MAX_OCTETS)
        return false; /* no entry is as long */
    if (path->quoted && local.n >= 2)
        local = str_of(local.p + 1, local.n - 2);
    for (size_t i = 0; i < local.n; i++) {
        if (path->quoted && local.p[i] == '\\' && i + 1 < local.n)
            i++;
        w->text[n++] = ascii_lower(local.p[i]);
    }
    w->local = w->plain = str_of(w->text, n);
    size_t cut = t->detail ? str_findc(w->local, t->detail) : STR_NONE;
    if (cut != STR_NONE && cut > 0)
        w->plain.n = cut;
    w->text[n++] = '@';
    for (size_t i = 0; i < path->domain.n; i++)
        w->text[n++] = ascii_lower(path->domain.p[i]);
    w->whole = str_of(w->text, n);
    w->domain = str_from(w->whole, w->local.n + 1);
    for (size_t i = 0; i < n; i++)
        if (ascii_control(w->text[i]))
            return false; /* no entry holds one; and the marks stay ours */
    return true;
}

static bool find_key(const struct roster *t, str key, str *value)
{
    uint64_t s = key.n ? *slot_of(t, key) : 0;
    if (s && value)
        *value = value_behind(t, str_of(t->text.p + (s & OFFSET_MASK) - 1, key.n));
    return s != 0;
}

/* * is any run of characters but @. Linear but for one step back to the last star: no pattern makes it explode. */
static bool matches(str pattern, str s)
{
    size_t i = 0, j = 0, star = STR_NONE, from = 0;

    while (i < s.n) {
        if (j < pattern.n && pattern.p[j] == '*') {
            star = j++;
            from = i;
        } else if (j < pattern.n && pattern.p[j] == s.p[i]) {
            i++;
            j++;
        } else if (star != STR_NONE && s.p[from] != '@') {
            i = ++from;
            j = star + 1;
        } else {
            return false;
        }
    }
    while (j < pattern.n && pattern.p[j] == '*')
        j++;
    return j == pattern.n;
}

/* The first pattern from `p` on that `local` at w's domain matches. */
static const struct pattern *match_in(const struct roster *t, const struct pattern *p, const struct who *w, str local)
{
    for (; p; p = p->next) {
        str wanted = key_at(t, p->local);
        if (p->domain != STR_NONE && !matches(key_at(t, p->domain), w->domain))
            continue;
        if ((p->domain != STR_NONE && wanted.n == 0) || matches(wanted, local)) /* "@*.example.com" has none */
            return p;
    }
    return NULL;
}

static bool find_pattern(const struct roster *t, const struct who *w, str local, str *value)
{
    const struct pattern *p = match_in(t, map_get(&t->domains, w->domain), w, local);
    if (!p)
        p = match_in(t, t->anywhere, w, local);
    if (p && value)
        *value = value_behind(t, key_at(t, p->domain != STR_NONE ? p->domain : p->local));
    return p != NULL;
}

/* The closest wins: the address, the address without its detail, a pattern, the local part, the domain. */
enum found roster_find(struct roster *t, const struct path *path, str *value)
{
    struct who w;
    char plain[LINE_MAX_OCTETS + 1];

    if (value)
        *value = S("");
    if (!who_of(t, path, &w))
        return ABSENT;
    bool detail = w.plain.n != w.local.n;
    if (w.domain.n && find_key(t, w.whole, value))
        return FOUND;
    if (detail && w.domain.n) {
        memcpy(plain, w.plain.p, w.plain.n);
        plain[w.plain.n] = '@';
        memcpy(plain + w.plain.n + 1, w.domain.p, w.domain.n);
        if (find_key(t, str_of(plain, w.plain.n + 1 + w.domain.n), value))
            return FOUND;
    }
    if (t->npattern && (find_pattern(t, &w, w.local, value) || (detail && find_pattern(t, &w, w.plain, value))))
        return FOUND;
    /* "a@example.com"@x has a local part that reads like an address of the list: it is none. */
    bool alone = str_findc(w.local, '@') == STR_NONE;
    if (alone && (find_key(t, w.local, value) || (detail && find_key(t, w.plain, value))))
        return FOUND;
    if (w.domain.n && find_key(t, str_from(w.whole, w.local.n), value)) /* "@domain" */
        return FOUND;
    return ABSENT;
}
