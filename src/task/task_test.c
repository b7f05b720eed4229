#include "kit/kit.h"
#include "task/task.h"

static err count(void *arg)
{
    ++*(int *)arg;
    return OK;
}

static err ten(void *arg)
{
    AUTO_GROUP g = group_open(NEVER);
    for (int i = 0; i < 10; i++)
        group_spawn(&g, "count", count, arg);
    return group_wait(&g);
}

TEST(group_wait_waits_for_all)
{
    int n = 0;
    CHECK_ERR(task_main(ten, &n), OK);
    CHECK_INT(n, 10);
}
