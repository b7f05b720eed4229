/* What recovery reads: a segment of hostile octets, an index file, single records. The first octet says which. Checksums are made right
 * where there is something that looks like a frame, else nothing would get past them. */
#include "kit/kit.h"
#include "spool/spool_inside.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LIFE 0x11223345u

static void quiet(void *ctx, enum log_level level, str line) { (void)ctx, (void)level, (void)line; }

static char dir[] = "/tmp/spool-fuzz-XXXXXX";
static int dir_fd;

static void dir_remove(void)
{
    unlinkat(dir_fd, "00000001.seg", 0);
    unlinkat(dir_fd, "00000001.idx", 0);
    rmdir(dir);
}

static int file_of(const char *name, const uint8_t *p, size_t n)
{
    int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    must(fd >= 0 && write(fd, p, n) == (ssize_t)n);
    return fd;
}

/* Every 8th octet may begin a frame: when its length fits, it gets the place where it lies and a checksum. */
static void mend(uint8_t *p, uint32_t n)
{
    for (uint32_t at = PAGE; at + FRAME_HEAD <= n;) {
        uint32_t size = frame_length(p + at) <= n ? frame_size(frame_length(p + at)) : n;
        if (p[at + 9] & 0x40 || size > n - at) { /* some stay as they are */
            at += 8;
            continue;
        }
        frame_again(p + at);
        frame_place(p + at, 1, LIFE, at);
        at += frame_type_of(p + at) == FRAME_BATCH ? FRAME_HEAD + BATCH_BODY : size;
    }
}

static void use(struct spool *s, struct segment *g, const struct index *x)
{
    AUTO_ARENA a = arena_new();

    segment_learn(s, g, x);
    for (uint32_t i = 0; i < x->nmessage; i++) {
        struct frame f = index_frame(x, x->message[i].at);
        struct stored_read st;
        arena_reset(a);
        if (stored_read(&f, a, &st) != OK || st.m->env.nrcpt > 10000)
            continue;
        struct rcpt_state *state = NEW_ARRAY(a, struct rcpt_state, st.m->env.nrcpt + 1);
        bool ended = false;
        merge_notes(x, st.m->at, state, st.m->env.nrcpt, &ended);
        AUTO_BUF again = { 0 };
        stored_write(&again, &(struct stored){ .m = st.m, .was = st.was, .state = st.state, .nstate = st.nstate });
        must(again.n <= stored_guess(&(struct stored){ .m = st.m, .was = st.was, .state = st.state, .nstate = st.nstate }));
    }
}

/* The first octets as the head of a segment, with the right checksum. */
static void use_head(const uint8_t *data, size_t size)
{
    uint8_t page[64] = { 0 };
    struct head h;

    memcpy(page, data, MIN(size, sizeof page));
    if (size > 8 && data[size - 1] & 1)
        memcpy(page, "waypost", 8);
    if (size > 8 && data[size - 1] & 2)
        put32(page + 60, crc32c(0, page, 60));
    if (head_read(page, &h) == OK)
        must(h.segment && h.size >= 2 * PAGE && h.format <= SPOOL_FORMAT);
}

FUZZ(data, size)
{
    static struct spool *s;

    if (!s) {
        log_start(&(struct log_setup){ .tap = quiet });
        must(mkdtemp(dir));
        dir_fd = open(dir, O_RDONLY | O_DIRECTORY);
        atexit(dir_remove);
        s = mem_new(sizeof *s);
        s->dir = dir_fd;
        s->size = 64 << 10;
    }
    if (size < 1 || size > 60000)
        return;
    use_head(data, size);
    uint32_t n = round_page(PAGE + (uint32_t)size);
    uint8_t *p = mem_new(n);
    memcpy(p + PAGE, data + 1, size - 1);
    int fd = -1;
    AUTO(index) x = NULL;
    AUTO(segment) g = segment_new(s, 1, LIFE, -1);
    g->size = n;
    segment_insert(s, g);
    if (data[0] % 2) {
        struct scanned sc = { 0 };
        head_write(p, &(struct head){ .format = SPOOL_FORMAT, .segment = 1, .life = LIFE, .size = n });
        mend(p, n);
        fd = file_of("00000001.seg", p, n);
        g->fd = fd;
        if (segment_scan(g, &sc) == OK) {
            x = sc.index;
            index_sort(x);
            use(s, g, x);
        }
    } else {
        uint8_t *q = p + PAGE;          /* the head of an index file, with the right magic, names and checksum */
        if (size - 1 >= 48) {
            memcpy(q, "wpindex", 8);
            put32(q + 12, SPOOL_FORMAT);
            put32(q + 16, 1);
            put32(q + 20, LIFE);
            put32(q + 8, crc32c(0, q + 12, size - 1 - 12));
        }
        fd = file_of("00000001.idx", q, size - 1);
        if (index_read(s, g, &x) == OK)
            use(s, g, x);
        else
            x = NULL;
    }
    segment_remove(s, g);
    close(fd);
    mem_free(p);
}
