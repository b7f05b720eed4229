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

/* An IPv6 address has brackets where a port may follow, and here none does. */
static bool client_address(str text, struct addr *ret)
{
    AUTO_ARENA a = arena_new();

    if (text.n == 0)
        text = S("192.0.2.1");
    return addr_parse(text, 25, ret) == OK || addr_parse(str_printf(a, "[%.*s]", STR(text)), 25, ret) == OK;
}

/* As SMTP and logs have it: <ann@example.com>, and <> for the null sender. */
static str without_brackets(str address)
{
    return address.n > 1 && address.p[0] == '<' && address.p[address.n - 1] == '>' ? str_of(address.p + 1, address.n - 2) : address;
}

void explain_rcpt(struct control *c, void *relay)
{
    struct relay *r = relay;
    struct question q = { .rcpt = control_arg(c, "rcpt"), .sender = control_arg(c, "from") };
    str client = control_arg(c, "client");

    uint64_t uid = 0;
    q.from.local = str_starts(client, S("uid:"));
    bool known = q.from.local ? str_u64(str_from(client, 4), UINT32_MAX, &uid) : client_address(client, &q.from.addr);
    q.from.uid = (uint32_t)uid;
    q.from.login = control_arg(c, "login");
    q.from.listener = control_arg(c, "listener");
    q.rcpt = without_brackets(q.rcpt);
    q.sender = without_brackets(q.sender);
    if (!q.rcpt.n) {
        control_fail(c, "usage", "explain needs a recipient");
        return;
    }
    if (!known) {
        control_fail(c, "usage", "\"%.*s\" is no client: an IP address, or uid:NUMBER for a user of this host", STR(client));
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
