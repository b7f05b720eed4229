/* Text to nodes. Three layers: a cursor that counts lines and columns, words and marks cut from it, directives made of
 * them. An error is told and the text goes on being read, so that one run tells all. */
#include "conf/conf.h"
#include "conf/parse.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES_DEEP 16
#define BLOCKS_DEEP 32
#define BYTES_MAX (64u << 20)
#define WORDS_MAX 4000000u

struct file {
    const struct file *by; /* the file that includes this one */
    dev_t dev;
    ino_t ino;
    str path, dir;  /* dir: with its slash, or empty */
    uint32_t nth, deep;
};

/* What all files of a run share. */
struct run {
    arena *a;
    struct diags *diags;
    uint32_t files;
    size_t bytes, words;
    bool full; /* a limit was told: read nothing more */
    bool sealed; /* only this text: no files, no environment */
};

enum mark { M_WORD, M_OPEN, M_CLOSE, M_LIST, M_UNLIST, M_END /* newline or ; */, M_EOF };

struct reader {
    struct run *run;
    const struct file *file;
    str text;
    size_t at;
    uint32_t line, column;
    str source;         /* the line we are in */
    unsigned blocks;    /* how many are open */
    bool in_list;
    bool checks_version; /* still in front of the first directive */
    /* The mark we look at. */
    enum mark mark;
    struct token token; /* of M_WORD; of others only the place */
};

/* ---- the cursor -------------------------------------------------------------------------------------------------- */

static void line_begins(struct reader *r)
{
    str rest = str_from(r->text, r->at);
    r->column = 1;
    r->source = str_head(rest, MIN(str_findc(rest, '\n'), rest.n));
    if (str_ends(r->source, S("\r")))
        r->source.n--;
}

/* The character at the cursor; 0 at the end of the text. A NUL inside is part of a word, and told there. */
static char peek(const struct reader *r) { return r->at < r->text.n ? r->text.p[r->at] : 0; }
static char peek_behind(const struct reader *r) { return r->at + 1 < r->text.n ? r->text.p[r->at + 1] : 0; }
static bool at_end(const struct reader *r) { return r->at >= r->text.n; }

/* Go one character on; what is not UTF-8 counts a byte at a time. */
static void step(struct reader *r)
{
    uint32_t cp;

    if (r->text.p[r->at] == '\n') {
        r->at++;
        r->line++;
        line_begins(r);
        return;
    }
    r->at += MAX(utf8_head(str_from(r->text, r->at), &cp), 1);
    r->column++;
}

static struct place here(const struct reader *r)
{
    return (struct place){ .file = r->file->path, .line = r->line, .column = r->column, .length = 1,
                           .nth = r->file->nth, .source = r->source };
}

#define tell(r, at, number, hint, ...) diag_add((r)->run->diags, CONF_ERROR, (number), (at), (hint), __VA_ARGS__)

/* ---- words and marks --------------------------------------------------------------------------------------------- */

/* Tell the first character of the word `s`, which begins at `at`, that must not be there. */
static void check_characters(struct reader *r, str s, struct place at)
{
    uint32_t cp;

    at.length = 1;
    for (size_t n; s.n; s = str_from(s, n), at.column++) {
        n = utf8_head(s, &cp);
        if (n == 0) {
            tell(r, &at, CONF_E_ENCODING, S("save the file as UTF-8"), "byte 0x%02x is not UTF-8",
                 (unsigned char)s.p[0]);
            return;
        }
        if (cp == '\t')
            continue;
        if (utf8_control(cp) || cp == 0xa0 || cp == 0xad || (cp >= 0x2000 && cp <= 0x200f) || cp == 0x3000) {
            tell(r, &at, CONF_E_INVISIBLE, S("type it anew"), "invisible character U+%04X", cp);
            return;
        }
        if (cp >= 0x201c && cp <= 0x201f) {
            tell(r, &at, CONF_E_INVISIBLE, S("use straight quotes: \""), "typographic quote U+%04X", cp);
            return;
        }
    }
}

