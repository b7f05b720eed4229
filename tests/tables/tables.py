"""Who exists, asked of real sources, by the built relay in its sandbox; each source killed and brought back while mail flows.

    tables.py [NAME ...]      only these: settings ldap tls web sqlite callout file crowd"""
import glob
import os
import shutil
import sqlite3
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "attacks"))
from kit import *  # noqa: E402
from directory import BASE, Sink, Slapd, Web, free_port  # noqa: E402

CLIENT = "limits { unknown_recipients 0/h }\n"


def asks(relay, *who):
    """The answers to RCPT, in one session."""
    said = []
    with socket.create_connection(("127.0.0.1", relay.port), timeout=PATIENCE) as s, s.makefile("rb") as f:
        def reply():
            while True:
                line = f.readline()
                if line[3:4] != b"-":
                    return line.decode("latin-1").rstrip()
        reply()
        for line in ("EHLO there.example", "MAIL FROM:<ann@there.example>"):
            s.sendall(line.encode() + b"\r\n")
            reply()
        for w in who:
            s.sendall(f"RCPT TO:<{w}>\r\n".encode("utf-8"))
            said.append(reply())
    return said


def codes(relay, *who):
    return [a[:9] if a[:1] != "2" else a[:3] for a in asks(relay, *who)]


def comes(relay, who, want):
    return check(until(lambda: codes(relay, who) == [want]), f"{who} becomes {want}", codes(relay, who), relay.log()[-2000:])


def with_source(source, extra=""):
    return CLIENT + extra + "relay_domain known.example {\n backend inside\n recipients {\n" + source + "\n }\n}\n"


YES, NO, LATER = "250", "550 5.1.1", "451 4.3.0"


def incidents(relay):
    got = subprocess.run([WAYPOST, "incidents", "--json", "--socket", relay.dir + "/control.sock"], capture_output=True, text=True, timeout=30)
    return [json.loads(line) for line in got.stdout.splitlines()]


def test_ldap(dir):
    people = {"ann": ["ann@known.example", "a.smith@known.example"], "bob": ["Bob@Known.Example"]} | {f"u{i}": [f"u{i}@known.example"] for i in range(300)}
    slapd = Slapd(dir + "/slapd", people)
    with open(dir + "/secret", "w") as f:
        f.write("hush\n")
    source = f"""ldap ldap://127.0.0.1:{free_port()} ldap://127.0.0.1:{slapd.port} {{
        base {BASE}
        bind cn=waypost,{BASE} password file:{dir}/secret
        filter "(proxyAddresses=smtp:%s)"
        cache 2s negative 1s
        stale 1h
        timeout 3s
    }}"""
    try:
        with Relay(hop := Hop(), extra=with_source(source)) as relay:
            check(codes(relay, "ann@known.example", "a.smith@known.example", "BOB@known.example", "nobody@known.example", "ann+list@known.example")
                  == [YES, YES, YES, NO, YES], "the directory decides, its first server being dead")
            # Attack class 20: nothing of an address is part of the filter.
            check(codes(relay, "*@known.example", "a*@known.example", '"*)(uid=*"@known.example', '"ann)(|(uid=*"@known.example', '"\\\\2a"@known.example')
                  == [NO] * 5, "an address is a value", asks(relay, "*@known.example"))
            check(relay.send(to=["ann@known.example"]).startswith("250"), "mail goes in")

            # Killed while mail flows: who was found stays found, who was not asked for is told to try later, nobody is told that nobody is there.
            stop, seen, stray = threading.Event(), set(), []

            def flow():
                n = 0
                while not stop.is_set():
                    n += 1
                    a = codes(relay, "ann@known.example", f"u{n % 300}@known.example", "nobody@known.example")
                    seen.update(enumerate(a))
                    if a[0] != YES or a[1] == NO or a[2] == YES:
                        stray.append(a)
            flows = [threading.Thread(target=flow) for _ in range(4)]
            [t.start() for t in flows]
            slapd.stop()
            check(until(lambda: (1, LATER) in seen and (2, LATER) in seen), "451 while it is away", seen)
            check(until(lambda: [(i["kind"], i["subject"].split()[0]) for i in incidents(relay)] == [("no_source", "ldap")]), "one incident", incidents(relay))
            slapd.start()
            comes(relay, "u299@known.example", YES)
            comes(relay, "nobody@known.example", NO)
            stop.set()
            [t.join() for t in flows]
            check(not stray, "no wrong answer in between", stray[:5])
            check(until(lambda: not incidents(relay)), "which ends", incidents(relay))
            check(until(lambda: "source_up" in relay.log()) and relay.log().count("source_down") == 1 and relay.log().count("source_up") == 1, "one line each", relay.log()[-2000:])

            # It stands still: sessions wait for the timeout, not for ever; the answer is the last good one.
            time.sleep(2.1)
            slapd.pause()
            began = time.monotonic()
            check(codes(relay, "ann@known.example") == [YES], "the last good answer")
            check(codes(relay, "new@known.example") == [LATER], "not known before: later")
            check(time.monotonic() - began < 25, "and that before long")
            slapd.resume()
            comes(relay, "new@known.example", NO)
            relay.alive()
    finally:
        slapd.stop()


