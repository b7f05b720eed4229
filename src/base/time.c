/* Clocks, randomness and their seam; times as text. Nothing here knows a time zone: mail and logs are in UTC. */
#include "base/base.h"

#include <errno.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>

static when clock_read(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec * SECOND + t.tv_nsec / 1000;
}

static when real_now(void) { return clock_read(CLOCK_MONOTONIC); }
static when real_wall(void) { return clock_read(CLOCK_REALTIME); }

static void real_random(void *p, size_t n)
{
    for (char *at = p; n; ) {
        ssize_t got = getrandom(at, n, 0);
        must(got > 0 || errno == EINTR);
        if (got > 0) {
            at += got;
            n -= (size_t)got;
        }
    }
}

struct base_seam base_seam = { real_now, real_wall, real_random };

when clock_now(void) { return base_seam.now(); }
when wall_now(void) { return base_seam.wall(); }
void random_bytes(void *p, size_t n) { base_seam.random(p, n); }

uint64_t random_u64(void)
{
    uint64_t x;
    random_bytes(&x, sizeof x);
    return x;
}

uint64_t random_below(uint64_t n)
{
    must(n > 0);
    uint64_t uneven = -n % n; /* 2^64 mod n: so many results at the bottom would come once too often */
    uint64_t x;
    do
        x = random_u64();
    while (x < uneven);
    return x % n;
}

struct civil { int year, month, day, weekday, hour, minute, second, micro; };

/* The proleptic Gregorian calendar, by eras of 400 years that begin on 1 March (Hinnant, "chrono-compatible low-level
 * date algorithms"). Years 0 to 9999, as RFC 3339 has them. */
static struct civil civil_of(when wall)
{
    const when first = -719528 * DAY, last = 2932897 * DAY - 1;
    wall = MAX(first, MIN(wall, last));
    int64_t days = wall / DAY - (wall % DAY < 0);
    int64_t rest = wall - days * DAY;

    int64_t shifted = days + 719468;
    int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
    int64_t doe = shifted - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153;
    int month = (int)(mp < 10 ? mp + 3 : mp - 9);
    return (struct civil){
        .year = (int)(yoe + era * 400 + (month <= 2)),
        .month = month,
        .day = (int)(doy - (153 * mp + 2) / 5 + 1),
        .weekday = (int)(((days + 4) % 7 + 7) % 7), /* 1970 began on a Thursday */
        .hour = (int)(rest / HOUR),
        .minute = (int)(rest / MINUTE % 60),
        .second = (int)(rest / SECOND % 60),
        .micro = (int)(rest % SECOND),
    };
}

/* snprintf would take most of a log line's time. */
static char *digits(char *p, int value, int width)
{
    for (int i = width; i-- > 0; value /= 10)
        p[i] = (char)('0' + value % 10);
    return p + width;
}

static char *put(char *p, const char *text, size_t n) { memcpy(p, text, n); return p + n; }

str time_rfc5322(char out[TIME_TEXT], when wall)
{
    struct civil c = civil_of(wall);
    char *p = put(out, &"SunMonTueWedThuFriSat"[c.weekday * 3], 3);
    p = put(p, ", ", 2);
    p = digits(p, c.day, c.day > 9 ? 2 : 1);
    *p++ = ' ';
    p = put(p, &"JanFebMarAprMayJunJulAugSepOctNovDec"[(c.month - 1) * 3], 3);
    *p++ = ' ';
    p = digits(p, c.year, 4);
    *p++ = ' ';
    p = digits(p, c.hour, 2);
    *p++ = ':';
    p = digits(p, c.minute, 2);
    *p++ = ':';
    p = digits(p, c.second, 2);
    p = put(p, " +0000", 6);
    *p = 0;
    return (str){ out, (size_t)(p - out) };
}

str time_rfc3339(char out[TIME_TEXT], when wall)
{
    struct civil c = civil_of(wall);
    char *p = digits(out, c.year, 4);
    *p++ = '-';
    p = digits(p, c.month, 2);
    *p++ = '-';
    p = digits(p, c.day, 2);
    *p++ = 'T';
    p = digits(p, c.hour, 2);
    *p++ = ':';
    p = digits(p, c.minute, 2);
    *p++ = ':';
    p = digits(p, c.second, 2);
    *p++ = '.';
    p = digits(p, c.micro, 6);
    *p++ = 'Z';
    *p = 0;
    return (str){ out, (size_t)(p - out) };
}

str time_span(char out[TIME_TEXT], when length)
{
    static const struct { when unit; const char *name; } units[] = {
        { DAY, "d" }, { HOUR, "h" }, { MINUTE, "m" }, { SECOND, "s" }, { MILLISECOND, "ms" }, { MICROSECOND, "us" },
    };
    const char *sign = "";
    size_t i = 0;

    if (length == NEVER)
        return (str){ out, (size_t)snprintf(out, TIME_TEXT, "never") };
    if (length == 0)
        return (str){ out, (size_t)snprintf(out, TIME_TEXT, "0s") };
    if (length < 0) {
        sign = "-";
        length = length == INT64_MIN ? INT64_MAX : -length;
    }
    while (length < units[i].unit)
        i++;
    when most = length / units[i].unit, next = 0;
    if (units[i].unit > MILLISECOND) /* milliseconds and below need no second unit */
        next = length % units[i].unit / units[i + 1].unit;
    int n = next ? snprintf(out, TIME_TEXT, "%s%lld%s %lld%s", sign, (long long)most, units[i].name, (long long)next,
                            units[i + 1].name)
                 : snprintf(out, TIME_TEXT, "%s%lld%s", sign, (long long)most, units[i].name);
    return (str){ out, (size_t)n };
}
