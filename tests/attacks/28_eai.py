"""Class 28: SMTPUTF8 and 8-bit mail to a hop without them: 5.6.7 or 5.6.3 to the sender, or re-encoded; never sent as if it were plain."""
import email
import email.policy

from kit import *

PLAIN = ("PIPELINING", "ENHANCEDSTATUSCODES")
EIGHT = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nSubject: x\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
SIGNED = (b"MIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=b; protocol=x; micalg=y\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n"
          b"Content-Transfer-Encoding: 8bit\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n--b\r\nContent-Type: x/y\r\n\r\nsig\r\n--b--\r\n")


def play(offers, **mail):
    """What the hop heard of it and what became of it. The report goes nowhere."""
    with Relay(hop := Hop(offers=offers)) as relay:
        said = relay.send(**mail)
        check(said.startswith("250"), "it is taken", said)
        until(lambda: relay.count().get("delivered", 0) + relay.count().get("failed", 0) >= 1)
        got = relay.count()
        relay.alive()
        log = until(lambda: re.search(r" (?:delivered|failed) id=.*", relay.log()))
        hop.close()
        return hop, got, log.group(0) if log else relay.log()


# Addresses and headers beyond ASCII.
for mail in [{"to": ("jörg@example.com",)}, {"sender": "jörg@there.example"}, {"body": "Subject: Grüße\r\n\r\nx\r\n".encode()}]:
    hop, got, log = play(PLAIN + ("8BITMIME",), params=" SMTPUTF8", **mail)
    check(got["failed"] == 1 and got["delivered"] == 0 and "5.6.7" in log, "fails with 5.6.7", mail, got, log)
    check(not hop.said(b"MAIL") and not hop.bodies, "and nothing of it was said", hop.lines)
    hop, got, log = play(PLAIN + ("8BITMIME", "SMTPUTF8"), params=" SMTPUTF8", **mail)
    check(got["delivered"] == 1 and b"SMTPUTF8" in hop.said(b"MAIL")[0], "goes where it is offered", mail, log, hop.lines)
# Only flagged: it is plain, and goes as that.
hop, got, log = play(PLAIN, params=" SMTPUTF8")
check(got["delivered"] == 1 and b"SMTPUTF8" not in hop.said(b"MAIL")[0], "only flagged", log, hop.lines)

hop, got, log = play(PLAIN, params=" BODY=8BITMIME", body=EIGHT)
check(got["delivered"] == 1 and b"BODY" not in hop.said(b"MAIL")[0], "8-bit is re-encoded", log, hop.lines)
check(max(hop.bodies[0]) < 128, "to seven bits", hop.bodies)
m = email.message_from_bytes(hop.bodies[0][:-3], policy=email.policy.default)
check(m.get_content() in ("Grüße\n", "Grüße\r\n"), "and reads the same", m.get_content())
hop, got, log = play(PLAIN, params=" BODY=8BITMIME", body=SIGNED)
check(got["failed"] == 1 and "5.6.3" in log and not hop.bodies, "what is signed fails with 5.6.3", got, log)
hop, got, log = play(PLAIN + ("8BITMIME",), params=" BODY=8BITMIME", body=SIGNED)
check(got["delivered"] == 1 and b"BODY=8BITMIME" in hop.said(b"MAIL")[0] and SIGNED.split(b"\r\n\r\n", 1)[1] in hop.bodies[0], "and goes where it can", log)
# 8-bit that nobody declared is 8-bit all the same.
hop, got, log = play(PLAIN, body=EIGHT)
check(got["delivered"] == 1 and max(hop.bodies[0]) < 128, "undeclared", log)
done()
