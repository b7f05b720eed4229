/* For tests of what becomes of mail: a relay of one backend, without a network, and one flight. Its queue, spool and acceptance of reports are the real ones. */
#ifndef DELIVER_SCENE_H
#define DELIVER_SCENE_H

#include "deliver/inside.h"
#include "kit/kit.h"

struct scene {
    struct backend one;
    struct backend *backends[1];
    when steps[1];
    struct snapshot snap;
    struct spool *spool;
    struct spool_port *port;
    struct dispatch *d;
    struct flight f;
    ulid id;
    unsigned returned;          /* into the open lane */
};
/* A flight of mail from `sender` to n recipients u0@a.example ..., as it is when a connection has it. */
void scene_open(struct scene *s, str sender, size_t n);
void scene_close(struct scene *s);
/* What its queue and dispatch are told, for another one like them. */
struct snapshot *scene_newest(void *scene);
void scene_ready(void *scene, struct lane *lane);
void scene_nobody(void *scene, struct ticket *t);
struct lane *scene_lane(struct scene *s);
void scene_answer(struct scene *s, size_t i, unsigned code, enum answer_stage stage);
void scene_offered(struct scene *s, size_t i);          /* RCPT was accepted, and nothing is settled */
struct got { size_t ready, waiting, messages; uint64_t delivered, failed, deferred, unknown, expired, dropped, reports; };
struct got scene_counts(struct scene *s);
struct got scene_since(struct scene *s, const struct got *b);   /* the queue as it is; what was counted since then */
/* What the spool was told of recipient i, as text in `a`: after all notes are on disk. */
struct rcpt_state scene_state(struct scene *s, arena *a, struct spool_ref home, size_t i);
/* The report that lies in the queue, taken from it: its text, in the arena of what it returns. */
struct ticket *scene_report(struct scene *s, str *text);

#endif