def test_tls(dir):
    slapd = Slapd(dir + "/slapd", {"ann": ["ann@known.example"]})
    with open(dir + "/secret", "w") as f:
        f.write("hush")
    common = f"base {BASE}; bind cn=waypost,{BASE} password file:{dir}/secret; cache 1s; timeout 5s"
    try:
        for uri, more, want in ((f"ldaps://127.0.0.1:{slapd.tls_port}", f"; ca {slapd.dir}/ca.pem", [YES, NO]),
                                (f"ldap://127.0.0.1:{slapd.port}", f"; starttls on; ca {slapd.dir}/ca.pem", [YES, NO]),
                                # Whom nobody vouches for is told nothing, least of all the password.
                                (f"ldaps://127.0.0.1:{slapd.tls_port}", "", [LATER, LATER]),
                                (f"ldap://127.0.0.1:{slapd.port}", "; starttls on", [LATER, LATER])):
            # What the environment and the user's files say does not count.
            env = dict(os.environ, LDAPTLS_REQCERT="never", LDAPTLS_CACERT=slapd.dir + "/ca.pem", LDAPBASE="dc=elsewhere")
            with Relay(Hop(), extra=with_source(f"ldap {uri} {{ {common}{more} }}"), env=env) as relay:
                got = codes(relay, "ann@known.example", "nobody@known.example")
                check(got == want, f"{uri}{more}: {want}", got, relay.log()[-1500:])
                relay.alive()
    finally:
        slapd.stop()


def test_web(dir):
    web = Web({"ann%40known.example", "bob%40known.example", "a%2Fb%3Fc%40known.example"})
    source = f"""http "http://127.0.0.1:{web.port}/u/{{address}}" {{ cache 1s negative 1s; stale 1h; timeout 2s; bearer env:WAYPOST_TEST_TOKEN; %s }}"""
    env = dict(os.environ, WAYPOST_TEST_TOKEN="t0ken", http_proxy="http://127.0.0.1:9")
    try:
        with Relay(Hop(), extra=with_source(source % "allow_private on"), env=env) as relay:
            check(codes(relay, "ann@known.example", "nobody@known.example", "a/b?c@known.example") == [YES, NO, YES], "the service decides", web.asked, relay.log()[-2000:])
            check(all(t == "Bearer t0ken" for t in web.tokens), "it is shown the token", web.tokens)
            check('"..%2f"@known.example' not in web.asked, "encoded")
            web.mode = "json"
            check(codes(relay, "bob@known.example", "none@known.example") == [YES, NO], "by JSON too")
            n = len(web.asked)
            check(codes(relay, *["bob@known.example"] * 5) == [YES] * 5 and len(web.asked) <= n + 1, "kept")
            for mode in ("500", "redirect", "junk", "endless", "hang"):
                web.mode = mode
                asked = len(web.asked)
                check(codes(relay, f"x{mode}@known.example") == [LATER], f"{mode} is undecided", relay.log()[-1500:])
                time.sleep(1.1)
                check(codes(relay, "ann@known.example") == [YES], f"{mode}: the last good answer")
                check("/u/ann%40example.com" not in web.asked, "nobody is followed")
                web.mode = ""
                web.let_go.set()
                comes(relay, f"y{mode}@known.example", NO)
                web.let_go.clear()
                check(len(web.asked) > asked, "it was asked")
            # Killed and brought back.
            web.stop()
            check(codes(relay, "z@known.example") == [LATER], "away: later")
            web.mode = ""
            web.let_go.clear()
            web.start()
            comes(relay, "z@known.example", NO)
            relay.alive()
        # Attack class 58: what is inside is not connected to unless that is allowed.
        n = len(web.asked)
        with Relay(Hop(), extra=with_source(source % "entries 1000"), env=env) as relay:
            check(codes(relay, "ann@known.example", "nobody@known.example", "nobody2@known.example") == [LATER] * 3, "a private address is refused")
            check(len(web.asked) == n, "and never connected to")
            check(until(lambda: "private address" in relay.log()), "and it says why", relay.log()[-1500:])
    finally:
        web.stop()