/* At "${": add what it stands for. */
static void read_variable(struct reader *r, struct buf *out)
{
    struct place at = here(r);
    size_t n = 0;
    str rest = str_from(r->text, r->at + 2);

    r->token.env = true;
    while (n < rest.n && (ascii_alpha(rest.p[n]) || rest.p[n] == '_' || (n && ascii_digit(rest.p[n]))))
        n++;
    str name = str_head(rest, n), preset = { 0 };
    rest = str_from(rest, n);
    if (str_starts(rest, S(":-"))) {
        rest = str_from(rest, 2);
        for (n = 0; n < rest.n && rest.p[n] != '}' && rest.p[n] != '\n'; )
            n++;
        preset = str_head(rest, n);
        rest = str_from(rest, n);
    }
    if (!name.n || !str_starts(rest, S("}"))) {
        at.length = 2;
        tell(r, &at, CONF_E_VARIABLE, S("write ${NAME} or ${NAME:-default}"), "this is no variable");
        step(r);
        step(r);
        return;
    }
    size_t end = (size_t)(rest.p - r->text.p) + 1;
    while (r->at < end)
        step(r);
    at.length = r->column - at.column;
    const char *value = getenv(str_cz(r->run->a, name));
    if (value && (*value || !preset.p))
        buf_add(out, str_dup(r->run->a, str_z(value)));
    else if (preset.p)
        buf_add(out, preset);
    else
        tell(r, &at, CONF_E_VARIABLE, S("set it, or write ${NAME:-default}"), "the environment has no \"%.*s\"",
             STR(name));
}

/* At a quote. */
static void read_quoted(struct reader *r)
{
    struct buf out = buf_in(r->run->a, 0);
    struct place at = here(r);
    size_t begin;

    step(r);
    begin = r->at;
    while (!at_end(r) && peek(r) != '"' && peek(r) != '\n') {
        char next = peek_behind(r);
        size_t from = r->at;
        if (peek(r) == '$' && next == '{' && !r->run->sealed) {
            read_variable(r, &out);
            continue;
        }
        if (peek(r) == '\\' && (next == '"' || next == '\\' || next == '$')) {
            step(r);
            from = r->at;
        }
        step(r);
        buf_add(&out, str_of(r->text.p + from, r->at - from));
    }
    size_t end = r->at;
    bool closed = peek(r) == '"';
    if (closed)
        step(r);
    r->token.text = buf_str(&out);
    r->token.quoted = true;
    r->token.at = at;
    r->token.at.length = r->column - at.column;
    if (!closed) {
        tell(r, &at, CONF_E_QUOTE, S("close it on this line"), "the quote is not closed");
        return;
    }
    at.column++;
    check_characters(r, str_of(r->text.p + begin, end - begin), at);
    if (!at_end(r) && !strchr(" \t\r\n;{}]", peek(r))) {
        at = here(r);
        tell(r, &at, CONF_E_QUOTE, S("put a blank between them"), "a word right behind a quote");
    }
}

/* At a [ where a word could begin: is it an address, as in [::1]:25 and [192.0.2.1]:25? */
static bool address_follows(const struct reader *r)
{
    str rest = str_from(r->text, r->at + 1);
    size_t n = 0;
    bool colon = false;

    for (; n < rest.n && rest.p[n] != ']'; n++) {
        if (!ascii_digit(rest.p[n]) && !ascii_alpha(rest.p[n]) && !strchr(":.%_-$", rest.p[n]))
            return false;
        colon |= rest.p[n] == ':';
    }
    return n > 0 && n < rest.n && (colon || str_starts(str_from(rest, n), S("]:")));
}

