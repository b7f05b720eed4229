"""Delivery reports as others read them. A relay between a client of RFC 3461 and next hops that refuse in many ways, put off, are down, know DSN
and SMTPUTF8 or do not; what comes back is parsed with Python's email package, and every field of the machine's part is compared."""
import email
import email.policy
import email.utils
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "attacks"))
from kit import *

REFUSALS = {    # local part: what the hop says to RCPT; status; a word for people
    "nobody": (b"550 5.1.1 no such user here\r\n", "5.1.1", "no such mailbox"),
    "full": (b"552 5.2.2 mailbox over quota\r\n", "5.2.2", "mailbox is full"),
    "plainfull": (b"552 quota exceeded\r\n", "5.0.0", "mailbox is full"),
    "policy": (b"554 5.7.1 refused by policy rule 7\r\n", "5.7.1", "rule of its own"),
    "spam": (b"550-5.7.1 looks like spam to us,\r\n550 5.7.1 see http://hop.example/why\r\n", "5.7.1", "took the message for spam"),
    "tls": (b"530 5.7.10 encryption needed\r\n", "5.7.10", "only travel encrypted"),
    "hostile": (b"550 5.1.1 ends \x1b[2Jhere\x07 --=_\xff\xe2\x80\xae Bcc: all@example.org\r\n", "5.1.1", "no such mailbox"),
    "j\u00f6rg": (b"550 5.1.1 kennt hier keiner\r\n", "5.1.1", "no such mailbox"),
}


def local(line):
    return line.split(b"<", 1)[1].split(b"@", 1)[0].decode("utf-8", "replace")


def refuses(hop, at, line):
    if at == "rcpt":
        who = local(line)
        if who in REFUSALS:
            return REFUSALS[who][0]
        if who.startswith("later"):
            return b"450 4.2.0 come back\r\n"
    if at == "dot" and b"X-Refuse: 552" in line.split(b"\r\n\r\n", 1)[0]:
        return b"552 5.3.4 message too big for us\r\n"
    return hop.usual(at)


def send(relay, sender, to, params="", body=b"Subject: greetings\r\nX-Mark: here\r\n\r\nhello there\r\n"):
    """`to`: pairs of address and parameters. The id that the relay gives it."""
    with socket.create_connection(("127.0.0.1", relay.port), timeout=PATIENCE) as s, s.makefile("rb") as f:
        def reply(command, octets=None):
            if octets is None:
                octets = (command + "\r\n").encode()
            s.sendall(octets)
            while True:
                line = f.readline()
                if line[3:4] != b"-":
                    check(line[:1] in b"23", f"{command} is taken", line)
                    return line.decode().rstrip()
        f.readline()
        reply("EHLO there.example")
        reply(f"MAIL FROM:<{sender}>{params}")
        for who, more in to:
            reply(f"RCPT TO:<{who}>{more}")
        reply("DATA")
        said = reply("the end", body + b".\r\n")
        return re.search(r"\b([0-9A-HJKMNP-TV-Z]{26})\b", said).group(1)


class Report:
    """One body, taken apart."""

    def __init__(self, raw):
        self.raw = re.sub(rb"(?m)^\.", b"", raw)[:-3] if b"\n." in raw else raw
        self.m = email.message_from_bytes(self.raw, policy=email.policy.default)
        self.text, self.status, *self.original = self.m.get_payload()
        self.words = " ".join(self.text.get_content().split())
        kind = self.status.get_content_type()
        self.utf8 = kind == "message/global-delivery-status"
        if self.utf8: # not known to the package: its fields are its lines
            at = self.raw.index(b"Content-Type: message/global-delivery-status")
            part = self.raw[self.raw.index(b"\r\n\r\n", at) + 4:]
            part = part[:part.index(b"\r\n--=_")]
            blocks = [email.message_from_bytes(b, policy=email.policy.SMTPUTF8) for b in part.split(b"\r\n\r\n") if b.strip()]
            self.defects = [d for b in blocks for d in b.defects]
        else:
            blocks = self.status.get_payload()
            self.defects = [d for b in blocks for d in b.defects]
        self.mta = {k.lower(): " ".join(str(v).split()) for k, v in blocks[0].items()}
        self.rcpts = [{k.lower(): " ".join(str(v).split()) for k, v in b.items()} for b in blocks[1:]]

    def of(self, address):
        found = [r for r in self.rcpts if r["final-recipient"].split("; ", 1)[1] == address]
        return found[0] if check(len(found) == 1, f"one block for {address}", self.rcpts) else {}


