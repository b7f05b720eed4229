"""Names against real servers: NSD with zones of ours, signed and not, and a server that lies; asked by `waypost dns` and by a relay in its
sandbox. WAYPOST_BUILD says where they are."""
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "attacks"))

import kit
from kit import Hop, Relay, WAYPOST, check, done
from servers import *

HEAD = """waypost 1
hostname mx.example.net
postmaster postmaster@example.com
listen smtp 127.0.0.1:25
spool {{ dir /nowhere }}
log {{ form text }}
backend none {{ server 127.0.0.1:25 }}
route default {{ via none }}
dns {{ {dns} }}
"""
MANY = "".join(f"many MX {i % 7} mx{i}.plain.test.\n" for i in range(200))
LONG = " ".join(f'"{chr(97 + i % 26) * 255}"' for i in range(240)) # 60 KB and more
PLAIN = f"""www A 192.0.2.1
www AAAA 2001:db8::1
only4 A 192.0.2.4
six AAAA 2001:db8::6
alias CNAME www
mail MX 20 mx2
mail MX 10 mx1
mail MX 20 mx3
mailalias CNAME mail
mx1 A 127.0.0.1
null MX 0 .
half MX 0 .
half MX 5 mx1
empty TXT "nothing but this"
txt TXT "v=spf1 " "-all"
txt TXT "second"
long TXT {LONG}
odd MX 10 mail\\032server
odd MX 20 mx1
odd MX 30 a\\.b
odd MX 40 \\000x
tlsa TLSA 3 1 1 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
_sip._tcp SRV 20 5 5060 sip2
_sip._tcp SRV 10 5 5061 sip1
_none._tcp SRV 0 0 0 .
short 1 A 192.0.2.7
loop1 CNAME loop2
loop2 CNAME loop1
{MANY}"""
SIGNED = """www A 192.0.2.1
forged A 192.0.2.2
forged AAAA 2001:db8::2
sub NS ns.sub
ns.sub A 127.0.0.1
alias CNAME www
away CNAME www.plain.test.
_25._tcp.www TLSA 3 1 1 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
mail MX 10 www
"""


confs = tempfile.TemporaryDirectory(prefix="waypost-dns-")


class Conf:
    def __init__(self, dns):
        self.file = tempfile.NamedTemporaryFile("w", suffix=".conf", dir=confs.name)
        self.file.write(HEAD.format(dns=dns))
        self.file.flush()

    def run(self, *args):
        return subprocess.run([WAYPOST, "dns", "-c", self.file.name, *args], capture_output=True, text=True, timeout=60)

    def ask(self, name, kind="addresses"):
        r = self.run("--json", name, kind)
        try:
            got = json.loads(r.stdout)
        except ValueError:
            check(False, "an answer", name, kind, r.returncode, r.stdout, r.stderr)
            return {"answer": "?", "stderr": r.stderr}
        check(r.returncode == (0 if got["answer"] == "ok" else 1), "the exit code", name, kind, r.returncode)
        got["stderr"] = r.stderr
        return got

    def expect(self, asked, kind, answer, records=None, **more):
        got = self.ask(asked, kind)
        ok = got["answer"] == answer and (records is None or got.get("records") == records) and all(got.get(k) == v for k, v in more.items())
        check(ok, f"{asked} {kind}: wanted", answer, records, more, "got", json.dumps(got)[:600])
        return got


signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)) # what we started ends with us
nsd = Nsd({"plain.test": PLAIN, "signed.test": SIGNED, "sub.signed.test": "host A 192.0.2.77\n", "costly.test": "www A 192.0.2.1\n",
           "2.0.192.in-addr.arpa": "1 PTR www.plain.test.\n1 PTR bad\\032name.plain.test.\n2 PTR one.plain.test.\n"},
          sign={"signed.test": [], "costly.test": ["-n", "-t", "2000", "-s", "abcdef"]},
          after={"signed.test": lambda text: re.sub(r"(?m)^(forged\S*\s.*\sA\s+)192\.0\.2\.2$", r"\g<1>192.0.2.66", text)})