def test_sqlite(dir):
    os.makedirs(dir + "/db")
    path = dir + "/db/users.db"

    def make(*who):
        with sqlite3.connect(path + ".new") as db:
            db.execute("create table users(address text primary key)")
            db.executemany("insert into users values(?)", [(w,) for w in who])
        db.close()
        os.chmod(path + ".new", 0o644)
        os.rename(path + ".new", path)

    make("ann@known.example")
    source = f'sqlite {path} "select 1 from users where address = :address" {{ cache 1s negative 1s; stale 0s }}'
    with Relay(Hop(), extra=with_source(source)) as relay:
        check(codes(relay, "Ann@known.example", "bob@known.example", "\"' or 1=1 --\"@known.example") == [YES, NO, NO], "the database decides", relay.log()[-1500:])
        with sqlite3.connect(path) as db:
            db.execute("insert into users values('bob@known.example')")
        db.close()
        comes(relay, "bob@known.example", YES)
        make("carl@known.example")
        comes(relay, "carl@known.example", YES)
        comes(relay, "ann@known.example", NO)
        with open(path, "wb") as f:
            f.write(b"half a database")
        check(codes(relay, "new@known.example") == [LATER], "damaged: later")
        os.unlink(path)
        check(codes(relay, "new@known.example") == [LATER], "gone: later")
        make("new@known.example")
        comes(relay, "new@known.example", YES)
        relay.alive()


def test_callout(dir):
    class Port:
        def __init__(self):
            self.port = free_port()
    at = Port()
    # An unguessable address begins with a 0, as long as this century's clocks do.
    sink = Sink(WAYPOST, at.port, "--fail-rcpt", "0*@known.example:550", "--fail-rcpt", "no*@known.example:550", "--fail-rcpt", "late*@known.example:450",
                "--fail-rcpt", "policy*@known.example:554")
    source = "callout inside cache 1s negative 1s"
    try:
        with Relay(at, extra=with_source(source)) as relay:
            check(codes(relay, "ann@known.example", "nobody@known.example", "late@known.example", "policy@known.example") == [YES, NO, LATER, LATER], "the backend decides", relay.log()[-1500:])
            check(relay.send(to=["ann@known.example"]).startswith("250"), "and mail for who is there goes in")
            sink.stop()
            check(codes(relay, "new@known.example", "nob@known.example") == [LATER, LATER], "away: later")
            time.sleep(1.1)
            check(codes(relay, "ann@known.example") == [YES], "away: the last good answer")
            sink.start()
            comes(relay, "new@known.example", YES)
            comes(relay, "nob@known.example", NO)
            relay.settled(delivered=1)
            relay.alive()
    finally:
        sink.stop()
    # One that takes all: its word does not count.
    at = Port()
    sink = Sink(WAYPOST, at.port)
    with open(dir + "/users", "w") as f:
        f.write("ann@known.example\n")
    try:
        with Relay(at, extra=with_source(source)) as relay:
            check(codes(relay, "ann@known.example", "nobody@known.example") == [LATER, LATER], "alone it leaves all open", relay.log()[-1500:])
            check(until(lambda: "callout_useless" in relay.log()) and relay.log().count("callout_useless") == 1, "and is told once")
        with Relay(at, extra=with_source(f"file {dir}/users\n{source}")) as relay:
            check(codes(relay, "ann@known.example", "nobody@known.example") == [YES, NO], "beside a list the list decides", relay.log()[-1500:])
            relay.alive()
    finally:
        sink.stop()