static void read_word(struct reader *r)
{
    struct buf out = { .a = r->run->a };
    struct place at = here(r);
    size_t begin = r->at, copied = r->at;
    unsigned brackets = 0; /* open inside this word */

    while (!at_end(r)) {
        char c = peek(r);
        if (strchr(" \t\r\n;{}", c) && c)
            break;
        if (c == ']' && brackets == 0)
            break;
        if (c == '"') {
            struct place quote = here(r);
            tell(r, &quote, CONF_E_QUOTE, S("quote the whole word"), "a quote inside a word");
        }
        brackets += c == '[';
        brackets -= c == ']';
        if (c == '$' && peek_behind(r) == '{' && !r->run->sealed) {
            buf_add(&out, str_of(r->text.p + copied, r->at - copied));
            read_variable(r, &out);
            copied = r->at;
            if (!out.p) /* nothing came of it, but the word is a copy now */
                buf_reserve(&out, 1);
            continue;
        }
        step(r);
    }
    str raw = str_of(r->text.p + begin, r->at - begin);
    if (out.p)
        buf_add(&out, str_of(r->text.p + copied, r->at - copied));
    r->token.text = out.p ? buf_str(&out) : raw;
    r->token.at = at;
    r->token.at.length = r->column - at.column;
    check_characters(r, raw, at); /* what a variable holds is not of this place */
}

/* Read nothing more, here and in the files around; why was told. */
static void stop(struct reader *r)
{
    r->run->full = true;
    r->at = r->text.n;
    r->mark = M_EOF;
}

/* Look at the next mark. */
static void advance(struct reader *r)
{
    if (r->run->full)
        r->at = r->text.n;
    r->token = (struct token){ 0 };
    for (;;) {
        char c = peek(r);
        if (c == ' ' || c == '\t' || c == '\r') {
            step(r);
        } else if (c == '#') {
            while (!at_end(r) && peek(r) != '\n')
                step(r);
        } else if (c == '\n' && r->in_list) {
            step(r);
        } else {
            break;
        }
    }
    r->token.at = here(r);
    if (at_end(r)) {
        r->mark = M_EOF;
        return;
    }
    switch (peek(r)) {
    case '\n': case ';': r->mark = M_END; break;
    case '{': r->mark = M_OPEN; break;
    case '}': r->mark = M_CLOSE; break;
    case ']': r->mark = M_UNLIST; break;
    case '[':
        r->mark = address_follows(r) ? M_WORD : M_LIST;
        break;
    default: r->mark = M_WORD; break;
    }
    if (r->mark != M_WORD) {
        step(r);
        return;
    }
    if (r->run->words++ == WORDS_MAX) {
        tell(r, &r->token.at, CONF_E_SIZE, S(""), "more than %u words in all", WORDS_MAX);
        stop(r);
        return;
    }
    if (peek(r) == '"')
        read_quoted(r);
    else
        read_word(r);
}

/* ---- directives -------------------------------------------------------------------------------------------------- */

/* A growing array in the arena: a buf of whole elements. */
static void add_token(struct buf *v, const struct token *t) { buf_add(v, str_of((const char *)t, sizeof *t)); }
static void add_node(struct buf *v, const struct node *n) { buf_add(v, str_of((const char *)n, sizeof *n)); }

/* Behind a [ : the list up to its ] . False after telling that there is none. */
static bool read_list(struct reader *r, struct token *list)
{
    struct buf items = { .a = r->run->a };

    *list = (struct token){ .list = true, .at = r->token.at };
    r->in_list = true;
    for (advance(r); r->mark != M_UNLIST; advance(r)) {
        if (r->mark == M_WORD) {
            add_token(&items, &r->token);
        } else if (r->mark == M_LIST) {
            tell(r, &r->token.at, CONF_E_NESTED, S(""), "a list inside a list");
        } else {
            /* { } ; or the end: the ] was forgotten. */
            if (!r->run->full)
                tell(r, &list->at, CONF_E_OPEN, S("close it with ]"), "this list is never closed");
            r->in_list = false;
            return false;
        }
    }
    r->in_list = false;
    advance(r);
    list->item = (struct token *)(void *)items.p;
    list->nitem = items.n / sizeof(struct token);
    return true;
}