silent = Liar(lambda packet, q, tcp: None)
dead = free_port()
stubs = "; ".join(f"stub {zone} 127.0.0.1:{nsd.port}" for zone in ("plain.test", "signed.test", "costly.test", "2.0.192.in-addr.arpa"))
base = f"hosts off; resolv_conf off; server 127.0.0.1:{dead}; timeout 5s; {stubs}; stub dead.test 127.0.0.1:{dead}; stub silent.test 127.0.0.1:{silent.port}"
anchors = nsd.anchor_file("signed.test", "costly.test")
conf = Conf(f"{base}; trust_anchor {anchors}")

# ---- what there is, and what there is not ----
conf.expect("www.plain.test", "addresses", "ok", ["2001:db8::1", "192.0.2.1"], secure=False, name="www.plain.test")
conf.expect("WWW.Plain.Test.", "addresses", "ok", ["2001:db8::1", "192.0.2.1"], name="www.plain.test")
conf.expect("only4.plain.test", "addresses", "ok", ["192.0.2.4"])
conf.expect("six.plain.test", "addresses", "ok", ["2001:db8::6"])
conf.expect("empty.plain.test", "addresses", "ok", [])
conf.expect("alias.plain.test", "addresses", "ok", ["2001:db8::1", "192.0.2.1"], name="www.plain.test")
conf.expect("nothere.plain.test", "addresses", "noname")
conf.expect("nothere.plain.test", "mx", "noname")
conf.expect("www.plain.test", "mx", "ok", [], note="")
got = conf.ask("mail.plain.test", "mx")
check(got["records"][0] == "10 mx1.plain.test" and sorted(got["records"][1:]) == ["20 mx2.plain.test", "20 mx3.plain.test"], "MX in order", got)
conf.expect("mailalias.plain.test", "mx", "ok", name="mail.plain.test")
conf.expect("null.plain.test", "mx", "ok", [], note="null MX: no mail is taken there")
conf.expect("half.plain.test", "mx", "ok", ["5 mx1.plain.test"])
conf.expect("txt.plain.test", "txt", "ok")
check(sorted(conf.ask("txt.plain.test", "txt")["records"]) == ["second", "v=spf1 -all"], "strings are joined")
conf.expect("tlsa.plain.test", "tlsa", "ok", ["3 1 1 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"])
conf.expect("_sip._tcp.plain.test", "srv", "ok", ["10 5 5061 sip1.plain.test", "20 5 5060 sip2.plain.test"])
conf.expect("_none._tcp.plain.test", "srv", "ok", [], note="there is no such service")
conf.expect("192.0.2.1", "ptr", "ok", ["www.plain.test"]) # and not the one with a blank in it
conf.expect("192.0.2.3", "ptr", "noname")
check(4 <= conf.ask("short.plain.test")["ttl"] <= 5, "a short time is lengthened")
check(50 <= conf.ask("alias.plain.test", "mx")["ttl"] <= 60, "nothing is kept as long as the SOA says", conf.ask("alias.plain.test", "mx"))
check(290 <= conf.ask("mail.plain.test", "mx")["ttl"] <= 300, "and something as long as it says itself")

# ---- attack class 49: large, truncated, odd ----
got = conf.ask("long.plain.test", "txt")
check(got["answer"] == "ok" and len(got["records"]) == 1 and len(got["records"][0]) == 240 * 255, "60 KB of TXT come by TCP", len(str(got)))
got = conf.ask("many.plain.test", "mx")
check(got["answer"] == "ok" and len(got["records"]) == 100 and got["records"][0].startswith("0 ") and "100 more" in got["note"], "200 MX are 100", got)
order = [int(r.split()[0]) for r in got["records"]]
check(order == sorted(order), "by preference", order)
conf.expect("odd.plain.test", "mx", "ok", ["20 mx1.plain.test"], note="3 more, of no use")
conf.expect("loop1.plain.test", "addresses", "again")


