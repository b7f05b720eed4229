"""Next hops of other kinds, and mail that its own way does not take: LMTP (the sink's, and Dovecot's own), Unix sockets, unknown_to, fallback,
cut_through; on the built relay.

    hops.py [NAME ...]      only these: lmtp dies chunks sockets dovecot unknown fallback recoded cut settings"""
import glob
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "attacks"))
from kit import *  # noqa: E402

DOVECOT = "/usr/sbin/dovecot"


class Sink:
    """`waypost sink`; what it took is had by taken()."""

    def __init__(self, *options, listen="127.0.0.1:0"):
        self.dir = tempfile.mkdtemp(prefix="waypost-hops-sink-")
        self.p = subprocess.Popen([WAYPOST, "sink", "-l", listen, "--json", "--capture", self.dir, *options], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        self.at = self.p.stderr.readline().split("listening on ")[1].split()[0]
        if listen.startswith("unix:"):
            os.chmod(listen[5:], 0o666) # the relay may be another user

    def taken(self):
        """Recipients of each message."""
        found = []
        for name in sorted(glob.glob(self.dir + "/*.eml")):
            with open(name, errors="replace") as f:
                found.append(sorted(line.split("X-Sink-To: ")[1].strip().strip("<>") for line in f if line.startswith("X-Sink-To: ")))
        return found

    def everybody(self):
        return sorted(r for one in self.taken() for r in one)

    def end(self):
        if self.p.poll() is None:
            self.p.terminate()
        self.p.communicate(timeout=PATIENCE)
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def domain(name, settings, more=""):
    return f"backend {name} {{ {settings}; max_connections 1; idle_timeout 1s }}\nrelay_domain {name}.example {{ backend {name}; recipients any{more} }}\n"


def ask(relay, *words):
    r = subprocess.run([WAYPOST, *words, "--socket", relay.dir + "/control.sock"], capture_output=True, text=True, timeout=60)
    return r.stdout + r.stderr


def test_lmtp():
    """Each recipient is settled by its own answer, whatever the others are told."""
    with Sink("--lmtp", "--fail-dot", "full*:452:over quota", "--fail-dot", "no*:550:not wanted", "--fail-rcpt", "absent*:550:no such user") as sink:
        with Relay(None, retry="1h", extra=domain("box", f"server lmtp:{sink.at}; health ehlo every 1s")) as relay:
            check(relay.send(to=[f"{w}@box.example" for w in ("ann", "full", "no", "absent", "bob")]).startswith("250"), "mail goes in")
            relay.settled(delivered=2, deferred=1, failed=2)
            check(sink.taken() == [["ann@box.example", "bob@box.example"]], "two have it", sink.taken())
            check("452" in relay.waits() and "full" in ask(relay, "queue", "show", relay.waits().split()[-1]) or "452" in relay.waits(), "one waits", relay.waits())
            blast = subprocess.run([WAYPOST, "blast", f"127.0.0.1:{relay.port}", "--mails", "400", "--sessions", "10", "--rcpt", "3", "--json", "--to", "u%d@box.example"],
                                   capture_output=True, text=True, timeout=120)
            check(json.loads(blast.stdout)["messages"] == 400, "a flood", blast.stdout, blast.stderr)
            got = relay.settled(delivered=1202)
            check(got["failed"] == 2 and got["deferred"] == 1 and got["unknown"] == 0, "answers meet their recipients in a pipeline, too", got)
            check(len(set(sink.everybody())) == 1202, "and each has it once", len(sink.everybody()))
            said = ask(relay, "explain", "rcpt", "ann@box.example")
            check("by LMTP" in said, "explain tells the protocol", said)
            lines = [json.loads(line) for line in ask(relay, "backend", "list", "--json").splitlines()]
            check([s["protocol"] for s in lines if s["backend"] == "box"] == ["lmtp"] and all(s["state"] == "in" for s in lines if s["backend"] == "box"),
                  "the probes are answered", lines)
            relay.alive()
    # An SMTP server where LMTP is expected is a server's fault, and nobody's mail is lost by it.
    with Sink() as sink, Relay(None, extra=domain("box", f"server lmtp:{sink.at}")) as relay:
        check(relay.send(to=["ann@box.example"]).startswith("250"), "mail goes in")
        check(until(lambda: "LHLO was answered with 500" in relay.log()), "it says so", relay.log()[-1000:])
        check("LHLO" in relay.waits() or until(lambda: "LHLO" in relay.waits()), "and the mail waits", relay.waits())


def test_dies():
    """A line that dies behind some of the answers leaves the others unknown, and nobody else."""
    with Sink("--lmtp", "--close", "dot:2") as sink:
        with Relay(None, extra=domain("box", f"server lmtp:{sink.at}")) as relay:
            relay.send(to=[f"u{i}@box.example" for i in range(4)])
            got = relay.settled(delivered=2, unknown=2)
            check(got["failed"] == 0 and got["deferred"] == 0, "nothing else", got)
            check(sink.taken() == [["u0@box.example", "u1@box.example"]], "the first two have it", sink.taken())
            check("may have been delivered" in relay.waits(), "the others wait for long", relay.waits())


def test_chunks():
    """Binary mail goes by BDAT: one answer a chunk, and one for each recipient behind the last."""
    body = b"Subject: x\r\nContent-Transfer-Encoding: binary\r\n\r\n" + bytes(range(256)) * 2000
    with Sink("--lmtp", "--fail-dot", "no*:554:not wanted") as sink:
        with Relay(None, extra=domain("box", f"server lmtp:{sink.at}")) as relay:
            said = relay.send(body, to=["ann@box.example", "no@box.example", "bob@box.example"], params=" BODY=BINARYMIME", bdat=True)
            check(said.startswith("250"), "mail goes in", said)
            relay.settled(delivered=2, failed=1)
            check(sink.taken() == [["ann@box.example", "bob@box.example"]], "two have it", sink.taken())
            with open(glob.glob(sink.dir + "/*.eml")[0], "rb") as f:
                check(f.read().endswith(body), "octet by octet")


def test_sockets():
    """A next hop behind a Unix socket, by either protocol."""
    dir = tempfile.mkdtemp(prefix="waypost-hops-")
    os.chmod(dir, 0o755)
    try:
        with Sink("--lmtp", listen=f"unix:{dir}/lmtp") as one, Sink(listen=f"unix:{dir}/smtp") as two:
            with Relay(None, extra=domain("one", f"server lmtp:unix:{dir}/lmtp") + domain("two", f"server unix:{dir}/smtp")) as relay:
                relay.send(to=["ann@one.example", "bob@two.example"])
                relay.settled(delivered=2)
                check(one.everybody() == ["ann@one.example"] and two.everybody() == ["bob@two.example"], "each has its own", one.taken(), two.taken())
                said = ask(relay, "backend", "list")
                check(f"unix:{dir}/lmtp " in said, "no port is told", said)
                check("gets no further" in ask(relay, "backend", "drain", "one", f"unix:{dir}/lmtp"), "it can be named")
    finally:
        shutil.rmtree(dir)


def test_dovecot():
    """The real thing: Dovecot's LMTP service, with two users, one of them over quota."""
    if os.geteuid() != 0 or not os.path.exists(DOVECOT) or not os.path.exists("/usr/lib/dovecot/lmtp"):
        print("hops: Dovecot's LMTP is not tried (needs root and the package dovecot-lmtpd)")
        return
    dir = tempfile.mkdtemp(prefix="waypost-dovecot-")
    os.chmod(dir, 0o755)
    os.mkdir(dir + "/home")
    os.chown(dir + "/home", 65534, 65534)
    with open(dir + "/users", "w") as f:
        for user in ("ann", "bob", "full"):
            f.write(f"{user}@box.example:{{PLAIN}}x:65534:65534::{dir}/home/{user}::" + ("userdb_quota_rule=*:bytes=1" if user == "full" else "") + "\n")
    with open(dir + "/conf", "w") as f:
        f.write(f"""base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/log
instance_name = waypost-test
protocols = lmtp
listen = 127.0.0.1
ssl = no
first_valid_uid = 0
mail_location = maildir:~/mail
mail_plugins = quota
plugin {{
  quota = maildir:User quota
  quota_grace = 0
}}
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
passdb {{
  driver = passwd-file
  args = {dir}/users
}}
userdb {{
  driver = passwd-file
  args = {dir}/users
}}
service lmtp {{
  user = root
  unix_listener {dir}/lmtp {{
    mode = 0666
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
protocol lmtp {{
  postmaster_address = postmaster@box.example
}}
""")
    dovecot = subprocess.Popen([DOVECOT, "-F", "-c", dir + "/conf"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def log():
        try:
            with open(dir + "/log") as f:
                return f.read()
        except OSError:
            return ""

    def mails(user):
        found = []
        for name in glob.glob(f"{dir}/home/{user}/mail/new/*"):
            with open(name, "rb") as f:
                found.append(f.read())
        return found
    try:
        check(until(lambda: os.path.exists(dir + "/lmtp") or dovecot.poll() is not None) and dovecot.poll() is None, "Dovecot starts", log())
        with Relay(None, retry="1h", extra=domain("box", f"server lmtp:unix:{dir}/lmtp; health ehlo every 1s")) as relay:
            body = b"Subject: to all\r\n\r\n..dot\r\nline\r\n"
            relay.send(body, to=[f"{w}@box.example" for w in ("ann", "full", "nobody", "bob")])
            got = relay.settled(delivered=2, failed=1)
            check(until(lambda: sum(relay.count().get(k, 0) for k in ("delivered", "failed", "deferred")) == 4), "all four are settled", got, log(), relay.log()[-2000:])
            for user in ("ann", "bob"):
                got = mails(user)
                check(len(got) == 1 and b"\n.dot\nline\n" in got[0].replace(b"\r\n", b"\n"), f"{user} has it", got, log())
            check(mails("full") == [], "who is over quota has not", relay.log()[-1500:])
            check(until(lambda: "nobody@box.example" in relay.log() and "5.1.1" in relay.log()), "who is unknown is", relay.log()[-1500:])
            for i in range(30):
                relay.send(b"Subject: %d\r\n\r\nx\r\n" % i, to=["ann@box.example", "bob@box.example"])
            check(until(lambda: relay.count().get("delivered") == 62), "and many more", relay.count(), log()[-1000:])
            check(until(lambda: len(mails("ann")) == 31 and len(mails("bob")) == 31), "each once", len(mails("ann")), len(mails("bob")))
            relay.alive()
    finally:
        dovecot.terminate()
        dovecot.communicate(timeout=PATIENCE)
        shutil.rmtree(dir)


def nobody_but(head):
    """Options of a sink that knows whose address begins so."""
    return [o for i, c in enumerate(head) for o in ("--fail-rcpt", f"{'?' * i}[!{c}]*:550:no such user")]


def test_unknown():
    """Whom the new server does not know the old one gets, once; and what that says holds."""
    with Sink("--fail-rcpt", "old*:550:no such user", "--fail-rcpt", "none*:550:nobody", "--fail-rcpt", "policy*:554:not from you") as new, \
            Sink("--fail-rcpt", "none*:550:no such user either") as old:
        extra = f"backend former {{ server {old.at} }}\n" + domain("new", f"server {new.at}", "; unknown_to former")
        with Relay(None, extra=extra) as relay:
            relay.send(to=[f"{w}@new.example" for w in ("ann", "old1", "policy", "none", "old2", "bob")])
            got = relay.settled(delivered=4, failed=2, handed_on=3)
            check(got["failed"] == 2 and got["deferred"] == 0, "nobody else fails", got)
            check(new.taken() == [["ann@new.example", "bob@new.example"]], "the new one has its own", new.taken())
            check(old.taken() == [["old1@new.example", "old2@new.example"]], "the old one the others, in one message", old.taken())
            check(until(lambda: relay.count().get("handed_on") == 3), "each is handed on once", relay.count())
            said = ask(relay, "trace", "old1@new.example")
            check("handed_on" in said.replace(" ", "_") and "on to former" in said, "the trace tells", said)
            said = ask(relay, "explain", "rcpt", "x@new.example")
            check("unknown_to" in said and "former" in said, "and explain", said)
            refused = until(lambda: len(lines := [line for line in relay.log().splitlines() if " failed " in line]) == 2 and lines) or []
            check(len(refused) == 2 and any("none@" in line and "either" in line for line in refused) and any("policy@" in line for line in refused),
                  "a refusal for another reason is final", refused)
            relay.alive()
    # The other one is down: the mail waits there, and asks nobody twice.
    with Sink("--fail-rcpt", "old*:550:no such user") as new:
        with Relay(None, extra=f"backend former {{ server 127.0.0.1:{free_port()} }}\n" + domain("new", f"server {new.at}", "; unknown_to former")) as relay:
            relay.send(to=["old1@new.example"])
            relay.settled(handed_on=1)
            check(until(lambda: "former" in ask(relay, "queue", "list", "--json")), "it waits there", relay.waits())
            # After a restart the first is asked again: by then it may know.
            relay.killed()
            new.end()
            with Sink(listen=new.at) as again:
                relay.start()
                relay.settled(delivered=1)
                check(again.everybody() == ["old1@new.example"], "after a restart the first is asked again", again.taken())
    with Sink(*nobody_but("ann")) as new, Sink(*nobody_but("old")) as old:
        extra = f"backend former {{ server {old.at} }}\nbackend new {{ server {new.at} }}\nrelay_domain new.example {{ backend new; unknown_to former; recipients {{ callout }} }}\n"
        with Relay(None, extra=extra) as relay:
            said = [relay.send(to=[f"{w}@new.example"])[:3] for w in ("ann", "old1", "none")]
            check(said == ["250", "250", "550"], "a callout asks both", said)
            relay.settled(delivered=2)
    with Sink() as new, Sink() as old:
        extra = f"backend former {{ server {old.at} }}\nbackend new {{ server {new.at} }}\nrelay_domain new.example {{ backend new; unknown_to former; recipients {{ callout }} }}\n"
        with Relay(None, extra=extra) as relay:
            said = relay.send(to=["ann@new.example"])
            check(said.startswith("451"), "two that take anybody say nothing of anybody", said)


def test_fallback():
    """What its own way does not take for too long goes another way; what is refused for good does not."""
    with Sink() as hub:
        dead = free_port()
        extra = f"backend hub {{ server {hub.at} }}\n" + domain("down", f"server 127.0.0.1:{dead}; connect_timeout 1s", "; fallback hub after 0s")
        with Relay(None, extra=extra) as relay:
            relay.send(to=["ann@down.example", "bob@down.example"])
            relay.settled(delivered=2, handed_on=1)
            check(hub.everybody() == ["ann@down.example", "bob@down.example"], "a dead server's mail goes there", hub.taken())
            check("fallback hub" in ask(relay, "trace", "@down.example") + relay.log(), "the log tells", relay.log()[-1000:])
            said = ask(relay, "explain", "rcpt", "x@down.example")
            check("fallback" in said and "hub" in said, "and explain", said)
            # An operator who closes a lane wants its mail to wait.
            said = ask(relay, "queue", "suspend", "--lane", "down", "--for", "1h", "--reason", "repair")
            relay.send(to=["carl@down.example"])
            check(until(lambda: "repair" in relay.waits()) and "carl@down.example" not in hub.everybody(), "a suspended lane keeps its mail", said, relay.waits())
            relay.alive()
    with Sink("--fail-rcpt", "late*:450:later", "--fail-rcpt", "no*:550:never") as slow, Sink() as hub:
        extra = f"backend hub {{ server {hub.at} }}\n" + domain("slow", f"server {slow.at}", "; fallback hub after 2s")
        with Relay(None, extra=extra) as relay:
            relay.send(to=["late@slow.example", "no@slow.example", "ann@slow.example"])
            got = relay.settled(delivered=2, failed=1)
            check(got["deferred"] >= 1 and got["handed_on"] == 1, "it is tried before", got)
            check(slow.everybody() == ["ann@slow.example"] and hub.everybody() == ["late@slow.example"], "each where it belongs", slow.taken(), hub.taken())


def reports(relay):
    return relay.count().get("reports", 0) + relay.count().get("reports_dropped", 0)


def test_recoded():
    """A hop without 8BITMIME gets what is 8-bit re-encoded, in little or in much (that is not done on the thread): the same octets in the end."""
    import email
    import smtplib
    with Sink("--no-8bitmime") as sink:
        with Relay(None, retry="1h", extra=domain("old", f"server {sink.at}")) as relay:
            texts = {n: "".join(f"Zeile {i}: größer\r\n" for i in range(n)) for n in (3, 100000)}
            with smtplib.SMTP("127.0.0.1", relay.port) as s:
                for n, text in texts.items():
                    body = f"Subject: {n}\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{text}"
                    s.sendmail("ann@there.example", ["bob@old.example"], body.encode(), mail_options=["BODY=8BITMIME"])
            relay.settled(delivered=2)
            got = {}
            for name in glob.glob(sink.dir + "/*.eml"):
                with open(name, "rb") as f:
                    m = email.message_from_bytes(f.read())
                check(max(m.as_bytes()) < 128, "seven bits", name)
                got[int(m["Subject"])] = m.get_payload(decode=True).decode().replace("\r\n", "\n")
            check(got == {n: t.replace("\r\n", "\n") for n, t in texts.items()}, "and the same text", {n: len(t) for n, t in got.items()})


def test_cut():
    """The client hears what the backend says of its message, if that comes in time; and nobody gets a report of it."""
    with Sink("--reject", "dot:554:we do not like it") as no, Sink("--reject", "dot:451:not now") as later, Sink() as yes, \
            Sink("--delay", "dot:3s", "--reject", "dot:554:too late") as slow, Sink("--lmtp", "--fail-dot", "no*:550:not for me") as box:
        extra = "".join(domain(name, f"server {s.at}", f"; cut_through {length}") for name, s, length in
                        [("no", no, "20s"), ("later", later, "20s"), ("yes", yes, "20s"), ("slow", slow, "1s")])
        extra += domain("box", f"server lmtp:{box.at}", "; cut_through 20s") + domain("both", f"server {no.at}", "; cut_through 20s; unknown_to yes")
        with Relay(None, retry="1h", extra=extra) as relay:
            for bdat in (False, True):
                said = relay.send(to=["ann@no.example", "bob@no.example"], rcpt_params="", bdat=bdat)
                check(said.startswith("554 5.0.0 we do not like it [ref "), "the refusal is the client's", said)
            got = relay.settled(failed=4, cut_through_refused=2)
            check("cut_through: its client was told" in ask(relay, "trace", "ann@no.example"), "the trace tells", ask(relay, "trace", "ann@no.example"))
            check(reports(relay) == 0, "and nobody else is told", got)
            check(relay.send(to=["ann@yes.example"], rcpt_params="").startswith("250 2.0.0 queued as"), "taken")
            check(yes.everybody() == ["ann@yes.example"], "it is there before the answer", yes.taken())
            check(relay.send(to=["ann@later.example"], rcpt_params="").startswith("250"), "a failure for now is no refusal")
            check(relay.send(to=["ann@slow.example"], rcpt_params="").startswith("250"), "one that takes too long is not waited for")
            relay.settled(failed=5, cut_through_late=1)
            check(until(lambda: reports(relay) == 1), "and its sender gets a report", relay.count(), relay.log()[-1000:])
            # Some are refused: taken, and a report about those.
            check(relay.send(to=["ann@box.example", "no@box.example"], rcpt_params="").startswith("250"), "mixed")
            relay.settled(failed=6)
            check(until(lambda: reports(relay) == 2), "a report about one", relay.count())
            said = relay.send(to=["no1@box.example", "no2@box.example"], rcpt_params="")
            check(said.startswith("550 5.0.0 not for me"), "all are refused", said)
            check(reports(relay) == 2, "and told")
            # Two ways: nobody can answer for both.
            check(relay.send(to=["ann@no.example", "ann@yes.example"], rcpt_params="").startswith("250"), "two ways")
            check(until(lambda: reports(relay) == 3), "a report about the one that was refused", relay.count())
            # The client leaves without its answer: an ordinary message.
            with socket.create_connection(("127.0.0.1", relay.port), timeout=PATIENCE) as s:
                s.sendall(b"EHLO there.example\r\nMAIL FROM:<ann@there.example>\r\nRCPT TO:<gone@slow.example>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n")
                until(lambda: "gone@slow.example" in relay.log())
            check(until(lambda: reports(relay) == 4), "its sender gets a report", relay.count())
            # What the session said before does not wait with its answer, and what the client says next is heard behind it.
            with socket.create_connection(("127.0.0.1", relay.port), timeout=PATIENCE) as s, s.makefile("rb") as f:
                s.sendall(b"EHLO there.example\r\nMAIL FROM:<ann@there.example>\r\nRCPT TO:<ann@no.example>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\nNOOP\r\nQUIT\r\n")
                lines = [line for line in f.read().decode().splitlines() if line[3:4] == " "]
            check([line[:3] for line in lines] == ["220", "250", "250", "250", "354", "554", "250", "221"], "in a pipeline", lines)
            said = ask(relay, "explain", "rcpt", "x@no.example")
            check("cut_through" in said and "20.0 s" in said or "20s" in said, "explain tells", said)
            queue = [json.loads(line) for line in ask(relay, "queue", "list", "--json").splitlines()]
            check(all(m["domain"] == "later.example" or m["sender_domain"] == "" for m in queue), "nothing waits but what failed for now, and reports", queue)
            relay.alive()
    # One connection for three threads: most sessions wait for what another thread's delivery meets.
    with Sink("--reject", "dot:554:we do not like it:50%") as maybe:
        relay = Relay(None, retry="1h", extra=domain("maybe", f"server {maybe.at}", "; cut_through 20s"), start=False)
        with open(relay.conf) as f:
            text = f.read()
        with open(relay.conf, "w") as f:
            f.write(text.replace("threads 1\n", "threads 3\n"))
        with relay.start():
            said = []
            senders = [threading.Thread(target=lambda: said.extend(relay.send(to=["ann@maybe.example"], rcpt_params="")[:3] for _ in range(20))) for _ in range(5)]
            for t in senders:
                t.start()
            for t in senders:
                t.join(PATIENCE)
            no, yes = said.count("554"), said.count("250")
            check(no + yes == 100 and min(no, yes) > 10, "each client hears its own answer", no, yes, set(said))
            got = relay.settled(failed=no, delivered=yes, cut_through_refused=no)
            check(got["failed"] == no and got["delivered"] == yes and reports(relay) == 0, "and that is what happened", got)
            check(len(maybe.taken()) == yes, "each that was taken is there", len(maybe.taken()), yes)
            relay.alive()
    # Nobody is there: the client is not kept.
    with Relay(None, extra=domain("down", f"server 127.0.0.1:{free_port()}", "; cut_through 60s")) as relay:
        began = time.monotonic()
        check(relay.send(to=["ann@down.example"]).startswith("250"), "mail for a dead server is taken")
        check(time.monotonic() - began < 50, "before its time is over")
        # The relay ends while a client waits: it is told that its mail is safe.
        # (the lane being down, there is nothing to wait for: so a server that is slow)
    with Sink("--delay", "dot:30s") as slow, Relay(None, extra=domain("slow", f"server {slow.at}", "; cut_through 60s")) as relay:
        said = []
        t = threading.Thread(target=lambda: said.append(relay.send(to=["ann@slow.example"])))
        t.start()
        check(until(lambda: "accepted" in relay.log()), "it is safe", relay.log()[-500:])
        relay.process.send_signal(signal.SIGTERM)
        t.join(PATIENCE)
        check(said and said[0].startswith("250"), "who waits when the relay ends is answered", said)


def test_settings():
    """What a configuration may not say is told, each in its place."""
    for text, want in [("backend a { server lmtp:127.0.0.1 }", "no HOST:PORT"), ("backend a { server lmtp:mail.example.com }", "lmtp:mail.example.com:24"),
                       ("backend a { server lmtp:127.0.0.1:25 }", "never spoken on port 25"), ("backend a { server lmtp:unix:there }", "no HOST:PORT"),
                       ("backend a { server 127.0.0.1:26 }\nrelay_domain a.example { backend a; unknown_to a; recipients any }", "where this mail goes already"),
                       ("backend a { server 127.0.0.1:26 }\nrelay_domain a.example { backend a; fallback a; recipients any }", "where this mail goes already"),
                       ("backend alpha { server 127.0.0.1:26 }\nrelay_domain a.example { backend alpha; fallback alpah; recipients any }", 'did you mean "alpha"'),
                       ("route default { via mx; fallback }", "is followed by a backend"), ("route default { via mx; fallback mx after 1h }", "where this mail goes already"),
                       ("backend a { server 127.0.0.1:26 }\nroute default { via mx; fallback a before 1h }", "before"),
                       ("backend a { server 127.0.0.1:26 }\nrelay_domain a.example { backend a; cut_through 1h; recipients any }", "cut_through")]:
        relay = Relay(None, extra=text, start=False)
        r = subprocess.run([WAYPOST, "check", "-c", relay.conf], capture_output=True, text=True, timeout=30)
        check(r.returncode == 2 and want in " ".join((r.stdout + r.stderr).split()), text, r.returncode, r.stdout + r.stderr)
        shutil.rmtree(relay.dir)
    r = subprocess.run([WAYPOST, "check", "-c", os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples/other-ways.conf")],
                       capture_output=True, text=True, timeout=30)
    check(r.returncode == 0 and "error" not in r.stdout, "the example", r.stdout + r.stderr)
    relay = Relay(None, extra="backend a { server lmtp:unix:/run/lmtp; server lmtp:mail.example.com:24 priority 20; server [::1]:26 priority 30 }\n"
                  "backend b { server 127.0.0.1:26 }\nrelay_domain a.example { backend a; unknown_to b; fallback mx after 2h; cut_through 20s; recipients any }\n"
                  "route default { via mx; fallback b }", start=False)
    r = subprocess.run([WAYPOST, "check", "-c", relay.conf], capture_output=True, text=True, timeout=30)
    check(r.returncode == 0, "all of it", r.stdout + r.stderr)
    shutil.rmtree(relay.dir)


def main():
    for name, test in sorted(globals().items()):
        if name.startswith("test_") and (len(sys.argv) < 2 or name[5:] in sys.argv[1:]):
            try:
                test()
            except Exception as e:  # noqa: BLE001: what breaks a test is a failure of it
                import traceback
                check(False, name, repr(e), traceback.format_exc())
    done()


main()
