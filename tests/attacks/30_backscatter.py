"""Class 30: nothing is accepted to be returned to a forged sender; reports go from <> to who asked, and none for <> or NOTIFY=NEVER."""
from kit import *

USERS = "relay_domain known.example { backend inside; recipients { file users } }\n"


def refuses(hop, at, line):
    if at == "rcpt" and b"nobody" in line:
        return b"550 5.1.1 no such user\r\n"
    return hop.usual(at)


with Relay(hop := Hop(refuses), start=False, extra=USERS) as relay:
    with open(relay.dir + "/users", "w") as f:
        f.write("bob@known.example\n")
    relay.start()

    # Unknown recipients and foreign domains are refused while the sender listens: no mail, no report.
    check(relay.send(to=["nobody@known.example"]).startswith("550 5.1.1"), "an unknown recipient is refused")
    check(relay.send(to=["x@elsewhere.example"], sender="victim@example.com").startswith("550 5.7.1"), "a foreign one too")
    check(relay.send(to=["bob@known.example"], rcpt_params="").startswith("250"), "a known one not")
    got = relay.settled(delivered=1)
    check(got["accepted"] == 1 and got["reports"] == 0 and len(hop.bodies) == 1, "no report for refused mail", got)

    # A failure behind us, for the null sender and where none is wanted: no report.
    check(relay.send(sender="", to=["nobody@example.com"], rcpt_params="").startswith("250"), "a report of somebody's")
    got = relay.settled(failed=1)
    check(relay.send(sender="ann@example.com", to=["nobody@example.com"]).startswith("250"), "NOTIFY=NEVER")
    got = relay.settled(failed=2)
    check(relay.send(sender="ann@example.com", to=["nobody@example.com"], rcpt_params=" NOTIFY=SUCCESS,DELAY").startswith("250"), "NOTIFY=SUCCESS,DELAY")
    got = relay.settled(failed=3)
    time.sleep(0.5)
    got = relay.count()
    check(got["reports"] == 0 and got["delivered"] == 1 and len(hop.bodies) == 1, "no report", got, hop.lines)
    check(got["reports_dropped"] == 1, "the one for <> is counted as dropped", got)

    # The one report there is comes from <>, says that a machine wrote it, once a message, and a report that fails makes no other.
    check(relay.send(sender="ann@example.com", to=["nobody@example.com", "nobody2@example.com"], rcpt_params="").startswith("250"), "one to report")
    relay.settled(failed=5, reports=1, delivered=2)
    check(hop.said(b"MAIL")[-1].startswith(b"MAIL FROM:<>"), "from the null sender", hop.said(b"MAIL"))
    check(hop.said(b"RCPT")[-1].startswith(b"RCPT TO:<ann@example.com>"), "to the sender", hop.said(b"RCPT"))
    check(b"auto-replied" in hop.bodies[-1] and hop.bodies[-1].count(b"Final-Recipient") == 2, "both failures in one", hop.bodies[-1])
    check(relay.send(sender="nobody3@example.com", to=["nobody@example.com"], rcpt_params="").startswith("250"), "whose sender does not exist")
    got = relay.settled(failed=7, reports=3, delivered=3)
    check(hop.said(b"RCPT")[-1].startswith(b"RCPT TO:<postmaster@example.com>"), "a report that fails goes to the postmaster", hop.said(b"RCPT"))
    check(got["reports"] == 3 and got["delivered"] == 3 and got["reports_dropped"] == 2, "once, and that is the end", got, relay.log()[-2000:])
    relay.alive()
done()