def lies(answer, tcp=False, kind="mx", want="again"):
    liar = Liar(answer, tcp)
    Conf(f"hosts off; resolv_conf off; server 127.0.0.1:{dead}; timeout 3s; dnssec off; stub liar.test 127.0.0.1:{liar.port}").expect("x.liar.test", kind, want)
    asked = len(liar.asked)
    liar.end()
    check(asked > 0, "the liar was asked")


me = b"\xc0\x0c" # the name asked for
mx = struct.pack("!H", 10) + name_wire("mx.liar.test")
lies(lambda p, q, tcp: packet_of(p, q, [(me, 15, 60, mx)]), want="ok") # that it can be understood at all
lies(lambda p, q, tcp: packet_of(p, q, [(me, 15, 60, mx)], identity=struct.unpack("!H", p[:2])[0] ^ 1))
lies(lambda p, q, tcp: packet_of(p, q, [(me, 15, 60, mx)], wire=name_wire("y.liar.test") + q.wire[-4:]))
lies(lambda p, q, tcp: packet_of(p, q, [(b"\xc0" + bytes([12 + len(q.wire)]), 15, 60, mx)]))                  # a name that points at itself
lies(lambda p, q, tcp: packet_of(p, q, [(me, 15, 60, struct.pack("!H", 10) + b"\xff\xff")]))                  # into nothing
lies(lambda p, q, tcp: packet_of(p, q, [(me, 15, 60, mx, 4000)]))                                            # RDLENGTH beyond the packet
lies(lambda p, q, tcp: packet_of(p, q, [(me, 15, 60, mx, 1)]))                                               # and within
lies(lambda p, q, tcp: packet_of(p, q, [(me, 15, 60, b"")]))
lies(lambda p, q, tcp: packet_of(p, q, [(me, 15, 60, mx)], counts=(60000, 60000, 60000)))
lies(lambda p, q, tcp: packet_of(p, q, flags=0x8780))                                                        # truncated, and TCP is refused
lies(lambda p, q, tcp: packet_of(p, q, flags=0x8780) if not tcp else p[:7], tcp=True)                        # or ends early
lies(lambda p, q, tcp: packet_of(p, q, rcode=5))
lies(lambda p, q, tcp: packet_of(p, q, rcode=1))
lies(lambda p, q, tcp: p[:2] + b"\xff" * 40)
lies(lambda p, q, tcp: packet_of(p, q, [(me, 16, 60, b"\x05abc")]), kind="txt")                              # a string longer than its record
lies(lambda p, q, tcp: packet_of(p, q, [(me, 1, 60, b"\x7f")]) if q.type == 1 else packet_of(p, q, rcode=2), kind="addresses")
lies(lambda p, q, tcp: packet_of(p, q, authority=[soa("liar.test")], rcode=3), want="noname")                # what NXDOMAIN looks like, for comparison
lies(lambda p, q, tcp: packet_of(p, q, authority=[soa("liar.test")]), want="ok")                             # and NODATA

# ---- attack class 52: no such name, and nobody to ask, are two things ----
conf.expect("www.dead.test", "addresses", "again")
conf.expect("www.dead.test", "mx", "again")
began = time.monotonic()
conf.expect("www.silent.test", "mx", "again", text="MX of www.silent.test: no answer within 5 s")
check(time.monotonic() - began < 60, "and it ends")
conf.expect("unknown.example", "mx", "again") # the one resolver is dead
conf.expect("a..b", "mx", "syntax")
conf.expect("192.0.2.1", "addresses", "syntax")

# ---- DNSSEC ----
conf.expect("www.signed.test", "addresses", "ok", ["192.0.2.1"], secure=True)
conf.expect("alias.signed.test", "addresses", "ok", ["192.0.2.1"], secure=True, name="www.signed.test")
conf.expect("away.signed.test", "addresses", "ok", ["2001:db8::1", "192.0.2.1"], secure=False, name="www.plain.test")
conf.expect("mail.signed.test", "mx", "ok", ["10 www.signed.test"], secure=True)
conf.expect("_25._tcp.www.signed.test", "tlsa", "ok", secure=True)
conf.expect("_26._tcp.www.signed.test", "tlsa", "noname")
conf.expect("www.signed.test", "mx", "ok", [], secure=True)
conf.expect("host.sub.signed.test", "addresses", "ok", ["192.0.2.77"], secure=False) # proven to be unsigned
conf.expect("forged.signed.test", "addresses", "ok", ["2001:db8::2"], secure=False, note="A: bogus")
forged = nsd.anchor_file("signed.test")
with open(forged) as f: # a key that never signed anything
    text = f.read()