def test_file(dir):
    os.makedirs(dir + "/lists")
    path = dir + "/lists/users"

    def write(text):
        with open(path + ".new", "w") as f:
            f.write(text)
        os.rename(path + ".new", path)

    def reload(relay):
        r = subprocess.run([WAYPOST, "reload", "--socket", relay.dir + "/control.sock"], capture_output=True, text=True, timeout=30)
        check(r.returncode == 0, "the reload is taken", r.stdout, r.stderr)
        return r.stderr

    write("ann@known.example\n")
    with Relay(Hop(), extra=with_source(f"file {path}")) as relay:
        check(codes(relay, "ann@known.example", "bob@known.example") == [YES, NO], "the list decides")
        write("ann@known.example\nbob@known.example\n")
        reload(relay)
        check(codes(relay, "bob@known.example") == [YES], "a new list counts")
        for text in ("", 'ann@known.example\n"bob', "ann@known.example\nbob@kno\x00"):
            write(text)
            check("stays as it was" in " ".join(reload(relay).split()), "who reloads is told that the list stays", repr(text))
            check(codes(relay, "ann@known.example", "bob@known.example", "carl@known.example") == [YES, YES, NO], "a bad one does not", repr(text))
        os.unlink(path)
        reload(relay)
        check(codes(relay, "ann@known.example", "bob@known.example", "carl@known.example") == [YES, YES, NO], "nor none")
        os.mkfifo(path) # nobody is at its other end, and nobody waits for him
        check("not a regular file" in reload(relay), "a pipe is no list")
        got = subprocess.run([WAYPOST, "check", "-c", relay.dir + "/relay.conf"], capture_output=True, text=True, timeout=30)
        check(got.returncode == 2 and "not a regular file" in got.stdout and "E044" not in got.stdout, "one error for one fault", got.stdout)
        os.unlink(path)
        check(until(lambda: relay.log().count("list_kept") == 5), "each time it is said", relay.log()[-1500:])
        write("carl@known.example\n")
        reload(relay)
        check(codes(relay, "carl@known.example", "ann@known.example") == [YES, NO], "a good one does")
        relay.alive()


def rss(relay):
    """KiB, of parent and worker."""
    kib = 0
    for status in glob.glob("/proc/[0-9]*/status"):
        try:
            with open(status) as f:
                text = f.read()
        except OSError:
            continue
        pid, parent = (int(re.search(rf"^{k}:\s+(\d+)", text, re.M).group(1)) for k in ("Pid", "PPid"))
        if relay.process.pid in (pid, parent):
            kib += int((re.search(r"^VmRSS:\s+(\d+)", text, re.M) or [0, 0])[1])
    return kib


def test_crowd(dir):
    """A source that never answers: sessions are put off one after the other, leave when they like, and leave nothing behind."""
    web = Web(set())
    web.mode = "hang"
    source = f'http "http://127.0.0.1:{web.port}/u/{{address}}" {{ allow_private on; timeout 2s; entries 1000 }}'
    try:
        with Relay(Hop(), extra="limits { sessions_per_client 1000; unknown_recipients 0/h }\n" + with_source(source).removeprefix(CLIENT)) as relay:
            codes(relay, "first@known.example")
            before = rss(relay)
            for turn in range(3):
                open_ones = []
                for i in range(300):
                    s = socket.create_connection(("127.0.0.1", relay.port), timeout=PATIENCE)
                    s.sendall(f"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<u{turn}x{i}@known.example>\r\n".encode())
                    open_ones.append(s)
                for s in open_ones[:150]: # these do not wait for it
                    s.close()
                for s in open_ones[150:]:
                    with s, s.makefile("rb") as f:
                        answer = b"2"
                        while answer[:1] == b"2":
                            answer = f.readline()
                        if not answer.startswith(b"451"):
                            check(False, "451 for each", answer)
            web.mode = ""
            web.let_go.set()
            for i in range(3000):
                if i % 100 == 0:
                    comes(relay, f"n{i}@known.example", NO)
            after = rss(relay)
            check(after < before + 40 * 1024, "memory is bounded", before, after)
            got = relay.count()
            check(got["lookups_undecided"] >= 450, "they are counted", got)
            relay.alive()
    finally:
        web.stop()