def reports(hop, to):
    """Those that were taken for this address, in order."""
    found = []
    for body in list(hop.bodies):
        if b"multipart/report" in body.split(b"\r\n\r\n", 1)[0]:
            if f"\r\nTo: <{to}>\r\n".encode() in body:
                found.append(Report(body))
    return found


def wait_for(hop, to, n=1, about=""):
    """At least n that say `about`."""
    def those():
        return [r for r in reports(hop, to) if about in r.words]
    check(until(lambda: len(those()) >= n), f"{n} reports come to {to} about {about}", [str(b[:300]) for b in hop.bodies])
    return those()


def recent(date):
    when = email.utils.parsedate_to_datetime(date)
    return abs(time.time() - when.timestamp()) < 600


def frame(r, what, sender, msgid):
    """What every report has."""
    m, kind = r.m, "global-delivery-status" if r.utf8 else "delivery-status"
    check(m.get_content_type() == "multipart/report" and m.get_param("report-type") == kind, what, "its type", m["content-type"])
    check(not m.defects and not r.defects and not r.text.defects, what, "no defects", m.defects, r.defects)
    check(m["auto-submitted"] == "auto-replied" and m["from"] == "Mail Delivery System <postmaster@example.com>" and m["mime-version"] == "1.0", what, m.items())
    check(m["message-id"].endswith("@mx.example.net>") and recent(m["date"]), what, m.items())
    check(r.text.get_content_type() == "text/plain" and "mail system at mx.example.net" in r.words and msgid in r.words, what, r.words)
    check(r.status.get_content_type() == f"message/{kind}", what, r.status.get_content_type())
    want = {"reporting-mta": "dns; mx.example.net", "received-from-mta": "dns; there.example ([127.0.0.1])", "x-waypost-id": msgid}
    check({k: v for k, v in r.mta.items() if k in want} == want and recent(r.mta["arrival-date"]), what, "the message's fields", r.mta)
    check(set(r.mta) <= {*want, "arrival-date", "original-envelope-id"}, what, "no others", r.mta)
    for one in r.rcpts:
        known = {"original-recipient", "final-recipient", "action", "status", "remote-mta", "diagnostic-code", "last-attempt-date", "will-retry-until"}
        check(set(one) <= known and re.fullmatch(r"[245]\.\d{1,3}\.\d{1,3}", one["status"]), what, one)
    check(not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", r.raw) and max(map(len, r.raw.split(b"\r\n"))) <= 998, what, "no controls, no endless line")
    check(r.utf8 or not re.search(rb"[\x80-\xff]", r.raw), what, "seven bits")
    check(b"\r\nBcc:" not in r.raw, what, "what a server says begins no line")


def failures():
    """Many recipients of one message, each refused in its own way: one report with all. (Had one been taken, a 552 would mean "the next transaction".)"""
    names = [n for n in REFUSALS if n.isascii()]
    to = [(f"{n}@example.com", f" NOTIFY=FAILURE,DELAY ORCPT=rfc822;{n.upper()}+2Bx@old.example") for n in names]
    msgid = send(relay, "ann@example.com", to, " RET=FULL ENVID=QQ+2B314159")
    r = wait_for(main, "ann@example.com")[0]
    frame(r, "failures", "ann@example.com", msgid)
    check(r.m["subject"] == "Your message could not be delivered" and r.m["to"] == "ann@example.com", r.m.items())
    check(r.mta.get("original-envelope-id") == "QQ+314159", "the envelope's id, decoded", r.mta)
    check(len(r.rcpts) == len(names) and len(reports(main, "ann@example.com")) == 1, "all who failed in one report, and no other", r.rcpts)
    for n in names:
        said, status, word = REFUSALS[n]
        one = r.of(f"{n}@example.com")
        check(one["action"] == "failed" and one["status"] == status, n, one)
        check(one["original-recipient"] == f"rfc822; {n.upper()}+x@old.example", n, one)
        check(one["remote-mta"].startswith("dns; 127.0.0.1") and recent(one["last-attempt-date"]) and "will-retry-until" not in one, n, one)
        check(one["diagnostic-code"].startswith(f"smtp; {said[:3].decode()} "), n, one)
        check(word in r.words, n, "in plain English", r.words)
    check(r.of("spam@example.com")["diagnostic-code"] == "smtp; 550 5.7.1 looks like spam to us, see http://hop.example/why", r.of("spam@example.com"))
    check("no such user here" in r.words and "ends" in r.of("hostile@example.com")["diagnostic-code"], "the server's words are quoted", r.words)
    check([p.get_content_type() for p in r.original] == ["message/rfc822"], "the whole message is returned", r.original)
    back = r.original[0].get_payload()[0]
    check(back["subject"] == "greetings" and back["x-mark"] == "here" and back.get_content().strip() == "hello there", "as it was", back)


def others():
    # Refused at the end: each of its recipients failed by that answer. RET=HDRS: only the header returns.
    msgid = send(relay, "ben@example.com", [("a@example.com", ""), ("b@example.com", "")], " RET=HDRS", b"Subject: large\r\nX-Refuse: 552\r\n\r\nsecret\r\n")
    r = wait_for(main, "ben@example.com")[0]
    frame(r, "too large", "ben@example.com", msgid)
    check([x["status"] for x in r.rcpts] == ["5.3.4"] * 2 and "larger than" in r.words and "original-recipient" not in r.rcpts[0], r.rcpts, r.words)
    check(r.original[0].get_content_type() == "text/rfc822-headers" and b"secret" not in r.raw and b"Subject: large" in r.raw, "the header only")

    # Who did not ask gets none; who asked only for success, when it failed, neither.
    before = relay.count()
    send(relay, "cleo@example.com", [("nobody@example.com", " NOTIFY=NEVER"), ("full@example.com", " NOTIFY=SUCCESS")])
    relay.settled(failed=before["failed"] + 2)
    check(relay.count()["reports"] == before["reports"], "NOTIFY=NEVER and NOTIFY=SUCCESS", relay.count())

    # No way leads to the sender: the postmaster gets it, and is told why.
    msgid = send(relay, "stranger@nowhere.example", [("nobody@example.com", "")])
    r = wait_for(main, "postmaster@example.com", 1, "stranger@nowhere.example")[0]
    frame(r, "no way back", "postmaster@example.com", msgid)
    check("No way leads from here to the sender of this message, <stranger@nowhere.example>" in r.words and r.m["subject"] == "A message could not be delivered", r.words)


def relayed():
    """What is asked for goes on to a hop with DSN, and is reported as relayed where it has none (RFC 3461 5.2)."""
    send(relay, "dora@example.com", [("ok@example.com", " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Ok+2Bx@old.example")], " RET=HDRS ENVID=e1")
    wanted = b"RCPT TO:<ok@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Ok+2Bx@old.example\r\n"
    check(until(lambda: wanted in main.said(b"RCPT")), "it goes on", main.said(b"RCPT"))
    check(any(b"RET=HDRS" in x and b"ENVID=e1" in x for x in main.said(b"MAIL")), main.said(b"MAIL")[-3:])

    msgid = send(relay, "dora@example.com", [("ok@plain.example", " NOTIFY=SUCCESS ORCPT=rfc822;ok@old.example"), ("quiet@plain.example", " NOTIFY=FAILURE"),
                                             ("usual@plain.example", "")], " RET=FULL ENVID=e2")
    got = wait_for(main, "dora@example.com")
    check(len(got) == 1, "the hop with DSN took the duty over", [str(r.rcpts) for r in got])
    r = got[0]
    frame(r, "relayed", "dora@example.com", msgid)
    check([(x["action"], x["status"], x["final-recipient"], x["original-recipient"]) for x in r.rcpts] ==
          [("relayed", "2.0.0", "rfc822; ok@plain.example", "rfc822; ok@old.example")], r.rcpts)
    check(r.mta["original-envelope-id"] == "e2" and "was handed on" in r.words and r.m["subject"] == "Your message was delivered", r.words)
    check(r.original[0].get_content_type() == "text/rfc822-headers", "of a success the header only, whatever RET says")
    check(all(b"ORCPT" not in x and b"NOTIFY" not in x for x in plain.said(b"RCPT")) and all(b"ENVID" not in x and b"RET=" not in x for x in plain.said(b"MAIL")),
          "nothing of it to a hop without", plain.lines)


def delayed():
    """Put off until it expires: one warning, then one failure, to an own sender; a stranger has only the failure."""
    msgid = send(relay, "emil@example.com", [("later@slow.example", ""), ("later2@slow.example", " NOTIFY=FAILURE")])
    send(relay, "far@plain.example.org", [("later@slow.example", "")])
    warning, failure = wait_for(main, "emil@example.com", 2)[:2]
    frame(warning, "delayed", "emil@example.com", msgid)
    check(warning.m["subject"] == "Your message is delayed" and "You need not send it again" in warning.words, warning.words)
    check([x["final-recipient"] for x in warning.rcpts] == ["rfc822; later@slow.example"], "who did not want it is not in it", warning.rcpts)
    one = warning.rcpts[0]
    check((one["action"], one["status"]) == ("delayed", "4.2.0"), one)
    # Noticed when an attempt failed, or between two.
    check((one["diagnostic-code"] == "smtp; 450 4.2.0 come back" and recent(one["last-attempt-date"])) if "diagnostic-code" in one
          else "answered 450 4.2.0" in warning.words, one, warning.words)
    arrived, until_when = (email.utils.parsedate_to_datetime(x) for x in (warning.mta["arrival-date"], one["will-retry-until"]))
    check(5 <= (until_when - arrived).total_seconds() <= 7, one)
    frame(failure, "expired", "emil@example.com", msgid)
    check(sorted(x["final-recipient"] for x in failure.rcpts) == ["rfc822; later2@slow.example", "rfc822; later@slow.example"], failure.rcpts)
    for one in failure.rcpts:
        check((one["action"], one["status"], one["diagnostic-code"]) == ("failed", "4.4.7", "smtp; 450 4.2.0 come back") and "will-retry-until" not in one, one)
    check("in the time that is given to a message" in failure.words, failure.words)
    check(len(reports(main, "emil@example.com")) == 2, "no other")
    mine = wait_for(main, "postmaster@example.com", 1, "far@plain.example.org")
    check([r.rcpts[0]["action"] for r in mine] == ["failed"], "a stranger is warned of nothing", [r.rcpts for r in mine])


def down():
    """Nobody is there: no attempt is made, and still the sender is told, once; also over a restart."""
    msgid = send(relay, "fritz@example.com", [("ok@dead.example", "")])
    r = wait_for(main, "fritz@example.com")[0]
    frame(r, "down", "fritz@example.com", msgid)
    check([(x["action"], x["status"]) for x in r.rcpts] == [("delayed", "4.4.1")] and "could be reached yet" in r.words and "remote-mta" not in r.rcpts[0], r.rcpts, r.words)
    relay.alive()
    relay.end()
    relay.start()
    msgid = send(relay, "gerd@example.com", [("ok@dead.example", "")]) # once it is warned of, the other would have been, too
    wait_for(main, "gerd@example.com")
    check(len(reports(main, "fritz@example.com")) == 1 and len(reports(main, "gerd@example.com")) == 1, "once, whatever restarts come between")
    story = subprocess.run([WAYPOST, "trace", msgid, "--socket", relay.dir + "/control.sock"], capture_output=True, text=True, timeout=20).stdout
    linked = re.search(r"notice as ([0-9A-Z]{26})", story)
    check(linked, "the story tells of the report", story)
    story = subprocess.run([WAYPOST, "trace", linked.group(1), "--socket", relay.dir + "/control.sock"], capture_output=True, text=True, timeout=20).stdout
    check(f"notice about {msgid}" in story and "delivered" in story, "and the report's of the message", story)


def utf8():
    """RFC 6533: to an address beyond ASCII a global report, to another the encoded forms."""
    to = [("j\u00f6rg@example.com", " ORCPT=utf-8;j\\x{F6}rg@alt.example")]
    msgid = send(relay, "\u00fcte@example.com", to, " SMTPUTF8")
    r = wait_for(main, "\u00fcte@example.com")[0]
    frame(r, "utf-8", "\u00fcte@example.com", msgid)
    check(r.utf8, "a global report", r.raw)
    one = r.of("j\u00f6rg@example.com")
    check((one["final-recipient"], one["original-recipient"]) == ("utf-8; j\u00f6rg@example.com", "utf-8; j\u00f6rg@alt.example"), one)
    check(any(x.startswith(b"MAIL FROM:<>") and b"SMTPUTF8" in x for x in main.said(b"MAIL")), "goes as such", main.said(b"MAIL"))

    msgid = send(relay, "udo@example.com", to, " SMTPUTF8")
    r = wait_for(main, "udo@example.com")[0]
    frame(r, "utf-8 encoded", "udo@example.com", msgid)
    check(not r.utf8, "an ordinary report", r.raw)
    one = r.of("j\\x{F6}rg@example.com")
    check((one["final-recipient"], one["original-recipient"]) == ("utf-8; j\\x{F6}rg@example.com", "utf-8; j\\x{F6}rg@alt.example"), one)

    # A hop without SMTPUTF8: the failure is ours, and is told.
    msgid = send(relay, "udo@example.com", [("\u00e4nne@plain.example", "")], " SMTPUTF8")
    r = wait_for(main, "udo@example.com", 2)[1]
    frame(r, "no smtputf8", "udo@example.com", msgid)
    check(r.rcpts[0]["status"] == "5.6.7" and "beyond ASCII" in r.words, r.rcpts, r.words)


def bounces():
    """bounce own and none; what is not told is in the log and counted. A report that fails is the postmaster's."""
    before = relay.count()
    send(relay, "stranger@nowhere.example", [("nobody@own.example", "")])
    send(relay, "hans@example.com", [("nobody@own.example", "")])
    send(relay, "hans@example.com", [("nobody@none.example", "")])
    wait_for(main, "hans@example.com")
    got = relay.settled(failed=before["failed"] + 3, reports_dropped=before["reports_dropped"] + 2)
    check(got["reports"] == before["reports"] + 1 and len(reports(main, "hans@example.com")) == 1, "only one of three is told", got)
    log = relay.log()
    check("bounce own" in log and "bounce none" in log and " dropped " in log, "with reasons")

    send(relay, "nobody@example.com", [("full@example.com", "")])
    r = wait_for(main, "postmaster@example.com", 1, "is a report of this mail system")[0]
    check(r.rcpts[0]["final-recipient"] == "rfc822; nobody@example.com", r.words)
    inner = Report(r.original[0].get_payload()[0].as_bytes(policy=email.policy.SMTP))
    check(inner.rcpts[0]["final-recipient"] == "rfc822; full@example.com", "with the report that failed", inner.rcpts)
    got = relay.settled(reports_dropped=got["reports_dropped"] + 1)
    check("a report of ours failed: the postmaster is told" in relay.log(), "with a line in the log")


main = Hop(refuses)
plain = Hop(refuses, offers=("PIPELINING", "8BITMIME"))
EXTRA = f"""delay_warning 2s
backend plain {{ server 127.0.0.1:{plain.port}; idle_timeout 1s }}
backend dead {{ server 127.0.0.1:{free_port()}; connect_timeout 2s }}
relay_domain plain.example {{ backend plain; recipients any }}
relay_domain slow.example {{ backend inside; recipients any; expire 6s }}
relay_domain dead.example {{ backend dead; recipients any; expire 1h }}
relay_domain own.example {{ backend inside; recipients any; bounce own }}
relay_domain none.example {{ backend inside; recipients any; bounce none }}
"""
with Relay(main, extra=EXTRA) as relay:
    for part in (failures, others, relayed, utf8, bounces, delayed, down):
        part()
    check(relay.process.poll() is None, "it lives")
done()