key = text.split("13 ", 1)[1][:8]
with open(forged, "w") as f:
    f.write(text.replace(key, key[::-1]))
wrong = Conf(f"{base}; dnssec on; trust_anchor {forged}")
wrong.expect("www.signed.test", "addresses", "bogus")
wrong.expect("www.signed.test", "mx", "bogus")
wrong.expect("www.plain.test", "addresses", "ok", secure=False)
Conf(f"{base}; dnssec off").expect("forged.signed.test", "addresses", "ok", secure=False)
Conf(f"{base}; dnssec on; insecure signed.test; trust_anchor {nsd.anchor_file('costly.test')}").expect("www.signed.test", "addresses", "ok", secure=False)
for path, why in (("/nowhere/keys", "No such file"), ("/dev/null", "no DNSKEY or DS record")):
    r = Conf(f"{base}; trust_anchor {path}").run("www.plain.test")
    check(r.returncode == 2 and why in " ".join(r.stderr.split()), "trust anchors that are none", r.returncode, r.stderr)
with tempfile.NamedTemporaryFile("w") as f: # what looks like one, and libunbound will not have
    f.write("signed.test. IN DNSKEY x y z\n")
    f.flush()
    got = Conf(f"{base}; trust_anchor {f.name}").ask("www.plain.test")
    check(got["answer"] == "io" and "trust_anchor" in got["text"], "a key that is none", got)

# ---- attack class 50: proofs that cost more than they are worth count as unsigned, and cost nothing ----
began = time.monotonic()
conf.expect("nothere.costly.test", "mx", "noname")
conf.expect("www.costly.test", "mx", "ok", [], secure=False)
check(time.monotonic() - began < 30, "soon")

# ---- resolvers that hand on no signatures ----
def strip(packet, q, tcp):
    if q.type == 1:
        return packet_of(packet, q, [(me, 1, 60, bytes([192, 0, 2, 9]))], flags=0x8180)
    return packet_of(packet, q, authority=[soa("signed.test")], flags=0x8180)


stripper = Liar(strip)
bare = f"hosts off; resolv_conf off; server 127.0.0.1:{stripper.port}; trust_anchor {nsd.anchor_file('signed.test')}; timeout 10s"
got = Conf(bare).expect("www.signed.test", "addresses", "ok", ["192.0.2.9"], secure=False)
check("dnssec_off" in got["stderr"], "and it is said", got)
Conf(bare + "; dnssec on").expect("www.signed.test", "addresses", "bogus")
Conf(bare + "; dnssec on").expect("single", "addresses", "ok", ["192.0.2.9"], secure=False)
Conf(bare + "; dnssec on").expect("mailbox.lan", "addresses", "ok", ["192.0.2.9"], secure=False)
Conf(bare + "; dnssec on").expect("other.test", "addresses", "ok", ["192.0.2.9"], secure=False)

# ---- the system's files ----
with tempfile.TemporaryDirectory() as d:
    with open(f"{d}/hosts", "w") as f:
        f.write("192.0.2.200 box.example www.plain.test # ours\n2001:db8::200\tBOX.example\nnonsense\nfe80::1%lo scoped\n")
    with open(f"{d}/resolv.conf", "w") as f:
        f.write(f"search example\nnameserver fe80::1%lo\nnameserver 127.0.0.1\n")
    own = Conf(f"hosts {d}/hosts; resolv_conf off; server 127.0.0.1:{dead}; {stubs}")
    own.expect("box.example", "addresses", "ok", ["2001:db8::200", "192.0.2.200"], note="from this machine, not from DNS")
    own.expect("www.plain.test", "addresses", "ok", ["192.0.2.200"])
    own.expect("localhost", "addresses", "ok", ["::1", "127.0.0.1"])
    r = own.run("box.example")
    check(r.returncode == 0 and "192.0.2.200" in r.stdout and "insecure" in r.stdout, "as text", r.stdout, r.stderr)
