"""Class 53: next hops that lie. One outcome a recipient, a second copy only where the line died behind our final dot, replies cut."""
from kit import *


def lie(stage, what, times=1):
    """Answer `stage` with `what` the first `times` times, else as one should."""
    left = [times]

    def answer(hop, at, line):
        if at == stage and left[0]:
            left[0] -= 1
            return what(hop) if callable(what) else what
        return hop.usual(at)
    return answer


# 421, hanging up and answers of the wrong class before the final dot: tried again, delivered once. A refusal is the end, once.
for stage, what, want, bodies in [
    ("greeting", b"421 too busy\r\n", "delivered", 1),
    ("ehlo", None, "delivered", 1),
    ("mail", b"421 leaving\r\n", "delivered", 1),
    ("mail", b"999 nonsense\r\n", "delivered", 1),
    ("rcpt", b"354 go on\r\n", "delivered", 1),
    ("rcpt", b"451 4.3.0 later\r\n", "delivered", 1),
    ("data", b"421 4.3.2 leaving\r\n", "delivered", 1),
    ("data", b"250 fine\r\n", "delivered", 1),
    ("dot", b"451 4.3.0 later\r\n", "delivered", 2),
    ("rcpt", b"550 5.1.1 nobody\r\n", "failed", 0),
    ("data", b"554 5.7.1 no\r\n", "failed", 0),
    ("dot", b"554 5.7.1 no\r\n", "failed", 1),
    ("mail", b"550 " + b"x" * 400 + b"\r\n", "failed", 0),
]:
    hop = Hop(lie(stage, what), offers=("ENHANCEDSTATUSCODES",))
    with Relay(hop) as relay:
        said = relay.send()
        check(said.startswith("250"), "it is taken", said)
        got = relay.settled(**{want: 1})
        what = f"{stage} {what!r}"
        check(got["delivered"] == (want == "delivered") and got["failed"] == (want == "failed"), "one outcome", what, got)
        check(got["unknown"] == 0 and got["repeated"] == 0, "and a known one", what, got)
        check(len(hop.bodies) == bodies, "offered as often as needed", what, len(hop.bodies))
        relay.alive()
    hop.close()

# The line dies behind the final dot: unknown, counted, not tried again soon.
for what, then in [(None, True), (b"25", False), (b"354 what\r\n", True), (b"250-first\r\n", False)]:
    hop = Hop(lie("dot", what))
    if not then:
        hop.leaves_at = "dot"
    with Relay(hop) as relay:
        relay.send()
        got = relay.settled(unknown=1)
        time.sleep(1.5)
        got = relay.count()
        check(got["unknown"] == 1 and got["delivered"] == 0 and len(hop.bodies) == 1, "unknown, and no second copy soon", what, got)
        check("unknown" in relay.log() and "example.com  " in relay.waits() and "may have been delivered" in relay.waits(), "told", relay.log()[-800:], relay.waits())
        relay.alive()
    hop.close()

# An answer of 250 and the line cut with it is an answer: delivered once.
hop = Hop()
hop.leaves_at = "dot"
with Relay(hop) as relay:
    for i in range(3):
        relay.send()
    got = relay.settled(delivered=3)
    check(got["delivered"] == 3 and len(hop.bodies) == 3 and got["unknown"] == 0, "250 and closed is delivered", got, len(hop.bodies))
hop.close()

# A reply of megabytes, and one without an end: bounded memory and time, cut text.
for what in [b"550-" + b"y" * 500 + b"\r\n", b"550-x\r\n"]:
    hop = Hop(lie("dot", what * 200000, times=1000))
    with Relay(hop) as relay:
        relay.send()
        check(until(lambda: relay.count().get("failed", 0) + relay.count().get("unknown", 0) >= 1), "an endless reply is an end", relay.log()[-1500:])
        check(max(map(len, relay.log().splitlines())) < 6000, "its text is cut in the log")
        relay.alive()
    hop.close()
done()
