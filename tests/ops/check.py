"""`waypost check --connect` and `--dns`: servers, sources and names that are there, that are not, and that say nothing. And what the relay's user may not
read. WAYPOST_BUILD says where the program is."""
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [os.path.join(HERE, "..", "kit"), os.path.join(HERE, "..", "dns")]
from checks import check, done  # noqa: E402
from servers import Nsd  # noqa: E402

WAYPOST = os.path.abspath(os.path.join(os.environ.get("WAYPOST_BUILD", "build"), "waypost"))
HEAD = "waypost 1\nhostname mx.here.test\npostmaster p@here.test\nlisten smtp 127.0.0.1:2525\n"


def run(*args):
    return subprocess.run([WAYPOST, "check", *args], capture_output=True, text=True, timeout=60)


def told(r):
    return {(line["check"], line["what"]): (line["found"], line["text"]) for line in json.loads(r.stdout) if "check" in line}


class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404 if "40here.test" in self.path else 500)
        self.end_headers()

    def log_message(self, *args):
        pass


def test_connect(dir):
    silent, gone, rude = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    dead = gone.getsockname()[1]
    gone.close()

    def refuse():
        while True:
            try:
                peer, _ = rude.accept()
            except OSError:
                return
            peer.sendall(b"554 5.3.2 closed\x1b[31m today\r\n")
            peer.close()
    threading.Thread(target=refuse, daemon=True).start()
    sink = subprocess.Popen([WAYPOST, "sink", "-l", f"unix:{dir}/sink.sock"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    sink.stderr.readline()
    port = {"silent": silent.getsockname()[1], "rude": rude.getsockname()[1], "dead": dead}
    with open(f"{dir}/x.conf", "w") as f:
        f.write(HEAD + "spool { dir spool }\n" + f"backend well {{ server unix:{dir}/sink.sock }}\n"
                + "".join(f"backend {name} {{ server 127.0.0.1:{n} }}\n" for name, n in port.items())
                + f'relay_domain here.test {{ backend well; recipients {{ http "http://127.0.0.1:{web.server_port}/{{address}}" {{ allow_private on }}; callout }} }}\n'
                + f'relay_domain there.test {{ backend dead; recipients {{ http "http://127.0.0.1:{web.server_port}/{{address}}" {{ allow_private on }} }} }}\n'
                + "relay_domain dead.test { backend dead; recipients { callout } }\n")
    try:
        began = time.monotonic()
        r = run("--connect", "--json", "--timeout", "2s", f"{dir}/x.conf")
        took = time.monotonic() - began
        got = told(r)
        check(r.returncode == 1, "something failed", r.returncode, r.stderr)
        check(took < 30, "side by side, and not for ever", took)
        found, text = got["connect", f"backend well: unix:{dir}/sink.sock"]
        check(found == "ok" and "PIPELINING" in text, "a server that is there", text)
        found, text = got["connect", f"backend dead: 127.0.0.1:{dead}"]
        check(found == "failed" and "refused" in text, "one that is not", text)
        found, text = got["connect", f"backend silent: 127.0.0.1:{port['silent']}"]
        check(found == "failed", "one that says nothing", text)
        found, text = got["connect", f"backend rude: 127.0.0.1:{port['rude']}"]
        check(found == "failed" and "554" in text, "one that will not have us", text)
        sources = sorted((what.split(",")[0], found, text) for (kind, what), (found, text) in got.items() if kind == "source")
        check([s[:2] for s in sources if "here.test" in s[0] or "dead.test" in s[0]][:1] == [("recipients of dead.test", "failed")], "a callout to nobody", sources)
        check([s[1:] for s in sources if s[0].endswith("of here.test")] == [("failed", "it takes any address: its answers mean nothing"), ("ok", "it answers")],
              "a web service that answers, and a callout to who takes anything", sources)
        check([s[1] for s in sources if s[0].endswith("of there.test")] == ["failed"] and "500" in str(sources), "a web service that is ill", sources)
        r = run("--connect", "--timeout", "2s", f"{dir}/x.conf")
        check(r.returncode == 1 and "\nok     backend well" in r.stdout and "\nfailed backend dead" in r.stdout, "for people", r.stdout)
        check("\x1b" not in r.stdout, "what a server says is no terminal's business", r.stdout)
        with open(f"{dir}/x.conf") as f:
            text = f.read()
        with open(f"{dir}/y.conf", "w") as f:
            f.write(text[:text.index("backend silent")] + "relay_domain here.test { backend well; recipients any }\n")
        check(run("--connect", f"{dir}/y.conf").returncode == 0, "all is there")
        check(run("--connect", "--timeout", "never", f"{dir}/y.conf").returncode == 2, "usage")
        with open(f"{dir}/y.conf", "a") as f:
            f.write("nonsense\n")
        r = run("--connect", f"{dir}/y.conf")
        check(r.returncode == 2 and "ok " not in r.stdout, "an error in it: nobody is asked", r.stdout)
    finally:
        sink.kill()
        web.shutdown()
        silent.close()
        rude.shutdown(socket.SHUT_RDWR)
        rude.close()


def test_dns(dir):
    nsd = Nsd({"here.test": "mx A 192.0.2.7\n@ MX 10 mx\nback MX 5 other\nback MX 10 mx\nother A 192.0.2.9\n",
               "away.test": "@ MX 10 mx.provider.test.\n", "null.test": "@ MX 0 .\n", "plain.test": "@ A 192.0.2.7\n",
               "provider.test": "mx A 192.0.2.99\nin A 192.0.2.100\n"})
    domains = ["here.test", "back.here.test", "away.test", "null.test", "plain.test", "nowhere.here.test"]
    with open(f"{dir}/d.conf", "w") as f:
        f.write(HEAD + "spool { dir spool }\n" + f"dns {{ server 127.0.0.1:{nsd.port}; hosts off; resolv_conf off; dnssec off }}\n"
                "own { addresses 192.0.2.7 }\nbackend b { server in.provider.test; server gone.provider.test; server 192.0.2.1 }\n"
                + "".join(f"relay_domain {d} {{ backend b; recipients any }}\n" for d in domains) + "relay_domain *.here.test { backend b; recipients any }\n")
    try:
        r = run("--dns", "--json", f"{dir}/d.conf")
        got = told(r)
        check(r.returncode == 1, "something failed", r.returncode, r.stderr)
        check(got["name", "hostname mx.here.test"] == ("ok", "192.0.2.7"), "our own name", got)
        check(got["name", "backend b: in.provider.test:25"][0] == "ok", "a server's name", got)
        check(got["name", "backend b: gone.provider.test:25"][0] == "failed", "one that is none", got)
        want = {"here.test": ("ok", "comes here: MX mx.here.test (this host)"), "back.here.test": ("ok", "other.here.test, mx.here.test (this host)"),
                "away.test": ("note", "MX mx.provider.test"), "null.test": ("failed", "null MX"), "plain.test": ("ok", "its own address is this host"),
                "nowhere.here.test": ("note", "no such domain")}
        for domain, (found, words) in want.items():
            said = got["mx", f"relay domain {domain}"]
            check(said[0] == found and words in said[1], "MX of", domain, said)
        check(len(got) == 3 + len(want), "no more was asked", got)
    finally:
        nsd.end()


def test_readable(dir):
    """Root may read more than the relay's user."""
    if os.geteuid() != 0:
        print("skipped: only root can tell what others may read")
        return
    with open(f"{dir}/users", "w") as f:
        f.write("ann@here.test\n")
    os.chmod(f"{dir}/users", 0o600)
    with open(f"{dir}/more.conf", "w") as f:
        f.write("backend b { server 127.0.0.1 }\n")
    os.chmod(f"{dir}/more.conf", 0o600)
    with open(f"{dir}/r.conf", "w") as f:
        f.write(HEAD + "user nobody\nspool { dir spool }\ninclude more.conf\nrelay_domain here.test { backend b; recipients { file users } }\n")
    r = run(f"{dir}/r.conf")
    check(r.returncode == 0 and r.stdout.count("W130") == 2 and f"{dir}/users" in r.stdout and f"{dir}/more.conf" in r.stdout, "a list and an included file", r.stdout)
    os.chmod(f"{dir}/users", 0o644)
    os.chmod(f"{dir}/more.conf", 0o644)
    r = run(f"{dir}/r.conf")
    check(r.returncode == 0 and "W130" not in r.stdout, "then it may", r.stdout)


for name, test in sorted(globals().items()):
    if name.startswith("test_"):
        where = tempfile.mkdtemp(prefix="waypost-check-")
        os.chmod(where, 0o755)
        try:
            test(where)
        except Exception as e:  # noqa: BLE001: what breaks a test is a failure of it
            check(False, name, repr(e))
        finally:
            shutil.rmtree(where)
done()