r = conf.run("nothere.plain.test", "mx")
check(r.returncode == 1 and "noname: there is no name nothere.plain.test" in r.stderr, "as text", r.stdout, r.stderr)
for args in ((), ("a.example", "cname"), ("a.example", "mx", "more"), ("a.example", "--server", "x"), ("a.example", "--timeout", "x"), ("x", "ptr")):
    r = conf.run(*args)
    check(r.returncode == 2 and r.stderr, "usage", args, r.returncode, r.stderr)

# ---- a relay, in its sandbox: it has other files and calls than we have ----
def relay_with(dns, host, hop, **more):
    return Relay(None, extra=f"backend named {{ server {host}:{hop.port}; max_connections 1; idle_timeout 1s }}\n"
                             f"relay_domain named.example {{ backend named; recipients any }}\ndns {{ {dns} }}\n" + ("user nobody\n" if os.geteuid() == 0 else ""), **more)


to = ("bob@named.example",)
hop = Hop()
with relay_with(f"resolv_conf off; server 127.0.0.1:{dead}; {stubs}; trust_anchor {anchors}", "mx1.plain.test", hop) as relay:
    check(relay.send(to=to).startswith("250"), "taken")
    relay.settled(delivered=1)
    relay.alive()
with relay_with(f"resolv_conf off; server 127.0.0.1:{dead}", "localhost", hop) as relay:
    relay.send(to=to)
    relay.settled(delivered=1)

# The name server is away, the name is not there: the mail waits, nobody is told it failed; then all is well, and it goes.
nsd.stop()
conf.expect("www.plain.test", "addresses", "again")
with relay_with(f"resolv_conf off; server 127.0.0.1:{dead}; {stubs}; timeout 2s", "mx1.plain.test", hop) as relay:
    relay.send(to=to, rcpt_params="")
    wait_said(relay.dir + "/relay.log", "lane_frozen")
    check(relay.count().get("failed", 0) == 0 and "mx1.plain.test" in relay.waits(), "the mail waits, with its reason", relay.waits(), relay.log()[-2000:])
    nsd.start()
    relay.settled(delivered=1)
with relay_with(f"resolv_conf off; server 127.0.0.1:{dead}; {stubs}", "nothere.plain.test", hop) as relay:
    relay.send(to=to, rcpt_params="")
    wait_said(relay.dir + "/relay.log", "lane_down")
    check(relay.count().get("failed", 0) == 0 and "there is no name" in relay.waits(), "the mail waits, with its reason", relay.waits())
    with open(relay.conf) as f:
        text = f.read()
    # And a reload brings another view of the world.
    other = Liar(lambda p, q, tcp: packet_of(p, q, [(me, 1, 60, bytes([127, 0, 0, 1]))] if q.type == 1 else [], authority=[soa("plain.test")] if q.type != 1 else []))
    with open(relay.conf, "w") as f:
        f.write(text.replace(f"stub plain.test 127.0.0.1:{nsd.port}", f"stub plain.test 127.0.0.1:{other.port}"))
    r = subprocess.run([WAYPOST, "reload", "--socket", relay.dir + "/control.sock"], capture_output=True, text=True, timeout=60)
    check(r.returncode == 0, "reload", r.stdout, r.stderr)
    relay.settled(delivered=1)
    other.end()
    # A reload whose resolver cannot be opened changes nothing.
    with open(relay.conf, "w") as f:
        f.write(text.replace("dns {", "dns { trust_anchor /nowhere/keys;"))
    r = subprocess.run([WAYPOST, "reload", "--socket", relay.dir + "/control.sock"], capture_output=True, text=True, timeout=60)
    check(r.returncode == 2 and "trust anchor" in r.stdout + r.stderr, "a reload that cannot be", r.returncode, r.stdout, r.stderr)
    relay.alive()
hop.close()
nsd.end()
for s in (silent, stripper):
    s.end()
done()
