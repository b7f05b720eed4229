/* explain: the control socket's question why. Asked of one worker, whose decisions are those of all. */
#include "main/relay.h"
#include "main/words.h"

struct question { str rcpt, sender; struct explain_client from; struct buf lines; };

static void step(void *ctx, const char *what, str text)
{
    struct buf *b = ctx;

    buf_addc(b, '{');
    add_str(b, "what", str_z(what));
    add_str(b, "text", text);
    buf_add(b, S("}\n"));
}

static err explain(struct worker *w, void *arg)
{
    struct question *q = arg;
    AUTO_ARENA a = arena_new();
    struct snapshot *snap = snapshot_hold(w->snap);
    struct explain_to to = { step, &q->lines };
    struct reply r = receive_explain(snap, &q->from, q->sender, q->rcpt, a, &to);

    step(&q->lines, "answer", reply_print(a, &r));
    snapshot_drop(snap);
    return OK;
}

void explain_rcpt(struct control *c, void *relay)
{
    struct relay *r = relay;
    struct question q = { .rcpt = control_arg(c, "rcpt"), .sender = control_arg(c, "from") };
    str client = control_arg(c, "client");

    uint64_t uid = 0;
    q.from.local = str_starts(client, S("uid:"));
    bool known = q.from.local ? str_u64(str_from(client, 4), UINT32_MAX, &uid) : addr_parse(client.n ? client : S("192.0.2.1"), 25, &q.from.addr) == OK;
    q.from.uid = (uint32_t)uid;
    if (!q.rcpt.n || !known) {
        control_fail(c, "usage", "explain needs a recipient, and a client by its IP address, or a user of this host as uid:NUMBER");
        return;
    }
    if (worker_call(&r->worker[0], explain, &q) != OK)
        control_fail(c, "failed", "%.*s", STR(err_text()));
    str rest = buf_str(&q.lines), line;
    while (str_cut(&rest, S("\n"), &line))
        if (line.n && !control_line(c, line))
            break;
    buf_free(&q.lines);
}