static void read_block(struct reader *r, struct node *block, const struct place *open);
static void include(struct reader *r, const struct node *n, struct node *block, struct buf *children);

/* `waypost 1`, the first directive. False: read no further, all that follows may mean something else. */
static bool check_version(struct reader *r, const struct node *n)
{
    uint64_t version;

    r->checks_version = false;
    if (!str_eq(n->name.text, S("waypost"))) {
        if (!r->file->by)
            tell(r, &n->name.at, CONF_E_VERSION, S("begin the file with: waypost 1"),
                 "the first line is not \"waypost 1\"");
        return true;
    }
    if (n->narg != 1 || n->block || n->arg[0].list || !str_u64(n->arg[0].text, UINT32_MAX, &version) || version == 0) {
        tell(r, &n->name.at, CONF_E_VERSION, S("write: waypost 1"), "the version of the form is not a number");
        return true;
    }
    if (version > 1) {
        tell(r, &n->arg[0].at, CONF_E_NEWER, S("this program reads version 1"),
             "the file is written for version %u of the form", (unsigned)version);
        return false;
    }
    return true;
}

/* At a name: the directive, added to `children` of `block`. */
static void read_directive(struct reader *r, struct node *block, struct buf *children)
{
    struct node n = { .name = r->token };
    struct buf args = { .a = r->run->a };
    bool first = r->checks_version, whole = true;

    for (advance(r); r->mark == M_WORD || r->mark == M_LIST || r->mark == M_UNLIST; ) {
        struct token list;
        if (r->mark == M_LIST) {
            whole = read_list(r, &list);
            add_token(&args, &list);
            continue;
        }
        if (r->mark == M_WORD)
            add_token(&args, &r->token);
        else
            tell(r, &r->token.at, CONF_E_CLOSE, S(""), "no [ is open here");
        advance(r);
    }
    n.arg = (struct token *)(void *)args.p;
    n.narg = args.n / sizeof(struct token);
    if (r->mark == M_OPEN) {
        struct place open = r->token.at;
        n.block = true;
        if (first) /* nothing in the block is the first line */
            r->checks_version = false;
        read_block(r, &n, &open);
        r->checks_version = first;
        if (r->mark != M_END && r->mark != M_EOF && r->mark != M_CLOSE)
            tell(r, &r->token.at, CONF_E_BEHIND, S("begin a new line, or put a ; in front"), "text behind a }");
    }
    if (first && !check_version(r, &n)) {
        stop(r);
        block->partial = true;
        return;
    }
    if (!whole) {
        block->partial = true; /* its list may have swallowed what follows */
        return;
    }
    if (first && str_eq(n.name.text, S("waypost")))
        return;
    if (!n.name.quoted && str_eq(n.name.text, S("include")) && !r->run->sealed)
        include(r, &n, block, children);
    else
        add_node(children, &n);
}

/* Directives up to the } of `block`, or up to the end of the file for the outermost (`open` NULL). Leaves r at the mark
 * behind. */
static void read_directives(struct reader *r, struct node *block, const struct place *open, struct buf *children)
{
    for (advance(r);;) {
        switch (r->mark) {
        case M_WORD:
            read_directive(r, block, children);
            continue;
        case M_EOF:
            if (open) {
                if (!r->run->full)
                    tell(r, open, CONF_E_OPEN, S("close it with }"), "this block is never closed");
                block->partial = true;
                children->n = 0; /* most of what it took belongs elsewhere: say nothing about that */
            }
            return;
        case M_CLOSE:
            if (open) {
                advance(r);
                return;
            }
            tell(r, &r->token.at, CONF_E_CLOSE, S(""), "no { is open here");
            block->partial = true;
            break;
        case M_OPEN: {
            struct node lost = { 0 };
            struct place at = r->token.at;
            tell(r, &at, CONF_E_BLOCK, S("a block opens on the line of its directive"), "a { without a directive");
            block->partial = true;
            read_block(r, &lost, &at);
            continue;
        }
        case M_LIST: case M_UNLIST:
            tell(r, &r->token.at, CONF_E_CLOSE, S(""), "a directive does not begin with a bracket");
            break;
        case M_END:
            break;
        }
        advance(r);
    }
}

