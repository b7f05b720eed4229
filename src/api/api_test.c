#include "kit/kit.h"
#include "api/api.h"

TEST(metrics_are_openmetrics_only_for_who_names_it)
{
    static const struct { str accept; bool want; } cases[] = {
        { S(""), false },
        { S("*/*"), false },
        { S("text/plain"), false },
        { S("application/openmetrics-text; version=1.0.0; charset=utf-8"), true },
        { S("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2"), true },
        { S("text/plain;version=0.0.4;q=0.5, application/openmetrics-text"), true },
        { S("application/openmetrics-text;version=2.0.0"), false },
        { S("application/openmetrics-text;q=0"), false },
        { S(",;,;q="), false },
    };
    EACH(cases, c)
        CHECK_INT(metrics_open(c->accept), c->want, c->accept);
}

TEST(metrics_have_one_form_each)
{
    for (int open = 0; open < 2; open++) {
        struct metrics m = { .open = open };
        metrics_family(&m, METRIC_COUNTER, "w_mails_total", "Mails.");
        metrics_value(&m, 3, "listener", "smtp", "result", "ended", NULL);
        metrics_family(&m, METRIC_GAUGE, "w_up", "Up.");
        metrics_value(&m, 0.25, NULL);
        metrics_end(&m);
        CHECK_STR(buf_str(&m.out), open ? S("# HELP w_mails Mails.\n# TYPE w_mails counter\nw_mails_total{listener=\"smtp\",result=\"ended\"} 3\n"
                                            "# HELP w_up Up.\n# TYPE w_up gauge\nw_up 0.25\n# EOF\n")
                                        : S("# HELP w_mails_total Mails.\n# TYPE w_mails_total counter\n"
                                            "w_mails_total{listener=\"smtp\",result=\"ended\"} 3\n# HELP w_up Up.\n# TYPE w_up gauge\nw_up 0.25\n"));
        buf_free(&m.out);
    }
}

/* Names of lanes come from the DNS: no octet of theirs ends a line or a quote (attack class 36). */
TEST(metrics_labels_cannot_break_a_line)
{
    struct metrics m = { 0 };

    metrics_family(&m, METRIC_GAUGE, "w", "W.");
    buf_clear(&m.out);
    metrics_value(&m, 1, "lane", "a\"b\\c\nd\xff", NULL);
    CHECK_STR(buf_str(&m.out), S("w{lane=\"a\\\"b\\\\c?d?\"} 1\n"));
    buf_free(&m.out);
}

TEST(metrics_histogram_adds_up_and_ends_in_inf)
{
    struct metrics m = { 0 };
    struct histogram h = { 0 };
    str rest, line;
    uint64_t before = 0, n = 0;

    histogram_add(&h, 10);
    histogram_add(&h, 100);
    histogram_add(&h, SECOND);
    histogram_add(&h, 100 * DAY);
    metrics_family(&m, METRIC_HISTOGRAM, "w_seconds", "W.");
    metrics_histogram(&m, &h, NULL, NULL);
    rest = buf_str(&m.out);
    while (str_cut(&rest, S("\n"), &line)) {
        if (!str_has(line, S("_bucket{")))
            continue;
        size_t blank = line.n;
        while (line.p[blank - 1] != ' ')
            blank--;
        uint64_t v = 0;
        bool grows = str_u64(str_from(line, blank), UINT64_MAX, &v) && v >= before;
        CHECK(grows);
        before = v;
        n++;
    }
    CHECK_INT((int64_t)before, 4);
    CHECK_INT((int64_t)n, COUNT(h.bucket) / 2);
    CHECK(str_has(buf_str(&m.out), S("w_seconds_bucket{le=\"6.4e-05\"} 1\n")));
    CHECK(str_has(buf_str(&m.out), S("w_seconds_bucket{le=\"+Inf\"} 4\n")));
    CHECK(str_has(buf_str(&m.out), S("w_seconds_count 4\n")));
    buf_free(&m.out);
}

TEST(http_is_not_for_strangers)
{
    struct http *h = http_new(&(struct http_setup){ 0 });
    struct addr at;

    CHECK(OK == addr_parse(S("192.0.2.7:8080"), 0, &at));
    CHECK_ERR(http_listen(h, &at, -1), E_PERM);
    CHECK(OK == addr_parse(S("[::]:8080"), 0, &at));
    CHECK_ERR(http_listen(h, &at, -1), E_PERM);
    http_free(h);
}
