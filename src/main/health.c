/* Probes: /livez, "restart me when this fails"; /readyz, "send me mail while this is well"; /startupz, "I have begun". Each really asks. */
#include "main/relay.h"

#include <stdio.h>

#define ALIVE_WITHIN SECOND

struct verdict { struct buf missing; bool bad; };

static void miss(struct verdict *v, const char *what, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void miss(struct verdict *v, const char *what, const char *fmt, ...)
{
    char text[400];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    buf_add(&v->missing, v->bad ? S(",{\"check\":") : S("{\"check\":"));
    buf_add_json(&v->missing, str_z(what));
    buf_add(&v->missing, S(",\"why\":"));
    buf_add_json(&v->missing, str_z(text));
    buf_addc(&v->missing, '}');
    v->bad = true;
}

static void say(struct verdict *v, struct http_answer *ret)
{
    *ret = (struct http_answer){ .status = v->bad ? 503 : 200, .type = "application/json" };
    buf_addf(&ret->body, "{\"status\":\"%s\",\"missing\":[%.*s]}\n", v->bad ? "unavailable" : "ok", STR(buf_str(&v->missing)));
    buf_free(&v->missing);
}

/* Every thread that handles mail, and the one that handles configuration and control, has its turn within a second. */
static void look_alive(struct relay *r, struct verdict *v)
{
    struct thread_figures *f = ask_threads(r, false, clock_now() + ALIVE_WITHIN);

    for (unsigned i = 0; f && i <= r->nworker; i++)
        if (!f[i].answered && i < r->nworker)
            miss(v, "thread", "worker-%u did not answer within a second", i);
        else if (!f[i].answered)
            miss(v, "thread", "the main thread did not answer within a second");
    mem_free(f); /* NULL: the relay ends, which takes as long as what is under way; nobody shall cut that short */
}

static void look_ready(struct relay *r, struct verdict *v)
{
    if (!r->serving)
        miss(v, "listeners", "the listening sockets are not served yet");
    if (r->draining)
        miss(v, "draining", "the relay takes no more mail and finishes what is under way");
    if (spool_room(r->spool) != OK)
        miss(v, "spool", "%.*s", STR(err_text()));
    else if (spool_stats(r->spool).intake_stopped)
        miss(v, "spool", "the spool is full: mail is put off with 452");
}

void health_answer(struct relay *r, const struct http_question *q, struct http_answer *ret)
{
    struct verdict v = { 0 };

    if (str_eq(q->path, S("/livez")))
        look_alive(r, &v);
    else if (str_eq(q->path, S("/readyz"))) {
        look_ready(r, &v);
        if (!r->draining)
            look_alive(r, &v);
    } else if (str_eq(q->path, S("/startupz"))) {
        if (!r->serving)
            miss(&v, "start", "the relay is still starting");
    } else
        return;
    say(&v, ret);
}
