"""Class 20: what strangers write is a value in every query, filter and URL that asks who exists, and never a part of it. (LDAP: tests/tables.)"""
import sqlite3

from kit import *

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tables"))
from directory import Web  # noqa: E402

EVIL = ("\"' or '1'='1\"", "\"';drop table users;--\"", "'or'1", "%25", "%", "_nn", "*", "\"../u/ann@known.example?\"", "\"a/../ann\"", "\"ann@known.example&x=\"", "ann%40known.example#")
web = Web({"ann%40known.example"})
folder = tempfile.mkdtemp(prefix="waypost-attack-")
os.chmod(folder, 0o755)
with sqlite3.connect(folder + "/users.db") as db:
    db.execute("create table users(address text)")
    db.execute("insert into users values('ann@known.example')")
db.close()
SOURCES = (f'sqlite {folder}/users.db "select 1 from users where address = :address"',
           f'http "http://127.0.0.1:{web.port}/u/{{address}}" {{ allow_private on }}')
for source in SOURCES:
    extra = "tricky_local_parts on\nrelay_domain known.example { backend inside; recipients { " + source + " } }\n"
    with Relay(hop := Hop(), extra=extra) as relay:
        check(relay.send(to=["ann@known.example"]).startswith("250"), "who exists is found", relay.log()[-2000:])
        for local in EVIL:
            said = relay.send(to=[local + "@known.example"])
            check(said.startswith("550 5.1.1"), f"{local} is nobody", said, web.asked[-1:])
        check(relay.send(to=["ann@known.example"]).startswith("250"), "and she is still there")
        relay.alive()
check(all("/../" not in path and "?" not in path and "#" not in path and path.count("/") == 2 for path in web.asked), "each is one segment of the path", web.asked)
web.stop()
shutil.rmtree(folder)
done()
