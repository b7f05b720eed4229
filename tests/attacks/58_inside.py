"""Class 58: a URL, or what its name or its answer leads to, reaches nothing inside unless that is allowed."""
from kit import *

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tables"))
from directory import Web  # noqa: E402

web = Web({"ann%40known.example"})
LATER = "451 4.3.0"


def asks(host, more):
    source = f'http "http://{host}:{web.port}/u/{{address}}" {{ timeout 5s; {more} }}'
    with Relay(Hop(), extra="relay_domain known.example { backend inside; recipients { " + source + " } }\n") as relay:
        said = [relay.send(to=[who + "@known.example"])[:9] for who in ("ann", "bob", "carl", "dora")]
        log = until(lambda: relay.log() if "source_down" in relay.log() else "", 5)
        relay.alive()
        return said, log


for host in ("127.0.0.1", "localhost", "127.1", "2130706433", "0.0.0.0", "[::ffff:127.0.0.1]", "[::1]"):
    before = len(web.asked)
    said, log = asks(host, "allow_private off")
    check(said == [LATER] * 4 and len(web.asked) == before, f"{host} is not connected to", said, log)
    check("private address" in log, f"{host}: and the log says why", log[-1500:])
web.mode = "redirect"
said, log = asks("127.0.0.1", "allow_private on")
check(said == [LATER] * 4 and not any("example.com" in path for path in web.asked), "nor is a redirect followed", said, web.asked)
web.mode = "endless"
said, log = asks("127.0.0.1", "allow_private on")
check(said == [LATER] * 4, "nor an answer without end read", said)
web.stop()
done()