def test_settings(dir):
    """What `waypost check` says, and what `config show` does not."""
    def run(verb, *words, **env):
        return subprocess.run([WAYPOST, *verb.split(), "-c", *words], capture_output=True, text=True, timeout=30, env=dict(os.environ, **env))

    for name in ("recipients-ldap.conf", "recipients.txt"):
        shutil.copy(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples", name), dir)
    for name in ("corp-ca.pem", "ldap"):
        with open(f"{dir}/{name}", "w") as f:
            f.write("hush\n")
    r = run("check", dir + "/recipients-ldap.conf", CREDENTIALS_DIRECTORY=dir)
    check(r.returncode == 0 and "warning" not in r.stdout, "the example is good", r.stdout)
    r = run("check", dir + "/recipients-ldap.conf")
    check(r.returncode == 2 and "E120" in r.stdout, "without its credential it is not", r.stdout)
    with sqlite3.connect(dir + "/users.db") as db:
        db.execute("create table users(address text)")
    db.close()

    head = "waypost 1\nhostname mx.example.net\npostmaster p@example.com\nlisten smtp 127.0.0.1:2525\nspool { dir spool }\nbackend inside { server 127.0.0.1:2526 }\n"
    head += "backend other { server 127.0.0.1:2527 }\nroute default { via inside }\n"
    for source, want in (
            ("ldap ldap://127.0.0.1 { base dc=x; filter (mail=x) }", "E122"),
            ("ldap ldap://127.0.0.1 { filter (mail=%s) }", "E023"),
            ("ldap http://127.0.0.1 { base dc=x }", "E122"),
            ("ldap ldap://127.0.0.1/dc=x { base dc=x }", "E122"),
            ("ldap ldaps://127.0.0.1 { base dc=x; starttls on }", "E122"),
            ("ldap ldaps://127.0.0.1 { base dc=x; ca none.pem }", "E122"),
            ("ldap ldaps://127.0.0.1 { base dc=x; bind cn=x }", "E026"),
            ("ldap ldaps://127.0.0.1 { base dc=x; bind cn=x password sesame }", "W121"),
            ("ldap ldap://dc.example.com { base dc=x; bind cn=x password env:HOME }", "W123"),
            ("ldap ldaps://127.0.0.1 { base dc=x; cache 1d negative 2d }", "E036"),
            ('http "https://h/{who}"', "E122"),
            ('http "http://h/{address}"', "W123"),
            ('http "https://h/{address}" { bearer env:WAYPOST_NO_SUCH }', "E120"),
            ('sqlite users.db "select 1 from users"', "E122"),
            ('sqlite users.db "delete from users where address = :address"', "E122"),
            ('sqlite none.db "select 1 from users where address = :address"', "E122"),
            ("callout other", "E122"),
            ("callout nobody", "E100"),
            ("callout inside for 1h", "E026"),
            ("callout inside cache", "E026"),
            ('sqlite users.db "select 1 from users where address = :address"', "good"),
            ("callout { cache 12h negative 5m; stale 2d }", "good")):
        with open(dir + "/x.conf", "w") as f:
            f.write(head + "relay_domain example.com { backend inside; recipients { " + source + " } }\n")
        r = run("check", dir + "/x.conf")
        check(want in r.stdout and r.returncode == (2 if want[0] == "E" else 0), f"{source}: {want}", r.stdout)
        if "sesame" in source:
            r = run("config show", dir + "/x.conf")
            check("sesame" not in r.stdout and "password fingerprint:" in r.stdout, "a secret is not shown", r.stdout)


names = sys.argv[1:] or ["settings", "ldap", "tls", "web", "sqlite", "callout", "file", "crowd"]
for name in names:
    dir = tempfile.mkdtemp(prefix="waypost-tables-")
    os.chmod(dir, 0o755)
    try:
        globals()["test_" + name](dir)
    finally:
        shutil.rmtree(dir)
done()
