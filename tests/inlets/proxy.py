"""Behind proxies: HAProxy with both versions of the header, a proxy of our own that splits and lies, and strangers (attack class 18)."""
import json
import smtplib
import socket
import struct
import subprocess

from kit import PATIENCE, Relay, check, done, free_port, until

CLIENT = "127.0.0.7"            # what the proxies announce; they themselves are 127.0.0.1
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(client, tlvs=b"", command=0x21, length=None):
    body = socket.inet_aton(client) + socket.inet_aton("127.0.0.1") + struct.pack(">HH", 4321, 25) + tlvs
    return SIGNATURE + struct.pack(">BBH", command, 0x11, len(body) if length is None else length) + body


def line(port, octets=b"", source="127.0.0.1", split=False):
    s = socket.create_connection(("127.0.0.1", port), PATIENCE, (source, 0))
    for piece in ([octets[i:i + 1] for i in range(len(octets))] if split else [octets]):
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.sendall(piece)
    return s


def heard(s):
    """All that is said until the end of the line."""
    got = b""
    try:
        while piece := s.recv(4096):
            got += piece
    except ConnectionResetError:
        pass
    s.close()
    return got


def greets(s, name):
    f = s.makefile("rwb")
    if not f.readline().startswith(b"220 "):
        return False
    f.write(b"EHLO there.example\r\n")
    f.flush()
    return f.readline() == f"250-mx.example.net greets {name}\r\n".encode()


def refused(r):
    return json.loads(r.ask("stats", "--json").stdout)["counters"]["proxy_refused"]


def send(port, subject):
    with smtplib.SMTP("127.0.0.1", port, local_hostname="there.example", timeout=PATIENCE, source_address=(CLIENT, 0)) as s:
        s.sendmail("ann@there.example", ["bob@example.com"], f"Subject: {subject}\r\n\r\n.\r\nx\r\n")


def test_own_proxy():
    r = Relay(listen="{ proxy from 127.0.0.1 }").start()
    header = v2(CLIENT, b"\x04\0\x05hello" + b"\x20\0\0")
    check(greets(line(r.port, header), CLIENT), "version 2 with TLVs")
    check(greets(line(r.port, header, split=True), CLIENT), "octet by octet")
    check(greets(line(r.port, b"PROXY TCP4 127.0.0.7 127.0.0.1 4321 25\r\n", split=True), CLIENT), "version 1 octet by octet")
    check(greets(line(r.port, b"PROXY TCP6 2001:db8::7 2001:db8::25 4321 25\r\n"), "2001:db8::7"), "an IPv6 client")
    check(greets(line(r.port, v2(CLIENT, command=0x20)), "127.0.0.1"), "LOCAL")
    before = refused(r)
    check(before == 0, "none was refused so far", before)
    lines = [line(r.port, b"PROXY TCP4 10.0.0.1 10.0.0.2 1 25\r\n", source="127.0.0.9"),    # a stranger
             line(r.port, b"EHLO there.example\r\n"), line(r.port, b"PROXY UNKNOWN " + b"x" * 200),
             line(r.port, v2(CLIENT, b"\x04\0\x06hello")), line(r.port, v2(CLIENT, length=11)),
             line(r.port, v2(CLIENT, length=13)), line(r.port)]             # the last two say too little, for 5 seconds
    check(all(heard(s) == b"" for s in lines), "all others are closed without a word")
    check(until(lambda: refused(r) == len(lines)), "and counted", refused(r))
    check(until(lambda: len(r.logged("proxy_refused")) == len(lines)) and r.logged("proxy_refused", peer="127.0.0.9"), "and logged", r.logged("proxy_refused"))
    r.end()


def test_haproxy():
    r = Relay(listen="{ proxy from 127.0.0.1 }").start()
    ports = {"send-proxy": free_port(), "send-proxy-v2": free_port()}
    with open(f"{r.dir}/haproxy.cfg", "w") as f:
        f.write("global\n    maxconn 100\ndefaults\n    mode tcp\n    timeout connect 10s\n    timeout client 60s\n    timeout server 60s\n")
        for how, port in ports.items():
            f.write(f"listen {how}\n    bind 127.0.0.1:{port}\n    server relay 127.0.0.1:{r.port} {how} check inter 200 check-send-proxy\n")
    p = subprocess.Popen(["haproxy", "-db", "-f", f"{r.dir}/haproxy.cfg"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def ready(port):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            return False
    if not check(all(until(lambda port=port: ready(port)) for port in ports.values()), "HAProxy starts"):
        p.kill()
        print(p.stdout.read().decode()[-2000:])
    else:
        for how, port in ports.items():
            send(port, how)
            m = until(lambda: r.sink.find(b"Subject: %s\r\n" % how.encode()))
            check(m and f"from there.example ([{CLIENT}]) by mx.example.net".encode() in m[0][2], how, m)
        check(until(lambda: len(r.logged("accepted", remote=CLIENT, detail="through 127.0.0.1")) == 2), "the log has both, client and proxy", r.logged("accepted"))
        p.terminate()
        p.wait(PATIENCE)
    p.stdout.close()
    r.end()


for test in [v for k, v in sorted(globals().items()) if k.startswith("test_")]:
    test()
done()