static void set_children(struct node *n, const struct buf *children)
{
    n->child = (struct node *)(void *)children->p;
    n->nchild = children->n / sizeof(struct node);
}

static void read_block(struct reader *r, struct node *block, const struct place *open)
{
    struct buf children = { .a = r->run->a };

    if (r->blocks == BLOCKS_DEEP) {
        tell(r, open, CONF_E_DEPTH, S(""), "more than %u blocks in one another", BLOCKS_DEEP);
        stop(r);
        block->partial = true;
        return;
    }
    r->blocks++;
    read_directives(r, block, open, &children);
    r->blocks--;
    set_children(block, &children);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* Read a file whole; `in` gets who it is. */
static err file_read(struct run *run, const char *path, bool first, struct file *in, str *ret)
{
    struct buf text = { .a = run->a };
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | (first ? 0 : O_NONBLOCK));
    err e = OK;

    if (fd < 0)
        return fail_errno(errno, "%s", path);
    /* The first may be a pipe (<(...), /dev/stdin); what a pattern finds must not make us wait. */
    if (fstat(fd, &st) != 0)
        e = fail_errno(errno, "%s", path);
    else if (S_ISDIR(st.st_mode))
        e = fail(E_IO, "%s: is a directory", path);
    else if (!first && !S_ISREG(st.st_mode))
        e = fail(E_IO, "%s: is not a regular file", path);
    while (e == OK && run->bytes + text.n <= BYTES_MAX) {
        buf_reserve(&text, S_ISREG(st.st_mode) && text.n == 0 ? MIN((size_t)st.st_size, BYTES_MAX) + 1 : 65536);
        ssize_t n = read(fd, text.p + text.n, MIN(text.cap - text.n, (size_t)1 << 20));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            e = fail_errno(errno, "%s", path);
        if (n <= 0)
            break;
        text.n += (size_t)n;
    }
    close(fd);
    if (e != OK)
        return e;
    in->dev = st.st_dev;
    in->ino = st.st_ino;
    *ret = buf_str(&text);
    return OK;
}

static str dir_of(str path)
{
    while (path.n && path.p[path.n - 1] != '/')
        path.n--;
    return path;
}

/* Read `text` as `file` into `block`. */
static void read_file(struct run *run, const struct file *file, str text, struct node *block, struct buf *children)
{
    struct reader r = { .run = run, .file = file, .text = text, .line = 1, .checks_version = true };

    run->bytes += text.n;
    if (run->bytes > BYTES_MAX) {
        struct place at = { .file = file->path, .nth = file->nth };
        tell(&r, &at, CONF_E_SIZE, S(""), "more than %u MiB in all", BYTES_MAX >> 20);
        run->full = true;
        block->partial = true;
        return;
    }
    if (str_starts(text, S("\xef\xbb\xbf"))) /* the byte order mark that some editors write */
        r.text = str_from(text, 3);
    line_begins(&r);
    read_directives(&r, block, NULL, children);
    if (r.checks_version && !file->by) {
        struct place at = { .file = file->path, .line = 1, .column = 1, .nth = file->nth };
        tell(&r, &at, CONF_E_VERSION, S("begin it with: waypost 1"), "the file is empty");
    }
}

static void include_file(struct reader *r, const struct token *t, const char *path, struct node *block,
                         struct buf *children)
{
    struct run *run = r->run;
    struct file in = { .by = r->file, .path = str_dup(run->a, str_z(path)), .deep = r->file->deep + 1 };
    str text;

