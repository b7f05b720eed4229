"""All the world behind one private address, as behind the NAT of a container host: the relay notices, and says so once. In a network namespace of its own."""
import json
import os
import socket
import subprocess
import sys

may = subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
if os.geteuid() != 0 or may.returncode:
    print("skipped: a network namespace of our own, since we may have none:", may.stderr.strip() or "not root")
    print("0 passed, 0 failed")
    sys.exit(0)
if "--inside" not in sys.argv:
    sys.exit(subprocess.run(["unshare", "-n", sys.executable, "-B", __file__, "--inside"]).returncode)
for command in ("ip link set lo up", "ip addr add 172.17.0.1/32 dev lo"):
    subprocess.run(command.split(), check=True)

from kit import PATIENCE, Relay, check, done, until  # noqa: E402


def sessions(r, n):
    for _ in range(n):
        with socket.create_connection(("127.0.0.1", r.port), PATIENCE, ("172.17.0.1", 0)) as s:
            s.sendall(b"QUIT\r\n")
            while s.recv(4096):
                pass


def stats(r):
    return json.loads(r.ask("stats", "--json").stdout)


def run(more, listen, found):
    r = Relay(more=more, listen=listen).start()
    sessions(r, 299)
    check(stats(r)["one_gateway"] == "" and not r.logged("one_gateway"), "too few to tell")
    sessions(r, 2)
    check(until(lambda: stats(r)["counters"]["sessions"] == 301), "all were had")
    if found:
        check(stats(r)["one_gateway"] == "172.17.0.1", "it is told in stats", stats(r)["one_gateway"])
        check("NEARLY ALL SESSIONS COME FROM 172.17.0.1" in r.ask("stats").stdout, "for people")
        check(len(until(lambda: r.logged("one_gateway"))) == 1, "and in the log", r.log()[-3:])
    else:
        check(stats(r)["one_gateway"] == "", "it is known for what it is", stats(r)["one_gateway"])
    r.end()


run("", "", True)
run("network nat 172.16.0.0/12 { relay_from example.com }", "", True)
run("network app 172.17.0.1 { relay_from example.com }", "", False)
run("", "{ xclient from 172.17.0.1 }", False)
done()
