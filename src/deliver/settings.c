/* What waypost.conf says about reports to senders. Who gets them stands with relay domains and the default route: "bounce". */
#include "deliver/deliver.h"

static const char *const doubles[] = { "drop", "postmaster", NULL };

const struct setting deliver_settings[] = {
    { .name = "delay_warning", .type = CONF_TIME, .offset = offsetof(struct report_settings, delay_warning), .preset = "4h", .most = 86400 * 30,
      .help = "Own senders, which are those in a relay domain and clients of a \"network\" or with a login, are told once when a message waits for so long. 0: "
              "nobody is." },
    { .name = "double_bounce", .type = CONF_ENUM, .offset = offsetof(struct report_settings, double_bounce), .preset = "postmaster", .words = doubles,
      .form = "postmaster | drop", .help = "What becomes of the report of a failure that fails itself: the postmaster gets it, once and at most 60 an hour, or nobody. "
              "It is logged as \"dropped\" in any case." },
    { .name = "soft_bounce", .type = CONF_BOOL, .offset = offsetof(struct report_settings, soft_bounce), .preset = "off",
      .help = "Every 5xx of any next hop counts as a 4xx: its mail is kept and tried again, until its lifetime ends. For the days in which something is set up or "
              "moved; it shows in check, stats and the log. A backend has a setting of that name, too." },
    { .name = "report_rate", .type = CONF_RATE, .offset = offsetof(struct report_settings, rate), .preset = "600/min",
      .help = "How many reports leave, so many at once; the others wait for their turn, a day at most. 0/min: no limit." },
    { .name = "report_rate_per_address", .type = CONF_RATE, .offset = offsetof(struct report_settings, rate_per_address), .preset = "60/hour",
      .help = "How many reports one sender gets that is neither a client of a \"network\" nor logged in, and may be forged; others wait for their turn, and are "
              "dropped when that is more than an hour away. 0/hour: no limit." },
    { .name = NULL },
};