    if (run->full)
        return;
    if (in.deep > FILES_DEEP) {
        tell(r, &t->at, CONF_E_DEPTH, S(""), "more than %u files include one another", FILES_DEEP);
        return;
    }
    if (file_read(run, path, false, &in, &text) != OK) {
        tell(r, &t->at, CONF_E_UNREADABLE, S(""), "cannot read %.*s", STR(err_text()));
        block->partial = true;
        return;
    }
    for (const struct file *f = r->file; f; f = f->by) {
        if (f->dev == in.dev && f->ino == in.ino && f->ino) {
            tell(r, &t->at, CONF_E_CYCLE, S(""), "%s includes itself", path);
            return;
        }
    }
    in.dir = dir_of(in.path);
    in.nth = ++run->files;
    read_file(run, &in, text, block, children);
}

/* A folder that is not there holds no file for the pattern: a common beginning, and fine. One that we may not read
 * may hold one. */
static int glob_failed(const char *path, int number)
{
    (void)path;
    return number != ENOENT && number != ENOTDIR;
}

/* `include PATTERN ...`: each file's directives stand in place of this one. */
static void include(struct reader *r, const struct node *n, struct node *block, struct buf *children)
{
    if (n->block || n->narg == 0)
        tell(r, &n->name.at, CONF_E_ARGUMENTS, S("write: include conf.d/*.conf"),
             "include takes one or more file names");
    for (size_t i = 0; i < n->narg && !r->run->full; i++) {
        const struct token *t = &n->arg[i];
        glob_t found = { 0 };
        if (t->list || !t->text.n || str_findc(t->text, 0) != STR_NONE) {
            tell(r, &t->at, CONF_E_ARGUMENTS, S("write: include conf.d/*.conf"), "include takes file names");
            continue;
        }
        bool wild = strpbrk(str_cz(r->run->a, t->text), "*?[");
        struct buf path = buf_in(r->run->a, 256);
        str dir = str_starts(t->text, S("/")) ? S("") : r->file->dir;
        for (size_t j = 0; j < dir.n; j++) {
            if (wild && strchr("*?[\\", dir.p[j]))
                buf_addc(&path, '\\');
            buf_addc(&path, dir.p[j]);
        }
        buf_add(&path, t->text);
        buf_addc(&path, 0);
        if (!wild) {
            include_file(r, t, path.p, block, children);
            continue;
        }
        int result = glob(path.p, 0, glob_failed, &found);
        if (result != 0 && result != GLOB_NOMATCH)
            tell(r, &t->at, CONF_E_UNREADABLE, S(""), "cannot look for %.*s", STR(t->text));
        for (size_t j = 0; result == 0 && j < found.gl_pathc; j++)
            include_file(r, t, found.gl_pathv[j], block, children);
        globfree(&found);
    }
}

static err parse(struct run *run, str path, const str *text, struct node *ret)
{
    struct file in = { .path = path, .dir = dir_of(path) };
    struct node root = { .name.at = { .file = path }, .block = true };
    struct buf children = { .a = run->a };
    str read;

    if (!text)
        TRY(file_read(run, str_cz(run->a, path), true, &in, &read));
    read_file(run, &in, text ? *text : read, &root, &children);
    set_children(&root, &children);
    *ret = root;
    return OK;
}

err conf_parse(arena *a, str path, const str *text, struct node *ret, struct diags *d)
{
    return parse(&(struct run){ .a = a, .diags = d }, path, text, ret);
}

err conf_parse_sealed(arena *a, str name, str text, struct node *ret, struct diags *d)
{
    return parse(&(struct run){ .a = a, .diags = d, .sealed = true }, name, &text, ret);
}

void conf_parse_line(arena *a, str text, struct node *ret)
{
    struct diags diags = { .a = a };
    struct run run = { .a = a, .diags = &diags };
    struct file in = { .path = S("") };
    struct reader r = { .run = &run, .file = &in, .text = text, .line = 1 };
    struct node root = { 0 };
    struct buf children = { .a = a };

    line_begins(&r);
    read_directives(&r, &root, NULL, &children);
    set_children(&root, &children);
    must(diags.errors == 0 && root.nchild == 1);
    *ret = root.child[0];
}
